"""Hyperparameters of the shipped model and of a smoke test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from paligemma_onnx.model.config import PaliGemmaConfig, TextConfig, VisionConfig

from .mask_codes import MaskRecipe
from .scenes import OBJECT_COUNT_PERCENT, Split
from .tasks import Kind

IMAGE_SIDE = 112  # pixels
MAX_OBJECTS = len(OBJECT_COUNT_PERCENT)  # per scene
MIN_CROWDED = 4  # objects from which a scene counts as crowded
UNTRAINED_ROWS = 64  # of the embedding, from `<image>` on; published checkpoints have the same number


def small_config(image_token: int, width: int = 192, layers: int = 4) -> PaliGemmaConfig:
    """Return sizes of a small PaliGemma 1: 64 image tokens, 4 query heads and 2 key-value heads.

    Args:
        image_token: id of `<image>`, the last trained row of the embedding.
        width: of the vision tower and of the decoder.
        layers: of the vision tower and of the decoder.
    """
    vision = VisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=IMAGE_SIDE,
        patch_size=14,
    )
    text = TextConfig(
        model_type="gemma",
        vocab_size=image_token + UNTRAINED_ROWS,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        query_pre_attn_scalar=float(width // 4),
        max_position_embeddings=512,
    )
    return PaliGemmaConfig(vision, text, image_token)


@dataclass(frozen=True)
class Schedule:
    """Schedule of a stage: the learning rate rises linearly, then falls to zero as a cosine."""

    steps: int
    images: int  # per step
    peak_rate: float
    warmup: int  # steps
    tower_from: int = 0  # steps for which the vision tower stays frozen
    tower_ramp: int = 1  # steps over which its learning rate then rises linearly to that of other parameters
    weight_decay: float = 0.05  # of matrices
    max_gradient_norm: float = 1.0  # gradients with a larger norm are scaled down to it
    measure_every: int = 500  # steps between two measurements on held-out scenes
    save_every: int = 250  # steps


@dataclass(frozen=True)
class Curriculum:
    """Prompts and scenes on which the whole model is trained in a stage."""

    kinds: Mapping[Kind, float]  # relative frequency of each kind of prompt
    max_objects: tuple[
        tuple[int, int], ...
    ] = ()  # (step, maximum number of objects before that step), ascending
    crowded: float = 0.0  # share of the images with MIN_CROWDED objects or more
    # Share of the answers whose colours are replaced by random ones in the input, but not in the targets.
    # Some pairs of colour and shape never occur, so a decoder learns that "triangle" never follows "blue",
    # whatever the image shows.
    replaced_colours: float = 0.0
    prompts_per_image: int = 2


BROAD_CURRICULUM = Curriculum(
    kinds={
        "caption": 0.20,
        "detect": 0.13,
        "segment": 0.11,
        "colour": 0.04,
        "shape": 0.06,
        "texture": 0.04,
        "count": 0.08,
        "position": 0.18,  # requires finding and comparing two objects, so it is learned most slowly
        "text": 0.26,  # only a third of the scenes have printed text
    },
    max_objects=((600, 1), (2_500, 2), (4_500, 3)),
)
# Concentrates on the errors that remain after stage 2: confusing objects in crowded scenes, and masks.
HARD_CURRICULUM = Curriculum(
    kinds={
        "caption": 0.28,
        "detect": 0.22,
        "segment": 0.30,
        "colour": 0.01,
        "shape": 0.03,
        "texture": 0.01,
        "count": 0.06,
        "position": 0.05,
        "text": 0.04,
    },
    crowded=0.6,
    replaced_colours=0.45,
)


@dataclass(frozen=True)
class Recipe:
    """All hyperparameters of a training run."""

    train: Split
    held_out: Split  # for measurements during training; the published scores use other seeds
    masks: MaskRecipe
    stage1: Schedule
    stage2: Schedule
    stage3: Schedule  # continues from stage 2 with the hard curriculum
    seed: int = 0
    tokenizer_scenes: int = 2_000
    whitening_scenes: int = 1_000
    mask_scenes: int = 20_000
    text_width: int = 128  # of stage 1's text tower
    text_layers: int = 2
    text_tokens: int = 56  # length to which texts are padded or cut in stage 1
    text_chunk: int | None = None  # texts compared at a time in SigLIP's loss; None: all texts of a batch
    stage2_curriculum: Curriculum = BROAD_CURRICULUM
    stage3_curriculum: Curriculum = HARD_CURRICULUM
    location_std: float = 5.0  # location tokens, standard deviation of the target around the true location
    config: Callable[[int], PaliGemmaConfig] = small_config  # id of `<image>` -> sizes


FULL = Recipe(
    train=Split(0, 120_000),
    held_out=Split(9_000_000, 512),
    masks=MaskRecipe(),
    stage1=Schedule(steps=2_500, images=64, peak_rate=3e-3, warmup=100),
    stage2=Schedule(steps=12_000, images=24, peak_rate=3e-3, warmup=100, tower_from=1_500, tower_ramp=3_000),
    stage3=Schedule(steps=5_500, images=24, peak_rate=2e-3, warmup=100),
)
# Takes a minute on one core, even if bfloat16 products are emulated (Muon and the activations use bfloat16
# on every processor). The losses fall visibly, but the model does not learn to answer.
SMOKE = Recipe(
    config=partial(small_config, width=64, layers=2),
    text_width=64,
    text_layers=1,
    train=Split(0, 512),
    held_out=Split(9_000_000, 64),
    tokenizer_scenes=200,
    masks=MaskRecipe(steps=60, batch=64),
    stage1=Schedule(steps=20, images=16, peak_rate=3e-3, warmup=5, measure_every=10, save_every=10),
    stage2=Schedule(steps=40, images=6, peak_rate=3e-3, warmup=5, measure_every=20, save_every=10),
    stage3=Schedule(steps=10, images=6, peak_rate=1e-3, warmup=2, measure_every=10, save_every=10),
)


def without_stage1(recipe: Recipe) -> Recipe:
    """Return the recipe for an untrained vision tower: it is trained from the first step of stage 2."""
    return replace(recipe, stage2=replace(recipe.stage2, tower_from=0, tower_ramp=1))


def max_objects_at(step: int, curriculum: Curriculum) -> int:
    """Return the maximum number of objects per scene at a step: first one, then a few, then all.

    With one object, the model learns colours, shapes and positions without having to find the object that
    the prompt means. Once it knows them, it learns to find the object much faster.
    """
    return next((limit for until, limit in curriculum.max_objects if step < until), MAX_OBJECTS)
