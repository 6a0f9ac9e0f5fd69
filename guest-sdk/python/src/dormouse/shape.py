"""Type hints as shapes: each knows its JSON Schema and carries values over to JSON and back.

The host has checked an input against the schema before `decode` sees it; `decode` only turns JSON into
what the author annotated. `encode` turns what the author returned into JSON, and fails with a
`TypeError` that names what JSON can't hold.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import os
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from . import files
from .types import File, Opaque, Path, Secret

Schema = dict[str, Any]

SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number"}
"""JSON Schema's names of Python's types."""


class Shape(ABC):
    """What values of a type look like in JSON."""

    @abstractmethod
    def schema(self) -> Schema:
        """The JSON Schema of the type."""

    def decode(self, value: Any) -> Any:
        """JSON as the author annotated it."""
        return value

    def encode(self, value: Any) -> Any:
        """The author's value as JSON."""
        return plain(value)

    @property
    def is_optional(self) -> bool:
        """Whether null is a value of it."""
        return False


@dataclasses.dataclass(frozen=True)
class Scalar(Shape):
    """Text, a truth value or a number."""

    type: type

    def schema(self) -> Schema:
        return {"type": SCALARS[self.type]}

    def decode(self, value: Any) -> Any:
        # JSON has one kind of number: 1 is a float and 1.0 is an int.
        return self.type(value) if self.type in (int, float) else value

    def encode(self, value: Any) -> Any:
        value = plain(value)
        if self.type is float and isinstance(value, int):
            return float(value)
        return value


@dataclasses.dataclass(frozen=True)
class AnyJson(Shape):
    """Any JSON, or any object."""

    is_object: bool = False

    def schema(self) -> Schema:
        return {"type": "object"} if self.is_object else {}


@dataclasses.dataclass(frozen=True)
class FileUrl(Shape):
    """A file, as a `data:` URL in JSON."""

    type: type

    def schema(self) -> Schema:
        return {"type": "string", "format": "uri"}

    def decode(self, value: Any) -> Any:
        return (File if self.type is File else Path).validate(value)


@dataclasses.dataclass(frozen=True)
class SecretText(Shape):
    """A text that is not to be shown."""

    def schema(self) -> Schema:
        return {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True}

    def decode(self, value: Any) -> Any:
        return Secret(value)


@dataclasses.dataclass(frozen=True)
class Choice(Shape):
    """A member of an enum, or one of several literals."""

    values: tuple[Any, ...]
    enum: type[enum.Enum] | None = None

    def schema(self) -> Schema:
        names = {SCALARS.get(type(value)) for value in self.values}
        only = names.pop() if len(names) == 1 else None
        return ({"type": only} if only else {}) | {"enum": list(self.values)}

    def decode(self, value: Any) -> Any:
        return value if self.enum is None else self.enum(value)


@dataclasses.dataclass(frozen=True)
class ListOf(Shape):
    """A list of one type."""

    items: Shape

    def schema(self) -> Schema:
        return {"type": "array", "items": self.items.schema()}

    def decode(self, value: Any) -> Any:
        return [self.items.decode(item) for item in value]

    def encode(self, value: Any) -> Any:
        return [self.items.encode(item) for item in value]


@dataclasses.dataclass(frozen=True)
class MapOf(Shape):
    """An object whose values have one type."""

    values: Shape

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.values.schema()}

    def decode(self, value: Any) -> Any:
        return {key: self.values.decode(item) for key, item in value.items()}

    def encode(self, value: Any) -> Any:
        return {str(key): self.values.encode(item) for key, item in value.items()}


@dataclasses.dataclass(frozen=True)
class Nullable(Shape):
    """A type, or null."""

    inner: Shape

    def schema(self) -> Schema:
        schema = self.inner.schema()
        if isinstance(schema.get("type"), str):
            schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        if "anyOf" in schema:
            schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
        return schema

    def decode(self, value: Any) -> Any:
        return None if value is None else self.inner.decode(value)

    def encode(self, value: Any) -> Any:
        return None if value is None else self.inner.encode(value)

    @property
    def is_optional(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class OneOf(Shape):
    """One of several types, whose JSON tells them apart."""

    members: tuple[Shape, ...]

    def schema(self) -> Schema:
        return {"anyOf": [member.schema() for member in self.members]}

    def decode(self, value: Any) -> Any:
        for member in self.members:
            if _is_of_type(value, member.schema().get("type")):
                return member.decode(value)
        return value


@dataclasses.dataclass(frozen=True)
class Record(Shape):
    """A dataclass, a `BaseModel` or a pydantic-like class: an object with named fields."""

    type: type
    fields: Mapping[str, tuple[Shape, bool]]
    """Shape of each field, and whether it must be given."""

    def schema(self) -> Schema:
        properties = {
            name: shape.schema() | {"title": title(name)} for name, (shape, _) in self.fields.items()
        }
        required = [name for name, (_, is_required) in self.fields.items() if is_required]
        return {"type": "object", "title": self.type.__name__, "properties": properties} | (
            {"required": required} if required else {}
        )

    def decode(self, value: Any) -> Any:
        return self.type(
            **{name: self.fields[name][0].decode(item) for name, item in value.items() if name in self.fields}
        )

    def encode(self, value: Any) -> Any:
        is_mapping = isinstance(value, Mapping)
        if not is_mapping and not isinstance(value, self.type):
            raise TypeError(f"output is {_article(type(value))}, not {_article(self.type)}")
        encoded = {}
        for name, (shape, _) in self.fields.items():
            item = value.get(name) if is_mapping else getattr(value, name, None)
            if item is None and not shape.is_optional:
                raise TypeError(f"field {name!r} of {self.type.__name__} has no value")
            encoded[name] = shape.encode(item)
        return encoded


def shape_of(hint: Any) -> Shape:
    """The shape of a type hint. `TypeError` names the hint that has none."""
    if hint in SCALARS:
        return Scalar(hint)
    if hint is Any or hint is object:
        return AnyJson()
    if hint is Secret:
        return SecretText()
    if hint in (list, tuple, set, Sequence):
        return ListOf(AnyJson())
    if hint is dict or hint is Mapping or typing.is_typeddict(hint):
        return AnyJson(is_object=True)
    if hint is None or hint is type(None):
        return Nullable(AnyJson())
    origin = typing.get_origin(hint)
    return _generic(hint, origin, typing.get_args(hint)) if origin else _class(hint)


def _generic(hint: Any, origin: Any, args: tuple[Any, ...]) -> Shape:
    if origin is typing.Annotated:
        is_opaque = any(mark is Opaque or isinstance(mark, Opaque) for mark in args[1:])
        return AnyJson() if is_opaque else shape_of(args[0])
    if origin is typing.Literal:
        return Choice(args)
    if origin in (typing.Union, types.UnionType):
        return _union(args)
    if origin in (list, set, frozenset, Sequence) or (origin is tuple and args[1:] == (...,)):
        return ListOf(shape_of(args[0]))
    if origin in (dict, Mapping):
        is_any = shape_of(args[1]) == AnyJson()
        return AnyJson(is_object=True) if is_any else MapOf(shape_of(args[1]))
    raise TypeError(f"{hint} has no counterpart in JSON")


def _union(args: tuple[Any, ...]) -> Shape:
    members = tuple(shape_of(arg) for arg in args if arg is not type(None))
    shape = members[0] if len(members) == 1 else OneOf(members)
    return shape if len(members) == len(args) else Nullable(shape)


def _class(hint: Any) -> Shape:
    if not isinstance(hint, type):
        raise TypeError(f"{hint!r} is no type")
    if issubclass(hint, enum.Enum):
        return Choice(tuple(member.value for member in hint), hint)
    if issubclass(hint, (File, os.PathLike)):
        return FileUrl(hint)
    fields = _fields(hint)
    if fields is None:
        raise TypeError(f"{hint.__name__} has no counterpart in JSON; a dataclass has")
    return Record(hint, fields)


def _fields(hint: type) -> dict[str, tuple[Shape, bool]] | None:
    hints = typing.get_type_hints(hint, include_extras=True)
    if dataclasses.is_dataclass(hint):
        missing = dataclasses.MISSING
        required = {
            field.name: field.default is missing and field.default_factory is missing
            for field in dataclasses.fields(hint)
        }
    elif hasattr(hint, "model_fields"):  # pydantic, or what looks like it
        required = {name: field.is_required() for name, field in hint.model_fields.items()}
    else:
        return None
    shapes = {name: shape_of(hints[name]) for name in required}
    return {name: (shape, required[name] and not shape.is_optional) for name, shape in shapes.items()}


def plain(value: Any) -> Any:
    """A value as JSON, by what it is rather than by what was annotated."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Secret):
        return value.get_secret_value()
    if isinstance(value, os.PathLike):
        return files.send(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    for name in ("model_dump", "tolist"):  # pydantic's models; arrays and tensors
        if hasattr(value, name):
            return plain(getattr(value, name)())
    raise TypeError(f"output has {_article(type(value))}, which JSON can't hold")


def title(name: str) -> str:
    """A parameter's name as people read it."""
    return name.replace("_", " ").title()


def _is_of_type(value: Any, name: str | None) -> bool:
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "array": list,
        "object": dict,
    }
    if name is None:
        return True
    return isinstance(value, kinds[name]) and (name == "boolean" or not isinstance(value, bool))


def _article(kind: type) -> str:
    name = kind.__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
