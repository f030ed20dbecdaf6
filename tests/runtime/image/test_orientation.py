"""The orientation in EXIF and XMP, compared with Pillow's `exif_transpose`."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from image_files import LEVELS, encode
from PIL import Image, ImageOps, PngImagePlugin

from paligemma_onnx.runtime.image.open import open_image

FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG"},
    "PNG": {"format": "PNG"},
    "WebP": {"format": "WEBP", "lossless": True},
}
TYPES = {"SHORT": (3, "H"), "LONG": (4, "I"), "SSHORT": (8, "h"), "SLONG": (9, "i")}  # TIFF 6.0, section 2


def exif(value: int, kind: str = "SHORT", order: str = "<") -> bytes:
    number, code = TYPES[kind]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IHHHI", 8, 1, 0x0112, number, 1)
    return b"Exif\0\0" + head + struct.pack(f"{order}{code}", value).ljust(4, b"\0") + bytes(4)


def xmp(value: int, *, element: bool = False) -> bytes:
    inside = f"><tiff:Orientation>{value}</tiff:Orientation>" if element else f' tiff:Orientation="{value}">'
    return f"<x:xmpmeta><rdf:Description{inside}</rdf:Description></x:xmpmeta>".encode()


def equal_to_pillow(data: bytes) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_image(data)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(opened.rgb, expected)
    assert opened.warnings == ()
    return opened.rgb.size


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("encoding", FORMATS)
def test_every_type_of_whole_number(encoding: str, kind: str, order: str) -> None:
    for value in range(9):  # 0 is reserved and written by some programs
        size = equal_to_pillow(encode(exif=exif(value, kind, order), **FORMATS[encoding]))
        assert size == ((31, 45) if value >= 5 else (45, 31))


@pytest.mark.parametrize("element", [False, True])
@pytest.mark.parametrize("encoding", FORMATS)
def test_an_orientation_in_xmp_only(encoding: str, element: bool) -> None:
    for value in (1, 3, 6, 9):
        options = dict(FORMATS[encoding])
        if encoding == "PNG":
            text = PngImagePlugin.PngInfo()
            text.add_itxt("XML:com.adobe.xmp", xmp(value, element=element).decode())
            options["pnginfo"] = text
        else:
            options["xmp"] = xmp(value, element=element)
        assert equal_to_pillow(encode(**options)) == ((31, 45) if value == 6 else (45, 31))
        if encoding != "PNG":  # EXIF wins
            assert equal_to_pillow(encode(exif=exif(1), **options)) == (45, 31)


def test_tiff_and_pillow_images() -> None:
    assert equal_to_pillow(encode(format="TIFF", tiffinfo={700: xmp(6)})) == (31, 45)
    data = encode(format="JPEG", xmp=xmp(8))
    np.testing.assert_array_equal(open_image(Image.open(io.BytesIO(data))).rgb, open_image(data).rgb)


def test_exif_as_imagemagick_writes_it_in_png() -> None:
    block = exif(6)
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    assert equal_to_pillow(encode(format="PNG", pnginfo=text)) == (31, 45)


def test_png_without_an_end_or_with_a_damaged_comment() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "taken on a Sunday")
    data = encode(format="PNG", pnginfo=text)
    place = data.index(b"tEXtComment")
    wrong = data[:place] + b"tEXtComment\0x" + data[place + 13 :]
    assert zlib.crc32(wrong[place : place + 28]) != zlib.crc32(data[place : place + 28])
    for file in (data[:-12], data[:-5], data[:-4], wrong, wrong[:-12]):
        opened = open_image(file)
        np.testing.assert_array_equal(opened.rgb, LEVELS)
        assert opened.warnings == ()
