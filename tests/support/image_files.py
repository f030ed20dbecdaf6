"""A small random image, its encoded forms, and the assertion that an image is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paligemma_onnx.runtime.errors import ImageError
from paligemma_onnx.runtime.image.open import open_image

LEVELS = np.random.default_rng(3).integers(0, 256, (31, 45, 3), dtype=np.uint8)
IMAGE = Image.fromarray(LEVELS)


def encode(image: Image.Image = IMAGE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def refused(source: Any, words: str, **options: Any) -> str:
    """Assert that `source` is refused with one printable line and exit code 3; return the line."""
    with pytest.raises(ImageError, match=words) as caught:
        open_image(source, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert "0x" not in message
    assert caught.value.exit_code == 3
    return message
