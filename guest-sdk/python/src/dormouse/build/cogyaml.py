"""cog.yaml: what of it applies to a component, and what to say about the rest."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, cast

import yaml

from .project import Project, requirement_lines, split_entry
from .report import Failure, Note

FILE = "cog.yaml"

GUEST_PYTHON = "3.14"
"""The CPython that componentize-py bundles."""


def apply(project: Project, text: str) -> None:
    """Takes over what applies and notes what does not."""
    for key, value, line in _items(_parse(text), "the file"):
        _one_of(_TOP, key, line, "")(project, key, value, line)


Handler = Callable[[Project, str, yaml.Node, int], None]


def _parse(text: str) -> yaml.Node:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise Failure(_explain(text, line, error), file=FILE, line=line) from error
    except yaml.YAMLError as error:
        raise Failure(str(error), file=FILE) from error
    if node is None:
        raise Failure("is empty", file=FILE)
    return cast(yaml.Node, node)


def _explain(text: str, line: int, error: yaml.MarkedYAMLError) -> str:
    """Broken indentation in words; YAML's own message speaks of tokens."""
    lines = text.splitlines()
    here = lines[line - 1] if line <= len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())]:
        return f"is indented by a tab, YAML takes spaces only: {here.strip()!r}"
    above = next((n for n in range(line - 1, 0, -1) if lines[n - 1].split("#")[0].strip()), None)
    if above is not None and here.strip():
        indent, indent_above = _indent(here), _indent(lines[above - 1])
        if indent > indent_above and not lines[above - 1].split("#")[0].rstrip().endswith(":"):
            return (
                f"{here.strip()!r} is indented by {indent} spaces, but line {above} "
                f"({lines[above - 1].strip()!r}) at {indent_above} has a value and can't hold it; "
                "indent both the same"
            )
        outer = {_indent(earlier) for earlier in lines[: line - 1] if earlier.strip()}
        if indent < indent_above and indent not in outer:
            levels = " or ".join(str(level) for level in sorted(outer))
            return f"{here.strip()!r} is indented by {indent} spaces, which no line above is; use {levels}"
    return f"{error.problem or error.context}: {here.strip()!r}"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _items(node: yaml.Node, what: str) -> list[tuple[str, yaml.Node, int]]:
    if node.value == "":  # a key with nothing under it
        return []
    if not isinstance(node, yaml.MappingNode):
        raise Failure(f"{what} must hold `key: value` lines", file=FILE, line=_line(node))
    return [(str(key.value), value, _line(key)) for key, value in node.value]


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _one_of(handlers: dict[str, Handler], key: str, line: int, under: str) -> Handler:
    if key in handlers:
        return handlers[key]
    if not under and key in _BUILD:
        raise Failure(
            f"`{key}` stands at the left edge but belongs under `build:`; indent it by two spaces",
            file=FILE,
            line=line,
        )
    if under and key in _TOP:
        raise Failure(f"`{key}` stands under `{under}:` but belongs at the left edge", file=FILE, line=line)
    near = difflib.get_close_matches(key, handlers, 1)
    hint = f", did you mean `{near[0]}`?" if near else ""
    return lambda project, *_: project.notes.append(Note("warning", f"`{key}` is unknown{hint}", FILE, line))


def _build(project: Project, key: str, node: yaml.Node, line: int) -> None:
    for inner, value, inner_line in _items(node, "`build`"):
        _one_of(_BUILD, inner, inner_line, "build")(project, inner, value, inner_line)


def _entry(project: Project, key: str, node: yaml.Node, line: int) -> None:
    split_entry(project, _text(key, node), FILE, line)


def _packages(project: Project, key: str, node: yaml.Node, line: int) -> None:
    project.requirements += _texts(key, node)


def _requirements_file(project: Project, key: str, node: yaml.Node, line: int) -> None:
    project.requirements += requirement_lines(project, _text(key, node))


def _python_version(project: Project, key: str, node: yaml.Node, line: int) -> None:
    wanted = _text(key, node)
    if wanted != GUEST_PYTHON:
        message = f"python_version {wanted} is not used: a component runs CPython {GUEST_PYTHON}"
        project.notes.append(Note("info", message, FILE, line))


def _gpu(project: Project, key: str, node: yaml.Node, line: int) -> None:
    if _text(key, node).lower() in ("true", "yes", "on"):
        message = "gpu is not used: models run in the host, on what the host has"
        project.notes.append(Note("info", message, FILE, line))


def _concurrency(project: Project, key: str, node: yaml.Node, line: int) -> None:
    for inner, value, inner_line in _items(node, "`concurrency`"):
        if inner not in ("max", "default_target"):
            raise Failure(f"concurrency has no `{inner}`, it has `max`", file=FILE, line=inner_line)
        number = _text(inner, value)
        if not number.isdigit() or int(number) < 1:
            raise Failure(f"concurrency is {number}, it must be at least 1", file=FILE, line=inner_line)
        if inner == "max":
            project.settings["concurrency"] = int(number)


def _environment(project: Project, key: str, node: yaml.Node, line: int) -> None:
    pairs = (text.partition("=") for text in _texts(key, node))
    project.settings["env"] = {name: value for name, _, value in pairs}


def _ignored(level: str, reason: str) -> Handler:
    def handler(project: Project, key: str, node: yaml.Node, line: int) -> None:
        if node.value not in ("", [], "null"):
            project.notes.append(Note(cast(Any, level), f"`{key}` is not used: {reason}", FILE, line))

    return handler


def _text(key: str, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise Failure(f"`{key}` must be a text", file=FILE, line=_line(node))
    return str(node.value)


def _texts(key: str, node: yaml.Node) -> list[str]:
    if not isinstance(node, yaml.SequenceNode):
        raise Failure(f"`{key}` must be a list, each line starting with `- `", file=FILE, line=_line(node))
    return [_text(key, item) for item in node.value]


_NO_COMMANDS = "a component is Python alone, no commands run for it"

_TOP: dict[str, Handler] = {
    "build": _build,
    "predict": _entry,
    "run": _entry,
    "concurrency": _concurrency,
    "environment": _environment,
    "image": _ignored("info", "a predictor is a component, no container image"),
    "train": _ignored("warning", "training is not done here"),
    "weights": _ignored("warning", "weights live in the host; name a host model"),
    "model": _ignored("info", "a function is named when it is pushed"),
    "tests": _ignored("info", "run them by `dormouse predict`"),
}

_BUILD: dict[str, Handler] = {
    "python_packages": _packages,
    "python_requirements": _requirements_file,
    "python_version": _python_version,
    "gpu": _gpu,
    "cuda": _ignored("info", "models run in the host"),
    "cudnn": _ignored("info", "models run in the host"),
    "system_packages": _ignored("warning", "there is no operating system in a component"),
    "run": _ignored("warning", _NO_COMMANDS),
    "pre_install": _ignored("warning", _NO_COMMANDS),
    "fast": _ignored("info", "every build is"),
    "sdk_version": _ignored("info", "the SDK is the one that builds"),
}
