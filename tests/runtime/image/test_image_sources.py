"""Sources that are not images: wrong arrays, closed images, paths that are not files."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import IMAGE, encode, refused
from PIL import Image, ImageFile

from paligemma_onnx.runtime.errors import ResourceError
from paligemma_onnx.runtime.image.open import open_image

BAD_ARRAYS = {
    "float": np.zeros((4, 4, 3), np.float32),
    "NaN": np.full((4, 4, 3), np.nan),
    "16 bits": np.zeros((4, 4), np.uint16),
    "signed": np.zeros((4, 4, 3), np.int8),
    "bool": np.zeros((4, 4), bool),
    "objects": np.array([[None]]),
    "a scalar": np.array(3, np.uint8),
    "a row": np.zeros(4, np.uint8),
    "two channels": np.zeros((4, 4, 2), np.uint8),
    "channels first": np.zeros((3, 40, 50), np.uint8),
    "a batch": np.zeros((1, 4, 4, 3), np.uint8),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_arrays_of_another_shape_or_dtype(kind: str) -> None:
    message = refused(
        BAD_ARRAYS[kind], r"an array must be uint8 of shape \[height, width\] or \[height, width, channels\]"
    )
    assert message.endswith(f"not {BAD_ARRAYS[kind].dtype} of shape {list(BAD_ARRAYS[kind].shape)}")


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0), (0, 0, 4)])
def test_arrays_without_pixels(shape: tuple[int, ...]) -> None:
    refused(np.zeros(shape, np.uint8), "the array has no pixels")


@pytest.mark.parametrize("source", [None, 3, ["a.png"], io.BytesIO(b"")])
def test_other_types(source: Any) -> None:
    words = f"type {type(source).__name__}: give a path, the bytes of a file, a Pillow image or an array"
    refused(source, words)


def test_pillow_images_that_cannot_be_read() -> None:
    closed = Image.open(io.BytesIO(encode(format="PNG")))
    closed.close()
    refused(closed, "the Pillow image cannot be read: it was closed")
    lazy = Image.open(io.BytesIO(encode(format="JPEG")[:-400]))
    refused(lazy, "truncated")
    refused(Image.new("RGB", (0, 3)), "no pixels")


def test_short_memory_is_not_the_image_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_memory)
    for source in (encode(format="PNG"), Image.open(io.BytesIO(encode(format="PNG")))):
        with pytest.raises(ResourceError, match="not enough memory"):
            open_image(source)


# Paths


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path, "is a folder")
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("opening a pipe hangs"))
    signal.alarm(5)  # seconds
    refused(tmp_path / "pipe", "pipe is a pipe, socket or device")
    signal.alarm(0)
    refused("/dev/zero", "/dev/zero is a pipe, socket or device")
    refused(tmp_path / "none.png", r"none\.png does not exist")
    refused(tmp_path / "broken", "broken is a link to a file that does not exist")
    refused(tmp_path / "loop", r"loop cannot be opened: .*; give the image itself, not a link")
    refused("", "the empty file name")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret.png").touch()
    monkeypatch.setattr(Path, "open", denied)  # mode 000 does not stop root, which may run the tests
    refused(
        tmp_path / "secret.png", r"secret\.png cannot be opened: Permission denied; check the permissions"
    )


def test_strange_file_names(tmp_path: Path) -> None:
    not_utf8 = tmp_path / os.fsdecode(b"caf\xe9.png")
    refused(not_utf8, r"caf\\udce9\.png does not exist")
    not_utf8.write_bytes(encode(format="PNG"))
    assert open_image(not_utf8).width == 45
    not_utf8.write_bytes(encode(format="GIF", save_all=True, append_images=[IMAGE.rotate(180)]))
    assert open_image(not_utf8).warnings[0].isprintable()
    refused("a\nb\x1b[31m.png", r"a\\nb\\x1b\[31m\.png does not exist")
    refused("photo.png ", "'photo\\.png ' does not exist")
    refused("folder /photo.png", "'folder /photo\\.png' does not exist")
    refused("a\0b", "not a possible file name")
    refused("a\ud800b", "not a possible file name")
    assert len(refused("x" * 100_000, "cannot be opened")) < 300


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_no_file_stays_open(tmp_path: Path) -> None:
    descriptors = Path("/dev/fd")
    before = len(list(descriptors.iterdir()))
    for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        path = tmp_path / name
        path.write_bytes(encode(format=name))
        opened = open_image(path)
        path.write_bytes(encode(format=name)[:-50])
        refused(path, "truncated")
        assert len(list(descriptors.iterdir())) == before
        assert opened.rgb.getpixel((0, 0))
