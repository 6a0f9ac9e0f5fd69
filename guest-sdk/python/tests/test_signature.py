from __future__ import annotations

import dataclasses
import enum
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal, Optional, Union

import pytest

from dormouse import (
    AsyncConcatenateIterator,
    BaseModel,
    ConcatenateIterator,
    File,
    Input,
    Opaque,
    Path,
    Secret,
)
from dormouse.signature import Signature, SignatureError


class Colour(str, enum.Enum):
    RED = "red"
    BLUE = "blue"


def property_of(function: Any, name: str = "x") -> dict[str, Any]:
    return Signature.of(function).input_schema()["properties"][name]


def check(hint: Any, expected: dict[str, Any]) -> None:
    """The schema of a parameter of that type, without what every parameter has."""

    def predict(x: Any) -> str: ...

    predict.__annotations__["x"] = hint
    assert property_of(predict) == expected | {"title": "X", "x-order": 0}


def refused(function: Any) -> str:
    with pytest.raises(SignatureError) as caught:
        Signature.of(function)
    return str(caught.value)


def test_scalars_have_their_json_types() -> None:
    check(str, {"type": "string"})
    check(int, {"type": "integer"})
    check(float, {"type": "number"})
    check(bool, {"type": "boolean"})


def test_files_and_secrets_have_the_formats_of_cog() -> None:
    check(Path, {"type": "string", "format": "uri"})
    check(File, {"type": "string", "format": "uri"})
    check(Secret, {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True})


def test_lists_and_objects_say_what_they_hold() -> None:
    check(list[str], {"type": "array", "items": {"type": "string"}})
    check(list, {"type": "array", "items": {}})
    check(dict, {"type": "object"})
    check(dict[str, Any], {"type": "object"})
    check(dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}})


def test_any_json_has_an_open_schema() -> None:
    check(Any, {})
    check(Annotated[list[int], Opaque], {})


def test_optional_types_take_null() -> None:
    check(Optional[int], {"type": ["integer", "null"]})
    check(str | None, {"type": ["string", "null"]})
    check(list[int] | None, {"type": ["array", "null"], "items": {"type": "integer"}})


def test_unions_list_their_members() -> None:
    check(Union[str, int], {"anyOf": [{"type": "string"}, {"type": "integer"}]})
    check(str | int | None, {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]})


def test_enums_and_literals_list_their_values() -> None:
    check(Colour, {"type": "string", "enum": ["red", "blue"]})
    check(Literal[1, 2], {"type": "integer", "enum": [1, 2]})
    check(Literal["a"] | None, {"type": ["string", "null"], "enum": ["a", None]})


def test_an_input_is_required_when_it_has_no_default_and_is_not_optional() -> None:
    def predict(
        a: str,
        b: str = Input(),
        c: str = Input(default="x"),
        d: int = 3,
        e: Optional[str] = Input(),
        f: Path = Input(default=None),
        g: str = Input(default=...),
    ) -> str: ...

    schema = Signature.of(predict).input_schema()
    assert schema["required"] == ["a", "b", "g"]
    assert schema["additionalProperties"] is False
    assert [schema["properties"][name]["x-order"] for name in "abcdefg"] == list(range(7))
    assert schema["properties"]["f"]["type"] == ["string", "null"]


def test_input_rules_become_json_schema() -> None:
    def predict(
        x: int = Input(default=3, ge=1, le=5, description="how many", deprecated=True),
        y: str = Input(min_length=1, max_length=9, regex="^a"),
        z: str = Input(default="a", choices=["a", "b"]),
        words: list[str] = Input(default=["a"], min_length=1, regex="^a"),
    ) -> str: ...

    assert property_of(predict) == {
        "type": "integer", "title": "X", "description": "how many", "default": 3,
        "minimum": 1, "maximum": 5, "deprecated": True, "x-order": 0,
    }  # fmt: skip
    y = property_of(predict, "y")
    assert (y["minLength"], y["maxLength"], y["pattern"]) == (1, 9, "^a")
    assert property_of(predict, "z")["enum"] == ["a", "b"]
    words = property_of(predict, "words")
    assert (words["minItems"], words["items"]) == (1, {"type": "string", "pattern": "^a"})


def test_a_parameter_without_a_type_is_named() -> None:
    def predict(self: Any, prompt) -> str: ...  # type: ignore[no-untyped-def]

    assert "input 'prompt' of predict() needs a type hint" in refused(predict)


def test_a_missing_return_type_is_refused() -> None:
    def run(x: int): ...  # type: ignore[no-untyped-def]

    assert refused(run) == "run() needs a return type, such as `-> str`"


def test_variable_arguments_are_refused() -> None:
    def predict(**options: str) -> str: ...

    assert "not as **options" in refused(predict)


def test_a_type_without_json_is_named() -> None:
    def predict(x: complex) -> str: ...

    assert refused(predict) == "input 'x' of predict(): complex has no counterpart in JSON; a dataclass has"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Input(default=9, le=5), "default 9 is more than le=5"),
        (Input(default=0, ge=1), "default 0 is less than ge=1"),
        (Input(default=3, choices=[1, 2]), "default 3 is not one of [1, 2]"),
        (Input(regex="a"), "regex checks text"),
        (Input(max_length=3), "min_length and max_length bound text"),
        (Input(choices=[]), "choices is empty"),
    ],
)
def test_rules_that_contradict_are_refused(rule: Any, text: str) -> None:
    def predict(x: int = rule) -> str: ...

    assert text in refused(predict)


def test_streams_have_cogs_marks() -> None:
    def joined() -> ConcatenateIterator[str]: ...
    def apart() -> Iterator[int]: ...
    async def joined_async() -> AsyncConcatenateIterator[str]: ...
    async def apart_async() -> AsyncIterator[int]: ...

    for function in (joined, joined_async):
        assert Signature.of(function).output.schema() == {
            "type": "array", "title": "Output", "items": {"type": "string"},
            "x-cog-array-type": "iterator", "x-cog-array-display": "concatenate",
        }  # fmt: skip
    for function in (apart, apart_async):
        output = Signature.of(function).output
        assert output.is_streamed and "x-cog-array-display" not in output.schema()


def test_an_iterator_of_nothing_is_refused() -> None:
    def predict() -> ConcatenateIterator: ...  # type: ignore[type-arg]

    assert "Write `ConcatenateIterator[str]`" in refused(predict)


class Answer(BaseModel):
    text: str
    score: float | None
    tags: list[str] = dataclasses.field(default_factory=list)


def test_a_model_is_an_object_with_its_fields() -> None:
    def predict() -> Answer: ...

    schema = Signature.of(predict).output.schema()
    assert schema["properties"]["score"] == {"type": ["number", "null"], "title": "Score"}
    assert schema["properties"]["tags"]["items"] == {"type": "string"}
    assert schema["required"] == ["text"]


def test_arguments_are_what_was_annotated() -> None:
    def predict(
        number: float, whole: int, colour: Colour, secret: Secret, colours: list[Colour],
        either: str | int = "x", missing: str | None = None, hidden: Secret = Input(default="s"),
    ) -> str: ...  # fmt: skip

    given = {"number": 1, "whole": 2.0, "colour": "red", "secret": "key", "colours": ["blue"], "either": 5}
    arguments = Signature.of(predict).arguments(given)
    assert type(arguments["number"]) is float and type(arguments["whole"]) is int
    assert arguments["colour"] is Colour.RED and arguments["colours"] == [Colour.BLUE]
    assert str(arguments["secret"]) == "**********" and arguments["secret"].get_secret_value() == "key"
    assert arguments["either"] == 5 and arguments["missing"] is None
    assert arguments["hidden"].get_secret_value() == "s"


def test_an_argument_that_does_not_fit_names_its_input() -> None:
    def predict(file: Path) -> str: ...

    with pytest.raises(ValueError, match=r"input 'file': a file comes as a data: URL here"):
        Signature.of(predict).arguments({"file": "https://example.com/x.png"})
