"""A host for tests: it keeps what a predictor tells it, and its model continues text with numbered words."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import pytest

from dormouse import host, llm, lookalike

sys.path.insert(0, lookalike.SITE)


class FakeHost:
    """Keeps everything it is told."""

    def __init__(self) -> None:
        self.emitted: list[Any] = []
        self.logs: list[tuple[str, str]] = []
        self.metrics: dict[str, float] = {}
        self.notes: list[tuple[float, str]] = []
        self.models: list[FakeModel] = []

    def open(self, name: str) -> FakeModel:
        if name == "unknown":
            raise llm.UnknownModel(f"no model {name!r}")
        self.models.append(FakeModel(name))
        return self.models[-1]

    def emit(self, text: str) -> None:
        self.emitted.append(json.loads(text))

    def progress(self, fraction: float, note: str) -> None:
        self.notes.append((fraction, note))

    def log(self, level: str, message: str) -> None:
        self.logs.append((level, message))

    def metric(self, name: str, value: float) -> None:
        self.metrics[name] = value


class FakeModel:
    """One token a word, `<end>` a control token; a completion's words are ` w0 w1 w2`, up to five."""

    WORDS = 5
    END = "<end>\0"  # another piece than the text "<end>"

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: list[host.Request] = []
        self._vocabulary: list[str] = []

    def info(self) -> host.ModelInfo:
        return host.ModelInfo(self.name, "llama", "Q4_1", "sha256:0", 2048, 576, 49152)

    def tokenize(self, text: str) -> list[int]:
        words = text.split(" ")
        pieces = [words[0], *(" " + word for word in words[1:])] if text else []
        return [self._id(piece) for piece in pieces if piece]

    def tokenize_rendered(self, text: str) -> list[int]:
        parts = text.split("<end>")
        tokens = self.tokenize(parts[0])
        for part in parts[1:]:
            tokens += [self._id(self.END), *self.tokenize(part)]
        return tokens

    def render(self, messages: list[tuple[str, str]]) -> str:
        return "".join(f"{role}: {content}<end>" for role, content in messages) + "assistant:"

    def detokenize(self, tokens: list[int]) -> str:
        return "".join(self._vocabulary[token] for token in tokens).replace("\0", "")

    def generate(self, request: host.Request) -> FakeCompletion:
        self.requests.append(request)
        words = [f" w{n}" for n in range(min(request.max_tokens, self.WORDS))]
        tokens = [self.tokenize(word) for word in words]
        return FakeCompletion(list(zip(words, tokens, strict=True)), prompt_tokens=7)

    def embed(self, inputs: list[str]) -> list[list[float]]:
        return [[1.0, 0.0] for _ in inputs]

    def _id(self, piece: str) -> int:
        if piece not in self._vocabulary:
            self._vocabulary.append(piece)
        return self._vocabulary.index(piece)


class FakeCompletion:
    """A completion whose pieces are known."""

    def __init__(self, pieces: list[tuple[str, list[int]]], prompt_tokens: int) -> None:
        self._pieces = iter(pieces)
        self._prompt_tokens = prompt_tokens
        self._count = itertools.count()
        self._finish: str | None = None

    def next(self) -> host.Chunk | None:
        piece = next(self._pieces, None)
        if piece is None:
            self._finish = "length"
            return None
        next(self._count)
        return host.Chunk(piece[0], piece[1], [])

    def finish(self) -> str | None:
        return self._finish

    def usage(self) -> host.Usage:
        return host.Usage(self._prompt_tokens, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def fake_host() -> Any:
    fake = FakeHost()
    before = host.use(fake)
    yield fake
    host.use(before)
