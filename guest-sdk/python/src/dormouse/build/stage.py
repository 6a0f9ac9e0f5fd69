"""Lays out what goes into a component in one folder.

dormouse_app.py      the module componentize-py starts
dormouse_plan.json   what it is to load
dormouse/, cog/      the SDK
torch/, transformers/  the look-alikes
site/                requirements
predictor/           the author's folder
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import dormouse
from dormouse import lookalike

from .project import Project
from .report import Failure, Note

DATA_BYTES_MAX = 16 << 20
"""Data files of the author's folder, together; they are part of every instance's memory image."""

FOLDER = "predictor"
SITE = "site"

_APP = f"""\
import sys

sys.path[:0] = ["/0/{FOLDER}", "/0/{SITE}"]

from dormouse.guest.app import WitWorld as WitWorld
"""

_LEFT_OUT = (
    ".*", "__pycache__", "*.pyc", "*.wasm", "cog.yaml", "dormouse.toml", "requirements*.txt", "Dockerfile",
    "node_modules",
)  # fmt: skip
"""What is no part of a predictor."""

_WEIGHTS = ("*.bin", "*.ckpt", "*.gguf", "*.onnx", "*.pt", "*.pth", "*.safetensors")
"""What the host has in its own store; left out, and told."""

_NO_WEIGHTS = "is left out: weights live in the host, name a host model"


@dataclass
class Stage:
    """A folder that is laid out."""

    path: str
    data: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    @property
    def site(self) -> str:
        """Where requirements go."""
        return os.path.join(self.path, SITE)


def lay_out(project: Project, path: str) -> Stage:
    """Copies the SDK and the author's folder; requirements are installed into `site` after that."""
    stage = Stage(path)
    package = os.path.dirname(dormouse.__file__)
    shutil.copytree(
        package,
        os.path.join(path, "dormouse"),
        ignore=shutil.ignore_patterns("build", "site", "wit", "__pycache__"),
    )
    shutil.copytree(os.path.join(os.path.dirname(package), "cog"), os.path.join(path, "cog"))
    for name in lookalike.PACKAGES:
        shutil.copytree(os.path.join(lookalike.SITE, name), os.path.join(path, name))
    os.makedirs(stage.site)
    _copy_author(project, stage)
    _write(path, "dormouse_app.py", _APP)
    return stage


def write_plan(project: Project, stage: Stage, models: list[str], imports: list[str]) -> None:
    """Writes what `dormouse.guest.app` is to load."""
    plan = {
        "folder": FOLDER,
        "sites": [SITE],
        "file": project.file,
        "predictor": project.predictor,
        "name": project.name,
        "description": project.description,
        "models": list(dict.fromkeys([*project.models, *models])),
        "limits": project.limits,
        "imports": imports,
        "data": stage.data,
    }
    _write(stage.path, "dormouse_plan.json", json.dumps(plan))


def _copy_author(project: Project, stage: Stage) -> None:
    total = 0
    for name in _files(project.root):
        source = os.path.join(project.root, name)
        if _is_one_of(_WEIGHTS, os.path.basename(name)):
            stage.notes.append(Note("warning", _NO_WEIGHTS, name))
            continue
        if not name.endswith(".py"):
            stage.data.append(name)
            total += os.path.getsize(source)
            if total > DATA_BYTES_MAX:
                raise Failure(
                    f"data files of the folder have more than {DATA_BYTES_MAX} bytes, {name} among them",
                    advice="weights live in the host: name a host model and leave them out of the folder",
                )
        target = os.path.join(stage.path, FOLDER, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target)


def _files(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not _is_no_part(folder, name))
        for name in sorted(names):
            if not _is_one_of(_LEFT_OUT, name):
                yield os.path.relpath(os.path.join(folder, name), root)


def _is_no_part(parent: str, folder: str) -> bool:
    is_venv = os.path.isfile(os.path.join(parent, folder, "pyvenv.cfg"))
    return is_venv or _is_one_of(_LEFT_OUT, folder)


def _is_one_of(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _write(folder: str, name: str, text: str) -> None:
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text)
