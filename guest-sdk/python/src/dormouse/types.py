"""Types that stand in the signature of `predict` beside Python's own."""

from __future__ import annotations

import abc
import pathlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class CancelationException(BaseException):
    """The caller went away or the deadline passed.

    Not an `Exception`, so that `except Exception` around a model call does not swallow it. It is
    raised where a predictor waits for a model; elsewhere the host ends the instance without a word.
    """


@dataclass(frozen=True)
class Secret:
    """A text that prints as stars."""

    secret_value: str | None = None

    def get_secret_value(self) -> str | None:
        """The text itself."""
        return self.secret_value

    def __str__(self) -> str:
        return "" if self.secret_value is None else "**********"

    def __repr__(self) -> str:
        return f"Secret({self})"


class Path(type(pathlib.Path())):  # type: ignore[misc]
    """A file that comes in with the input, or goes out with the output.

    A caller sends it as a `data:` URL; in `predict` it is a path that can be opened. A path that is
    returned goes out as a `data:` URL of what the file holds.
    """

    @classmethod
    def validate(cls, value: Any) -> Path:
        """The path of a `data:` URL's content, which is written down for it."""
        from . import files

        return value if isinstance(value, cls) else files.receive(str(value))


class File:
    """Annotates an input that is read like a file opened in binary mode. `Path` is the newer way."""

    @classmethod
    def validate(cls, value: Any) -> Any:
        """An open file with the content of a `data:` URL."""
        from . import files

        return value if hasattr(value, "read") else files.open_url(str(value))


class ConcatenateIterator(Iterator[T]):
    """Annotates streamed text: the pieces make one text when joined."""

    @abc.abstractmethod
    def __next__(self) -> T: ...


class AsyncConcatenateIterator(AsyncIterator[T]):
    """Annotates text streamed by an `async def`."""

    @abc.abstractmethod
    async def __anext__(self) -> T: ...


class Opaque:
    """`Annotated[T, Opaque]` takes any JSON and leaves it as it comes."""
