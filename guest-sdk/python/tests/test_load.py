from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from dormouse.load import Loaded, LoadError, load
from dormouse.manifest import manifest
from dormouse.signature import SignatureError

HEADER = "from cog import BasePredictor, BaseRunner, Input\n"


def loaded(folder: pathlib.Path, source: str, name: str | None = None) -> Loaded:
    path = folder / "predict.py"
    path.write_text(HEADER + source)
    return load(str(path), name)


def test_the_only_predictor_is_found(tmp_path: pathlib.Path) -> None:
    found = loaded(tmp_path, "class Mine(BaseRunner):\n    def run(self) -> str: ...\n")
    assert (found.subject.__name__, found.method) == ("Mine", "run")


def test_a_function_is_found_when_there_is_no_class(tmp_path: pathlib.Path) -> None:
    assert loaded(tmp_path, "def predict(x: int) -> int: ...\n").method is None


def test_several_predictors_must_be_told_apart(tmp_path: pathlib.Path) -> None:
    source = "".join(f"class {n}(BasePredictor):\n    def predict(self) -> str: ...\n" for n in "AB")
    with pytest.raises(LoadError, match="several predictors: A, B"):
        loaded(tmp_path, source)
    assert loaded(tmp_path, source, "B").subject.__name__ == "B"


def test_run_and_predict_exclude_each_other(tmp_path: pathlib.Path) -> None:
    body = "    def run(self) -> str: ...\n    def predict(self) -> str: ...\n"
    with pytest.raises(SignatureError, match="both run"):
        loaded(tmp_path, "class P(BasePredictor):\n" + body)


def test_the_manifest_has_everything_the_host_reads(tmp_path: pathlib.Path) -> None:
    source = '''
class P(BasePredictor):
    """Says hello."""
    models = ["a"]
    def predict(self, name: str = Input(description="whom")) -> str: ...
'''
    assert manifest(loaded(tmp_path, source), "hello", ["b", "a"], {"timeout_ms": 5}) == {
        "interface": "dormouse:predictor@0.1.0",
        "name": "hello",
        "description": "Says hello.",
        "input": {
            "type": "object",
            "title": "Input",
            "properties": {"name": {"type": "string", "title": "Name", "description": "whom", "x-order": 0}},
            "required": ["name"],
            "additionalProperties": False,
        },
        "output": {"type": "string", "title": "Output"},
        "streaming": False,
        "models": ["a", "b"],
        "limits": {"timeout_ms": 5},
    }


def test_cog_answers_with_the_sdk() -> None:
    code = (
        "import cog, dormouse; from cog import *; from cog.types import Path as P; "
        "assert BasePredictor is dormouse.BasePredictor and P is dormouse.Path and cog.ExperimentalFeatureWarning"
    )
    environment = {"PYTHONPATH": "src"}
    folder = pathlib.Path(__file__).parent.parent
    subprocess.run([sys.executable, "-B", "-c", code], check=True, env=environment, cwd=folder)
