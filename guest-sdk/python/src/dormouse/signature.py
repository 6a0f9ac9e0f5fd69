"""What a predictor takes and answers, read from the signature of its method."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .input import MISSING, FieldInfo
from .shape import Choice, ListOf, Nullable, Scalar, Schema, Shape, shape_of, title
from .types import AsyncConcatenateIterator, ConcatenateIterator

_ITERATORS = (Iterator, Iterable, Generator, AsyncIterator, AsyncGenerator)
_CONCATENATING = (ConcatenateIterator, AsyncConcatenateIterator)


class SignatureError(TypeError):
    """A signature that no schema can be made of; the text names the parameter."""


@dataclass(frozen=True)
class Parameter:
    """One input."""

    name: str
    order: int
    shape: Shape
    info: FieldInfo

    @property
    def is_required(self) -> bool:
        """Whether the caller must give it."""
        return self.info.default is MISSING and not self.shape.is_optional

    @property
    def default(self) -> Any:
        """What `predict` gets when the caller gives nothing."""
        if self.info.default is MISSING or self.info.default is None:
            return None
        return self.shape.decode(self.shape.encode(self.info.default))

    def schema(self) -> Schema:
        """Its property in the schema of the input."""
        info = self.info
        schema = self.shape.schema() | {"title": title(self.name)}
        if info.description:
            schema["description"] = info.description
        if info.default is not MISSING and info.default is not None:
            schema["default"] = self.shape.encode(info.default)
        schema |= _bounds(self.shape, info)
        for keyword, value in (("deprecated", info.deprecated), ("x-cog-accept", info.accept)):
            if value:
                schema[keyword] = value
        return schema | {"x-order": self.order}


@dataclass(frozen=True)
class Output:
    """What comes out: one value, or elements one by one."""

    shape: Shape
    is_streamed: bool = False
    is_concatenated: bool = False

    def schema(self) -> Schema:
        """The schema of the whole answer."""
        if not self.is_streamed:
            return self.shape.schema() | {"title": "Output"}
        schema = {"type": "array", "title": "Output", "items": self.shape.schema()}
        schema["x-cog-array-type"] = "iterator"
        if self.is_concatenated:
            schema["x-cog-array-display"] = "concatenate"
        return schema


@dataclass(frozen=True)
class Signature:
    """A predictor's method: its inputs in order, and its output."""

    parameters: tuple[Parameter, ...]
    output: Output

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """Reads a function or an unbound method."""
        plain = inspect.unwrap(function)
        name = plain.__name__
        try:
            hints = typing.get_type_hints(plain, include_extras=True)
        except NameError as error:
            raise SignatureError(f"a type hint of {name}() can't be resolved: {error}") from error
        listed = [p for p in inspect.signature(plain).parameters.values() if p.name != "self"]
        if "return" not in hints:
            raise SignatureError(f"{name}() needs a return type, such as `-> str`")
        parameters = (_parameter(name, order, p, hints) for order, p in enumerate(listed))
        return cls(tuple(parameters), _output(name, hints["return"]))

    def input_schema(self) -> Schema:
        """The JSON Schema of the input object. Nothing but its properties is allowed."""
        return {
            "type": "object",
            "title": "Input",
            "properties": {p.name: p.schema() for p in self.parameters},
            "required": [p.name for p in self.parameters if p.is_required],
            "additionalProperties": False,
        }

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call, from an input the host has checked."""
        return {p.name: _argument(p, given) for p in self.parameters}


def _argument(parameter: Parameter, given: dict[str, Any]) -> Any:
    name = parameter.name
    if given.get(name) is None and parameter.is_required:
        raise ValueError(f"input {name!r} is missing")
    try:
        return parameter.default if given.get(name) is None else parameter.shape.decode(given[name])
    except (TypeError, ValueError) as error:
        raise ValueError(f"input {name!r}: {error}") from error


def _parameter(function: str, order: int, parameter: inspect.Parameter, hints: dict[str, Any]) -> Parameter:
    where = f"input {parameter.name!r} of {function}()"
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind == parameter.VAR_POSITIONAL else "**"
        raise SignatureError(f"{function}() must list its inputs by name, not as {stars}{parameter.name}")
    if parameter.name not in hints:
        raise SignatureError(f"{where} needs a type hint, such as `{parameter.name}: str`")
    try:
        shape = shape_of(hints[parameter.name])
    except TypeError as error:
        raise SignatureError(f"{where}: {error}") from error
    default = MISSING if parameter.default is parameter.empty else parameter.default
    info = default if isinstance(default, FieldInfo) else FieldInfo(default=default)
    if info.default is None and not shape.is_optional:
        # `image: Path = Input(default=None)` of older files means that it may be left out.
        shape = Nullable(shape)
    _check(where, shape, info)
    return Parameter(parameter.name, order, shape, info)


def _output(function: str, hint: Any) -> Output:
    origin = typing.get_origin(hint)
    if hint in _CONCATENATING or hint in _ITERATORS:
        raise SignatureError(f"{function}() returns an iterator of what? Write `{hint.__name__}[str]`")
    try:
        if origin in _CONCATENATING:
            return Output(shape_of(typing.get_args(hint)[0]), is_streamed=True, is_concatenated=True)
        if origin in _ITERATORS:
            return Output(shape_of(typing.get_args(hint)[0]), is_streamed=True)
        return Output(shape_of(hint))
    except TypeError as error:
        raise SignatureError(f"output of {function}(): {error}") from error


def _bounds(shape: Shape, info: FieldInfo) -> Schema:
    is_list = isinstance(_inner(shape), ListOf)
    unit = "Items" if is_list else "Length"
    rules = {
        "minimum": info.ge,
        "maximum": info.le,
        f"min{unit}": info.min_length,
        f"max{unit}": info.max_length,
        "pattern": info.regex,
    }
    schema: Schema = {keyword: value for keyword, value in rules.items() if value is not None}
    if info.choices is not None:
        values = [choice.value if isinstance(choice, Enum) else choice for choice in info.choices]
        schema["enum"] = [*values, None] if shape.is_optional else values
    if is_list and schema:
        # Cog applies a rule to each element, except that a list's own length is counted.
        return _on_items(shape, schema)
    return schema


def _on_items(shape: Shape, rules: Schema) -> Schema:
    own = {keyword: rules.pop(keyword) for keyword in ("minItems", "maxItems") if keyword in rules}
    return own | ({"items": shape.schema()["items"] | rules} if rules else {})


def _inner(shape: Shape) -> Shape:
    return shape.inner if isinstance(shape, Nullable) else shape


def _check(where: str, shape: Shape, info: FieldInfo) -> None:
    """Rules must fit the type, and the default must keep them; said where the author can see it."""
    inner = _inner(shape)
    element = inner.items if isinstance(inner, ListOf) else inner
    kind = element.type if isinstance(element, Scalar) else None
    if (info.ge is not None or info.le is not None) and kind not in (int, float):
        raise SignatureError(f"{where}: ge and le bound numbers, and this is none")
    has_length = kind is str or isinstance(inner, ListOf)
    if (info.min_length is not None or info.max_length is not None) and not has_length:
        raise SignatureError(f"{where}: min_length and max_length bound text and lists")
    if info.regex is not None and kind is not str:
        raise SignatureError(f"{where}: regex checks text, and this is none")
    if info.choices is not None and not info.choices:
        raise SignatureError(f"{where}: choices is empty, so no value would do")
    _check_default(where, inner, info)


def _check_default(where: str, shape: Shape, info: FieldInfo) -> None:
    if info.default is MISSING or info.default is None:
        return
    try:
        default = shape.encode(info.default)
    except TypeError as error:
        raise SignatureError(f"{where}: its default can't be written as JSON: {error}") from error
    is_list = isinstance(shape, ListOf)
    for value in default if is_list else [default]:
        _check_value(where, value, info, has_length=not is_list)
    if is_list:
        _check_length(where, default, info)
    if isinstance(shape, Choice) and default not in shape.values:
        raise SignatureError(f"{where}: default {default!r} is not one of {list(shape.values)}")


def _check_value(where: str, value: Any, info: FieldInfo, *, has_length: bool) -> None:
    if info.ge is not None and value < info.ge:
        raise SignatureError(f"{where}: default {value} is less than ge={info.ge}")
    if info.le is not None and value > info.le:
        raise SignatureError(f"{where}: default {value} is more than le={info.le}")
    if info.choices is not None and value not in info.choices:
        raise SignatureError(f"{where}: default {value!r} is not one of {list(info.choices)}")
    if has_length and isinstance(value, str):
        _check_length(where, value, info)


def _check_length(where: str, value: Any, info: FieldInfo) -> None:
    if info.min_length is not None and len(value) < info.min_length:
        raise SignatureError(
            f"{where}: default has length {len(value)}, less than min_length={info.min_length}"
        )
    if info.max_length is not None and len(value) > info.max_length:
        raise SignatureError(
            f"{where}: default has length {len(value)}, more than max_length={info.max_length}"
        )
