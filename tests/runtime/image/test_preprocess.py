"""Pixel values: equal to transformers' SigLIP processor bit for bit, and to values computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from paligemma_onnx.runtime.errors import ImageError
from paligemma_onnx.runtime.image.preprocess import RESCALE, preprocess, to_rgb

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NOISE = np.random.default_rng(7).integers(0, 256, (23, 37, 4), dtype=np.uint8)  # odd sides, 4 channels


def _with_info(image: Image.Image, **info: Any) -> Image.Image:
    image.info.update(info)
    return image


def _palette() -> Image.Image:
    return Image.fromarray(NOISE[..., :3]).quantize(16)


IMAGES = {
    "RGB": lambda: Image.fromarray(NOISE[..., :3]),
    "RGB with a transparent colour": lambda: _with_info(
        Image.fromarray(NOISE[..., :3]), transparency=tuple(int(level) for level in NOISE[3, 4, :3])
    ),
    "L": lambda: Image.fromarray(NOISE[..., 0]),
    "L with a transparent level": lambda: _with_info(Image.fromarray(NOISE[..., 0]), transparency=77),
    "LA": lambda: Image.fromarray(NOISE[..., :2]),
    "1": lambda: Image.fromarray(NOISE[..., 0]).convert("1"),
    "P": _palette,
    "P with one transparent entry": lambda: _with_info(_palette(), transparency=3),
    "P with an alpha for each entry": lambda: _with_info(_palette(), transparency=bytes(range(0, 256, 16))),
    "RGBA": lambda: Image.fromarray(NOISE),
    "CMYK": lambda: Image.frombytes("CMYK", (37, 23), NOISE.tobytes()),
    "YCbCr": lambda: Image.fromarray(NOISE[..., :3]).convert("YCbCr"),
}


def _reference(image: Image.Image, size: int, mean: Any, std: Any) -> np.ndarray[Any, Any]:
    processor = SiglipImageProcessorPil(
        size={"height": size, "width": size}, image_mean=list(mean), image_std=list(std)
    )
    pixel_values = processor(images=image, return_tensors="np")["pixel_values"]
    return np.asarray(pixel_values[0])


@pytest.mark.parametrize("size", [28, 56, 224])
@pytest.mark.parametrize("kind", IMAGES)
def test_equals_the_reference_bit_for_bit(kind: str, size: int) -> None:
    for mean, std in ((HALF, HALF), (IMAGENET_MEAN, IMAGENET_STD)):
        actual = preprocess(to_rgb(IMAGES[kind](), "it"), size, mean, std)
        assert (actual.shape, actual.dtype) == ((3, size, size), np.float32)
        np.testing.assert_array_equal(actual, _reference(IMAGES[kind](), size, mean, std))


def test_16_bit_grey_differs_from_the_reference_on_purpose() -> None:
    """The reference clips at 255: nearly every 16-bit image turns white."""
    ramp = np.linspace(0, 65535, 56 * 56).round().astype(np.uint16).reshape(56, 56)
    image = Image.fromarray(ramp)
    clipped = _reference(image, 56, HALF, HALF)
    assert (clipped == 1).mean() > 0.99
    actual = preprocess(to_rgb(image, "it"), 56, HALF, HALF)  # 56 to 56: bicubic changes nothing
    half_level = 1 / 2 / 255 * 2  # of 8 bits; mean and std of 0.5 double it
    np.testing.assert_allclose(actual[0], ramp / 65535 * 2 - 1, atol=half_level)


def _pixel(mode: str, value: Any, **info: Any) -> Image.Image:
    return _with_info(Image.new(mode, (1, 1), value), **info)


def _indexed(mode: str, value: Any, **info: Any) -> Image.Image:
    image = _pixel(mode, value, **info)
    image.putpalette([10, 20, 30, 40, 50, 60])
    return image


def _deep(mode: str, *levels: int) -> Image.Image:
    order = ">" if mode == "I;16B" else "<"
    return Image.frombytes(mode, (len(levels), 1), np.array(levels, f"{order}u2").tobytes())


GOLDEN = {
    "1": (_pixel("1", 1), (255, 255, 255)),
    "L": (_pixel("L", 100), (100, 100, 100)),
    "LA": (_pixel("LA", (100, 51)), (224, 224, 224)),  # alpha 51 / 255 = 0.2: 100 * 0.2 + 255 * 0.8
    "La": (_pixel("La", (20, 51)), (224, 224, 224)),  # the same, stored multiplied
    "P": (_indexed("P", 1), (40, 50, 60)),
    "P, transparent entry": (_indexed("P", 1, transparency=1), (255, 255, 255)),
    "P, half transparent entry": (_indexed("P", 1, transparency=b"\xff\x33"), (212, 214, 216)),
    "PA": (_indexed("PA", (1, 51)), (212, 214, 216)),  # 40 * 0.2 + 204, 50 * 0.2 + 204, ...
    "RGB": (_pixel("RGB", (1, 2, 3)), (1, 2, 3)),
    "RGB, transparent": (_pixel("RGB", (1, 2, 3), transparency=(1, 2, 3)), (255, 255, 255)),
    "RGBX": (_pixel("RGBX", (1, 2, 3, 0)), (1, 2, 3)),
    "RGBA": (_pixel("RGBA", (200, 100, 0, 51)), (244, 224, 204)),
    "RGBA, colour hidden under alpha 0": (_pixel("RGBA", (200, 100, 0, 0)), (255, 255, 255)),
    "RGBa": (_pixel("RGBa", (40, 20, 0, 51)), (244, 224, 204)),
    "CMYK": (_pixel("CMYK", (51, 102, 0, 51)), (163, 122, 204)),  # 204 * (1 - 51 / 255), 204 * 0.6, 204
    "YCbCr": (
        _pixel("YCbCr", (81, 128, 240)),
        (238, 1, 81),
    ),  # BT.601: 81 + 1.402 * 112, 81 - 0.714 * 112
    "HSV": (_pixel("HSV", (0, 255, 255)), (255, 0, 0)),
    "LAB": (_pixel("LAB", (0, 128, 128)), (1, 0, 1)),  # black but for rounding; its A is not an alpha
    "I;16": (_deep("I;16", 32768), (128, 128, 128)),  # 32768 / 257 = 127.502
    "I;16L": (_deep("I;16L", 32768), (128, 128, 128)),
    "I;16B": (_deep("I;16B", 32768), (128, 128, 128)),
    "I;16, below a half": (_deep("I;16", 128), (0, 0, 0)),  # 128 / 257 = 0.498
    "I;16, above a half": (_deep("I;16", 129), (1, 1, 1)),  # 129 / 257 = 0.502
    "I;16, white": (_deep("I;16", 65535), (255, 255, 255)),
    "I;16, transparent": (_with_info(_deep("I;16", 300), transparency=300), (255, 255, 255)),
    "I of 8 bits": (_pixel("I", 200), (200, 200, 200)),
    "I of 16 bits": (_pixel("I", 32768), (128, 128, 128)),
    "F up to 1": (_pixel("F", 0.25), (64, 64, 64)),  # 63.75
    "F up to 255": (_pixel("F", 128.0), (128, 128, 128)),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_every_mode_has_a_defined_colour(kind: str) -> None:
    image, expected = GOLDEN[kind]
    rgb = to_rgb(image, "it")
    assert rgb.mode == "RGB"
    assert rgb.getpixel((0, 0)) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 256.0])
def test_float_levels_outside_the_ranges_are_refused(value: float) -> None:
    image = Image.fromarray(np.array([[0.5, value]], np.float32))
    with pytest.raises(ImageError, match=r"scan\.tif: .* mode F must have levels of 0 to 1 or 0 to 255"):
        to_rgb(image, "scan.tif")


@pytest.mark.parametrize("value", [-1, 65536])
def test_integer_levels_outside_the_ranges_are_refused(value: int) -> None:
    with pytest.raises(ImageError, match="mode I must have levels of 0 to 255 or 0 to 65535"):
        to_rgb(_pixel("I", value), "it")


def test_bad_transparency_is_refused_in_one_line() -> None:
    with pytest.raises(ImageError, match=r"^it: an image of mode RGB cannot be converted to RGB$"):
        to_rgb(_pixel("RGB", (1, 2, 3), transparency="red"), "it")


@pytest.mark.parametrize("kind", IMAGES)
def test_the_given_image_is_not_modified(kind: str) -> None:
    image, copy = IMAGES[kind](), IMAGES[kind]()
    rgb = to_rgb(image, "it")
    rgb.paste((0, 0, 0), (0, 0, 37, 23))
    assert (image.mode, image.info, image.tobytes()) == (copy.mode, copy.info, copy.tobytes())
    assert image.getpalette("RGBA") == copy.getpalette("RGBA")
    assert not rgb.info


def test_values_worked_by_hand() -> None:
    flat = Image.new("RGB", (5, 9), (0, 51, 255))  # an image of one colour keeps it under any resize
    pixel_values = preprocess(flat, 4, HALF, HALF)
    np.testing.assert_array_equal(pixel_values[0], np.full((4, 4), -1, np.float32))
    np.testing.assert_allclose(pixel_values[1], -0.6, rtol=1e-6)  # (0.2 - 0.5) / 0.5, in float32
    np.testing.assert_array_equal(pixel_values[2], np.full((4, 4), 1, np.float32))
    np.testing.assert_array_equal(preprocess(flat, 4, (0, 0, 0), (1, 1, 1), 1.0)[1], 51)
    assert RESCALE == 1 / 255


def test_rows_and_columns_are_not_exchanged() -> None:
    levels = np.zeros((6, 6, 3), np.uint8)
    levels[1, 4] = (255, 0, 0)
    pixel_values = preprocess(Image.fromarray(levels), 6, (0, 0, 0), (1, 1, 1))
    assert np.argwhere(pixel_values).tolist() == [[0, 1, 4]]


def test_refuses_what_is_not_rgb_and_means_that_are_not_three() -> None:
    with pytest.raises(ImageError, match="mode RGB, not L"):
        preprocess(Image.new("L", (2, 2)), 2, HALF, HALF)
    with pytest.raises(ValueError, match="zip"):
        preprocess(Image.new("RGB", (2, 2)), 2, (0.5,), HALF)
