"""Images in a tar in WebDataset format: consecutive members with the same key form one sample.

The key is a member's path up to the first dot of the file name. A sample with one image is an item whose id
is the key. A sample with several images, such as `cam.2026-01-01.png` and `cam.2026-01-02.png`, has one item
per image, and the id of each is the member's name. A member whose name the sample already has begins a new
sample.

A `.json` member may contain an object with a prompt and an expected answer. A `.txt` member is the prompt
only if the command has no prompt, because in many data sets it is the image's caption. If a sample has
several images, such a member belongs to the images that have its name up to the last dot, or else to all of
them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath

from .columns import CellError, Columns, find_suffix, find_text, parse_json
from .folder import SUFFIXES
from .input_files import decode_text
from .items import Item, Slice
from .rows import RowError, replace_surrogates
from .tar_members import Member, read_members

MAX_TEXT_BYTES = 16 << 20  # size of a `.json` or `.txt` member


@dataclass(frozen=True)
class _Texts:
    """Contents of the `.json` and `.txt` members of an image; None if no member has them."""

    prompt: str | None = None
    suffix: str | None = None
    caption: str | None = None  # content of a .txt member
    problem: str | None = None  # why a member cannot be used

    def or_else(self, other: _Texts) -> _Texts:
        """Return these texts, with each missing text taken from `other`."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return _Texts(*(theirs if ours is None else ours for ours, theirs in pairs))


def read_tar(path: Path, prompt: str | None, columns: Columns) -> Iterator[Item]:
    """Iterate over the items, in the order of the tar.

    Raises:
        OptionError: the tar is damaged or compressed, or has sparse members.
    """
    for sample in _samples(path):
        yield from _items(sample, prompt, columns)


def count_tar_items(path: Path) -> int:
    """Return the number of items; only the headers are read. Raise the errors of `read_tar`."""
    return sum(max(1, sum(map(_is_image, sample))) for sample in _samples(path))


def _samples(path: Path) -> Iterator[list[Member]]:
    sample: list[Member] = []
    names: set[str] = set()
    key = ""
    for member in read_members(path):
        if sample and (_key(member) != key or member.name in names):
            yield sample
            sample, names = [], set()
        key = _key(member)
        sample.append(member)
        names.add(member.name)
    if sample:
        yield sample


def _items(sample: list[Member], prompt: str | None, columns: Columns) -> Iterator[Item]:
    key = replace_surrogates(_key(sample[0]))
    images = [member for member in sample if _is_image(member)]
    stems = {_stem(image) for image in images}
    texts_of: dict[str, list[Member]] = defaultdict(list)  # by stem; "": those that belong to all images
    for member in sample:
        if not _is_image(member):
            stem = _stem(member)
            texts_of[stem if len(images) > 1 and stem in stems else ""].append(member)
    common = _read_texts(texts_of[""], columns)
    for image in images:
        name = replace_surrogates(image.name)
        texts = _read_texts(texts_of[_stem(image)], columns).or_else(common)
        content = image.content or RowError("input", f"{name} is a link; pack the tar with --dereference")
        yield _item(key if len(images) == 1 else name, name, content, texts, prompt)
    if not images:
        yield _item(key, None, RowError("input", f"{key}: no member has an image suffix"), common, prompt)


def _item(
    item_id: str, path: str | None, content: Slice | RowError, texts: _Texts, prompt: str | None
) -> Item:
    if texts.problem is not None:
        problem = RowError("input", replace_surrogates(f"{item_id}: {texts.problem}"))
        return Item(item_id, path, None, problem)
    prompts = (texts.prompt, prompt, texts.caption)
    item_prompt = next((text for text in prompts if text is not None), None)
    return Item(item_id, path, item_prompt, content, texts.suffix)


def _read_texts(members: Sequence[Member], columns: Columns) -> _Texts:
    texts = _Texts()
    for member in members:
        try:
            if member.name.lower().endswith(".json"):
                texts = texts.or_else(_read_json(member, columns))
            elif member.name.lower().endswith(".txt"):
                texts = texts.or_else(_Texts(caption=decode_text(_read(member)).strip()))
        except ValueError as error:
            return _Texts(problem=f"{member.name} {error}")
    return texts


def _read_json(member: Member, columns: Columns) -> _Texts:
    content = _read(member)
    try:
        cells = parse_json(content)
    except ValueError:
        raise ValueError("is not JSON") from None
    if not isinstance(cells, dict):
        return _Texts()
    try:
        return _Texts(find_text(cells, columns.prompt), find_suffix(cells, columns))
    except CellError as error:
        raise ValueError(f"cannot be used: {error}") from None


def _read(member: Member) -> bytes:
    """Return the content of a member; raise ValueError with the problem."""
    if member.content is None:
        raise ValueError("is a link; pack the tar with --dereference")
    if member.content.size > MAX_TEXT_BYTES:
        raise ValueError(f"has {member.content.size} bytes, more than {MAX_TEXT_BYTES}")
    return member.content.read()


def _key(member: Member) -> str:
    path = PurePosixPath(member.name)
    stem = path.name.partition(".")[0]
    return str(path.with_name(stem)) if stem else member.name  # such as `.png`


def _stem(member: Member) -> str:
    path = PurePosixPath(member.name)
    return str(path.with_suffix("")) if path.suffix else member.name


def _is_image(member: Member) -> bool:
    return PurePosixPath(member.name).suffix.lower() in SUFFIXES
