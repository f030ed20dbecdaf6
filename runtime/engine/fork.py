"""Refuse to run sessions that a parent process opened before a fork, and let the forked process end cleanly.

A forked process has only the thread that called fork. The threads of an onnxruntime session are missing
there: the session runs slowly or not at all, and its destructor waits for the threads or crashes.
"""

from __future__ import annotations

import ctypes
import os
from weakref import WeakSet

from ..errors import ProviderError
from .ort import InferenceSession, Session

_opened: WeakSet[InferenceSession] = WeakSet()  # sessions that this process opened
_inherited = set[int]()  # ids of the sessions of parent processes, which are never destroyed


def register_session(session: InferenceSession) -> None:
    """Register a session that this process opened."""
    _opened.add(session)


def check_process(session: Session) -> None:
    """Check that this process opened the session.

    Raises:
        ProviderError: another process opened the session and then forked this process.
    """
    if id(session) in _inherited:
        raise ProviderError(
            "the model was loaded before this process was forked; call PaliGemma.load in the new process"
        )


def _inherit_sessions() -> None:
    """Mark the sessions of the parent process as inherited, and keep them until this process has ended."""
    for session in _opened:
        _inherited.add(id(session))
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))  # not destroyed even at exit
    _opened.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_inherit_sessions)
