"""Fixtures of the batch tests: images, a bundle's answers to them, and the `batch` command about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from batch_runs import CASE, IMAGES, PART_ROWS, PROMPT, EchoModel, batch_command, write_images

from paligemma_onnx.runtime import PaliGemma


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paligemma_onnx.runtime.cli.batch.PART_ROWS", PART_ROWS)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 0000.png to 0039.png; read only."""
    return write_images(tmp_path_factory.mktemp("batch") / "images", IMAGES)


@pytest.fixture(scope="session")
def model(bundle: Callable[[str], Path]) -> PaliGemma:
    return PaliGemma.load(bundle(CASE), device="cpu")


@pytest.fixture(scope="session")
def echo(shipped_bundle: Path) -> EchoModel:
    """Model stub with the shipped model's tokenizer."""
    return EchoModel(PaliGemma.load(shipped_bundle, device="cpu"))


@pytest.fixture
def command(bundle: Callable[[str], Path], images: Path) -> tuple[str, ...]:
    """Arguments of a `batch` command without --output."""
    return batch_command(bundle(CASE), images)


@pytest.fixture(scope="session")
def expected(model: PaliGemma, images: Path) -> dict[str, str]:
    """The answer of `generate` to each image."""
    return {
        path.name: model.generate(path, PROMPT, max_new_tokens=5).text for path in sorted(images.iterdir())
    }
