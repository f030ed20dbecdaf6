"""`ORTPaliGemma.from_pretrained` and `save_pretrained`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from command_line import run_in_process
from paths import SCENE
from PIL import Image

import paligemma_onnx
from paligemma_onnx.optimum import ORTPaliGemma
from paligemma_onnx.runtime import BundleError, OptionError, PaliGemmaError, ProviderError

# Raised by transformers' processor where it computes labels, which these tests do not use.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_a_saved_model_is_the_same(
    model: ORTPaliGemma, processor: Any, inputs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    loaded = ORTPaliGemma.from_pretrained(folder, device="cpu")
    assert loaded.model.manifest == model.model.manifest
    assert loaded.config.to_dict() == model.config.to_dict()
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()
    ids = model.generate(**inputs, max_new_tokens=5)
    assert torch.equal(loaded.generate(**inputs, max_new_tokens=5), ids)
    assert run_in_process(capsys, "verify", folder / "onnx").code == 0
    loaded.generation_config.max_new_tokens = 2
    loaded.save_pretrained(folder)  # into the folder that is open
    processor.save_pretrained(folder)  # replaces tokenizer.json
    changed = ORTPaliGemma.from_pretrained(folder, device="cpu")
    assert changed.generate(**inputs).shape[1] == ids.shape[1] - 3
    files = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    prepared = files(images=Image.open(SCENE).convert("RGB"), text="<image>caption en", return_tensors="pt")
    assert all(torch.equal(prepared[name], inputs[name]) for name in inputs)
    assert (
        transformers.AutoConfig.from_pretrained(folder).text_config.to_dict()
        == model.config.text_config.to_dict()
    )


def check_config(bundle: Path, checkpoint: Path) -> None:
    ours = ORTPaliGemma.from_pretrained(bundle, device="cpu").config.to_dict()
    theirs = transformers.AutoConfig.from_pretrained(checkpoint).to_dict()
    for part in ("text_config", "vision_config"):
        different = {name for name, value in theirs[part].items() if ours[part].get(name) != value}
        # dtype is the number format of the checkpoint's files; the ids are not read.
        assert different <= {"dtype", "_name_or_path", "pad_token_id", "bos_token_id", "eos_token_id"}, part
    assert ours["image_token_index"] == theirs["image_token_index"]


def test_the_configuration_is_that_of_the_checkpoint(shipped_bundle: Path, shipped_checkpoint: Path) -> None:
    check_config(shipped_bundle, shipped_checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int4", "int4-compact"])
def test_the_configuration_of_quantised_bundles(
    checkpoint: Callable[[str], Path], rounded: Callable[[str, str], Path], precision: str
) -> None:
    name = "gemma2_window"
    config = ORTPaliGemma.from_pretrained(rounded(name, precision), device="cpu").config
    expected = transformers.AutoConfig.from_pretrained(checkpoint(name))
    for part, facts in (
        ("text_config", ("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")),
        ("vision_config", ("intermediate_size", "num_attention_heads", "hidden_size", "num_hidden_layers")),
    ):
        for fact in facts:
            assert getattr(getattr(config, part), fact) == getattr(getattr(expected, part), fact), fact


@pytest.mark.parametrize(
    "images",
    [
        [Image.new("RGB", (30, 50), "blue")],
        [Image.open(SCENE).convert("RGB"), Image.new("RGB", (8, 8), "red")],
    ],
)
def test_the_processor_of_a_bundle(model: ORTPaliGemma, processor: Any, images: list[Image.Image]) -> None:
    text = "<image>" * len(images) + "detect <loc0003> cat ; dog\n"
    ours, theirs = (
        each(images=[images], text=[text], return_tensors="pt") for each in (model.processor, processor)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ids = model.generate(**ours, max_new_tokens=3)
    assert model.processor.batch_decode(ids, True) == processor.batch_decode(ids, True)


@pytest.mark.slow
def test_an_export_gives_the_bundle_of_the_command(
    shipped_bundle: Path, shipped_checkpoint: Path, model: ORTPaliGemma, tmp_path: Path
) -> None:
    exported = ORTPaliGemma.from_pretrained(
        shipped_checkpoint, export=True, output=tmp_path / "bundle", validate=False, device="cpu"
    )
    assert exported.model.manifest == model.model.manifest
    for file in shipped_bundle.iterdir():
        assert file.read_bytes() == (tmp_path / "bundle" / file.name).read_bytes()


@pytest.mark.slow
def test_an_export_may_be_temporary(shipped_checkpoint: Path, tmp_path: Path, inputs: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        exported = ORTPaliGemma.from_pretrained(shipped_checkpoint, export=True, validate=False, device="cpu")
    assert exported.generate(**inputs, max_new_tokens=2).shape[0] == 1
    assert [folder.name[:15] for folder in tmp_path.iterdir()] == ["paligemma-onnx-"]
    del exported
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_loaded_is_refused(
    shipped_bundle: Path, shipped_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for model_id, options, words in (
        (shipped_checkpoint, {}, "has no manifest.json, so it is not a bundle"),
        (tmp_path / "absent" / "folder", {}, "no such folder"),
        (tmp_path / "file", {}, "is a file; name the folder of the bundle"),
        (shipped_bundle, {"precision": "int8"}, "have an effect only with export=True"),
        (shipped_bundle, {"dtype": torch.bfloat16}, "dtype is not an argument of from_pretrained: "),
        (shipped_bundle, {"device_map": {"": 0}}, "device_map is not an argument"),
        (shipped_bundle, {"subfolder": "onnx"}, "subfolder is not an argument"),
        (shipped_checkpoint, {"export": True, "cache_dir": "."}, "cache_dir is not an argument"),
        (shipped_checkpoint, {"export": True, "precision": "int3"}, "precision 'int3' is unknown"),
    ):
        with pytest.raises(PaliGemmaError) as caught:
            ORTPaliGemma.from_pretrained(model_id, **options)
        assert isinstance(caught.value, BundleError | OptionError)
        assert words in str(caught.value)
    for harmless in ({"dtype": "auto"}, {"torch_dtype": torch.float32}, {"trust_remote_code": True}):
        ORTPaliGemma.from_pretrained(shipped_bundle, device="cpu", **harmless)


def test_a_bundle_on_the_hub(
    shipped_bundle: Path, model: ORTPaliGemma, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[str, dict[str, object]]] = []

    def download(name: str, **options: object) -> str:
        calls.append((name, options))
        return str(shipped_bundle)

    with monkeypatch.context() as patch:
        patch.setattr("paligemma_onnx.optimum.bundle_folder.snapshot_download", download)
        loaded = ORTPaliGemma.from_pretrained("owner/name", revision="v1", token=False, device="cpu")
    assert loaded.model.manifest == model.model.manifest
    patterns = ["*.json", "*.onnx", "*.data"]
    assert calls == [("owner/name", {"allow_patterns": patterns, "revision": "v1", "token": False})]
    with pytest.raises(BundleError) as caught:
        ORTPaliGemma.from_pretrained("owner/name", cache_dir=str(tmp_path), local_files_only=True)
    assert str(caught.value).startswith("owner/name: no such folder, and cannot be downloaded: ")
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(
    shipped_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "paligemma_onnx.export.exporter")
        patch.setitem(sys.modules, "onnx_ir", None)
        with pytest.raises(ProviderError) as caught:
            ORTPaliGemma.from_pretrained(shipped_checkpoint, export=True)
    assert str(caught.value) == (
        "export=True needs onnx_ir: run `pip install 'paligemma-onnx[cpu,export,optimum]'`"
    )
    monkeypatch.setattr(paligemma_onnx, "optimum", None, raising=False)
    monkeypatch.delitem(sys.modules, "paligemma_onnx.optimum")
    monkeypatch.delitem(sys.modules, "paligemma_onnx.optimum.ort_paligemma")
    monkeypatch.setitem(sys.modules, "optimum.modeling_base", None)
    with pytest.raises(ModuleNotFoundError) as missing:
        import_module("paligemma_onnx.optimum")
    assert str(missing.value) == (
        "paligemma_onnx.optimum needs optimum.modeling_base: run `pip install 'paligemma-onnx[cpu,optimum]'`"
    )
