"""Several adapters with weights: the sum equals that of PEFT's `add_weighted_adapter`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import CASES, make_model

from paligemma_onnx.export.sources.hub import resolve_adapter
from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.checkpoint.load import open_checkpoint

CASE = CASES["gemma_one_kv_head"]
# Relative to the largest value of a tensor: PEFT adds the products in another order.
ROUNDING = 5e-7


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 checkpoint `base`, the plain adapters `first` and `second` of other ranks, and `dora`."""
    import peft

    folder = tmp_path_factory.mktemp("adapters")
    make_model(CASE).save_pretrained(folder / "base")
    for index, (name, settings) in enumerate(
        {
            "first": {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "fc1"]},
            "second": {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj", "linear"], "use_rslora": True},
            "dora": {"r": 2, "target_modules": ["q_proj"], "use_dora": True},
        }.items()
    ):
        torch.manual_seed(index)
        config = peft.LoraConfig(**{"init_lora_weights": False} | settings)
        peft.get_peft_model(make_model(CASE), config).save_pretrained(folder / name)
    return folder


def merged_by_peft(folders: Path, weights: dict[str, float]) -> dict[str, Any]:
    """Merge in PEFT, whose sum is wrong by sqrt(r) if the first adapter is rank-stabilised (0.21)."""
    import peft

    names = list(weights)
    adapted = peft.PeftModel.from_pretrained(make_model(CASE), folders / names[0], adapter_name=names[0])
    for name in names[1:]:
        adapted.load_adapter(folders / name, adapter_name=name)
    adapted.add_weighted_adapter(names, list(weights.values()), "sum", combination_type="cat")
    adapted.set_adapter("sum")
    merged = adapted.merge_and_unload().named_parameters()
    return {name.removeprefix("model."): weight.detach() for name, weight in merged}


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights", [{"first": 0.5, "second": 2.0}, {"first": 1.0, "second": 1.0}, {"first": -0.25, "second": 1.5}]
)
def test_sum_of_peft(folders: Path, weights: dict[str, float]) -> None:
    merged = merged_by_peft(folders, weights)
    adapters = [WeightedAdapter(folders / name, weight) for name, weight in weights.items()]
    _, checkpoint = open_checkpoint(folders / "base", adapters)
    for name in checkpoint.names:
        difference = (checkpoint.tensor(name) - merged[name]).abs().max()
        assert difference <= ROUNDING * merged[name].abs().max(), name


@pytest.mark.slow
def test_only_plain_lora_has_a_weight(folders: Path) -> None:
    plain, dora = WeightedAdapter(folders / "first"), folders / "dora"
    for adapters in ([WeightedAdapter(dora, 0.5)], [plain, WeightedAdapter(dora)]):
        with pytest.raises(
            CheckpointError, match=r"dora: only plain LoRA can be scaled .*merge it with PEFT"
        ):
            open_checkpoint(folders / "base", adapters)


@pytest.mark.parametrize(
    ("text", "folder", "weight"),
    [
        ("lora", "lora", 1.0),
        ("lora:0.5", "lora", 0.5),
        ("lora:-2", "lora", -2.0),
        ("lora:1e-1", "lora", 0.1),
        ("exists:3", "exists:3", 1.0),
    ],
)
def test_a_weight_follows_a_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, folder: str, weight: float
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lora", "exists:3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").touch()
    assert resolve_adapter(text) == WeightedAdapter(Path(folder), weight)


@pytest.mark.parametrize("text", ["lora:", "lora:x", "lora:nan", "lora:1.5.2", "absent:0.5"])
def test_other_texts_are_names_of_folders(text: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve_adapter(text)
