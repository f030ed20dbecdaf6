"""Read the files in the output folder that record the state of a run, and check every field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import dacite

from ..errors import OptionError, ResourceError
from ..resource_errors import resource_problem

T = TypeVar("T")
REMEDY = "choose another --output"


def parse_state(schema: type[T], content: bytes) -> T:
    """Return an instance of the dataclass `schema` with the fields of a JSON object.

    Raises:
        ValueError: the content is not JSON.
        TypeError: the content is not an object, or a field is missing, unknown or of a wrong type.
    """
    try:
        return dacite.from_dict(schema, json.loads(content), dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, AttributeError, RecursionError) as error:
        raise TypeError(f"the content is not a {schema.__name__}") from error


@contextmanager
def translate_output_errors(path: Path) -> Iterator[None]:
    """Translate errors of the file system while the block reads or writes a file of the output.

    Raises:
        OptionError: the file cannot be read or written, or is a pipe or device, which might never end.
        ResourceError: the disk is full, or too many files are open.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OptionError(f"{path}: is a pipe, socket or device; delete it, or {REMEDY}")
        yield
    except OSError as error:
        if problem := resource_problem(error):
            raise ResourceError(f"{path}: {problem}") from error
        raise OptionError(
            f"{path}: cannot be read or written ({error.strerror}); restore it, or {REMEDY}"
        ) from error
