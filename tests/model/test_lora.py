"""LoRA adapters: merging against PEFT, and refusal of every adapter that is not plain LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.model.checkpoint.checkpoint import Checkpoint, find_non_finite
from paligemma_onnx.model.checkpoint.errors import CheckpointError

Json = dict[str, Any]

Q = "language_model.layers.0.self_attn.q_proj"  # canonical path of the module that most tests adapt
SHAPES = {f"{Q}.weight": (6, 4), "language_model.norm.weight": (4,)}


def tiny_model() -> transformers.PaliGemmaForConditionalGeneration:
    torch.manual_seed(0)
    text = transformers.GemmaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=6,
        vocab_size=50,
    )
    vision = transformers.SiglipVisionConfig(
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        vision_use_head=False,
    )
    config = transformers.PaliGemmaConfig(
        text_config=text, vision_config=vision, projection_dim=16, image_token_index=49
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


def parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("model."): p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("use_rslora", [False, True])
def test_merged_as_peft_merges(tmp_path: Path, use_rslora: bool) -> None:
    model = tiny_model()
    base = parameters(model)
    model.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=use_rslora,
        init_lora_weights=False,  # both factors random: the default initialisation changes nothing
        target_modules=["q_proj", "o_proj", "down_proj", "out_proj", "linear"],
        rank_pattern={"down_proj": 2, r"layers\.[01]\.self_attn\.q_proj": 3},
        alpha_pattern={"language_model.layers.2.self_attn.o_proj": 5, "^.*vision_tower.*out_proj": 20},
    )
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    merged = parameters(adapted.merge_and_unload())
    shapes = {name: tuple(p.shape) for name, p in base.items()}

    checkpoint = Checkpoint.open(tmp_path / "base", shapes, [WeightedAdapter(tmp_path / "adapter")])

    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert len(changed) == 3 * 3 + 2 + 1  # q, o, down of three layers; q, out of the vision tower; projector
    assert checkpoint.adapter.changes.keys() == changed
    for name, reference in merged.items():
        tensor = checkpoint.tensor(name)
        if name in changed:
            # The sum is rounded in another order: a few units in the last place.
            torch.testing.assert_close(tensor, reference, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(tensor, reference)


def open_merged(base: Path, adapter: Path) -> Checkpoint:
    return Checkpoint.open(base, SHAPES, [WeightedAdapter(adapter)])


def write_base(folder: Path, weight: Tensor) -> Path:
    folder.mkdir()
    tensors = {f"{Q}.weight": weight, "language_model.norm.weight": torch.ones(4)}
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_adapter(folder: Path, tensors: dict[str, Tensor], **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "bias": "none"} | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def factors(module: str = Q, r: int = 2) -> dict[str, Tensor]:
    """Return two factors of small integers, whose product is exact in every dtype."""
    a = torch.arange(r * 4.0).reshape(r, 4)
    b = torch.arange(6.0 * r).reshape(6, r) - 3
    prefix = f"base_model.model.{module}"
    return {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}


@pytest.mark.parametrize(
    "module",
    [
        "language_model.model.layers.0.self_attn.q_proj",  # PEFT on transformers 4.41
        "model.language_model.layers.0.self_attn.q_proj",  # on transformers 4.52 and later
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_by_hand_in_both_layouts(tmp_path: Path, module: str, dtype: torch.dtype) -> None:
    weight = torch.full((6, 4), 0.5, dtype=dtype)
    base = write_base(tmp_path / "base", weight)
    stored = {name: tensor.to(dtype) for name, tensor in factors(module).items()}
    checkpoint = open_merged(base, write_adapter(tmp_path / "adapter", stored))
    a, b = factors(module).values()
    assert checkpoint.dtype(f"{Q}.weight") == torch.float32
    assert torch.equal(checkpoint.tensor(f"{Q}.weight"), 0.5 + 1.5 * (b @ a))  # 3 / 2 = 1.5
    assert torch.equal(load_file(base / "model.safetensors")[f"{Q}.weight"], weight)
    assert torch.equal(checkpoint.tensor("language_model.norm.weight"), torch.ones(4))


def test_non_finite_values_of_the_adapter_are_found(tmp_path: Path) -> None:
    stored = factors()
    next(iter(stored.values()))[0, 0] = torch.nan
    base = write_base(tmp_path / "base", torch.zeros(6, 4))
    checkpoint = open_merged(base, write_adapter(tmp_path / "adapter", stored))
    assert find_non_finite(checkpoint) == [f"{Q}.weight"]


def refusal(tmp_path: Path, adapter: Path) -> str:
    base = write_base(tmp_path / "base", torch.zeros(6, 4))
    with pytest.raises(CheckpointError) as caught:
        open_merged(base, adapter)
    message = str(caught.value)
    assert message.startswith(str(adapter))
    assert message.isprintable()  # so it is one line
    return message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": "LOHA"}, "merge it with PEFT (merge_and_unload), save the model and export that"),
        ({"use_dora": True}, "lora_magnitude_vector' does not fit"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"modules_to_save": ["embed_tokens"]}, "lacks the modules_to_save embed_tokens"),
        ({"modules_to_save": "norm"}, "modules_to_save is 'norm'"),
        ({"trainable_token_indices": ["5"]}, "trainable_token_indices"),
        ({"trainable_token_indices": {"embed_tokens": [-1]}}, "trainable_token_indices"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "'mica' is implemented; merge it with PEFT (merge_and_unload)",
        ),
        ({"use_tomorrows_lora": True}, "use_tomorrows_lora is True"),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"r": 4}, "of shapes ((2, 4), (6, 2)) and rank 4, for a weight [6, 4]"),
        ({"rank_pattern": {"q_proj": 3}}, "rank 3"),
        ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern.q_proj is 2.5"),
        ({"rank_pattern": [2]}, "rank_pattern must be an object"),
        ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern.q_proj is -1"),
        ({"alpha_pattern": {"(q_proj": 1}}, "not a regular expression"),
        ({"alpha_pattern": {"(?i)q_proj": 1}}, "not a regular expression"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "too complex"),
        ({"alpha_pattern": {".*.*.*x": 1}}, "too complex"),
    ],
)
def test_settings_refused_by_name(tmp_path: Path, settings: Json, words: str) -> None:
    message = refusal(tmp_path, write_adapter(tmp_path / "adapter", factors(), **settings))
    assert words in message


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "holds no tensors"),
        (dict(list(factors().items())[:1]), "lora_B.weight' is missing"),
        (dict(list(factors().items())[1:]), "lora_A.weight' is missing"),
        ({name.replace("q_proj", "x_proj"): t for name, t in factors().items()}, "x_proj' is not a layer"),
        ({name.replace(Q, "lm_head"): t for name, t in factors().items()}, "'lm_head' is not a layer"),
        (
            factors() | {f"base_model.model.{Q}.gain": torch.ones(6)},
            "q_proj.gain' is not a tensor of the model",
        ),
        (factors() | {f"base_model.model.{Q}.weight": torch.ones(4, 6)}, "[4, 6] instead of [6, 4]"),
        (
            factors() | {f"base_model.model.{Q}.lora_B.bias": torch.ones(6)},
            "has no bias that lora_B.bias fits",
        ),
        (factors("language_model.norm"), "for a weight [4]"),
        ({name: t.T.contiguous() for name, t in factors().items()}, "of shapes ((4, 2), (2, 6))"),
        (factors(r=3), "of shapes ((3, 4), (6, 3)) and rank 2"),
        (factors() | factors(f"model.{Q}"), "two names for one layer"),
        (factors() | {f"base_model.model.{Q}.lora_magnitude_vector": torch.ones(6)}, "lora_magnitude_vector"),
        (
            factors() | {f"base_model.model.{Q}.lora_embedding_A": torch.ones(2, 6)},
            "lora_embedding_B' is missing",
        ),
        (factors() | {f"{Q}.lora_A.weight": torch.ones(2, 4)}, "so they are not tensors of a PEFT adapter"),
        ({name: t.double() for name, t in factors().items()}, "not F64"),
    ],
)
def test_tensors_refused_by_name(tmp_path: Path, tensors: dict[str, Tensor], words: str) -> None:
    assert words in refusal(tmp_path, write_adapter(tmp_path / "adapter", tensors))


def test_folders_that_are_no_adapter(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    assert "adapter_config.json: no such file" in refusal(tmp_path, adapter)


def test_pickled_factors(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", factors())
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "safetensors only" in refusal(tmp_path, adapter)


def test_a_pattern_that_matches_another_module_changes_nothing(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", torch.zeros(6, 4))
    settings = {"alpha_pattern": {"proj": 100, "self_attn": 100}, "rank_pattern": {"k_proj": 7}}
    adapter = write_adapter(tmp_path / "adapter", factors(), **settings)
    a, b = factors().values()
    merged = open_merged(base, adapter).tensor(f"{Q}.weight")
    assert torch.equal(merged, 1.5 * (b @ a))


@pytest.mark.parametrize("off", [None, False, [], {}])
def test_settings_of_later_releases_may_be_off(tmp_path: Path, off: object) -> None:
    base = write_base(tmp_path / "base", torch.zeros(6, 4))
    adapter = write_adapter(tmp_path / "adapter", factors(), use_tomorrows_lora=off)
    assert open_merged(base, adapter).dtype(f"{Q}.weight") == torch.float32
