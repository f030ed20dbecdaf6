"""Special tokens of PaliGemma's vocabulary."""

from __future__ import annotations

LAST_LOCATION = 1023  # `<loc1023>` is the far edge of the picture, `<loc0000>` the near one


LAST_SEGMENT = 127  # `<seg127>`


BOS = "<bos>"


EOS = "<eos>"


PAD = "<pad>"


IMAGE = "<image>"
