"""From a file to the predictor in it: a class with `setup` and `run` or `predict`, or a function."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .predictor import BasePredictor, BaseRunner
from .signature import Signature, SignatureError

_METHODS = ("run", "predict")


class LoadError(Exception):
    """A file without a predictor in it; the text says what was looked for."""


@dataclass(frozen=True)
class Loaded:
    """A predictor that was found."""

    subject: Any
    method: str | None
    """Name of the method that answers; `None` when the predictor is a function."""
    signature: Signature

    @property
    def models(self) -> list[str]:
        """Models the class declares."""
        return list(getattr(self.subject, "models", ()))

    @property
    def description(self) -> str:
        """The first paragraph of the method's documentation, or else of the class's."""
        function = self.subject if self.method is None else getattr(self.subject, self.method)
        for documented in (function, self.subject):
            text = inspect.cleandoc(getattr(documented, "__doc__", None) or "")
            if text:
                return " ".join(text.split("\n\n")[0].split())
        return ""

    def instantiate(self) -> Callable[..., Any]:
        """Makes the predictor and returns what answers; `prepare` is still to be called."""
        answer: Callable[..., Any] = (
            self.subject if self.method is None else getattr(self.subject(), self.method)
        )
        return answer


def load(path: str, name: str | None = None) -> Loaded:
    """The predictor called `name` in a file, or the only one in it."""
    return find(import_file(path), name)


def import_file(path: str) -> ModuleType:
    """Imports a file as a module of its own name, with its folder on the path."""
    name = os.path.splitext(os.path.basename(path))[0]
    folder = os.path.dirname(os.path.abspath(path))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def find(module: ModuleType, name: str | None = None) -> Loaded:
    """The predictor called `name` in a module, or the only one in it."""
    if name is None:
        name = _only(module)
    subject = getattr(module, name, None)
    if subject is None:
        raise LoadError(f"{module.__name__}.py has no {name}")
    if inspect.isclass(subject):
        method = _method(subject)
        return Loaded(subject, method, Signature.of(getattr(subject, method)))
    if callable(subject):
        return Loaded(subject, None, Signature.of(subject))
    raise LoadError(f"{name} in {module.__name__}.py is neither a class nor a function")


def _only(module: ModuleType) -> str:
    found = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and (issubclass(value, BaseRunner) or name in ("Predictor", "Runner"))
        and any(hasattr(value, method) for method in _METHODS)
    ]
    if not found:
        found = [name for name in _METHODS if inspect.isfunction(getattr(module, name, None))]
    if len(found) == 1:
        return found[0]
    if found:
        raise LoadError(
            f"{module.__name__}.py has several predictors: {', '.join(found)}; "
            f'name one, as in `predict: "{module.__name__}.py:{found[0]}"` in cog.yaml'
        )
    raise LoadError(f"{module.__name__}.py has no class that derives from BasePredictor or BaseRunner")


def _method(subject: type) -> str:
    # A class that derives from another predictor may override its method by either name.
    for owner in subject.__mro__:
        if owner in (BasePredictor, BaseRunner):
            continue
        own = [method for method in _METHODS if method in vars(owner)]
        if len(own) > 1:
            raise SignatureError(f"{owner.__name__} has both run() and predict(), it must have one")
        if own:
            return own[0]
    raise SignatureError(f"{subject.__name__} has neither run() nor predict()")
