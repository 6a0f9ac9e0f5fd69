"""An event loop without sockets: timers and ready callbacks, on the one thread there is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


class _Sleeper:
    """What the loop waits on: the clock alone."""

    def select(self, timeout: float | None) -> list[Any]:
        """Waits for the next timer. Without one, nothing can ever happen again."""
        if timeout is None:
            raise RuntimeError("predict waits for something that can't happen: no timer or task is left")
        time.sleep(max(timeout, 0))
        return []

    def close(self) -> None:
        """Holds nothing."""


class Loop(asyncio.BaseEventLoop):
    """The loop of a component."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Sleeper()

    def _process_events(self, events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits in another thread."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Runs the function here: there is no other thread."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


_loop: Loop | None = None


def run(awaitable: Awaitable[Any]) -> Any:
    """Runs an awaitable to its end on the instance's loop, where its other tasks run on."""
    global _loop
    if _loop is None:
        _loop = Loop()
        asyncio.set_event_loop(_loop)
    return _loop.run_until_complete(awaitable)
