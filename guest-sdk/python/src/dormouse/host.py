"""The host as the SDK sees it: `wit/predictor.wit` in Python's words.

Inside a component `dormouse.guest` puts the real one in place. Elsewhere, such as in an author's unit
tests, there is no model to open, and what a prediction tells goes to standard output and error.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Protocol

LEVELS = ("debug", "info", "warn", "error")


@dataclass
class Sampling:
    """How the next token is drawn. `None` takes the host's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None


@dataclass
class Request:
    """One completion to run. The prompt is text, messages of (role, content), or tokens."""

    prompt: str | list[tuple[str, str]] | list[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: list[str] = field(default_factory=list)
    format: str | None = None
    logprobs: int | None = None
    adapter: str | None = None


@dataclass
class TokenLogprob:
    """A token and the natural logarithm of its probability, and the likeliest at its place."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass
class Chunk:
    """A piece of a completion: final text, the tokens since the last one, their probabilities."""

    text: str
    tokens: list[int]
    logprobs: list[TokenLogprob]


@dataclass
class Usage:
    """What a completion cost. Times are microseconds."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    wake_us: int
    queue_us: int
    prefill_us: int
    decode_us: int
    device_us: int


@dataclass
class ModelInfo:
    """Facts about a model."""

    name: str
    architecture: str
    quantization: str
    digest: str
    context_length: int
    dimension: int
    vocabulary: int


class Completion(Protocol):
    """A completion under way."""

    def next(self) -> Chunk | None: ...
    def finish(self) -> str | None: ...
    def usage(self) -> Usage: ...


class Model(Protocol):
    """A model that is ready to be used."""

    def info(self) -> ModelInfo: ...
    def tokenize(self, text: str) -> list[int]: ...
    def tokenize_rendered(self, text: str) -> list[int]: ...
    def render(self, messages: list[tuple[str, str]]) -> str: ...
    def detokenize(self, tokens: list[int]) -> str: ...
    def generate(self, request: Request) -> Completion: ...
    def embed(self, inputs: list[str]) -> list[list[float]]: ...


class Host(Protocol):
    """What a predictor may ask of its host."""

    def open(self, name: str) -> Model: ...
    def emit(self, json: str) -> None: ...
    def progress(self, fraction: float, note: str) -> None: ...
    def log(self, level: str, message: str) -> None: ...
    def metric(self, name: str, value: float) -> None: ...


class NoHost:
    """Outside of a component."""

    def open(self, name: str) -> Model:
        raise RuntimeError(
            f"model {name!r} lives in a host: run the predictor by `dormouse predict`, "
            "or put your own host in place by `dormouse.host.use` in a test"
        )

    def emit(self, json: str) -> None:
        print(json)

    def progress(self, fraction: float, note: str) -> None:
        print(f"{fraction:.0%} {note}", file=sys.stderr)

    def log(self, level: str, message: str) -> None:
        print(f"{level}: {message}", file=sys.stderr)

    def metric(self, name: str, value: float) -> None:
        pass


_current: Host = NoHost()


def current() -> Host:
    """The host in place."""
    return _current


def use(host: Host) -> Host:
    """Puts a host in place and returns the one before."""
    global _current
    before, _current = _current, host
    return before
