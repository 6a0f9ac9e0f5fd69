"""What steers a generation and what watches it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .tokenization import AutoTokenizer


class GenerationConfig:
    """Arguments of `generate`, kept together."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> GenerationConfig:
        """The host's defaults and what is given on top."""
        return cls(**options)


class StoppingCriteria:
    """Base of what may end a generation: called with the ids so far after each piece."""

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no __call__")


class StoppingCriteriaList(list[Callable[..., Any]]):
    """Several; the first that says so ends it."""


class TextStreamer:
    """Prints text as it is generated."""

    def __init__(
        self,
        tokenizer: AutoTokenizer,
        skip_prompt: bool = False,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt

    def begin(self, prompt: str, pieces: Iterable[str]) -> None:
        """Takes the prompt and the pieces of a generation that has started."""
        if not self.skip_prompt:
            self.on_finalized_text(prompt)
        for piece in pieces:
            self.on_finalized_text(piece)
        self.on_finalized_text("", stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Gets each piece; subclasses do something else with it."""
        print(text, end="\n" if stream_end else "", flush=True)


class TextIteratorStreamer(TextStreamer):
    """Iterates over text as it is generated.

    Files start `generate` in a thread and read here. A component has one thread: there `generate`
    starts the completion, which runs in the host, and reading waits for its next piece.
    """

    def __init__(
        self,
        tokenizer: AutoTokenizer,
        skip_prompt: bool = False,
        timeout: float | None = None,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> None:
        super().__init__(tokenizer, skip_prompt)
        self._ready: deque[str] = deque()
        self._running: Iterator[str] = iter(())

    def begin(self, prompt: str, pieces: Iterable[str]) -> None:
        if not self.skip_prompt:
            self._ready.append(prompt)
        self._running = iter(pieces)

    def drain(self) -> None:
        """Waits for the end; what came is still to be read."""
        self._ready.extend(self._running)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return self._ready.popleft() if self._ready else next(self._running)
