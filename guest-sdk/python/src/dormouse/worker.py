"""The three exports of a predictor component, in plain Python: describe, setup, predict."""

from __future__ import annotations

import inspect
import json
import os
import sys
import traceback
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from . import host
from .llm import Completion
from .load import Loaded
from .signature import Output
from .types import CancelationException

Run = Callable[[Awaitable[Any]], Any]
"""Runs an awaitable to its end."""


class PredictionError(Exception):
    """Why `setup` or `predict` did not work, as the caller is told."""


class Worker:
    """One predictor in one instance."""

    def __init__(self, loaded: Loaded, manifest: dict[str, Any], run: Run) -> None:
        self._loaded = loaded
        self._manifest = dumps(manifest)
        self._run = run
        self._answer: Callable[..., Any] | None = None

    def describe(self) -> str:
        """The manifest as JSON."""
        return self._manifest

    def setup(self) -> None:
        """Makes the predictor and prepares it."""
        with _Reported():
            answer = self._loaded.instantiate()
            setup = getattr(getattr(answer, "__self__", None), "setup", None)
            if setup is not None:
                self._finish(setup(**_weights(setup)))
            self._answer = answer

    def predict(self, text: str) -> str:
        """Answers one prediction. Streamed elements are emitted, and the answer is null then."""
        with _Reported():
            if self._answer is None:
                raise RuntimeError("predict was called before setup")
            signature = self._loaded.signature
            answer = self._answer(**signature.arguments(json.loads(text)))
            return self._encode(self._finish(answer), signature.output)
        raise AssertionError("what is reported is raised")

    def _finish(self, value: Any) -> Any:
        """What `async def` returns; a completion is awaitable too, but is the answer itself."""
        return self._run(value) if inspect.iscoroutine(value) else value

    def _encode(self, value: Any, output: Output) -> str:
        if output.is_streamed:
            for element in self._elements(value):
                host.current().emit(dumps(output.shape.encode(element)))
            return "null"
        if isinstance(value, Completion):
            value = value.text()
        elif isinstance(value, (Iterator, AsyncIterator)):
            value = list(self._elements(value))
        return dumps(output.shape.encode(value))

    def _elements(self, value: Any) -> Iterator[Any]:
        if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
            return iter(value)
        if isinstance(value, AsyncIterable):
            return self._drain(aiter(value))
        raise TypeError(f"predict returned {type(value).__name__}, its signature says an iterator")

    def _drain(self, elements: AsyncIterator[Any]) -> Iterator[Any]:
        end = object()
        while (element := self._run(anext(elements, end))) is not end:
            yield element


class _Reported:
    """Turns the author's exception into a `PredictionError` and its traceback into logs."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if isinstance(error, CancelationException):
                raise PredictionError("cancelled") from None
            if isinstance(error, SystemExit):
                raise PredictionError(f"predictor exited with {error.code} instead of returning") from None
            if error is not None:
                print(_trace(error), end="", file=sys.stderr)
                raise PredictionError(_message(error)) from None
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


_NOT_THE_AUTHORS = (os.path.dirname(__file__), os.path.dirname(inspect.__file__) + "/asyncio/")


def _trace(error: BaseException) -> str:
    """The traceback from the author's first frame on, in paths from the author's folder."""
    trace = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename.startswith(_NOT_THE_AUTHORS):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(error.with_traceback(trace)))
    return text.replace(os.getcwd() + "/", "")


def _message(error: BaseException) -> str:
    name, text = type(error).__name__, str(error)
    if isinstance(error, KeyError):
        return f"KeyError: {text}"
    return text or name


def _weights(setup: Callable[..., Any]) -> dict[str, Any]:
    """Cog's `setup(weights)`: where a fine-tune's weights are, if anywhere."""
    takes_weights = "weights" in inspect.signature(setup).parameters
    return {"weights": os.environ.get("COG_WEIGHTS")} if takes_weights else {}


def dumps(value: Any) -> str:
    """JSON that is valid for every reader: no NaN, no lone surrogates."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise TypeError("output has a number that JSON can't hold: NaN or infinity") from error
    return text.encode("utf-8", "replace").decode()
