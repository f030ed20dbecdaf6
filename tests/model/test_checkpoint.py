"""Opening of weights: the three name layouts, shards, links, and every kind of damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from paligemma_onnx.model.checkpoint.checkpoint import Checkpoint
from paligemma_onnx.model.checkpoint.config_json import read_config
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.paligemma import PaliGemma

Shapes = dict[str, tuple[int, ...]]

EMBEDDING = "language_model.model.embed_tokens.weight"
NORM = "language_model.model.norm.weight"
HEAD = "language_model.lm_head.weight"


@dataclass(frozen=True)
class Tiny:
    """A tiny PaliGemma 2 as transformers writes it."""

    folder: Path
    stored: dict[str, Tensor]
    parameters: dict[str, Tensor]  # by canonical name, from the model in memory
    expected: Shapes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    torch.manual_seed(0)
    text = transformers.Gemma2Config(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        vocab_size=50,
    )
    vision = transformers.SiglipVisionConfig(
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        vision_use_head=False,
    )
    config = transformers.PaliGemmaConfig(
        text_config=text, vision_config=vision, projection_dim=16, image_token_index=49
    )
    model = transformers.PaliGemmaForConditionalGeneration(config)
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    model.save_pretrained(folder / "sharded", max_shard_size="8KB")
    parameters = {name.removeprefix("model."): p.detach() for name, p in model.named_parameters()}
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    return Tiny(folder, load_file(folder / "model.safetensors"), parameters, shapes)


def assert_holds(checkpoint: Checkpoint, parameters: Mapping[str, Tensor]) -> None:
    assert set(checkpoint.names) == set(parameters)
    for name, parameter in parameters.items():
        assert torch.equal(checkpoint.tensor(name), parameter), name
        assert checkpoint.dtype(name) == parameter.dtype


def refusal(folder: Path, expected: Shapes) -> str:
    """Return the message of the error that opening raises, after checking its form."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder, expected)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert message.isprintable()  # so it is one line
    return message.removeprefix(str(folder))


def new_layout(name: str) -> str:
    """Return the name that transformers uses in memory, and in the files that 4.52 wrote."""
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.", 1)
    return "lm_head.weight" if name == HEAD else f"model.{name}"


def published_layout(name: str) -> str:
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


def test_the_model_has_the_parameters_that_transformers_has(tiny: Tiny) -> None:
    with torch.device("meta"):
        model = PaliGemma(read_config(tiny.folder))
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == tiny.expected


def test_one_file(tiny: Tiny) -> None:
    assert_holds(Checkpoint.open(tiny.folder, tiny.expected), tiny.parameters)


@pytest.mark.parametrize("rename", [new_layout, published_layout])
def test_the_other_layouts(tiny: Tiny, tmp_path: Path, rename: Callable[[str], str]) -> None:
    names = {rename(name): tensor for name, tensor in tiny.stored.items()}
    assert names.keys() != tiny.stored.keys()
    save_file(names, tmp_path / "model.safetensors")
    assert_holds(Checkpoint.open(tmp_path, tiny.expected), tiny.parameters)


def test_shards(tiny: Tiny) -> None:
    folder = tiny.folder / "sharded"
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert_holds(Checkpoint.open(folder, tiny.expected), tiny.parameters)


def test_links_as_in_the_hub_cache(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    shutil.copytree(tiny.folder / "sharded", tmp_path / "blobs")
    for blob in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / blob.name).symlink_to(Path("..") / "blobs" / blob.name)
    assert_holds(Checkpoint.open(tmp_path / "snapshot", tiny.expected), tiny.parameters)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_as_stored(tiny: Tiny, tmp_path: Path, dtype: torch.dtype) -> None:
    half = {name: tensor.to(dtype) for name, tensor in tiny.stored.items()}
    save_file(half, tmp_path / "model.safetensors")
    expected = {name: tensor.to(dtype) for name, tensor in tiny.parameters.items()}
    assert_holds(Checkpoint.open(tmp_path, tiny.expected), expected)


@pytest.mark.parametrize("name", [HEAD, "lm_head.weight"])
def test_a_stored_head_must_be_the_embedding(
    tiny: Tiny, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "paligemma_onnx.model.checkpoint.checkpoint.CHUNK", 300
    )  # values; the embedding has 800
    embedding = tiny.stored[EMBEDDING]
    file = tmp_path / "model.safetensors"
    save_file(tiny.stored | {name: embedding.clone()}, file)
    assert_holds(Checkpoint.open(tmp_path, tiny.expected), tiny.parameters)
    different = embedding.clone()
    different[-1, -1] += 1e-3
    save_file(tiny.stored | {name: different}, file)
    assert "differs from the embedding" in refusal(tmp_path, tiny.expected)
    save_file(tiny.stored | {name: embedding[:-1].clone()}, file)
    assert "has the shape (49, 16), the embedding (50, 16)" in refusal(tmp_path, tiny.expected)


def test_a_head_may_differ_where_no_token_is(tiny: Tiny, tmp_path: Path) -> None:
    """Rows from `<image>` on are random in published files, and differ if the head was saved separately."""
    different = tiny.stored[EMBEDDING].clone()
    different[-1, -1] += 1e-3
    save_file(tiny.stored | {HEAD: different}, tmp_path / "model.safetensors")
    assert_holds(Checkpoint.open(tmp_path, tiny.expected, trained_rows=49), tiny.parameters)
    with pytest.raises(CheckpointError, match="differs from the embedding"):
        Checkpoint.open(tmp_path, tiny.expected, trained_rows=50)


@pytest.mark.parametrize("name", [HEAD, "lm_head.weight"])
def test_the_table_may_be_stored_under_the_head_s_name(tiny: Tiny, tmp_path: Path, name: str) -> None:
    tensors = {name if key == EMBEDDING else key: tensor for key, tensor in tiny.stored.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    assert_holds(Checkpoint.open(tmp_path, tiny.expected), tiny.parameters)


def test_missing_unexpected_and_misshapen_are_all_named(tiny: Tiny, tmp_path: Path) -> None:
    tensors = dict(tiny.stored)
    del tensors[NORM]
    tensors["vision_tower.head.probe"] = torch.zeros(1)
    o_proj = "language_model.model.layers.1.self_attn.o_proj.weight"
    tensors[o_proj] = tensors[o_proj].T.contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    message = refusal(tmp_path, tiny.expected)
    assert "missing (1): language_model.norm.weight" in message
    assert "; unexpected (1): vision_tower.head.probe" in message
    assert f"; misshapen (1): {o_proj} [24, 16] instead of [16, 24]" in message


def test_at_most_ten_names(tiny: Tiny, tmp_path: Path) -> None:
    save_file({EMBEDDING: tiny.stored[EMBEDDING]}, tmp_path / "model.safetensors")
    message = refusal(tmp_path, tiny.expected)
    absent = len(tiny.expected) - 1
    assert f"; missing ({absent}): " in message
    assert f"and {absent - 10} more" in message
    assert message.count(", ") == 9


def test_two_names_for_one_tensor(tiny: Tiny, tmp_path: Path) -> None:
    twice = {new_layout(EMBEDDING): tiny.stored[EMBEDDING].clone()}
    save_file(tiny.stored | twice, tmp_path / "model.safetensors")
    message = refusal(tmp_path, tiny.expected)
    assert "two names for one tensor" in message
    assert EMBEDDING in message


def test_other_types_are_named(tiny: Tiny, tmp_path: Path) -> None:
    quantised = tiny.stored | {NORM: torch.zeros(16, dtype=torch.uint8)}
    save_file(quantised, tmp_path / "model.safetensors")
    message = refusal(tmp_path, tiny.expected)
    assert f"only F32, BF16 and F16 are read, not U8: {NORM};" in message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "has neither model.safetensors nor model.safetensors.index.json"),
        (["pytorch_model-00001-of-00002.bin"], "only safetensors are read"),
        (["model.pt"], "save_pretrained"),
        (["weights.ckpt"], "weights.ckpt"),
        (["other.safetensors"], "only other.safetensors"),
        (["model-00001-of-00002.safetensors"], "has shards of weights but no model.safetensors.index.json"),
        (["model.safetensors.incomplete"], "the download of model.safetensors.incomplete did not finish"),
        (["adapter_model.safetensors"], "LoRA adapter"),
        (["model.safetensors", "model.safetensors.index.json"], "has both"),
    ],
)
def test_folders_without_a_choice(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert words in refusal(tmp_path, {})


def test_no_folder(tmp_path: Path) -> None:
    assert "not a checkpoint folder" in refusal(tmp_path / "absent", {})


def test_a_folder_and_a_broken_link_in_place_of_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    assert "not a regular file" in refusal(tmp_path, {})
    (tmp_path / "model.safetensors").rmdir()
    (tmp_path / "model.safetensors").symlink_to("absent")
    assert "no such file" in refusal(tmp_path, {})


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        (None, "weight_map must be an object"),
        ({}, "weight_map must be an object"),
        ({"a": 3}, "the file of 'a' is 3"),
        ({"a": "../x.safetensors"}, "not the plain name"),
        ({"a": "/x.safetensors"}, "not the plain name"),
        ({"a": "sub/x.safetensors"}, "not the plain name"),
        ({"a": "..\\x.safetensors"}, "not the plain name"),
        ({"a": "C:x.safetensors"}, "not the plain name"),
        ({"a": "x\0.safetensors"}, "not the plain name"),
        ({"a": ".."}, "not the plain name"),
        ({"a": "pytorch_model.bin"}, "not the plain name"),
        ({"a": "absent.safetensors"}, "absent.safetensors: no such file"),
        ({"a": "x" * 300 + ".safetensors"}, "cannot be read"),
        (
            {"a": "shard.safetensors", "b": "shard.safetensors"},
            "shard.safetensors: lacks tensors that",
        ),
        ({"b": "shard.safetensors"}, "lists: b"),
    ],
)
def test_indexes_that_lie(tmp_path: Path, weight_map: Any, words: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "shard.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert words in refusal(tmp_path, {"a": (1,)})


def test_a_tensor_in_another_shard_than_listed(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "1.safetensors")
    save_file({"c": torch.zeros(1)}, tmp_path / "2.safetensors")
    listed = {"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    assert (
        "/1.safetensors: holds tensors that model.safetensors.index.json does not list for it: b"
        in refusal(tmp_path, {})
    )
    listed = {"a": "1.safetensors", "b": "1.safetensors", "c": "1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    assert "/1.safetensors: lacks tensors that model.safetensors.index.json lists: c" in refusal(tmp_path, {})


def test_a_download_that_stopped(tiny: Tiny, tmp_path: Path) -> None:
    whole = (tiny.folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "fetch the file again" in refusal(tmp_path, tiny.expected)
