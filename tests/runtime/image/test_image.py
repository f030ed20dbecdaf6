"""Opening images: every kind of source and format, the first frame, the orientation."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import LEVELS, encode
from PIL import Image

from paligemma_onnx.runtime.image.open import DEFAULT_MAX_PIXELS, ImageInput, open_image, preprocess

LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG"},
    "WebP": {"format": "WEBP", "lossless": True},
    "BMP": {"format": "BMP"},
    "TIFF": {"format": "TIFF"},
    "TIFF, deflate": {"format": "TIFF", "compression": "tiff_deflate"},
}
ENCODINGS = LOSSLESS | {
    "JPEG": {"format": "JPEG"},
    "JPEG, progressive": {"format": "JPEG", "progressive": True},
    "WebP, lossy": {"format": "WEBP"},
    "GIF": {"format": "GIF"},
    "TIFF, LZW": {"format": "TIFF", "compression": "tiff_lzw"},
}


def pixels(source: ImageInput) -> np.ndarray[Any, Any]:
    return np.asarray(open_image(source).rgb)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_png_chunk(chunk: bytes) -> bytes:
    """Return a PNG with another chunk after its signature and header of 8 + 25 bytes."""
    data = encode(format="PNG")
    return data[:33] + chunk + data[33:]


# Accepted sources


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_their_pixels(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"  # the suffix is not used
    path.write_bytes(encode(**LOSSLESS[kind]))
    for source in (path, str(path), path.read_bytes()):
        opened = open_image(source)
        np.testing.assert_array_equal(opened.rgb, LEVELS)
        assert (opened.width, opened.height, opened.warnings) == (45, 31, ())


@pytest.mark.parametrize("kind", ENCODINGS)
def test_every_format_equals_what_pillow_decodes(kind: str) -> None:
    data = encode(**ENCODINGS[kind])
    np.testing.assert_array_equal(pixels(data), Image.open(io.BytesIO(data)).convert("RGB"))


def test_arrays() -> None:
    rgba = np.dstack([LEVELS, LEVELS[..., 0]])
    np.testing.assert_array_equal(pixels(LEVELS), LEVELS)
    np.testing.assert_array_equal(pixels(LEVELS[::-1, ::-2]), LEVELS[::-1, ::-2])
    np.testing.assert_array_equal(pixels(LEVELS[..., ::-1]), LEVELS[..., ::-1])
    np.testing.assert_array_equal(pixels(np.asfortranarray(LEVELS)), LEVELS)
    np.testing.assert_array_equal(pixels(LEVELS[..., 0])[..., 2], LEVELS[..., 0])
    np.testing.assert_array_equal(pixels(LEVELS[..., :1])[..., 1], LEVELS[..., 0])
    np.testing.assert_array_equal(pixels(rgba), pixels(Image.fromarray(rgba)))
    read_only = LEVELS.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(pixels(read_only), LEVELS)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_thin_images(size: tuple[int, int]) -> None:
    opened = open_image(encode(Image.new("RGB", size, (255, 0, 128)), format="PNG"))
    pixel_values = preprocess(opened.rgb, 56, (0, 0, 0), (1, 1, 1))
    np.testing.assert_allclose(pixel_values[:, 30, 7], [1, 0, 128 / 255], rtol=1e-6)
    assert np.isfinite(pixel_values).all()


def test_a_pillow_image_is_neither_changed_nor_shared() -> None:
    image = Image.open(io.BytesIO(encode(format="PNG", exif=_exif(6))))
    rgb = open_image(image).rgb
    assert rgb.size == (31, 45)
    rgb.paste((0, 0, 0), (0, 0, 31, 45))
    np.testing.assert_array_equal(image, LEVELS)
    assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt"])
def test_text_and_profiles_that_unpack_to_much_are_not_read(name: bytes) -> None:
    body = b"name\0\0" + zlib.compress(bytes(50_000_000))
    np.testing.assert_array_equal(pixels(with_png_chunk(png_chunk(name, body))), LEVELS)


def test_bytes_after_the_end_are_ignored() -> None:
    for kind in ("PNG", "BMP", "GIF", "JPEG"):
        data = encode(**ENCODINGS[kind])
        np.testing.assert_array_equal(pixels(data + b"more" * 999), pixels(data))


# Several frames

FRAMES = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "GIF"}, "is animated: only its first frame is used"),
        ({"format": "WEBP", "lossless": True}, "is animated: only its first frame is used"),
        ({"format": "PNG"}, "is animated: only its first frame is used"),
        ({"format": "TIFF"}, "has several pages: only the first is used"),
    ],
)
def test_first_frame_and_one_warning(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(encode(FRAMES[0], save_all=True, append_images=FRAMES[1:], **options))
    opened = open_image(path)
    assert opened.rgb.getcolors() == [(48, (255, 0, 0))]
    assert opened.warnings == (f"{path} {words}",)


def test_a_gif_may_lack_its_trailer_or_a_sound_second_frame() -> None:
    data = encode(format="GIF")
    assert open_image(data[:-1]).warnings == ()
    np.testing.assert_array_equal(pixels(data[:-1]), pixels(data))
    film = encode(FRAMES[0], save_all=True, append_images=FRAMES[1:], format="GIF")
    assert open_image(film[:-25]).rgb.getpixel((0, 0)) == (255, 0, 0)


def test_of_a_pillow_animation_the_current_frame_is_taken() -> None:
    film = Image.open(io.BytesIO(encode(FRAMES[0], save_all=True, append_images=FRAMES[1:], format="GIF")))
    film.seek(2)
    assert open_image(film).rgb.getpixel((0, 0)) == (0, 0, 255)
    film.seek(0)
    film.putpixel((0, 0), film.getpixel((1, 1)))
    edited = film.tobytes()
    open_image(film)  # looking for further frames would make Pillow decode anew and lose the edit
    assert (film.tell(), film.tobytes()) == (0, edited)


# Upright


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _stored(upright: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """Return what a camera stores: EXIF names the side that row 0 and column 0 of the file show."""
    turned = upright.transpose(1, 0, 2)
    return {
        1: upright,  # row 0 shows the top, column 0 the left side
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: turned,  # left, top
        6: turned[::-1],  # right, top
        7: turned[::-1, ::-1],  # right, bottom
        8: turned[:, ::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", sorted(LOSSLESS.keys() - {"BMP"}))
def test_every_orientation_is_turned_upright_once(kind: str, orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(_stored(LEVELS, orientation)))
    data = encode(stored, exif=_exif(orientation), **LOSSLESS[kind])
    for source in (data, Image.open(io.BytesIO(data))):
        opened = open_image(source)
        np.testing.assert_array_equal(opened.rgb, LEVELS)
        assert (opened.width, opened.height, opened.warnings) == (45, 31, ())
        np.testing.assert_array_equal(pixels(opened.rgb), LEVELS)


def test_jpeg_is_turned_upright_in_both_byte_orders() -> None:
    half = Image.new("L", (32, 16), 0)
    half.paste(255, (0, 0, 32, 8))  # white above black
    for order, header in (("<", b"II*\0"), (">", b"MM\0*")):
        exif = header + struct.pack(f"{order}IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0)
        rgb = open_image(encode(half, format="JPEG", exif=b"Exif\0\0" + exif)).rgb
        assert rgb.size == (16, 32)  # 6: a quarter turn clockwise, so the white goes to the right
        assert np.asarray(rgb)[0, 0, 0] < 5
        assert np.asarray(rgb)[0, 15, 0] > 250


def _entry(tag: int = 0x0112, kind: int = 3, count: int = 1, value: int = 6) -> bytes:
    return struct.pack("<HHIHH", tag, kind, count, value, 0)


MALFORMED_EXIF = {
    "no header": b"garbage garbage",
    "header cut": b"II*\0\x08",
    "directory beyond the end": b"II*\0\xff\xff\0\0",
    "directory cut": b"II*\0\x08\0\0\0\x02\0" + _entry(tag=0x0100)[:7],
    "orientation 9": b"II*\0\x08\0\0\0\x01\0" + _entry(value=9),
    "orientation is text": b"II*\0\x08\0\0\0\x01\0" + _entry(kind=2),
    "two orientations": b"II*\0\x08\0\0\0\x01\0" + _entry(count=2),
}


@pytest.mark.parametrize("kind", MALFORMED_EXIF)
@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WebP"])
def test_malformed_exif_is_ignored_with_one_warning(encoding: str, kind: str) -> None:
    data = encode(exif=b"Exif\0\0" + MALFORMED_EXIF[kind], **ENCODINGS[encoding])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # also those of Pillow
        opened = open_image(data)
    assert len(opened.warnings) == 1
    assert "malformed EXIF" in opened.warnings[0]
    np.testing.assert_array_equal(opened.rgb, pixels(encode(**ENCODINGS[encoding])))


def test_exif_without_orientation_is_upright() -> None:
    assert open_image(encode(format="PNG", exif=b"")).warnings == ()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    opened = open_image(encode(format="JPEG", exif=exif))
    assert (opened.width, opened.warnings) == (45, ())


def test_the_default_cap_is_pillow_s_own() -> None:
    assert DEFAULT_MAX_PIXELS == Image.MAX_IMAGE_PIXELS
