"""The shipped model as a bundle behind `ORTPaliGemma`, and in transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from paths import SCENE
from PIL import Image

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.optimum import ORTPaliGemma


@pytest.fixture(scope="session")
def shipped_checkpoint() -> Iterator[Path]:
    with shipped_model() as folder:
        yield folder


@pytest.fixture(scope="session")
def model(shipped_bundle: Path) -> ORTPaliGemma:
    return ORTPaliGemma.from_pretrained(shipped_bundle, device="cpu")


@pytest.fixture(scope="session")
def reference(shipped_checkpoint: Path) -> Any:
    """The shipped model in transformers, which suppresses no token."""
    return transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        shipped_checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="session")
def processor(shipped_checkpoint: Path) -> Any:
    return transformers.AutoProcessor.from_pretrained(shipped_checkpoint, backend="pil")


@pytest.fixture(scope="session")
def scene() -> Image.Image:
    with Image.open(SCENE) as image:
        return image.convert("RGB")


@pytest.fixture(scope="session")
def inputs(processor: Any, scene: Image.Image) -> Any:
    """A prompt about the scene, as the processor prepares it."""
    return processor(images=scene, text="<image>caption en", return_tensors="pt")


@pytest.fixture(scope="session")
def batch(processor: Any, scene: Image.Image) -> Any:
    """Prompts of different lengths about the scene, padded on the left."""
    prompts = ("caption en", "detect green circle", "answer en what colour is the square?")
    texts = [f"<image>{prompt}" for prompt in prompts]
    return processor(images=[scene] * 3, text=texts, padding=True, return_tensors="pt")
