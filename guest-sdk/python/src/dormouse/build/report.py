"""What a build tells while it runs, as JSON lines on standard error.

{"event": "step", "step": "requirements", "message": "2 packages"}
{"event": "note", "level": "warning", "file": "cog.yaml", "line": 3, "message": "..."}
{"event": "failed", "file": "predict.py", "line": 12, "message": "...", "advice": "..."}
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal


class Failure(Exception):
    """Why there is no component, with where and with what to do about it."""

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, advice: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line
        self.advice = advice

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return where + self.message + (f"\n{self.advice}" if self.advice else "")


@dataclass(frozen=True)
class Note:
    """Something the author should know: `warning` when a prediction may differ, `info` otherwise."""

    level: Literal["info", "warning"]
    message: str
    file: str | None = None
    line: int | None = None


class Reporter:
    """Writes events and keeps the notes."""

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self.notes: list[Note] = []

    def step(self, step: str, message: str) -> None:
        """A part of the build begins."""
        self._write({"event": "step", "step": step, "message": message})

    def note(self, note: Note) -> None:
        """Something was noticed; the same is told once."""
        if note not in self.notes:
            self.notes.append(note)
            self._write({"event": "note", **asdict(note)})

    def failed(self, failure: Failure) -> None:
        """The build ends here."""
        fields = {"file": failure.file, "line": failure.line, "message": failure.message}
        self._write({"event": "failed", **fields, "advice": failure.advice})

    def _write(self, event: dict[str, Any]) -> None:
        print(json.dumps(event), file=self._stream, flush=True)
