"""Damaged and hostile image files: one printable line, exit code 3, no hang, nothing half decoded."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import IMAGE, LEVELS, encode, refused
from PIL import Image, ImageFile

from paligemma_onnx.runtime.errors import ImageError, OptionError
from paligemma_onnx.runtime.image.open import open_image

ENCODINGS: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG"},
    "JPEG": {"format": "JPEG"},
    "JPEG, progressive": {"format": "JPEG", "progressive": True},
    "WebP": {"format": "WEBP"},
    "WebP, lossless": {"format": "WEBP", "lossless": True},
    "GIF": {"format": "GIF"},
    "BMP": {"format": "BMP"},
    "TIFF": {"format": "TIFF"},
    "TIFF, deflate": {"format": "TIFF", "compression": "tiff_deflate"},
}


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


# Other formats

NOT_ACCEPTED: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"hello",
    "one byte": lambda: b"\xff",
    "HTML": lambda: b"<!DOCTYPE html><html></html>",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": lambda: encode(format="PDF"),
    "EPS": lambda: encode(format="EPS"),
    "PSD": lambda: b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(999),
    "PPM": lambda: encode(format="PPM"),
    "ICO": lambda: encode(format="ICO"),
    "RIFF sound": lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(99),
}


@pytest.mark.parametrize("kind", NOT_ACCEPTED)
def test_formats_not_on_the_list(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(NOT_ACCEPTED[kind]())
    message = refused(path, "not an image of an accepted format: JPEG, PNG, WebP, BMP, GIF, TIFF")
    assert message.startswith(str(path))


def test_empty_files_and_mistaken_ones(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.touch()
    refused(path, r"photo\.jpg is empty; accepted formats: JPEG, PNG")
    refused(b"", "is empty")
    refused(b"BMW is a car, and this is not a bitmap", "truncated or damaged")


def test_an_array_of_no_pixels() -> None:
    refused(np.zeros((0, 5, 3), np.uint8), r"has no pixels: it is 5 x 0; get it again, or save it anew")


# Truncated and damaged


@pytest.mark.parametrize("host_tolerates", [False, True])
@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_cut_anywhere(kind: str, host_tolerates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", host_tolerates)
    data = encode(**ENCODINGS[kind])
    end = len(data) - {"GIF": 2, "BMP": 1, "PNG": 12}.get(kind, 0)  # the bytes after the pixels
    for length in {*range(16, end, end // 40), end // 2, end - 1}:
        refused(data[:length], "truncated")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is host_tolerates


@pytest.mark.parametrize("host_tolerates", [False, True])
def test_png_checksums_of_pixels_count(host_tolerates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", host_tolerates)
    data = encode(format="PNG", dpi=(72, 72))  # IHDR, pHYs, IDAT, IEND
    for name in (b"IHDR", b"IDAT", b"pHYs", b"IEND"):
        broken = bytearray(data)
        start = data.index(name) - 4
        (length,) = struct.unpack_from(">I", data, start)
        broken[start + 8 + length] ^= 1  # the first byte of the checksum
        if name in (b"pHYs", b"IEND"):  # no pixels: as in libpng, the chunk is ignored
            opened = open_image(bytes(broken))
            np.testing.assert_array_equal(opened.rgb, LEVELS)
            assert opened.warnings == ()
        else:
            refused(bytes(broken), "a PNG checksum is wrong")
    flipped = bytearray(data)
    flipped[data.index(b"IDAT") + 500] ^= 4
    refused(bytes(flipped), "a PNG checksum is wrong")


@pytest.mark.parametrize("host_tolerates", [False, True])
def test_a_png_with_too_few_rows(host_tolerates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", host_tolerates)
    rows = zlib.compressobj()
    half = rows.compress(bytes(1 + 3 * 9) * 4) + rows.flush(zlib.Z_SYNC_FLUSH)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", half) + png_chunk(b"IEND", b"")
    refused(data, "truncated")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_never_raises_anything_else() -> None:
    random = np.random.default_rng(11)
    for kind in ENCODINGS.keys() - {"TIFF, deflate"}:  # libtiff prints messages of its own
        data = encode(**ENCODINGS[kind])
        for _ in range(40):
            broken = bytearray(data)
            for place in random.integers(0, min(80, len(data)), 3):
                broken[place] = random.choice([0, 1, 127, 255])
            with contextlib.suppress(ImageError):
                assert open_image(bytes(broken), max_pixels=10**6).rgb.mode == "RGB"


# Too large


def oversized(kind: str, width: int = 20_000, height: int = 20_000) -> bytes:
    """Return a small file whose header claims a large image."""
    data = bytearray(encode(Image.new("P" if kind == "GIF" else "RGB", (4, 4)), **ENCODINGS[kind]))
    if kind == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "JPEG":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", height, width)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif kind == "TIFF":
        (start,) = struct.unpack_from("<I", data, 4)
        for index in range(struct.unpack_from("<H", data, start)[0]):
            place = start + 2 + 12 * index
            side = {256: width, 257: height}.get(struct.unpack_from("<H", data, place)[0])
            if side is not None:
                struct.pack_into("<HII", data, place + 2, 4, 1, side)
    else:
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        data[12:12] = b"VP8X" + struct.pack("<II", 10, 0) + sides
        data[4:8] = struct.pack("<I", len(data) - 8)
    return bytes(data)


OVERSIZED = ["PNG", "JPEG", "WebP", "WebP, lossless", "GIF", "BMP", "TIFF"]

MEASURE = """
import resource, sys, time
from paligemma_onnx.runtime.errors import ImageError
from paligemma_onnx.runtime.image.open import open_image
open_image(open(sys.argv[1], "rb").read())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[2:]:
    started = time.perf_counter()
    try:
        open_image(name, max_pixels=10**6)
    except ImageError as error:
        assert "over the cap of 1,000,000" in str(error), error
    else:
        raise SystemExit(f"{name} was opened")
    seconds = time.perf_counter() - started
    assert seconds < 0.1, (name, seconds)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
assert grown < 10, f"{grown} MB"
"""


def test_size_is_refused_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse by the header within 0.1 s and 10 MB, measured in another process."""
    (tmp_path / "small").write_bytes(encode(format="PNG"))
    names = []
    for kind in OVERSIZED:
        for side in (13_000, 20_000):  # Pillow's own limit refuses the second only
            path = tmp_path / f"{kind} {side}"
            path.write_bytes(oversized(kind, side, side))
            names.append(str(path))
    frame = bytearray(oversized("GIF", 4, 4))  # a small screen with a frame that Pillow allocates on opening
    start = frame.index(b",")
    frame[start + 5 : start + 9] = struct.pack("<HH", 13_000, 13_000)
    frame[start:start] = b"!\xf9\x04\x08\0\0\0\0"
    (tmp_path / "frame").write_bytes(frame)
    names.append(str(tmp_path / "frame"))
    subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path / "small"), *names], check=True)

    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    for kind in OVERSIZED:
        refused(oversized(kind), "is 20000 x 20000 = 400,000,000 pixels, over the cap of 89,478,485")


def test_a_hostile_chunk_length_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "chunk.png"
    data = encode(format="PNG")
    path.write_bytes(data[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt" + data[33:])
    tracemalloc.start()
    refused(path, "truncated")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6  # bytes


def test_sides_and_tiles_have_bounds_too() -> None:
    refused(oversized("PNG", 1_000_001, 1), "no side may exceed 1,000,000")
    refused(oversized("PNG", 0, 4), "no pixels")
    tiled = bytearray(encode(**ENCODINGS["TIFF, deflate"]))
    for tag, instead_of in ((322, 278), (323, 284)):  # TileWidth and TileLength, of entries that are optional
        start = tiled.rindex(struct.pack("<HHI", instead_of, 3, 1))
        struct.pack_into("<HHII", tiled, start, tag, 4, 1, 32_000)
    refused(bytes(tiled), "a tile of .* is 32000 x 32000")


def test_libtiff_prints_nothing_about_missing_data(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encode(**ENCODINGS["TIFF, deflate"]))
    offset = data.rindex(struct.pack("<HHI", 273, 4, 1)) + 8  # StripOffsets: its value
    struct.pack_into("<I", data, offset, len(data) - 1000)
    refused(bytes(data), "is truncated: the TIFF file ends before its image does")
    assert capfd.readouterr() == ("", "")


SHORT_MEMORY = """
import resource, sys
from paligemma_onnx.runtime.errors import ResourceError
from paligemma_onnx.runtime.image.open import open_image
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    open_image(sys.stdin.buffer.read(), max_pixels=10**9)
except ResourceError as error:
    assert "not enough memory" in str(error), error
else:
    raise SystemExit("opened")
"""


def test_webp_in_short_memory_is_not_called_damaged() -> None:
    """The canvases of 20,000 x 20,000 pixels take 3.2 GB in libwebp, which reports both cases alike."""
    data = oversized("WebP")
    subprocess.run([sys.executable, "-c", SHORT_MEMORY], input=data, check=True)


@pytest.mark.parametrize("source", [LEVELS, IMAGE, encode(format="WEBP"), encode(format="TIFF")])
def test_the_cap_is_exact_and_an_option(source: Any) -> None:
    assert open_image(source, max_pixels=31 * 45).width == 45
    words = "is 45 x 31 = 1,395 pixels, over the cap of 1,394; .* raise max_image_pixels"
    refused(source, words, max_pixels=1394)


@pytest.mark.parametrize("cap", [0, -1, 1.5, True, None])
def test_a_cap_is_a_positive_whole_number(cap: Any) -> None:
    with pytest.raises(OptionError, match="max_image_pixels"):
        open_image(LEVELS, max_pixels=cap)


def test_our_cap_decides_whatever_pillow_s_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit is a global of the process, which is neither applied nor changed."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    sources = [encode(**options) for options in ENCODINGS.values()] * 4
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("error")
        assert {opened.width for opened in pool.map(open_image, sources)} == {45}
        for options in ENCODINGS.values():
            refused(encode(**options), "is 45 x 31 = 1,395 pixels, over the cap of 9", max_pixels=9)
        assert Image.MAX_IMAGE_PIXELS == 100
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert {opened.width for opened in pool.map(open_image, sources)} == {45}
        refused(encode(format="WEBP")[:-9], "truncated")
