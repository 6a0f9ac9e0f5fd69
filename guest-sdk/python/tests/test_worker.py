from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from conftest import FakeHost

import dormouse
from dormouse import BaseModel, BasePredictor, BaseRunner, ConcatenateIterator, Input, Path
from dormouse.guest import loop
from dormouse.llm import Model
from dormouse.load import find
from dormouse.manifest import manifest
from dormouse.worker import PredictionError, Worker, dumps


def worker(subject: Any) -> Worker:
    """A worker of a class or function, set up."""
    module = type("module", (), {"__name__": "predict", subject.__name__: subject})
    loaded = find(module, subject.__name__)  # type: ignore[arg-type]
    made = Worker(loaded, manifest(loaded, "test"), loop.run)
    made.setup()
    return made


def answer(subject: Any, **given: Any) -> Any:
    """What a predictor answers."""
    return json.loads(worker(subject).predict(json.dumps(given)))


def failure(subject: Any, **given: Any) -> str:
    with pytest.raises(PredictionError) as caught:
        worker(subject).predict(json.dumps(given))
    return str(caught.value)


def test_setup_runs_before_predict() -> None:
    class Predictor(BasePredictor):
        def setup(self) -> None:
            self.greeting = "Hello"

        def predict(self, name: str = Input(default="you")) -> str:
            return f"{self.greeting}, {name}!"

    assert answer(Predictor) == "Hello, you!"
    assert answer(Predictor, name="Ada") == "Hello, Ada!"


def test_setup_may_take_weights_and_be_async(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COG_WEIGHTS", "w")

    class Runner(BaseRunner):
        async def setup(self, weights: str | None) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            self.weights = weights

        async def run(self) -> str:
            return str(self.weights)

    assert answer(Runner) == "w"


def test_a_function_is_a_predictor() -> None:
    def predict(x: int) -> int:
        return x + 1

    assert answer(predict, x=1) == 2


def test_streams_are_emitted_as_they_come(fake_host: FakeHost) -> None:
    def predict(n: int) -> ConcatenateIterator[str]:
        for i in range(n):
            yield str(i)

    assert answer(predict, n=3) is None
    assert fake_host.emitted == ["0", "1", "2"]


def test_async_streams_are_emitted(fake_host: FakeHost) -> None:
    async def predict() -> AsyncIterator[int]:
        for i in range(2):
            await asyncio.sleep(0)
            yield i

    assert answer(predict) is None
    assert fake_host.emitted == [0, 1]


def test_a_completion_can_be_returned_as_text_or_as_stream(fake_host: FakeHost) -> None:
    def whole() -> str:
        return Model("m").generate("x", max_tokens=2)  # type: ignore[return-value]

    def streamed() -> ConcatenateIterator[str]:
        return Model("m").generate("x", max_tokens=2)  # type: ignore[return-value]

    assert answer(whole) == " w0 w1"
    assert answer(streamed) is None
    assert fake_host.emitted == [" w0", " w1"]


def test_a_generator_fills_a_list_that_is_not_streamed() -> None:
    def predict() -> list[int]:
        yield from (1, 2)

    assert answer(predict) == [1, 2]


class Mood(enum.Enum):
    CALM = "calm"


@dataclasses.dataclass
class Inner:
    size: int


class Outer(BaseModel):
    mood: Mood
    inner: Inner
    maybe: int | None = None


def test_structured_output_is_written_field_by_field() -> None:
    def predict() -> Outer:
        return Outer(mood=Mood.CALM, inner=Inner(2))

    def opaque() -> Any:
        return {"outer": predict(), "when": datetime.date(2026, 1, 2), "moods": (Mood.CALM,)}

    expected = {"mood": "calm", "inner": {"size": 2}, "maybe": None}
    assert answer(predict) == expected
    assert answer(opaque) == {"outer": expected, "when": "2026-01-02", "moods": ["calm"]}


class Scored(BaseModel):
    label: str
    score: float


def test_a_model_output_accepts_itself_or_a_dict_and_nothing_else() -> None:
    def itself() -> Scored:
        return Scored(label="a", score=1)

    def mapping() -> Scored:
        return {"label": "a", "score": 1}  # type: ignore[return-value]

    def wrong() -> Scored:
        return "a"  # type: ignore[return-value]

    assert answer(itself) == answer(mapping) == {"label": "a", "score": 1.0}
    assert failure(wrong) == "output is a str, not a Scored"


def test_a_file_goes_in_and_out_as_a_data_url() -> None:
    def predict(text: Path) -> Path:
        target = Path(str(text) + ".upper.txt")
        target.write_text(text.read_text().upper())
        return target

    assert answer(predict, text="data:text/plain;base64,aGVsbG8=") == "data:text/plain;base64,SEVMTE8="


def test_an_exception_is_the_predictions_error_and_its_traceback_is_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def predict() -> str:
        raise ValueError("the sky is falling")

    assert failure(predict) == "the sky is falling"
    errors = capsys.readouterr().err
    assert "ValueError: the sky is falling" in errors and "dormouse/worker.py" not in errors


def test_an_exception_without_text_goes_by_its_name() -> None:
    def predict() -> str:
        raise LookupError

    assert failure(predict) == "LookupError"


def test_exit_is_an_error() -> None:
    def predict() -> str:
        raise SystemExit(3)

    assert failure(predict) == "predictor exited with 3 instead of returning"


def test_cancelation_passes_by_except_exception() -> None:
    def predict() -> str:
        try:
            raise dormouse.CancelationException
        except Exception:
            return "swallowed"

    assert failure(predict) == "cancelled"


def test_what_json_can_not_hold_is_an_error() -> None:
    def nan() -> float:
        return float("nan")

    def thing() -> Any:
        return object()

    assert "NaN or infinity" in failure(nan)
    assert failure(thing) == "output has an object, which JSON can't hold"


def test_lone_surrogates_do_not_reach_the_host() -> None:
    assert dumps("a\ud800b") == '"a?b"'
    assert dumps("日本 🦔 \u2028") == '"日本 🦔 \u2028"'


def test_metrics_progress_and_logs_reach_the_host(fake_host: FakeHost) -> None:
    def predict() -> str:
        scope = dormouse.current_scope()
        scope.record_metric("tokens", 2)
        scope.record_metric("tokens", 3, mode="incr")
        scope.metrics["ratio"] = 0.5
        scope.metrics.record("names", "a", mode="append")
        dormouse.emit_metric("old", 1)
        dormouse.progress(0.5, "half")
        dormouse.log("note", level="warn")
        return "done"

    assert answer(predict) == "done"
    assert fake_host.metrics == {"tokens": 5.0, "ratio": 0.5, "old": 1.0}
    assert fake_host.notes == [(0.5, "half")]
    assert fake_host.logs == [("info", "metric names = ['a']"), ("warn", "note")]


def test_tasks_run_side_by_side_and_executors_run_in_line() -> None:
    async def predict() -> list[int]:
        async def one(n: int) -> int:
            await asyncio.sleep(0.001 * n)
            return n

        return await asyncio.gather(one(2), one(1), asyncio.to_thread(lambda: 3))

    assert answer(predict) == [2, 1, 3]


def test_waiting_for_what_can_not_happen_is_an_error() -> None:
    async def predict() -> str:
        await asyncio.Event().wait()
        return "never"

    assert failure(predict) == "predict waits for something that can't happen: no timer or task is left"


def test_an_iterator_that_was_promised_must_come() -> None:
    def predict() -> Iterator[str]:
        return "text"  # type: ignore[return-value]

    assert failure(predict) == "predict returned str, its signature says an iterator"
