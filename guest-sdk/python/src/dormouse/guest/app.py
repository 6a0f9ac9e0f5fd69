"""The component's world.

Importing this module is the build: it loads the author's file, makes the manifest, and what is in
memory then is the snapshot that every prediction starts from.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import sys
import tempfile
from typing import Any

from componentize_py_types import Err

from .. import host, threads
from ..load import find, import_file
from ..manifest import manifest
from ..worker import PredictionError, Worker
from . import archive, bindings, logs, loop, overlay

PLAN = "dormouse_plan.json"
"""What the build wants, beside the module that starts this one. See `dormouse.build.component`."""


class WitWorld:
    """The exports, each run by the worker."""

    def describe(self) -> str:
        return _worker.describe()

    def setup(self) -> None:
        _seeding.is_done = False
        _reported(_worker.setup)

    def predict(self, input: str) -> str:
        # What is in memory now is where every prediction starts. The author's own seed stands.
        if not _seeding.is_done:
            random.seed()
        return str(_reported(_worker.predict, input))


class _Seeding:
    """Notes that the author has seeded `random`."""

    def __init__(self) -> None:
        self.is_done = False
        self._seed = random.seed
        random.seed = self.seed

    def seed(self, *arguments: Any, **named: Any) -> None:
        self.is_done = True
        self._seed(*arguments, **named)


_seeding = _Seeding()


def _reported(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except PredictionError as error:
        raise Err(str(error)) from None


def _prepare(plan: dict[str, Any], here: str) -> Worker:
    folder = os.path.join(here, plan["folder"])
    threads.install()
    logs.install()
    os.chdir(folder)
    loaded = find(import_file(os.path.join(folder, plan["file"])), plan["predictor"])
    for name in plan["imports"]:
        _import_if_there(name)
    described = manifest(loaded, plan["name"], plan["models"], plan["limits"], plan["description"])
    worker = Worker(loaded, described, loop.run)
    _close(plan, here, folder)
    host.use(bindings.Host())
    return worker


def _import_if_there(name: str) -> None:
    """Imports what the author imports inside a function, as a prediction will find it here."""
    # Where this fails the import in the function fails as well, and the author handles it there.
    with contextlib.suppress(ImportError):
        importlib.import_module(name)


def _close(plan: dict[str, Any], here: str, folder: str) -> None:
    """Takes along what a prediction may still read: it sees no files."""
    later = archive.Archive()
    # `os` is frozen and does not know its file; `json` was read from the standard library's folder.
    standard = os.path.dirname(os.path.dirname(json.__file__))
    for root in (folder, *(os.path.join(here, name) for name in plan["sites"]), standard):
        later.add_tree(root)
    archive.remember_lines(folder)
    files = overlay.Overlay()
    for name in plan["data"]:
        with open(os.path.join(folder, name), "rb") as file:
            files.add(os.path.join(folder, name), file.read())
    sys.meta_path.append(later)
    tempfile.tempdir = overlay.FOLDERS[0]  # it would look for one by trial
    overlay.install(files)


_here = os.path.dirname(os.path.abspath(sys.modules["dormouse_app"].__file__ or ""))
with open(os.path.join(_here, PLAN), encoding="utf-8") as _file:
    _worker = _prepare(json.load(_file), _here)
