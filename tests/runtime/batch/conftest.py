"""Fixtures of the batch tests: images, a bundle's answers to them, and the `batch` command about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from batch_runs import CASE, IMAGES, INPUTS, PART_ROWS, PROMPT, EchoModel, Run, batch_command, write_images
from command_line import CommandResult, run_in_process

from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.batch.items import Shard
from paligemma_onnx.runtime.batch.pipeline import BatchOptions
from paligemma_onnx.runtime.batch.shard_runner import ShardJob
from paligemma_onnx.runtime.batch.sources import Source
from paligemma_onnx.runtime.generation.types import Options


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


@pytest.fixture
def job(tmp_path: Path) -> ShardJob:
    """A list of images that do not exist, for the model stub."""
    (tmp_path / "list.txt").write_text("".join(f"{number}.png\n" for number in range(INPUTS)))
    (tmp_path / "out").mkdir()
    return ShardJob(
        source=Source(tmp_path / "list.txt", "list", PROMPT, tmp_path / "none"),
        output=tmp_path / "out",
        shard=Shard(0, 1),
        format="jsonl",
        part_rows=10,
        options=BatchOptions(Options(max_new_tokens=4, max_image_pixels=1), None, 4, 2),
        bundle=tmp_path,
        device="cpu",
        threads=1,
    )


@pytest.fixture
def run(
    echo: EchoModel,
    shipped_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run `batch` about an input with the model stub."""
    monkeypatch.setattr(ShardJob, "open", lambda _: echo)

    def run(path: Path | str, *options: str) -> CommandResult:
        arguments = ("--output", str(tmp_path / "out"), *options)
        return run_in_process(capsys, *batch_command(shipped_bundle, Path(path)), *arguments)

    return run


@pytest.fixture
def listed(tmp_path: Path, images: Path) -> Path:
    """A list of the images."""
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{images}/{number:04d}.png\n" for number in range(IMAGES)))
    return path
