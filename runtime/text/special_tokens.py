"""Special tokens of PaliGemma's vocabulary."""

from __future__ import annotations

BOS = "<bos>"
EOS = "<eos>"
PAD = "<pad>"
UNK = "<unk>"
IMAGE = "<image>"
CONTROL_TOKENS = (BOS, EOS, PAD, UNK, IMAGE)  # no prompt contains one of these

LAST_LOCATION = 1023  # `<loc0000>` is the image's top or left edge, `<loc1023>` its bottom or right edge
LAST_SEGMENT = 127  # `<seg000>` to `<seg127>`: tokens of masks
