"""The process of one contender: it loads what it is told to, then answers commands, a line of JSON each.

python -m benchmarks.worker MODULE CLASS ARGUMENTS

Commands come on stdin: the name of a method and its arguments. Answers go to what was stdout; whatever a
library prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LOAD = "load"
LONGEST = 300  # characters of an error that are passed on


def main() -> None:
    """Serve until stdin ends."""
    module, name, arguments = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with suppress(OSError):  # where memory runs out, this process is to go and not the one that compares
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    contender: Any = None
    for line in sys.stdin:
        method, options = json.loads(line)
        if method == LOAD:
            reply = attempt(made, module, name, json.loads(arguments))
            contender = reply.pop("answer", None)
        else:
            reply = attempt(called, contender, method, options)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def made(module: str, name: str, arguments: dict[str, Any]) -> Any:
    """An object of a class that is named; only now are its libraries imported."""
    return getattr(importlib.import_module(module), name)(**arguments)


def called(contender: Any, method: str, options: dict[str, Any]) -> Any:
    """What a method of the contender gives."""
    return getattr(contender, method)(**options)


def attempt(work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """`answer` with what the work gives, or `error` with one line."""
    try:
        return {"answer": work(*arguments)}
    except Exception as error:  # any library's: it is reported, and the others go on
        traceback.print_exc()
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]}


if __name__ == "__main__":
    main()
