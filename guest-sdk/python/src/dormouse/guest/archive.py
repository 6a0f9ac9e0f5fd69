"""Modules that are imported later than at build time, when there are no files to read them from."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import os
import sys
import zlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

SKIPPED = frozenset(
    {
        "__pycache__", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests",
        "tkinter", "turtle.py", "turtledemo", "venv", "curses", "sqlite3", "_pyrepl", "dormouse", "wit_world",
    }
)  # fmt: skip
"""Folders and files that no predictor imports, or that can't be."""


class Archive(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Compressed sources by module name, found after everything else."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[str, bytes, bool]] = {}
        """Path, compressed source, and whether it is a package."""

    def add_tree(self, root: str, package: str = "") -> None:
        """Takes every module under a folder that is not imported yet and not there yet."""
        for name in sorted(os.listdir(root)):
            path = os.path.join(root, name)
            if name in SKIPPED or name.startswith("."):
                continue
            if os.path.isdir(path):
                self.add_tree(path, f"{package}{name}.")
            elif name.endswith(".py"):
                self._add_file(path, package, name[:-3])

    def _add_file(self, path: str, package: str, stem: str) -> None:
        is_package = stem == "__init__"
        module = package[:-1] if is_package else package + stem
        if not module or module in sys.modules or module in self._sources:
            return
        with open(path, "rb") as file:
            self._sources[module] = (path, zlib.compress(file.read(), 9), is_package)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Finds a module by name."""
        if fullname not in self._sources:
            return None
        origin, _, is_package = self._sources[fullname]
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=origin, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(origin)]
        return spec

    def get_source(self, fullname: str) -> str:
        """The module's text."""
        return importlib.util.decode_source(zlib.decompress(self._sources[fullname][1]))

    def is_package(self, fullname: str) -> bool:
        """Whether it has submodules."""
        return self._sources[fullname][2]

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module."""
        assert module.__spec__ is not None
        name, origin = module.__spec__.name, module.__spec__.origin
        exec(compile(self.get_source(name), str(origin), "exec", dont_inherit=True), vars(module))


def remember_lines(*roots: str) -> None:
    """Keeps the source of modules under these folders, so that tracebacks show the author's lines."""
    for module in list(sys.modules.values()):
        path: Any = getattr(module, "__file__", None)
        if path and path.startswith(roots):
            linecache.getlines(path)
            size, _, lines, name = linecache.cache[path]  # type: ignore[misc]
            linecache.cache[path] = (size, None, lines, name)  # without a time it is never checked
