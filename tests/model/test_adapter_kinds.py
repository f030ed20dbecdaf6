"""Every kind of LoRA adapter that PEFT saves: merged weights and greedy ids equal those of PEFT.

The reference is the adapted model, not the model after `merge_and_unload`. PEFT merges an adapter of one side
of a tied matrix into both sides, which changes what the model computes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import CASES, IMAGE_TOKEN, make_model
from torch import Tensor

from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint
from paligemma_onnx.model.checkpoint.tensor_names import EMBEDDING, LM_HEAD
from paligemma_onnx.model.generate import generate

peft = pytest.importorskip("peft")
# PEFT warns of tied layers, of embeddings that it saves, and of fan_in_fan_out, which these tests mean.
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore::UserWarning")]

FAMILIES = {"PaliGemma 1": "gemma_one_kv_head", "PaliGemma 2": "gemma2_window"}
TEXT = r".*language_model.*\.({})"
MAESTRO = ["q_proj", "o_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS = 24  # greedy ids per answer
# Relative to the largest value of a tensor: a few units in the last place of float32, because sums and DoRA's
# norms are added in another order.
ROUNDING = 2e-6


@dataclass(frozen=True)
class Kind:
    """A LoraConfig of PEFT, and whether the adapted model still has a tied output head."""

    settings: dict[str, Any]
    tied: bool = True


KINDS = {
    "attention": Kind({"target_modules": ["q_proj", "v_proj"]}),
    "maestro, towers by suffix": Kind({"target_modules": MAESTRO, "lora_dropout": 0.05}),
    "all-linear": Kind({"target_modules": "all-linear"}),
    "vision tower": Kind({"target_modules": r".*vision_tower.*\.(q_proj|out_proj|fc1|fc2)"}),
    "projector": Kind({"target_modules": ["linear"]}),
    "patch and position embedding": Kind({"target_modules": ["patch_embedding", "position_embedding"]}),
    "rsLoRA": Kind({"target_modules": MAESTRO, "use_rslora": True}),
    "rank and alpha patterns": Kind(
        {
            "target_modules": MAESTRO,
            "rank_pattern": {"down_proj": 2, r"layers\.[01]\.self_attn\.q_proj": 3},
            "alpha_pattern": {"language_model.layers.1.self_attn.o_proj": 5, "^.*vision_tower.*v_proj": 20},
        }
    ),
    "fan_in_fan_out": Kind({"target_modules": MAESTRO, "fan_in_fan_out": True}),
    "layers_to_transform": Kind({"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]}),
    "DoRA": Kind({"target_modules": "all-linear", "use_dora": True}),
    "DoRA, rsLoRA": Kind({"target_modules": MAESTRO, "use_dora": True, "use_rslora": True}),
    "DoRA, convolution": Kind(
        {"target_modules": ["patch_embedding", "position_embedding"], "use_dora": True}
    ),
    "DoRA, embedding": Kind({"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}, tied=False),
    "bias all": Kind({"target_modules": MAESTRO, "bias": "all"}),
    "bias lora_only": Kind({"target_modules": ["q_proj", "fc1", "linear"], "bias": "lora_only"}),
    "lora_bias": Kind({"target_modules": ["fc1", "out_proj", "linear"], "lora_bias": True}),
    "saved projector": Kind({"target_modules": MAESTRO, "modules_to_save": ["multi_modal_projector"]}),
    "saved norms": Kind(
        {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm", "norm", "post_layernorm"]}
    ),
    "saved vision tower": Kind(
        {"target_modules": TEXT.format("q_proj"), "modules_to_save": ["vision_tower"]}
    ),
    "saved embedding": Kind({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, tied=False),
    "saved head": Kind({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, tied=False),
    "saved embedding and head": Kind(
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, tied=False
    ),
    "saved embedding, tied": Kind(
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    ),
    "embedding": Kind({"target_modules": ["embed_tokens", "q_proj"]}, tied=False),
    "head": Kind({"target_modules": ["lm_head", "q_proj"]}, tied=False),
    "embedding and head": Kind({"target_modules": ["embed_tokens", "lm_head"]}, tied=False),
    "embedding, tied": Kind({"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}),
    "trained tokens": Kind({"target_modules": MAESTRO, "trainable_token_indices": [3, 7, 20]}),
    "trained tokens by name": Kind(
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [9, 2]}}
    ),
    "trained tokens of the head": Kind(
        {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [5, 6]}}, tied=False
    ),
    "trained tokens, adapted head": Kind(
        {
            "target_modules": ["q_proj", "lm_head"],
            "use_rslora": True,
            "trainable_token_indices": {"embed_tokens": [30, 5]},
        },
        tied=False,
    ),
    "PiSSA, converted": Kind({"target_modules": ["q_proj", "up_proj"], "init_lora_weights": "pissa"}),
    "OLoRA, converted": Kind({"target_modules": ["q_proj", "up_proj"], "init_lora_weights": "olora"}),
}


def inputs(image_size: int) -> tuple[Tensor, Tensor]:
    """Return an image [1, 3, S, S] and the ids of a prompt."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(1, 3, image_size, image_size, generator=generator), torch.tensor([2, 40, 41, 57, 108])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A float32 checkpoint of each family."""
    folders = {}
    for family, case in FAMILIES.items():
        folders[family] = tmp_path_factory.mktemp("base")
        make_model(CASES[case]).save_pretrained(folders[family])
    return folders


def make_adapter(model: Any, settings: dict[str, Any], folder: Path, *, seed: int = 3) -> Any:
    """Return the adapted model with random trained values, and save its adapter."""
    converted = isinstance(settings.get("init_lora_weights"), str)
    config = peft.LoraConfig(**{"init_lora_weights": False} | settings)
    adapted = peft.get_peft_model(model, config).eval()
    if converted:
        adapted.peft_config["default"].init_lora_weights = True
        adapted.save_pretrained(folder / "initial")
        adapted.peft_config["default"].init_lora_weights = settings["init_lora_weights"]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in adapted.parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=generator) * 0.05)
    initial = {"path_initial_model_for_weight_conversion": str(folder / "initial")} if converted else {}
    adapted.save_pretrained(folder, **initial)
    return adapted


def greedy_of_peft(adapted: Any, pixels: Tensor, ids: Tensor) -> list[int]:
    patches = adapted.config.vision_config.image_size // adapted.config.vision_config.patch_size
    row = torch.cat([torch.full((patches**2,), IMAGE_TOKEN), ids])[None]
    adapted.generation_config.eos_token_id = None  # answers have TOKENS ids
    with torch.inference_mode():
        answer = adapted.generate(
            input_ids=row,
            pixel_values=pixels,
            attention_mask=torch.ones_like(row),
            token_type_ids=torch.zeros_like(row),
            max_new_tokens=TOKENS,
            do_sample=False,
        )
    return [int(token) for token in answer[0, row.shape[1] :]]


def effective_matrices(adapted: Any) -> tuple[Tensor, Tensor]:
    """Return the embedding and the output head [V, D] that an adapted model computes with."""
    embedding, head = adapted.get_input_embeddings(), adapted.get_output_embeddings()
    rows, width = adapted.config.text_config.vocab_size, adapted.config.text_config.hidden_size
    with torch.inference_mode():
        # transformers' embedding multiplies by sqrt(D).
        return embedding(torch.arange(rows)) / width**0.5, head(torch.eye(width)).T


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", KINDS)
def test_merged_as_in_peft(bases: dict[str, Path], tmp_path: Path, family: str, name: str) -> None:
    kind, case = KINDS[name], CASES[FAMILIES[family]]
    adapted = make_adapter(make_model(case), {"r": 4, "lora_alpha": 6} | kind.settings, tmp_path)
    pixels, ids = inputs(case.image_size)
    expected_ids = greedy_of_peft(adapted, pixels, ids)
    embedding, head = effective_matrices(adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tied matrix, which is compared by its effect instead
        merged = {
            name.removeprefix("model."): weight.detach()
            for name, weight in adapted.merge_and_unload().named_parameters()
        }
    merged |= {EMBEDDING: embedding, LM_HEAD: head}

    config, checkpoint = open_checkpoint(bases[family], [WeightedAdapter(tmp_path)])
    answer = generate(load_model(config, checkpoint), pixels, ids, max_new_tokens=TOKENS)

    assert checkpoint.has_tied_head == kind.tied
    errors = []
    for tensor in checkpoint.names:
        computed, reference = checkpoint.tensor(tensor), merged[tensor]
        errors.append(float((computed - reference).abs().max() / reference.abs().max()))
    equal = sum(mine == other for mine, other in zip(answer, expected_ids, strict=True))
    print(f"| {name} | {family} | {equal} of {TOKENS} | {max(errors):.1e} |")
    assert answer == expected_ids
    assert max(errors) < ROUNDING
