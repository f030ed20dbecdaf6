"""Arguments of the Python API that are of a wrong type, or that NumPy makes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paligemma_onnx.runtime import (
    BundleError,
    ImageError,
    NumericsError,
    OptionError,
    PaliGemma,
    PromptError,
    Request,
)
from paligemma_onnx.runtime.bundle.tensor_table import read_tensor_table

Folders = Callable[[str], Path]
CASE = "gemma_one_kv_head"
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(bundle: Folders) -> PaliGemma:
    return PaliGemma.load(bundle(CASE), device="cpu", threads=np.int64(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", [5, None, b"bundle", ["bundle"]])
def test_a_folder_is_a_path(folder: Any) -> None:
    with pytest.raises(OptionError, match="expected the path of a bundle"):
        PaliGemma.load(folder)


@pytest.mark.parametrize("folder", ["a\0b", "a\ud800"])
def test_impossible_folder_names(folder: str) -> None:
    with pytest.raises(BundleError, match="not a possible file name") as caught:
        PaliGemma.load(folder)
    assert str(caught.value).isprintable()


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BundleError, match=r"symbolic links.*; give the folder itself, not a link"):
        PaliGemma.load(tmp_path / "loop")


def test_arguments_as_numpy_makes_them(model: PaliGemma) -> None:
    assert model.open(IMAGE, max_image_pixels=np.int64(2000)).width == 50  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="over the cap of 9"):
        model.open(IMAGE, max_image_pixels=np.int64(9))  # type: ignore[arg-type]


@pytest.mark.parametrize("requests", [[None], 5, None, "text", [(IMAGE, "caption en")]])
def test_requests_are_requests(model: PaliGemma, requests: Any) -> None:
    with pytest.raises(OptionError, match=r"requests.* expected (a )?Request"):
        model.generate_batch(requests)


@pytest.mark.parametrize("images", [[None], None, 5, [[IMAGE]], {}])
def test_images_are_images(model: PaliGemma, images: Any) -> None:
    with pytest.raises(ImageError, match="an image cannot be of type"):
        model.generate(images, "caption en")


def test_the_number_of_images_is_checked_before_any_is_opened(model: PaliGemma) -> None:
    many = ["missing.png"] * (model.manifest.model.context_length // model.manifest.image.tokens)
    with pytest.raises(PromptError, match=f"{len(many)} images take .* give fewer"):
        model.generate(many, "caption en")
    with pytest.raises(PromptError, match="images take"):
        model.generate_batch([Request("missing.png", "caption en"), Request(many, "caption en")])


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_nan_in_the_vision_encoder_is_noticed(
    rounded: Callable[[str, str], Path], tmp_path: Path, precision: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(rounded(CASE, precision), folder)
    manifest = PaliGemma.load(folder, device="cpu").manifest
    path = folder / "vision_encoder.data"
    sound = path.read_bytes()
    scales = [
        tensor
        for tensor in read_tensor_table(folder, manifest).graphs["vision_encoder"]
        if tensor.dtype == "float32" and tensor.file == path.name
    ]
    for start, end in ((0, len(sound)), (scales[-1].offset, scales[-1].offset + scales[-1].length)):
        path.write_bytes(sound[:start] + b"\xff" * (end - start) + sound[end:])  # FFFFFFFF is a NaN
        with pytest.raises(NumericsError, match=r"vision_encoder\.onnx: the image features are NaN"):
            PaliGemma.load(folder, device="cpu").generate(IMAGE, "caption en", max_new_tokens=2)


@pytest.mark.parametrize(
    "option", ["max_new_tokens", "suppress_tokens", "max_image_pixels", "top_k", "seed", "temperature"]
)
def test_numbers_that_python_does_not_print(model: PaliGemma, option: str) -> None:
    number = -(10**5000)
    options: dict[str, Any] = {option: [number] if option == "suppress_tokens" else number}
    with pytest.raises(OptionError, match=f"{option} .*thousands of digits"):
        model.generate(IMAGE, "caption en", **options)


@pytest.mark.parametrize("option", ["threads", "memory_limit"])
def test_limits_that_python_does_not_print(bundle: Folders, option: str) -> None:
    limits: dict[str, Any] = {option: 10**5000}
    with pytest.raises(OptionError, match=f"{option} is a number of thousands of digits"):
        PaliGemma.load(bundle(CASE), device="cpu", **limits)
