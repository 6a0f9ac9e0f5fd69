"""Models that live in the host.

from dormouse.llm import Model

model = Model("smollm2")
for piece in model.generate("Why do dormice sleep?", max_tokens=100):
    print(piece, end="")

# Several at once: `generate` returns at once, and they share batches.
running = [model.generate(f"The {name} dormouse") for name in ("hazel", "edible")]
texts = [completion.text() for completion in running]
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import Any

from . import host
from .host import Chunk, ModelInfo, TokenLogprob, Usage

__all__ = [
    "Chunk",
    "Completion",
    "Error",
    "Failed",
    "Invalid",
    "Message",
    "Model",
    "ModelInfo",
    "Overloaded",
    "TokenLogprob",
    "TooLong",
    "UnknownModel",
    "Usage",
]

MAX_TOKENS = 256
"""Tokens generated at most, unless `max_tokens` says otherwise."""

Message = Mapping[str, str] | tuple[str, str]
"""A turn of a chat: `{"role": "user", "content": "..."}` or `("user", "...")`."""


class Error(Exception):
    """Why a call on a model did not work."""


class UnknownModel(Error):
    """No such model on this node, or not declared by this function."""


class Invalid(Error, ValueError):
    """The request breaks a rule."""


class TooLong(Error, ValueError):
    """The prompt and `max_tokens` together exceed the context length."""


class Overloaded(Error):
    """The node can't serve this now; it may be tried again."""


class Failed(Error):
    """The model failed while computing."""


class Model:
    """A model of the host, shared with every other function that opens it.

    Its name must stand in the function's manifest: a literal in `Model("...")` is found by the
    build, anything else is declared by `models = [...]` in the class or in dormouse.toml.
    """

    def __init__(self, name: str) -> None:
        self._handle = host.current().open(name)
        self.name = name

    @property
    def info(self) -> ModelInfo:
        """Context length, dimension, vocabulary, quantization, digest."""
        return self._handle.info()

    def generate(
        self,
        prompt: str | Sequence[Message] | Sequence[int],
        *,
        max_tokens: int = MAX_TOKENS,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repeat_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        format: Mapping[str, Any] | str | None = None,
        logprobs: int | None = None,
        adapter: str | None = None,
    ) -> Completion:
        """Starts a completion and returns at once.

        Args:
            prompt: text to continue; messages, rendered by the model's own chat template; or token
                ids.
            max_tokens: the most tokens to generate, at least 1.
            temperature: 0, the default, always takes the likeliest token; at most 100.
            top_p: draw from the likeliest tokens whose probabilities sum to this much, in (0, 1].
            top_k: draw from this many of the likeliest tokens; 0 for all.
            min_p: drop tokens less likely than this fraction of the likeliest, in [0, 1].
            repeat_penalty: make recent tokens less likely by this factor, in (0, 10]; 1 is off.
            seed: the same seed, prompt and sampling give the same text.
            stop: the text ends before any of these; at most 16.
            format: a JSON Schema that the text must match.
            logprobs: report the log-probability of each token and this many alternatives, at most 20.
            adapter: name of a LoRA adapter to apply.
        """
        sampling = host.Sampling(temperature, top_p, top_k, min_p, repeat_penalty, seed)
        request = host.Request(
            prompt=_prompt(prompt),
            max_tokens=max_tokens,
            sampling=sampling,
            stop=[stop] if isinstance(stop, str) else list(stop),
            format=format if format is None or isinstance(format, str) else json.dumps(format),
            logprobs=logprobs,
            adapter=adapter,
        )
        return Completion(self._handle.generate(request))

    def embed(self, inputs: Sequence[str]) -> list[list[float]]:
        """One embedding of unit length for each input."""
        return self._handle.embed([inputs] if isinstance(inputs, str) else list(inputs))

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text. Control tokens spelled in it stay text."""
        return self._handle.tokenize(text)

    def tokenize_rendered(self, text: str) -> list[int]:
        """The tokens of a text in which control tokens are spelled, such as one that `render` wrote.

        A caller's words don't belong in it unchecked: they could spell the end of their turn.
        """
        return self._handle.tokenize_rendered(text)

    def render(self, messages: Sequence[Message]) -> str:
        """A chat as the model's own template writes it, up to the assistant's turn."""
        return self._handle.render([_message(message) for message in messages])

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD."""
        return self._handle.detokenize(list(tokens))

    def __repr__(self) -> str:
        return f"Model({self.name!r})"


class Completion:
    """A completion under way: an iterator over its text as it is generated.

    It runs whether it is read or not; dropping the last reference cancels it. `str(completion)` and
    `await completion` are its whole text.
    """

    def __init__(self, handle: host.Completion) -> None:
        self._handle = handle
        self._pieces: list[str] = []
        self._is_over = False

    def chunks(self) -> Iterator[Chunk]:
        """The pieces not read yet, with their tokens, and log-probabilities if asked for.

        A piece's text is empty while a stop string or a character is incomplete.
        """
        while not self._is_over:
            chunk = self._handle.next()
            if chunk is None:
                self._is_over = True
                return
            self._pieces.append(chunk.text)
            yield chunk

    def __iter__(self) -> Iterator[str]:
        return (chunk.text for chunk in self.chunks() if chunk.text)

    async def __aiter__(self) -> AsyncIterator[str]:
        for text in self:
            yield text

    def __await__(self) -> Generator[None, None, str]:
        yield  # lets other tasks start their completions before this one waits
        return self.text()

    def text(self) -> str:
        """Waits for the end and returns the whole text, what was read before included."""
        for _ in self.chunks():
            pass
        return "".join(self._pieces)

    def __str__(self) -> str:
        return self.text()

    @property
    def finish(self) -> str | None:
        """Why it ended: `stop`, `length` or `cancelled`; `None` while it runs."""
        return self._handle.finish()

    @property
    def usage(self) -> Usage:
        """What it has cost so far."""
        return self._handle.usage()


def _prompt(prompt: str | Sequence[Message] | Sequence[int]) -> str | list[tuple[str, str]] | list[int]:
    if isinstance(prompt, str):
        return prompt
    items = list(prompt)
    if all(isinstance(item, int) for item in items):
        return items  # type: ignore[return-value]
    return [_message(item) for item in items]


def _message(message: Any) -> tuple[str, str]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else message
    if not isinstance(role, str) or not isinstance(content, str):
        raise Invalid(f"a message needs a role and a content that are text, and {message!r} has not")
    return role, content
