"""`dormouse.host` over the generated bindings of `wit/predictor.wit`."""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

from componentize_py_types import Err
from wit_world.imports import llm, output

from .. import host
from .. import llm as models
from ..types import CancelationException

_LEVELS = {name: getattr(output.Level, name.upper()) for name in host.LEVELS}

_ERRORS = {
    llm.Error_UnknownModel: models.UnknownModel,
    llm.Error_Invalid: models.Invalid,
    llm.Error_TooLong: models.TooLong,
    llm.Error_Overloaded: models.Overloaded,
    llm.Error_Failed: models.Failed,
}


class Host:
    """The host this component runs in."""

    def open(self, name: str) -> Model:
        return Model(_call(llm.Model.open, name))

    def emit(self, json: str) -> None:
        try:
            output.emit(json)
        except Err as error:
            raise RuntimeError(error.value) from None

    def progress(self, fraction: float, note: str) -> None:
        output.progress(fraction, note)

    def log(self, level: str, message: str) -> None:
        output.log(_LEVELS[level], message)

    def metric(self, name: str, value: float) -> None:
        output.metric(name, value)


class Model:
    """A model that is open."""

    def __init__(self, handle: llm.Model) -> None:
        self._handle = handle

    def info(self) -> host.ModelInfo:
        return host.ModelInfo(**vars(self._handle.info()))

    def tokenize(self, text: str) -> list[int]:
        return list(_call(self._handle.tokenize, text))

    def tokenize_rendered(self, text: str) -> list[int]:
        return list(_call(self._handle.tokenize_rendered, text))

    def render(self, messages: list[tuple[str, str]]) -> str:
        return str(_call(self._handle.render, _messages(messages)))

    def detokenize(self, tokens: list[int]) -> str:
        return str(_call(self._handle.detokenize, tokens))

    def generate(self, request: host.Request) -> Completion:
        return Completion(_call(self._handle.generate, _request(request)))

    def embed(self, inputs: list[str]) -> list[list[float]]:
        return list(_call(self._handle.embed, inputs))


class Completion:
    """A completion that runs."""

    def __init__(self, handle: llm.Completion) -> None:
        self._handle = handle

    def next(self) -> host.Chunk | None:
        chunk = _call(self._handle.next)
        if chunk is None:
            return None
        logprobs = [host.TokenLogprob(**vars(logprob)) for logprob in chunk.logprobs]
        return host.Chunk(chunk.text, chunk.tokens, logprobs)

    def finish(self) -> str | None:
        finish = self._handle.finish()
        return None if finish is None else finish.name.lower()

    def usage(self) -> host.Usage:
        return host.Usage(**vars(self._handle.usage()))


def _request(request: host.Request) -> llm.Request:
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    fields["prompt"] = _prompt(request.prompt)
    fields["sampling"] = llm.Sampling(**vars(request.sampling))
    return llm.Request(**fields)


def _prompt(prompt: str | list[Any]) -> llm.Prompt:
    if isinstance(prompt, str):
        return llm.Prompt_Text(prompt)
    if prompt and isinstance(prompt[0], int):
        return llm.Prompt_Tokens(prompt)
    return llm.Prompt_Messages(_messages(prompt))


def _messages(messages: list[tuple[str, str]]) -> list[llm.Message]:
    return [llm.Message(role, content) for role, content in messages]


def _call(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Err as error:
        _raise(error.value)


def _raise(error: Any) -> NoReturn:
    if isinstance(error, llm.Error_Cancelled):
        raise CancelationException from None
    raise _ERRORS[type(error)](error.value) from None
