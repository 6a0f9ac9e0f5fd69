from __future__ import annotations

import pathlib

import pytest

from dormouse.build import project, stage
from dormouse.build.report import Failure


def lay_out(tmp_path: pathlib.Path, **files: str) -> tuple[stage.Stage, pathlib.Path]:
    """What is laid out of a folder with a predict.py and these files; `__` in a name stands for a slash."""
    root = tmp_path / "project"
    for name, text in {"predict_py": "class Predictor: ...\n", **files}.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    staged = stage.lay_out(project.read(str(root)), str(tmp_path / "stage"))
    return staged, tmp_path / "stage"


def test_modules_and_data_are_taken_along(tmp_path: pathlib.Path) -> None:
    staged, path = lay_out(tmp_path, build__more_py="x = 1\n", words_txt="a b")
    assert staged.data == ["words.txt"]
    assert (path / "predictor/build/more.py").read_text() == "x = 1\n"
    assert (path / "predictor/words.txt").read_text() == "a b"
    assert (path / "torch/__init__.py").is_file() and (path / "cog/__init__.py").is_file()
    assert not (path / "dormouse/build").exists()


def test_what_is_no_part_of_a_predictor_is_left_out(tmp_path: pathlib.Path) -> None:
    staged, path = lay_out(tmp_path, env__pyvenv_cfg="", env__lib_py="", old_wasm="", requirements_txt="")
    assert staged.data == [] and staged.notes == []
    assert [file.name for file in (path / "predictor").iterdir()] == ["predict.py"]


def test_weights_are_left_out_and_told(tmp_path: pathlib.Path) -> None:
    staged, _ = lay_out(tmp_path, weights__model_safetensors="...")
    (note,) = staged.notes
    assert (note.level, note.file) == ("warning", "weights/model.safetensors")
    assert note.message == "is left out: weights live in the host, name a host model"


def test_too_much_data_is_refused_by_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "DATA_BYTES_MAX", 10)
    with pytest.raises(Failure, match=r"more than 10 bytes, words.txt among them"):
        lay_out(tmp_path, words_txt="eleven bytes")
