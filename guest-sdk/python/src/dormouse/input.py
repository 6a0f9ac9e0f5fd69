"""`Input()`: what a parameter of `predict` is for and which values it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Missing(Enum):
    """The default of an input that has none; `None` is a default like any other."""

    MISSING = "missing"


MISSING = Missing.MISSING


@dataclass(frozen=True)
class FieldInfo:
    """What `Input()` was told."""

    default: Any = MISSING
    description: str | None = None
    ge: float | None = None
    le: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    regex: str | None = None
    choices: Sequence[Any] | None = None
    deprecated: bool | None = None
    accept: str | None = None


def Input(
    default: Any = MISSING,
    *,
    description: str | None = None,
    ge: float | None = None,
    le: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    regex: str | None = None,
    choices: Sequence[Any] | None = None,
    deprecated: bool | None = None,
    accept: str | None = None,
) -> Any:
    """Describes an input, as the default value of a parameter of `predict`.

    The host checks every rule before the predictor runs.

    Args:
        default: the value when the caller gives none. Without it the input is required, unless its
            type is optional. `...` also means that there is none.
        description: a sentence for whoever calls it.
        ge: the least number.
        le: the greatest number.
        min_length: the least length of a text or list.
        max_length: the greatest length of a text or list.
        regex: a pattern that the text must contain a match of; anchor it with ^ and $.
        choices: the only values.
        deprecated: shown to callers.
        accept: media types of a file; shown to callers.
    """
    return FieldInfo(
        default=MISSING if default is ... else default,
        description=description,
        ge=ge,
        le=le,
        min_length=min_length,
        max_length=max_length,
        regex=regex,
        choices=None if choices is None else tuple(choices),
        deprecated=deprecated,
        accept=accept,
    )
