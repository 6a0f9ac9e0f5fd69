"""Does what `cases.json` asks of a predictor in every language."""

from collections.abc import Iterator
from typing import Any, Optional

from dormouse import BasePredictor, Input, current_scope, log, progress
from dormouse.llm import Model, UnknownModel

ACTS = ["echo", "count", "tell", "fail", "fail_late", "forever", "complete", "several", "open"]


class Behaviour(BasePredictor):
    models = ["smollm2"]

    def predict(
        self,
        act: str = Input(description="What to do", choices=ACTS),
        text: str = Input(default="hase", max_length=200_000),
        count: int = Input(default=3, ge=0, le=1000),
        ratio: float = Input(default=0.5, ge=0.125, le=0.875),
        flag: bool = False,
        tags: list[str] = Input(default=[]),
        maybe: Optional[str] = None,
    ) -> Iterator[Any]:
        if act == "echo":
            yield {"text": text, "count": count, "ratio": ratio, "flag": flag, "tags": tags, "maybe": maybe}
        elif act == "count":
            yield from range(count)
        elif act == "tell":
            print("printed")
            log("warned 日本 🐭", level="warn")
            progress(0.5, "half")
            current_scope().record_metric("answer", 42.5)
            yield "told"
        elif act == "fail":
            raise RuntimeError("the sky is falling 🌧")
        elif act == "fail_late":
            yield from range(count)
            raise RuntimeError("the sky is falling 🌧")
        elif act == "forever":
            number = 0
            while True:
                yield number
                number += 1
        elif act == "complete":
            yield from Model("smollm2").generate(text, max_tokens=count)
        elif act == "several":
            model = Model("smollm2")
            running = [model.generate([("system", text), ("user", tag)], max_tokens=count) for tag in tags]
            yield from (completion.text() for completion in running)
        elif act == "open":
            try:
                yield repr(Model(text))
            except UnknownModel:
                yield "unknown"
