"""The scope of a prediction: its metrics and its logs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from . import host

_MODES = ("replace", "incr", "append")


class Metrics:
    """The numbers a prediction records. `metrics["tokens"] = 12` works as well."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def record(self, name: str, value: Any, mode: str | None = None) -> None:
        """Records a value: `replace` it, `incr` a number by it, or `append` it to a list.

        The host keeps numbers. Another value stays visible to the predictor and goes to the logs.
        """
        mode = mode or "replace"
        if mode not in _MODES:
            raise ValueError(f"metric mode is {mode!r}, it must be one of {', '.join(_MODES)}")
        if mode == "incr":
            value = self._values.get(name, 0) + value
        elif mode == "append":
            value = [*self._values.get(name, []), value]
        self._values[name] = value
        if isinstance(value, (bool, int, float)):
            host.current().metric(name, float(value))
        else:
            host.current().log("info", f"metric {name} = {value!r}")

    def delete(self, name: str) -> None:
        """Forgets a value here; what the host has recorded stays."""
        self._values.pop(name, None)

    def __setitem__(self, name: str, value: Any) -> None:
        self.record(name, value)

    def __delitem__(self, name: str) -> None:
        self.delete(name)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __repr__(self) -> str:
        return f"Metrics({self._values!r})"


class Scope:
    """One prediction, as the predictor sees it."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.context: Mapping[str, str] = MappingProxyType({})

    def record_metric(self, name: str, value: Any, mode: str | None = None) -> None:
        """The same as `metrics.record`."""
        self.metrics.record(name, value, mode)


_current = Scope()


def current_scope() -> Scope:
    """The scope of the prediction that runs. There is one in an instance."""
    return _current


def emit_metric(name: str, value: float) -> None:
    """The older name of `current_scope().record_metric`."""
    current_scope().record_metric(name, value)


def progress(fraction: float, note: str = "") -> None:
    """Reports how far the prediction is, from 0 to 1, with a short note."""
    host.current().progress(fraction, note)


def log(message: str, level: str = "info") -> None:
    """Adds a line to the prediction's logs; the level is debug, info, warn or error."""
    if level not in host.LEVELS:
        raise ValueError(f"log level is {level!r}, it must be one of {', '.join(host.LEVELS)}")
    host.current().log(level, message)
