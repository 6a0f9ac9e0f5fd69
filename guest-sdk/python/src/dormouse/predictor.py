"""The classes a predictor derives from, and the marks Cog puts on its method."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload

from .scope import current_scope

F = TypeVar("F", bound=Callable[..., Any])


class BaseRunner:
    """A function that answers predictions: `setup` prepares, `run` or `predict` answers.

    Every prediction starts from a fresh instance, so nothing that one leaves behind is seen by
    another. A class may set `models = ["smollm2"]` to declare models that are not opened by a
    literal name.
    """

    def setup(self) -> None:
        """Prepares what predictions start from, such as an open model."""

    def record_metric(self, name: str, value: Any, mode: str = "replace") -> None:
        """Records a number in the prediction's metrics."""
        current_scope().record_metric(name, value, mode)


class BasePredictor(BaseRunner):
    """The older name of `BaseRunner`."""


def streaming(function: F | None = None) -> Any:
    """Marks a method whose output streams. Every iterator streams here; the mark changes nothing."""
    return (lambda inner: inner) if function is None else function


@overload
def concurrent(function: F) -> F: ...
@overload
def concurrent(function: None = None, *, max: int = 1) -> Callable[[F], F]: ...
def concurrent(function: F | None = None, *, max: int = 1) -> Any:
    """Says how many predictions an `async` method takes at once.

    Each prediction has an instance of its own here, so the number that bounds them is the
    function's setting `concurrency`; the mark is kept for files that have it.
    """
    if isinstance(max, bool) or not isinstance(max, int) or max < 1:
        raise ValueError(f"concurrent max is {max!r}, it must be a whole number from 1")

    def mark(inner: F) -> F:
        is_async = inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
        if max > 1 and not is_async:
            raise TypeError(f"concurrent max is {max}, more than 1 needs an async method")
        inner.__cog_concurrent_max__ = max  # type: ignore[attr-defined]
        return inner

    return mark if function is None else mark(function)
