"""Threads where there is one: a component's `Thread.start` runs its target before it returns.

That is what a thread whose end is awaited does, and what a thread that feeds a streamer needs, as the
completion itself runs in the host. A target that waits for its starter would wait forever.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_depth = 0


def is_deferred() -> bool:
    """Whether the caller is a thread's target, whose starter will read what it streams."""
    return _depth > 0


@contextlib.contextmanager
def _deferred() -> Iterator[None]:
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def _start(self: threading.Thread) -> None:
    with _deferred():
        try:
            self.run()
        except Exception:
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self)))
    self._started.set()  # type: ignore[attr-defined]


def _submit(self: Any, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(function(*args, **options))
    except Exception as error:
        future.set_exception(error)
    return future


def install() -> None:
    """Replaces how threads start."""
    threading.Thread.start = _start  # type: ignore[method-assign]
    threading.Thread.join = lambda self, timeout=None: None  # type: ignore[method-assign]
    threading.Thread.is_alive = lambda self: False  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = _submit  # type: ignore[method-assign]
