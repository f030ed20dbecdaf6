"""Images in the JavaScript driver: pixel values and masks compared with the Python driver, bit for bit."""

from __future__ import annotations

import io
import random
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from web_driver import run_parity

from paligemma_onnx.runtime.bundle.schema import ImageFacts
from paligemma_onnx.runtime.errors import ImageError
from paligemma_onnx.runtime.image.open import DEFAULT_MAX_PIXELS
from paligemma_onnx.runtime.image.picture import open_picture

pytestmark = pytest.mark.web

NUM_IMAGES = 300
SIDES = (1, 2, 3, 5, 16, 31, 64, 100, 223, 224, 225, 301)
SIZES = ((1, 1), (1, 5000), (5000, 1), (2, 1), (224, 224), (224, 90), (1201, 800), (640, 1003))
MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "tRNS")
RESIZED = (16, 56, 224)
MASK_SIZES = ((64, 64), (1, 1), (200, 10), (63, 10), (64, 7), (333, 222), (17, 64))
MEAN, STD, RESCALE = (0.5, 0.48, 0.41), (0.5, 0.27, 0.3), 1 / 255


@dataclass(frozen=True)
class Case:
    """An image: the encoded file, or None for bare pixels; and what a decoder makes of it."""

    file: bytes | None
    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    size: int
    max_pixels: int = DEFAULT_MAX_PIXELS

    @property
    def source(self) -> Any:
        return self.pixels if self.file is None else self.file


def random_image(rng: random.Random, mode: str, width: int, height: int) -> Image.Image:
    """Return an image with noise, edges and gradients, of a mode of Pillow or with one transparent colour."""
    numbers = np.random.default_rng(rng.randrange(2**32))
    shape = (height, width, 4)
    levels = numbers.integers(0, 256, shape, dtype=np.uint8)
    if rng.random() < 0.5:  # black, white, opaque and invisible only: the sums leave 0 to 255
        levels = np.where(levels < 128, 0, 255).astype(np.uint8)
    elif rng.random() < 0.5:
        levels = np.linspace(0, 255, levels.size).reshape(shape).astype(np.uint8)
    image = Image.fromarray(levels)
    if mode == "P":
        return image.convert("RGB").quantize(17)
    if mode == "PA":  # a palette with an alpha for each colour
        palette = image.convert("RGB").quantize(17)
        palette.info["transparency"] = bytes(numbers.integers(0, 256, 17, dtype=np.uint8))
        return palette
    if mode == "tRNS":
        grey = image.convert("L")
        grey.info["transparency"] = int(np.asarray(grey)[0, 0])
        return grey
    return image.convert(mode)


def exif_block(value: int) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)


def xmp_packet(value: int) -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{value}"/></x:xmpmeta>'.encode()


def encode(rng: random.Random, image: Image.Image) -> bytes:
    """Return an image as a file, with an orientation in half of the files."""
    options: dict[str, Any] = {"format": rng.choice(["PNG", "PNG", "WEBP", "JPEG"])}
    if "transparency" in image.info:
        options = {"format": "PNG", "transparency": image.info["transparency"]}
    elif options["format"] == "JPEG":
        image = image.convert("L" if image.mode in ("L", "1") else "RGB")
    elif options["format"] == "WEBP":
        options["lossless"] = True
    kind = rng.choice(["none", "exif", "exif", "xmp"])
    if kind == "exif":
        options["exif"] = rng.choice(
            [exif_block(rng.randrange(9)), exif_block(rng.randrange(9)), b"Exif\0\0damaged"]
        )
    elif kind == "xmp" and options["format"] == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        packet = xmp_packet(rng.randrange(9)).decode()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet, zip=rng.random() < 0.5)
    elif kind == "xmp":
        options["xmp"] = xmp_packet(rng.randrange(9))
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def decoded(file: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return what a browser's decoder makes of a file, without turning it: grey, RGB, or RGB and alpha."""
    image = Image.open(io.BytesIO(file))
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def cases() -> list[Case]:
    rng = random.Random(0)
    listed = []
    for number in range(NUM_IMAGES):
        width, height = SIZES[number] if number < len(SIZES) else (rng.choice(SIDES), rng.choice(SIDES))
        image = random_image(rng, rng.choice(MODES), width, height)
        size = rng.choice(RESIZED)
        if number % 6 == 0:
            bare = image.convert("RGBA").convert(rng.choice(["L", "RGB", "RGBA"]))
            listed.append(Case(None, np.asarray(bare), size))
        else:
            file = encode(rng, image)
            listed.append(Case(file, decoded(file), size))
    return listed


def special_cases() -> list[Case]:
    """Return an animation, EXIF in a PNG as ImageMagick writes it, and images that are refused."""
    first, second = (Image.new("RGB", (9, 5), colour) for colour in ("red", "blue"))
    files = []
    for encoding in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        first.save(buffer, encoding, save_all=True, append_images=[second], lossless=True)
        files.append(buffer.getvalue())
    text = PngImagePlugin.PngInfo()
    block = exif_block(6)
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((9, 5)).save(buffer, "PNG", pnginfo=text)
    files.append(buffer.getvalue())
    listed = [Case(file, decoded(file), 16) for file in files]
    grey = np.zeros((30, 40), np.uint8)
    return [*listed, Case(None, grey, 16, 30 * 40 - 1), Case(None, np.zeros((1, 1_000_001), np.uint8), 16)]


def mask_levels() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return float32[64, 64], as from the mask decoder."""
    return np.random.default_rng(4).normal(size=(64, 64)).astype(np.float32)


def run_driver(listed: list[Case], folder: Path) -> tuple[list[Any], np.ndarray[Any, np.dtype[np.float32]]]:
    images = []
    for number, case in enumerate(listed):
        pixels, file = folder / f"{number}.raw", folder / f"{number}.file"
        case.pixels.tofile(pixels)
        if case.file is not None:
            file.write_bytes(case.file)
        height, width = case.pixels.shape[:2]
        images.append(
            {
                "file": None if case.file is None else str(file),
                "pixels": str(pixels),
                "width": width,
                "height": height,
                "size": case.size,
                "maxPixels": case.max_pixels,
            }
        )
    output, levels = folder / "output.f32", folder / "levels.f32"
    mask_levels().tofile(levels)
    masks = [{"levels": str(levels), "side": 64, "width": w, "height": h} for w, h in MASK_SIZES]
    facts = {"mean": MEAN, "std": STD, "rescaleFactor": RESCALE}
    results = run_parity("image", {"images": images, "masks": masks, "output": str(output), **facts}, folder)
    return results, np.fromfile(output, "<f4")


def facts(size: int) -> ImageFacts:
    return ImageFacts(
        size=size,
        tokens=1,
        rescale_factor=RESCALE,
        mean=MEAN,
        std=STD,
        channels="RGB",
        resample="bicubic",
    )


def check_decoder_input(file: Path, case: Case) -> None:
    """Check that the file given to the decoder has the same pixels and no EXIF: some decoders turn images."""
    given = file.read_bytes()
    np.testing.assert_array_equal(decoded(given), case.pixels)
    assert "exif" not in Image.open(io.BytesIO(given)).info


def test_pixel_values_are_equal(tmp_path: Path) -> None:
    listed = [*cases(), *special_cases()]
    results, values = run_driver(listed, tmp_path)
    start = 0
    for number, (case, result) in enumerate(zip(listed, results, strict=True)):
        what = f"image {number}: {case.pixels.shape} to {case.size}"
        try:
            image = open_picture(case.source, facts(case.size), max_pixels=case.max_pixels)
        except ImageError as error:
            expected_message = str(error).replace("the array", "the image").replace("max_image", "maxImage")
            assert result == f"ImageError: {expected_message}".replace("maxImage_pixels", "maxImagePixels"), (
                what
            )
            continue
        assert (result["width"], result["height"]) == (image.width, image.height), what
        assert result["warnings"] == list(image.warnings), what
        end = start + image.pixels.size
        np.testing.assert_array_equal(values[start:end], image.pixels.ravel(), err_msg=what)
        start = end
        if case.file is not None:
            check_decoder_input(tmp_path / f"{number}.file.given", case)
    for width, height in MASK_SIZES:
        resized = Image.fromarray(mask_levels()).resize((width, height), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(values[start:][: width * height], np.asarray(resized).ravel())
        start += width * height
    assert start == values.size
    warnings = {warning for result in results if isinstance(result, dict) for warning in result["warnings"]}
    assert len({warning.partition(" bytes ")[2] for warning in warnings}) == 2
