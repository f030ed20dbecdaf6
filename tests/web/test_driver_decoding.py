"""Image files that Chromium decodes for the JavaScript driver, compared with the Python driver."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from web_driver import run_parity

from paligemma_onnx.runtime.image.open import open_image

pytestmark = pytest.mark.web

WIDTH, HEIGHT = 53, 37
LEVELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
RGBA = Image.fromarray(LEVELS)
NOISE = RGBA.convert("RGB")
PHOTO = RGBA.resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC).convert("RGB")


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(value: int) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)


def with_gamma() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", (100_000).to_bytes(4, "big"))  # 1.0 in units of 1/100,000
    return encode(NOISE, "PNG", pnginfo=info)


def files() -> dict[str, bytes]:
    """Return files of every format, mode and orientation."""
    palette = NOISE.quantize(17)
    translucent = NOISE.quantize(17)
    translucent.info["transparency"] = bytes(range(0, 255, 15))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    listed = {
        "rgba.png": encode(RGBA, "PNG"),
        "grey.png": encode(NOISE.convert("L"), "PNG"),
        "grey-alpha.png": encode(RGBA.convert("LA"), "PNG"),
        "palette.png": encode(palette, "PNG"),
        "palette-alpha.png": encode(translucent, "PNG", transparency=translucent.info["transparency"]),
        "profile.png": encode(NOISE, "PNG", icc_profile=srgb),
        "gamma.png": with_gamma(),
        "rgba.webp": encode(RGBA, "WEBP", lossless=True, exact=True),
        "photo.webp": encode(PHOTO, "WEBP"),
        "palette.gif": encode(palette, "GIF"),
        "rgb.bmp": encode(NOISE, "BMP"),
        "grey.jpg": encode(PHOTO.convert("L"), "JPEG"),
        "cmyk.jpg": encode(PHOTO.convert("CMYK"), "JPEG"),
        "progressive.jpg": encode(PHOTO, "JPEG", progressive=True),
    }
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        listed[f"{subsampling.replace(':', '')}.jpg"] = encode(PHOTO, "JPEG", subsampling=subsampling)
    for value in range(1, 9):
        listed[f"turned-{value}.jpg"] = encode(PHOTO, "JPEG", exif=exif(value))
    for value in (3, 6):
        listed[f"turned-{value}.png"] = encode(NOISE, "PNG", exif=exif(value))
        listed[f"turned-{value}.webp"] = encode(NOISE, "WEBP", lossless=True, exif=exif(value))
        bare = exif(value).removeprefix(b"Exif\0\0")  # as RFC 9649 has it
        listed[f"turned-bare-{value}.webp"] = encode(NOISE, "WEBP", lossless=True, exif=bare)
    return listed


def test_chromium_decodes_as_pillow(tmp_path: Path) -> None:
    listed = files()
    refused = {"text.png": b"not an image", "large.png": encode(Image.new("L", (101, 100)), "PNG")}
    for name, content in {**listed, **refused}.items():
        (tmp_path / name).write_bytes(content)
    job = {"folder": str(tmp_path), "names": [*listed, *refused]}
    *opened, damaged, large = run_parity("page_images", job, tmp_path)
    for (name, content), result in zip(listed.items(), opened, strict=True):
        expected = np.asarray(open_image(content).rgb)
        assert (result["height"], result["width"]) == expected.shape[:2], name
        np.testing.assert_array_equal(result["levels"], expected.ravel(), err_msg=name)
        assert result["warnings"] == [], name
    assert damaged.startswith("ImageError: text.png is truncated or damaged")
    assert large.startswith("ImageError: large.png is 101 x 100 = 10,100 pixels, over the cap of 10,000")
