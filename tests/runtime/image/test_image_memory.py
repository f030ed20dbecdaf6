"""Memory and messages of opening images, measured in the whole process."""

from __future__ import annotations

import gc
import struct
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import encode, refused
from PIL import Image, ImageFile
from time_limits import HANG

from paligemma_onnx.runtime.errors import ImageError
from paligemma_onnx.runtime.image.open import open_image

FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG"},
    "JPEG, progressive": {"format": "JPEG", "progressive": True},
    "PNG": {"format": "PNG"},
    "WebP": {"format": "WEBP"},
    "GIF": {"format": "GIF"},
    "BMP": {"format": "BMP"},
    "TIFF": {"format": "TIFF"},
    "TIFF, deflate": {"format": "TIFF", "compression": "tiff_deflate"},
}
GIBIBYTE = 1 << 30


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_no_image_waits_for_the_garbage_collector(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = weakref.WeakValueDictionary[int, ImageFile.ImageFile]()
    load = ImageFile.ImageFile.load

    def watched(image: ImageFile.ImageFile) -> Any:
        alive[id(image)] = image
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    data = encode(**FORMATS[kind])
    gc.collect()
    gc.disable()
    try:
        for source in (data, data[: len(data) * 2 // 3]):
            try:
                open_image(source)
            except ImageError:
                assert source is not data
            assert not [*alive]
    finally:
        gc.enable()


MEASURE = """
import re, resource, sys
from pathlib import Path
from paligemma_onnx.runtime.image.open import open_image
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for name in sys.argv[1:]:
    print(open_image(name).rgb.size)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
assert peak < 200, f"{peak} MB"
"""


def test_what_follows_the_image_is_not_read(tmp_path: Path) -> None:
    """Append a gigabyte (a hole in the file, which takes no disk space) to a file of every format."""
    paths = []
    for kind, options in FORMATS.items():
        path = tmp_path / kind
        path.write_bytes(encode(**options))
        with path.open("r+b") as file:
            file.truncate(2 * GIBIBYTE)
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], check=True, capture_output=True, text=True, timeout=HANG
    )
    assert done.stdout == "(45, 31)\n" * len(paths)


def sparse(path: Path, start: bytes, length: int, end: bytes) -> Path:
    """Write a file of `start`, `length` zeros that take no disk space, and `end`."""
    with path.open("wb") as file:
        file.write(start)
        file.seek(length, 1)
        file.write(end)
    return path


@pytest.mark.slow
def test_metadata_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    png, webp = encode(format="PNG"), encode(format="WEBP", lossless=True)
    jpeg = encode(format="JPEG")
    chunk = struct.pack(">I4s", GIBIBYTE, b"zTXt")
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + bytes((44, 0, 0, 30, 0, 0)) + b"ICCP"
    riff = b"RIFF" + struct.pack("<I", GIBIBYTE + len(webp) + 18) + b"WEBP"
    segment = b"\xff\xe2\xff\xff" + bytes(0xFFFD)
    paths = (
        sparse(tmp_path / "text.png", png[:33] + chunk, GIBIBYTE, bytes(4) + png[33:]),
        sparse(tmp_path / "profile.webp", riff + canvas + struct.pack("<I", GIBIBYTE), GIBIBYTE, webp[12:]),
        sparse(tmp_path / "segments.jpg", jpeg[:2] + segment * 2000, 0, jpeg[2:]),
    )
    subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], check=True, timeout=HANG)


@pytest.mark.slow
def test_pixel_data_has_a_limit(tmp_path: Path) -> None:
    words = "far more data than its pixels need"
    png, jpeg, gif = encode(format="PNG"), encode(format="JPEG"), encode(format="GIF")
    chunk = struct.pack(">I4s", GIBIBYTE, b"IDAT")
    refused(sparse(tmp_path / "a.png", png[:33] + chunk, GIBIBYTE, png[-12:]), words)
    start = jpeg.index(b"\xff\xda") + 14
    refused(sparse(tmp_path / "a.jpg", jpeg[:start], GIBIBYTE, jpeg[start:]), words)
    webp = b"RIFF" + struct.pack("<I", GIBIBYTE + 12) + b"WEBPVP8L" + struct.pack("<I", GIBIBYTE) + b"\x2f"
    refused(sparse(tmp_path / "a.webp", webp + bytes(4), GIBIBYTE, b"end"), words)
    bmp = b"BM" + bytes(12) + struct.pack("<I", GIBIBYTE)
    refused(sparse(tmp_path / "a.bmp", bmp, GIBIBYTE, b"end"), words)
    comment = b"!\xfe" + (b"\xff" + bytes(255)) * 300_000
    refused(gif[: gif.index(b",")] + comment + gif[gif.index(b",") :], words)


@pytest.mark.slow
def test_large_webp_and_tiff_need_only_our_cap() -> None:
    """Pillow's limit is 179 million pixels; a mode of one bit per pixel keeps the test small."""
    side = 13_500  # pixels
    data = encode(Image.new("1", (side, side)), format="TIFF", compression="group4")
    assert open_image(data, max_pixels=side * side).rgb.size == (side, side)


def test_a_file_that_cannot_be_read() -> None:
    refused("/proc/self/mem", r"/proc/self/mem cannot be read \(Input/output error\)")


def test_levels_of_an_animation_s_first_frame() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], format="WEBP", lossless=True, save_all=True, append_images=frames[1:])
    opened = open_image(data + bytes(99))
    np.testing.assert_array_equal(np.asarray(opened.rgb)[0, 0], (255, 0, 0))
    assert "is animated" in opened.warnings[0]


QUIET = """
import sys
from paligemma_onnx.runtime.errors import ImageError
from paligemma_onnx.runtime.image.open import open_image
from paligemma_onnx.runtime.image.quiet import silence_libraries
silence_libraries()
for name in sys.argv[1:]:
    try:
        open_image(name)
    except ImageError:
        print("refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="libtiff's messages can be discarded on Linux only")
def test_libraries_print_nothing(tmp_path: Path) -> None:
    data = bytearray(encode(format="TIFF", compression="tiff_deflate"))
    data[300] ^= 0xFF
    (tmp_path / "deflate.tif").write_bytes(data)
    samples = encode(format="TIFF")
    place = (
        samples.index(struct.pack("<HHI", 277, 3, 1)) + 8
    )  # SamplesPerPixel, which Pillow writes to its log
    (tmp_path / "samples.tif").write_bytes(samples[:place] + struct.pack("<H", 9999) + samples[place + 2 :])
    paths = (tmp_path / "deflate.tif", tmp_path / "samples.tif")
    done = subprocess.run(
        [sys.executable, "-c", QUIET, *map(str, paths)], check=True, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("refused\n" * 2, "")
