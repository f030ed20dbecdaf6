"""JPEGs whose data does not fit their size, of several encoders' layouts; sound ones as the control."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
from image_files import encode, refused
from PIL import Image

from paligemma_onnx.runtime.errors import ImageError
from paligemma_onnx.runtime.image.open import open_image

WIDTH, HEIGHT = 161, 224
WAVES = np.sin(np.arange(WIDTH) / 9)[None, :, None] * np.cos(np.arange(HEIGHT) / 7)[:, None, None]
NOISE = np.random.default_rng(5).normal(0, 20, (HEIGHT, WIDTH, 3))
PHOTO = Image.fromarray(np.clip(WAVES * 90 + NOISE + 120, 0, 255).astype(np.uint8))
GREY_END = PHOTO.copy()
GREY_END.paste((128, 128, 128), (0, 100, WIDTH, HEIGHT))

LAYOUTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "4:4:4": {"subsampling": 0},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restart rows": {"restart_marker_rows": 1},
    "restart blocks": {"restart_marker_blocks": 3},
    "progressive, restarts": {"progressive": True, "restart_marker_rows": 1},
}


def jpeg(image: Image.Image, layout: str) -> bytes:
    return encode(image, format="JPEG", quality=85, **LAYOUTS[layout])


def data_range(data: bytes) -> tuple[int, int]:
    """Return where the data of the first scan begins, and where the file's last marker stands."""
    return data.index(b"\xff\xda") + 14, len(data) - 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_sound_files_equal_pillow_s_decoding(layout: str, mode: str) -> None:
    for image in (PHOTO, GREY_END, PHOTO.crop((0, 0, 1, 1)), PHOTO.crop((0, 0, 17, 9))):
        data = jpeg(image.convert(mode), layout)
        opened = open_image(data)
        np.testing.assert_array_equal(opened.rgb, Image.open(io.BytesIO(data)).convert("RGB"))
        assert opened.warnings == ()


def opened_silently(data: bytes) -> bool:
    try:
        return open_image(data).warnings == ()
    except ImageError:
        return False


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_data_cut_off_before_an_end_marker(layout: str, part: float) -> None:
    for image in (PHOTO, GREY_END):
        data = jpeg(image, layout)
        start, end = data_range(data)
        cut = data[: start + int(part * (end - start))].rstrip(b"\xff") + b"\xff\xd9"
        assert not opened_silently(cut)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fill", [b"", b"\xff"])
def test_data_with_a_hole(layout: str, fill: bytes) -> None:
    data = jpeg(PHOTO, layout)
    start, end = data_range(data)
    hole, after = start + (end - start) * 2 // 5, start + (end - start) * 3 // 5
    assert not opened_silently(data[:hole] + fill * (after - hole) + data[after:])


def test_half_a_jpeg_is_refused_and_data_left_over_is_reported() -> None:
    data = jpeg(PHOTO, "baseline")
    start, end = data_range(data)
    refused(data[: (start + end) // 2] + b"\xff\xd9", "truncated: the JPEG file ends before its image does")
    (warning,) = open_image(data[:end] + bytes(500) + data[end:]).warnings
    assert "is damaged: its JPEG data does not fit its size" in warning
    np.testing.assert_array_equal(open_image(data[:end] + bytes(20) + data[end:]).rgb, open_image(data).rgb)


@pytest.mark.parametrize("layout", ["baseline", "4:4:4", "optimised"])
@pytest.mark.parametrize("count", [9, 29])  # libjpeg reads up to 8 bytes ahead
def test_few_bytes_left_over_are_reported_and_zeros_are_padding(layout: str, count: int) -> None:
    data = jpeg(PHOTO, layout)
    _, end = data_range(data)
    (warning,) = open_image(data[:end] + b"\x5a" * count + data[end:]).warnings
    assert "is damaged: its JPEG data does not fit its size" in warning
    assert open_image(data[:end] + bytes(count) + data[end:]).warnings == ()


def test_many_scans_are_refused_before_they_are_decoded() -> None:
    data = jpeg(Image.new("L", (4000, 4000)), "progressive")
    last = data.rindex(b"\xff\xda")
    started = time.process_time()
    refused(data[:-2] + data[last:-2] * 200 + b"\xff\xd9", "more than 62 scans")
    assert time.process_time() - started < 1  # seconds


def test_long_runs_of_ff_and_of_restart_markers() -> None:
    data = jpeg(PHOTO, "baseline")
    start, _ = data_range(data)
    started = time.process_time()
    open_image(data[:start] + b"\xff" * 20_000_000 + b"\0" + data[start:])
    restarts = b"".join(bytes((0xFF, 0xD0 + number)) for number in range(8)) * 500_000
    refused(data[:start] + restarts + data[start:], "far more data than its pixels need")
    assert time.process_time() - started < 2  # seconds
