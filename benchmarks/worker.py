"""Process of one measured system: construct an object of a class, then call its methods on request.

python -m benchmarks.worker MODULE CLASS ARGUMENTS

Each line of stdin is a request in JSON: the name of a method and its keyword arguments. Each reply is a line
of JSON on stdout. Text that libraries print on stdout goes to stderr. This module imports only the standard
library, because the Python interpreters of other environments run it, too.
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

LOAD = "load"  # name of the request that constructs the object
MAX_ERROR_CHARS = 300  # maximum length of an error message in a reply
# Highest value (proc(5)). If memory runs out, the kernel kills this process and not the process that started
# it.
OOM_SCORE = "1000"


def main() -> None:
    """Answer requests until stdin ends."""
    module, class_name, arguments = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    system: Any = None
    for line in sys.stdin:
        method, options = json.loads(line)
        if method == LOAD:
            reply = attempt(construct, module, class_name, json.loads(arguments))
            system = reply.pop("answer", None)
        else:
            reply = attempt(call_method, system, method, options)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def construct(module: str, class_name: str, arguments: dict[str, Any]) -> Any:
    """Import a module and return an object of one of its classes."""
    return getattr(importlib.import_module(module), class_name)(**arguments)


def call_method(system: Any, method: str, options: dict[str, Any]) -> Any:
    """Call a method of the object, and return its result."""
    return getattr(system, method)(**options)


def attempt(work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Call a function; return {"answer": result} or, if it raises an exception, {"error": one line}."""
    try:
        return {"answer": work(*arguments)}
    except Exception as error:  # reported in the reply, so that the other systems are still measured
        traceback.print_exc()
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:MAX_ERROR_CHARS]}


if __name__ == "__main__":
    main()
