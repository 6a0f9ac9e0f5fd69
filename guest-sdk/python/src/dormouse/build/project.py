"""A folder as a project: which file, which predictor, which models and requirements.

Settings come from dormouse.toml, then cog.yaml, then from what is in the folder.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import asdict, dataclass, field
from typing import Any

from .report import Failure, Note

FILES = ("predict.py", "run.py")
"""Files a predictor is looked for in when nothing names one."""

REQUIREMENTS = "requirements.txt"
"""Read when neither file names other requirements."""

CONFIG_BYTES_MAX = 1 << 20
"""Length of a configuration file that is read."""


@dataclass
class Project:
    """What is to be built."""

    root: str
    file: str
    """Path of the predictor's file, from the root."""
    predictor: str | None
    """Name of its class or function; `None` for the only one."""
    name: str
    description: str | None = None
    models: list[str] = field(default_factory=list)
    requirements: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """Deployment settings that the folder asks for: `concurrency`, `env`."""
    notes: list[Note] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """All of it but where the folder is and what was noted."""
        return {key: value for key, value in asdict(self).items() if key not in ("root", "notes")}


def read(root: str) -> Project:
    """Reads a folder's configuration. `Failure` says where it is wrong."""
    from . import cogyaml  # needs PyYAML, which only a folder with a cog.yaml does

    if not os.path.isdir(root):
        raise Failure(f"{root} is no folder")
    name = _label(os.path.basename(os.path.abspath(root)))
    project = Project(root=root, file="", predictor=None, name=name)
    if os.path.exists(os.path.join(root, "cog.yaml")):
        cogyaml.apply(project, read_text(root, "cog.yaml"))
    if os.path.exists(os.path.join(root, "dormouse.toml")):
        _apply_toml(project, read_text(root, "dormouse.toml"))
    if not project.requirements and os.path.exists(os.path.join(root, REQUIREMENTS)):
        project.requirements = requirement_lines(project, REQUIREMENTS)
    if not project.file:
        project.file = _only_file(root)
    return project


def read_text(root: str, name: str) -> str:
    """A file of the project as text."""
    path = os.path.join(root, name)
    try:
        if os.path.getsize(path) > CONFIG_BYTES_MAX:
            raise Failure(f"has more than {CONFIG_BYTES_MAX} bytes", file=name)
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise Failure(f"there is no {name} in {root}") from None
    except UnicodeDecodeError as error:
        raise Failure(f"is not UTF-8 at byte {error.start}", file=name) from error


def split_entry(project: Project, entry: str, source: str, line: int | None = None) -> None:
    """Takes `predict.py:Predictor` apart."""
    file, _, predictor = entry.partition(":")
    if not file.endswith(".py"):
        raise Failure(f"{entry!r} names no Python file, write `predict.py:Predictor`", file=source, line=line)
    if not os.path.isfile(os.path.join(project.root, file)):
        raise Failure(f"{file} is not in {project.root}", file=source, line=line)
    project.file, project.predictor = file, predictor or None


def requirement_lines(project: Project, name: str, depth: int = 0) -> list[str]:
    """The requirements in a requirements file, those of files it includes among them."""
    if depth > 8:
        raise Failure("includes itself", file=name)
    found: list[str] = []
    for number, raw in enumerate(read_text(project.root, name).splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).strip().removesuffix("\\").strip()
        included = re.match(r"(?:-r|--requirement)[ =]*(\S+)$", line)
        if included:
            folder = os.path.dirname(name)
            found += requirement_lines(project, os.path.join(folder, included[1]), depth + 1)
        elif line.startswith("-"):
            project.notes.append(Note("info", f"`{line}` is not used", name, number))
        elif line:
            found.append(line)
    return found


def _only_file(root: str) -> str:
    for file in FILES:
        if os.path.isfile(os.path.join(root, file)):
            return file
    raise Failure(
        f"there is neither {' nor '.join(FILES)} in {root}",
        advice='name the file in dormouse.toml: predict = "app.py:Predictor"',
    )


def _label(name: str) -> str:
    """A name as a function may have it: a DNS label."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")
    return label or "predictor"


_KEYS: dict[str, type] = {
    "name": str,
    "description": str,
    "predict": str,
    "models": list,
    "requirements": list,
    "timeout_ms": int,
    "memory_bytes": int,
    "concurrency": int,
    "env": dict,
}


def _apply_toml(project: Project, text: str) -> None:
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Failure(str(error), file="dormouse.toml") from error
    for key, value in given.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise Failure(f"{key!r} is no key, they are {', '.join(_KEYS)}", file="dormouse.toml")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Failure(f"{key!r} must be a {kind.__name__}, not {value!r}", file="dormouse.toml")
        _set(project, key, value)


def _set(project: Project, key: str, value: Any) -> None:
    if key == "predict":
        split_entry(project, value, "dormouse.toml")
    elif key in ("timeout_ms", "memory_bytes"):
        project.limits[key] = value
    elif key in ("concurrency", "env"):
        project.settings[key] = value
    else:
        setattr(project, key, value)
