"""Every number that makes the shipped model what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from paligemma_onnx.model.config import PaliGemmaConfig, TextConfig, VisionConfig

from .mask_codes import MaskRecipe
from .rendered_dataset import Split
from .scenes import COUNTS
from .tasks import Kind

IMAGE_SIDE = 112  # pixels
MOST_ITEMS = len(COUNTS)  # in a scene
CROWD = 4  # objects from which a scene is crowded
UNTRAINED_ROWS = 64  # of the table, from `<image>` on, as published checkpoints have


def small_config(image_token: int, width: int = 192, layers: int = 4) -> PaliGemmaConfig:
    """PaliGemma 1 in small: 64 image tokens, 4 query heads on 2 key-value heads."""
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
    """How a stage goes through its steps: the rate rises linearly, then falls as a cosine to nothing."""

    steps: int
    pictures: int  # a step
    peak_rate: float
    warmup: int  # steps
    tower_from: int = 0  # step until which the vision tower is kept as it is
    tower_ramp: int = 1  # steps over which its rate then rises linearly to the others'
    weight_decay: float = 0.05  # of matrices
    largest_gradient: float = 1.0  # norm beyond which gradients are scaled down
    measure_every: int = 500  # steps between two measurements on held-out scenes
    save_every: int = 250  # steps


@dataclass(frozen=True)
class Lessons:
    """What the whole model is asked while it is trained."""

    kinds: Mapping[Kind, float]  # shares of the prompts
    curriculum: tuple[tuple[int, int], ...] = ()  # until a step, the most objects
    crowded: float = 0.0  # share of the pictures that must have CROWD objects or more
    # Share of the answers in which what comes next sees other colours than were said. Some pairs of colour
    # and shape are never shown, so a decoder learns that no "triangle" follows "blue", whatever it looks at.
    other_colours: float = 0.0
    prompts_a_picture: int = 2


BROAD = Lessons(
    kinds={
        "caption": 0.20,
        "detect": 0.13,
        "segment": 0.11,
        "colour": 0.04,
        "shape": 0.06,
        "texture": 0.04,
        "count": 0.08,
        "position": 0.18,  # two objects to find and compare: the slowest to learn
        "text": 0.26,  # only a third of the scenes have any
    },
    curriculum=((600, 1), (2_500, 2), (4_500, 3)),
)
HARD = Lessons(  # what is still wrong after stage 2: which object is which where there are many, and masks
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
    other_colours=0.45,
)


@dataclass(frozen=True)
class Recipe:
    """The whole training."""

    train: Split
    held_out: Split  # measured on while training; the scores come from other seeds
    masks: MaskRecipe
    stage1: Schedule
    stage2: Schedule
    stage3: Schedule  # goes on from stage 2 with harder lessons
    seed: int = 0
    tokenizer_scenes: int = 2_000
    whitening_scenes: int = 1_000
    mask_scenes: int = 20_000
    text_width: int = 128  # of stage 1's text tower
    text_layers: int = 2
    text_tokens: int = 56  # longest description
    captions_at_once: int | None = None  # of the SigLIP loss; None: all of a batch
    lessons2: Lessons = BROAD
    lessons3: Lessons = HARD
    location_blur: float = 5.0  # tokens: standard deviation of the target around the true location
    config: Callable[[int], PaliGemmaConfig] = small_config  # id of `<image>` -> sizes


FULL = Recipe(
    train=Split(0, 120_000),
    held_out=Split(9_000_000, 512),
    masks=MaskRecipe(),
    stage1=Schedule(steps=2_500, pictures=64, peak_rate=3e-3, warmup=100),
    stage2=Schedule(
        steps=12_000, pictures=24, peak_rate=3e-3, warmup=100, tower_from=1_500, tower_ramp=3_000
    ),
    stage3=Schedule(steps=5_500, pictures=24, peak_rate=2e-3, warmup=100),
)
# A minute on one core, also where bfloat16 products are emulated: Muon and the activations use them on every
# processor. Enough to see the losses fall, not to answer anything.
SMOKE = Recipe(
    config=partial(small_config, width=64, layers=2),
    text_width=64,
    text_layers=1,
    train=Split(0, 512),
    held_out=Split(9_000_000, 64),
    tokenizer_scenes=200,
    masks=MaskRecipe(steps=60, batch=64),
    stage1=Schedule(steps=20, pictures=16, peak_rate=3e-3, warmup=5, measure_every=10, save_every=10),
    stage2=Schedule(steps=40, pictures=6, peak_rate=3e-3, warmup=5, measure_every=20, save_every=10),
    stage3=Schedule(steps=10, pictures=6, peak_rate=1e-3, warmup=2, measure_every=10, save_every=10),
)


def without_stage1(recipe: Recipe) -> Recipe:
    """The same steps for a tower that has learned nothing: it has nothing to lose, so it does not wait."""
    return replace(recipe, stage2=replace(recipe.stage2, tower_from=0, tower_ramp=1))


def most_items(step: int, lessons: Lessons) -> int:
    """Objects that scenes of a step have at most: first one, then a few, then all.

    With one object there is nothing to confuse; what is learned from it (colours, shapes, places) makes the
    harder question, which object a prompt means, much quicker to learn.
    """
    return next((most for until, most in lessons.curriculum if step < until), MOST_ITEMS)
