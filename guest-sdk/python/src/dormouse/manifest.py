"""The manifest: everything the host knows of a predictor without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .load import Loaded

INTERFACE = "dormouse:predictor@0.1.0"


def manifest(
    loaded: Loaded,
    name: str,
    models: Sequence[str] = (),
    limits: Mapping[str, int] | None = None,
    description: str | None = None,
) -> dict[str, Any]:
    """What `describe` answers. `models` are those that were found or configured beside the class's."""
    signature = loaded.signature
    return {
        "interface": INTERFACE,
        "name": name,
        "description": loaded.description if description is None else description,
        "input": signature.input_schema(),
        "output": signature.output.schema(),
        "streaming": signature.output.is_streamed,
        "models": list(dict.fromkeys([*loaded.models, *models])),
        "limits": dict(limits or {}),
    }
