"""`BaseModel`: an output, or part of one, with named fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, dataclass_transform


@dataclass_transform()
class BaseModel:
    """Base of an output with several fields; a subclass becomes a dataclass.

    `class Output(BaseModel, auto_dataclass=False)` leaves that to the author.
    """

    def __init_subclass__(cls, *, auto_dataclass: bool = True, **options: Any) -> None:
        super().__init_subclass__()
        if auto_dataclass:
            dataclass(**options)(cls)
