from __future__ import annotations

import pathlib

import pytest

from dormouse.build import project
from dormouse.build.report import Failure

PREDICT = "class Predictor: ...\n"


def read(folder: pathlib.Path, **files: str) -> project.Project:
    """The project in a folder with a predict.py and these files; `_` in a name stands for a dot."""
    (folder / "predict.py").write_text(PREDICT)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return project.read(str(folder))


def failure(folder: pathlib.Path, **files: str) -> str:
    with pytest.raises(Failure) as caught:
        read(folder, **files)
    return str(caught.value)


def test_a_folder_with_predict_py_is_a_project(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "My Model_2"
    folder.mkdir()
    found = read(folder)
    assert (found.file, found.predictor, found.name) == ("predict.py", None, "my-model-2")


def test_an_empty_folder_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Failure, match=r"neither predict.py nor run.py"):
        project.read(str(tmp_path))


COG = """\
build:
  gpu: true
  python_version: "3.11"
  python_packages:
    - "emoji==2.14.0"
  system_packages:
    - ffmpeg
  run:
    - echo hello
predict: "predict.py:Predictor"
concurrency:
  max: 4
environment:
  - MOOD=calm
image: r8.im/me/mine
"""


def test_cog_yaml_is_read_and_what_does_not_apply_is_told(tmp_path: pathlib.Path) -> None:
    found = read(tmp_path, cog_yaml=COG)
    assert (found.file, found.predictor) == ("predict.py", "Predictor")
    assert found.requirements == ["emoji==2.14.0"]
    assert found.settings == {"concurrency": 4, "env": {"MOOD": "calm"}}
    told = {(note.line, note.level, note.message.split(":")[0]) for note in found.notes}
    assert told == {
        (2, "info", "gpu is not used"),
        (3, "info", "python_version 3.11 is not used"),
        (6, "warning", "`system_packages` is not used"),
        (8, "warning", "`run` is not used"),
        (15, "info", "`image` is not used"),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'build:\ngpu: true\n  python_version: "3.11"\n',
            "cog.yaml:3: 'python_version: \"3.11\"' is indented by 2 spaces, but line 2 ('gpu: true') at 0 has "
            "a value and can't hold it; indent both the same",
        ),
        (
            "build:\n    gpu: true\n  python_version: '3.11'\n",
            "cog.yaml:3: \"python_version: '3.11'\" is indented by 2 spaces, which no line above is; use 0 or 4",
        ),
        ("build:\n\tgpu: true\n", "cog.yaml:2: is indented by a tab, YAML takes spaces only: 'gpu: true'"),
        (
            "build:\ngpu: true\n",
            "cog.yaml:2: `gpu` stands at the left edge but belongs under `build:`; indent it by two spaces",
        ),
        (
            "build:\n  gpu: true\n  predict: predict.py\n",
            "cog.yaml:3: `predict` stands under `build:` but belongs at the left edge",
        ),
        (
            "build:\n  python_packages: emoji\n",
            "cog.yaml:2: `python_packages` must be a list, each line starting with `- `",
        ),
        ("predict: nowhere.py:P\n", "cog.yaml:1: nowhere.py is not in"),
        ("- a\n", "cog.yaml:1: the file must hold `key: value` lines"),
        ("concurrency:\n  max: 0\n", "cog.yaml:2: concurrency is 0, it must be at least 1"),
        ('predict: "predict.py\n', "cog.yaml:2: found unexpected end of stream"),
        ("", "cog.yaml: is empty"),
    ],
)
def test_a_broken_cog_yaml_is_told_by_line(tmp_path: pathlib.Path, text: str, expected: str) -> None:
    assert failure(tmp_path, cog_yaml=text).startswith(expected)


def test_an_unknown_key_of_cog_yaml_is_guessed(tmp_path: pathlib.Path) -> None:
    (note,) = read(tmp_path, cog_yaml="build:\n  pyton_version: '3.14'\n").notes
    assert note.message == "`pyton_version` is unknown, did you mean `python_version`?"
    assert (note.file, note.line) == ("cog.yaml", 2)


def test_requirements_files_are_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "more.txt").write_text("b>=2 # why\n--extra-index-url https://example.com\n")
    found = read(tmp_path, requirements_txt="# all\na==1\n-r more.txt\n")
    assert found.requirements == ["a==1", "b>=2"]
    assert [(note.file, note.line) for note in found.notes] == [("more.txt", 2)]


def test_a_requirements_file_that_includes_itself_is_refused(tmp_path: pathlib.Path) -> None:
    assert "includes itself" in failure(tmp_path, requirements_txt="-r requirements.txt\n")


def test_dormouse_toml_goes_before_cog_yaml(tmp_path: pathlib.Path) -> None:
    (tmp_path / "app.py").write_text(PREDICT)
    toml = 'name = "mine"\npredict = "app.py:Predictor"\nmodels = ["a"]\ntimeout_ms = 5\nenv = { A = "b" }\n'
    found = read(tmp_path, dormouse_toml=toml, cog_yaml=COG)
    assert (found.name, found.file, found.models) == ("mine", "app.py", ["a"])
    assert found.limits == {"timeout_ms": 5} and found.settings["env"] == {"A": "b"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nam = 'x'\n", "'nam' is no key, they are name, "),
        ("models = 'x'\n", "'models' must be a list, not 'x'"),
        ("timeout_ms = true\n", "'timeout_ms' must be a int, not True"),
        ("a = \n", "Invalid value (at line 1, column 5)"),
    ],
)
def test_a_broken_dormouse_toml_is_told(tmp_path: pathlib.Path, text: str, expected: str) -> None:
    assert expected in failure(tmp_path, dormouse_toml=text)
