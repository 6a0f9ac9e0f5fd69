from __future__ import annotations

import pathlib

import pytest

from dormouse.build import usage
from dormouse.build.project import Project
from dormouse.build.report import Failure


def examine(folder: pathlib.Path, source: str, **files: str) -> usage.Usage:
    (folder / "predict.py").write_text(source)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    project = Project(root=str(folder), file="predict.py", predictor=None, name="test")
    return usage.examine(project, str(folder / "site"))


def failure(folder: pathlib.Path, source: str, **files: str) -> str:
    with pytest.raises(Failure) as caught:
        examine(folder, source, **files)
    return str(caught.value)


TUTORIAL = """\
from cog import BasePredictor, Input
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

class Predictor(BasePredictor):
    def setup(self):
        self.model = AutoModelForCausalLM.from_pretrained("llama", torch_dtype=torch.float16).cuda()
        self.tokenizer = AutoTokenizer.from_pretrained("llama")

    def predict(self, prompt: str = Input(description="Input prompt")) -> str:
        inputs = self.tokenizer(prompt, return_tensors="pt").cuda()
        outputs = self.model.generate(**inputs, max_new_tokens=100)
        return self.tokenizer.decode(outputs[0])
"""


def test_the_tutorial_has_nothing_to_report(tmp_path: pathlib.Path) -> None:
    found = examine(tmp_path, TUTORIAL)
    assert (found.models, found.notes, found.imports) == (["llama"], [], [])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch\nx = torch.nn.Linear(1, 2)\n", "predict.py:2: torch.nn has no counterpart"),
        ("import torch.nn as nn\n", "predict.py:1: torch.nn has no counterpart"),
        (
            "from transformers import CLIPModel\n",
            "predict.py:1: transformers.CLIPModel has no counterpart: the model runs in the host, not in this file",
        ),
        (
            "from transformers import pipeline\np = pipeline('summarization', model='m')\n",
            "predict.py:2: pipeline('summarization') has no host model, 'text-generation' has",
        ),
        (
            TUTORIAL + "        logits = self.model(**inputs).logits\n",
            "predict.py:14: self.model(...) reads logits, which stay in the host; use generate",
        ),
        (
            TUTORIAL + "        self.model.lm_head.weight\n",
            "predict.py:14: self.model.lm_head (AutoModelForCausalLM.lm_head) has no counterpart",
        ),
        (
            TUTORIAL.replace("max_new_tokens=100", "\n            logits_processor=[]"),
            "predict.py:13: self.model.generate(..., logits_processor=) has no counterpart",
        ),
        (
            "from dormouse.llm import Model\nModel('./weights')\n",
            "predict.py:2: './weights' is a path: weights live in the host, name a host model",
        ),
        ("import numpy as np\n", "predict.py:1: numpy is not pure Python and can't be loaded"),
        ("import emoji\n", "predict.py:1: emoji is not there: add emoji to python_packages in cog.yaml"),
        ("def f(:\n", "predict.py:1: is not Python: invalid syntax"),
    ],
)
def test_what_can_not_work_is_told_by_name_and_line(
    tmp_path: pathlib.Path, source: str, expected: str
) -> None:
    assert failure(tmp_path, source).startswith(expected)


def test_every_problem_is_told(tmp_path: pathlib.Path) -> None:
    text = failure(tmp_path, "import numpy\nimport torch\ntorch.stack([])\ntorch.cat([])\n")
    assert "predict.py:3: torch.stack" in text and "predict.py:4: torch.cat" in text


def test_files_of_the_folder_are_examined_as_well(tmp_path: pathlib.Path) -> None:
    assert failure(tmp_path, "import helper\n", helper="\nimport cv2\n").startswith(
        "helper.py:2: opencv-python"
    )


def test_an_import_that_may_fail_is_left_alone(tmp_path: pathlib.Path) -> None:
    source = "try:\n    import numpy\nexcept ImportError:\n    numpy = None\n"
    source += "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\n"
    assert examine(tmp_path, source).notes == []


def test_an_installed_requirement_is_there(tmp_path: pathlib.Path) -> None:
    (tmp_path / "site" / "emoji").mkdir(parents=True)
    examine(tmp_path, "import emoji\n")


def test_imports_inside_functions_are_collected(tmp_path: pathlib.Path) -> None:
    found = examine(tmp_path, "import json\ndef f():\n    import csv\n    from email import message\n")
    assert found.imports == ["csv", "email"]


def test_modules_that_can_not_do_their_work_are_told(tmp_path: pathlib.Path) -> None:
    found = examine(tmp_path, "import subprocess\nfrom urllib import request\n")
    assert [(note.line, note.message) for note in found.notes] == [
        (1, "subprocess: a component starts no processes"),
        (2, "urllib.request: a component reaches no network"),
    ]


def test_models_are_found_through_constants(tmp_path: pathlib.Path) -> None:
    source = """\
from dormouse import llm
from transformers import pipeline
NAME = "one"
class P:
    CHAT = "two"
    def setup(self):
        self.a = llm.Model(NAME)
        self.b = llm.Model(name="three")
        self.c = pipeline("text-generation", model="four")
"""
    assert examine(tmp_path, source).models == ["one", "three", "four"]


def test_a_model_without_a_literal_name_is_told(tmp_path: pathlib.Path) -> None:
    source = "import os\nfrom dormouse.llm import Model\nModel(os.environ['MODEL'])\n"
    (note,) = examine(tmp_path, source).notes
    assert note.line == 3 and note.message.startswith("os.environ['MODEL'] names a model but is no literal")


def test_a_name_that_stands_for_two_things_is_left_alone(tmp_path: pathlib.Path) -> None:
    source = TUTORIAL + "        self.model = unknown()\n        self.model.anything()\n"
    examine(tmp_path, source)
