"""The control tokens that a prompt may begin with, as in transformers: `<image>` and `<bos>`."""

from __future__ import annotations

import re

from ..errors import PromptError
from .special_tokens import BOS, IMAGE

_PREFIX = re.compile(rf"(?:{BOS})?((?:{IMAGE})+)(?:{BOS})?|{BOS}")


def drop_prefix(prompt: str, images: int) -> str:
    """Return a prompt without the `<image>` tokens and the `<bos>` at its beginning.

    The runtime adds these tokens itself. transformers asks for one `<image>` per image, and adds `<bos>`. The
    characters after the prefix stay as they are, also a space or a newline.

    Args:
        prompt: the text, with or without a prefix.
        images: number of images that the prompt is about.

    Raises:
        PromptError: the prompt begins with `<image>`, but not once per image.

    Example:
        >>> drop_prefix("<image>caption en", 1)
        'caption en'
    """
    prefix = _PREFIX.match(prompt)
    if prefix is None:
        return prompt
    placeholders = len(prefix[1] or "") // len(IMAGE)
    if placeholders not in (0, images):
        raise PromptError(
            f"the prompt begins with {placeholders} {IMAGE}, but {images} "
            f"{'image is' if images == 1 else 'images are'} given; write {IMAGE} once per image or not at all"
        )
    return prompt[prefix.end() :]
