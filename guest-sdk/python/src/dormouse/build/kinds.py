"""Follows names through a file, to say what of the look-alikes it uses and which models it opens.

Only what is certain is reported: a value whose kind can't be told is `None`, and anything may be done
with it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import llm
from ..lookalike import PACKAGES, SITE


@dataclass(frozen=True)
class Instance:
    """A value of a class of the look-alikes or the SDK."""

    of: type


@dataclass(frozen=True)
class Method:
    """A method of such a value."""

    function: Callable[..., Any]
    name: str


@dataclass(frozen=True)
class Text:
    """A literal."""

    value: str


Kind = Any
"""A module, class or function; an `Instance`, `Method` or `Text`; or `None` for what can't be told."""


class Evaluator(ast.NodeVisitor):
    """Walks one file twice: the first pass learns what names stand for, the second reports."""

    def __init__(self) -> None:
        self.problems: list[tuple[int, str]] = []
        self.warnings: list[tuple[int, str]] = []
        self.models: list[str] = []
        self._names: dict[str, Kind] = {}
        self._is_reporting = False

    def run(self, tree: ast.Module) -> None:
        """Examines a file."""
        with _site():
            self.visit(tree)
            self._is_reporting = True
            self.visit(tree)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if _is_ours(alias.name):
                module = self._module(alias.name, node.lineno)
                top = alias.name.partition(".")[0]
                self._names[alias.asname or top] = module if alias.asname else self._module(top, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or not _is_ours(node.module or ""):
            return
        module = self._module(node.module or "", node.lineno)
        for alias in node.names:
            if module is not None and alias.name != "*":
                kind = self._member(module, alias.name, f"{node.module}.{alias.name}", node.lineno)
                self._names[alias.asname or alias.name] = kind

    def visit_Assign(self, node: ast.Assign) -> None:
        kind = self._kind(node.value)
        for target in node.targets:
            self._bind(target, kind)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._bind(node.target, self._kind(node.value))

    def visit_arg(self, node: ast.arg) -> None:
        self._names.pop(node.arg, None)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._kind(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._kind(node)

    def _bind(self, target: ast.expr, kind: Kind) -> None:
        if isinstance(target, (ast.Name, ast.Attribute)) and _plain(target):
            known = self._names.get(_plain(target))
            # A name that stands for two kinds stands for none.
            is_conflict = self._is_reporting and known is not None and known != kind
            self._names[_plain(target)] = None if is_conflict and kind is None else kind
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._bind(element, None)

    def _kind(self, node: ast.expr) -> Kind:
        if isinstance(node, ast.Constant):
            return Text(node.value) if isinstance(node.value, str) else None
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        self.generic_visit(node)
        return None

    def _attribute(self, node: ast.Attribute) -> Kind:
        name = _plain(node)
        if name in self._names:
            return self._names[name]
        base = self._kind(node.value)
        if not isinstance(base, (types.ModuleType, type, Instance)):
            return None
        return self._member(base, node.attr, name or f"(...).{node.attr}", node.lineno)

    def _member(self, base: Kind, attribute: str, name: str, line: int) -> Kind:
        owner = base.of if isinstance(base, Instance) else base
        if not _is_ours(owner.__name__ if isinstance(owner, types.ModuleType) else owner.__module__):
            return None
        member = _find(owner, attribute)
        if member is None and isinstance(owner, types.ModuleType):
            member = self._submodule(owner, attribute)
        if member is None:
            if not _is_set_in_init(owner, attribute):
                self._problem(line, f"{_shown(base, attribute, name)} {_NOT_HERE}")
            return None
        if isinstance(member, property):
            return _returned(member.fget)
        if isinstance(member, (classmethod, staticmethod)):
            return Method(member.__func__, name)
        return Method(member, name) if isinstance(member, types.FunctionType) else member

    def _call(self, node: ast.Call) -> Kind:
        function = self._kind(node.func)
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self.visit(argument) if not isinstance(argument, ast.Constant) else None
        if isinstance(function, Instance):
            function = self._called_value(function, node)
        if isinstance(function, type):
            self._check_keywords(function, function.__name__, node)
            self._note_model(function, node)
            return Instance(function) if _is_ours(function.__module__) else None
        if isinstance(function, Method):
            self._check_keywords(function.function, function.name, node)
            self._note_model(function.function, node)
            return _returned(function.function)
        return None

    def _called_value(self, value: Instance, node: ast.Call) -> Kind:
        called = _find(value.of, "__call__")
        if called is not None:
            return Method(called, ast.unparse(node.func))
        self._problem(
            node.lineno, f"{ast.unparse(node.func)}(...) reads logits, which stay in the host; use generate"
        )
        return None

    def _check_keywords(self, function: Any, name: str, node: ast.Call) -> None:
        taken = _keywords(function)
        for keyword in node.keywords:
            if taken is not None and keyword.arg is not None and keyword.arg not in taken:
                self._problem(keyword.value.lineno, f"{name}(..., {keyword.arg}=) {_NOT_HERE}")
        if getattr(function, "__name__", "") == "pipeline":
            self._check_task(sys.modules[function.__module__], node)

    def _check_task(self, module: Any, node: ast.Call) -> None:
        task = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg == "task"), None)
        if isinstance(task, ast.Constant) and task.value not in module.TASKS:
            text = f"pipeline({task.value!r}) has no host model, {module.TASKS[0]!r} has"
            self._problem(node.lineno, text)

    def _note_model(self, function: Any, node: ast.Call) -> None:
        position = _MODEL_ARGUMENT.get(getattr(function, "__qualname__", "").rpartition(".")[2] or "")
        if function is llm.Model:
            position = (0, "name")
        if position is None or not _is_ours(getattr(function, "__module__", "")):
            return
        index, keyword = position
        given = {k.arg: k.value for k in node.keywords}
        argument = given.get(keyword) or (node.args[index] if len(node.args) > index else None)
        kind = self._kind(argument) if argument is not None else None
        if isinstance(kind, Text):
            self._model(kind.value, node.lineno)
        elif argument is not None and not isinstance(kind, Instance) and self._is_reporting:
            message = (
                f"{ast.unparse(argument)} names a model but is no literal: "
                'declare the models, as in `models = ["smollm2"]` in the class'
            )
            self.warnings.append((node.lineno, message))

    def _model(self, name: str, line: int) -> None:
        if name.startswith((".", "/", "~")):
            self._problem(line, f"{name!r} is a path: weights live in the host, name a host model")
        elif name not in self.models:
            self.models.append(name)

    def _module(self, name: str, line: int) -> types.ModuleType | None:
        try:
            return importlib.import_module(name)
        except ImportError:
            self._problem(line, f"{name} {_NOT_HERE}")
            return None

    def _submodule(self, module: types.ModuleType, name: str) -> types.ModuleType | None:
        try:
            return importlib.import_module(f"{module.__name__}.{name}")
        except ImportError:
            return None

    def _problem(self, line: int, text: str) -> None:
        if self._is_reporting and (line, text) not in self.problems:
            self.problems.append((line, text))


_NOT_HERE = "has no counterpart: the model runs in the host, not in this file"

_MODEL_ARGUMENT = {"from_pretrained": (0, "pretrained_model_name_or_path"), "pipeline": (1, "model")}
"""Where a call names a model: position and keyword."""


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in (*PACKAGES, "dormouse", "cog")


def _plain(node: ast.expr) -> str:
    """`a.b.c` as text; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _plain(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _shown(base: Kind, attribute: str, name: str) -> str:
    return f"{name} ({base.of.__name__}.{attribute})" if isinstance(base, Instance) else name


def _find(owner: Any, attribute: str) -> Any:
    """A member as it is written: properties and class methods unbound, nothing of the metaclass."""
    for place in getattr(owner, "__mro__", (owner,)):
        if attribute in vars(place):
            return vars(place)[attribute]
    return None


def _is_set_in_init(owner: Any, attribute: str) -> bool:
    inits = (vars(c).get("__init__") for c in getattr(owner, "__mro__", ()))
    return any(attribute in init.__code__.co_names for init in inits if hasattr(init, "__code__"))


def _keywords(function: Any) -> set[str] | None:
    """Names of the arguments a function takes; `None` when it takes any."""
    function = getattr(function, "takes", function)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _returned(function: Any) -> Kind:
    try:
        hint = typing.get_type_hints(function).get("return")
    except NameError:
        return None
    return Instance(hint) if isinstance(hint, type) and _is_ours(hint.__module__) else None


class _site:
    """While it is entered, the look-alikes are what `import torch` finds."""

    def __enter__(self) -> None:
        sys.path.insert(0, SITE)

    def __exit__(self, *error: object) -> None:
        sys.path.remove(SITE)
