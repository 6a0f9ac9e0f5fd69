"""What an author's files use, compared with what a component has: by name and line, before anything runs.

Three questions are asked of every file that the predictor's reaches: which modules it imports and are
they there; which models it opens; and what it uses of `torch` and `transformers` that the look-alikes do
not answer. The last follows names through assignments as far as `kinds` can tell what they are.
"""

from __future__ import annotations

import ast
import os
import sys
from dataclasses import dataclass, field

from ..lookalike import PACKAGES
from .kinds import Evaluator
from .project import Project
from .report import Failure, Note
from .requirements import ADVICE, ANSWERED, COMPANIONS, refusal

UNREACHABLE = {
    "asyncio.subprocess": "a component starts no processes",
    "multiprocessing": "a component starts no processes",
    "subprocess": "a component starts no processes",
    "http.client": "a component reaches no network",
    "httpx": "a component reaches no network",
    "requests": "a component reaches no network",
    "socket": "a component reaches no network",
    "urllib.request": "a component reaches no network",
    "urllib3": "a component reaches no network",
}
"""Modules that import but can't do their work."""

_BUILT_IN_LATER = {"componentize_py_types", "wit_world"}


@dataclass
class Usage:
    """What was found."""

    models: list[str] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    """Modules imported inside functions, to be imported while there are files."""
    notes: list[Note] = field(default_factory=list)


def examine(project: Project, site: str) -> Usage:
    """Examines the predictor's file and those of the folder it imports. `Failure` lists what is missing."""
    usage = Usage()
    problems: list[tuple[str, int, str]] = []
    for name, tree in _reached(project):
        imports = _Imports(project.root, os.path.dirname(name), site)
        imports.visit(tree)
        usage.imports += [module for module in imports.nested if module not in usage.imports]
        problems += [(name, line, text) for line, text in imports.missing]
        usage.notes += [Note("warning", text, name, line) for line, text in imports.warnings]
        evaluator = Evaluator()
        evaluator.run(tree)
        problems += [(name, line, text) for line, text in evaluator.problems]
        usage.notes += [Note("warning", text, name, line) for line, text in evaluator.warnings]
        usage.models += [model for model in evaluator.models if model not in usage.models]
    if problems:
        raise _failure(problems)
    return usage


def _failure(problems: list[tuple[str, int, str]]) -> Failure:
    file, line, text = problems[0]
    others = [f"{file}:{line}: {text}" for file, line, text in problems[1:]]
    return Failure(text, file=file, line=line, advice="\n".join(others) or None)


def _reached(project: Project) -> list[tuple[str, ast.Module]]:
    """The predictor's file, and those of the folder that it imports, in the order they are met."""
    found: dict[str, ast.Module] = {}
    waiting = [project.file]
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        found[name] = _parse(project.root, name)
        for node in ast.walk(found[name]):
            for module in _modules(node):
                waiting += _local_files(project.root, os.path.dirname(name), module)
    return list(found.items())


def _parse(root: str, name: str) -> ast.Module:
    with open(os.path.join(root, name), "rb") as file:
        source = file.read()
    try:
        return ast.parse(source, name)
    except SyntaxError as error:
        raise Failure(f"is not Python: {error.msg}", file=name, line=error.lineno) from error
    except ValueError as error:
        raise Failure(f"is not Python: {error}", file=name) from error


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        return [base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)]
    return []


def _local_files(root: str, folder: str, module: str) -> list[str]:
    """Files of the author's folder that a module name may stand for."""
    path = module.replace(".", "/")
    candidates = {
        os.path.normpath(os.path.join(base, path + ending))
        for base in ("", folder)
        for ending in (".py", "/__init__.py")
    }
    return sorted(name for name in candidates if os.path.isfile(os.path.join(root, name)))


class _Imports(ast.NodeVisitor):
    """Collects the imports of one file, and which of them nothing can answer."""

    def __init__(self, root: str, folder: str, site: str) -> None:
        self.nested: list[str] = []
        self.missing: list[tuple[int, str]] = []
        self.warnings: list[tuple[int, str]] = []
        self._places = (os.path.join(root, folder), root, site)
        self._depth = 0
        self._guarded = 0

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Try(self, node: ast.Try) -> None:
        is_guard = any(_catches_import_error(handler) for handler in node.handlers)
        self._guarded += is_guard
        for guarded in node.body:
            self.visit(guarded)
        self._guarded -= is_guard
        for rest in (*node.handlers, *node.orelse, *node.finalbody):
            self.visit(rest)

    def visit_If(self, node: ast.If) -> None:
        # `if TYPE_CHECKING:` is for other tools.
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._found(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            return
        module = node.module or ""
        self._found(module, node.lineno)
        for alias in node.names:
            full = f"{module}.{alias.name}"
            if full in UNREACHABLE:
                self.warnings.append((node.lineno, f"{full}: {UNREACHABLE[full]}"))

    def _found(self, module: str, line: int) -> None:
        if self._depth:
            self.nested.append(module)
        if module in UNREACHABLE:
            self.warnings.append((line, f"{module}: {UNREACHABLE[module]}"))
        top = module.partition(".")[0]
        if not self._guarded and not self._is_there(top):
            self.missing.append((line, _missing(top)))

    def _is_there(self, top: str) -> bool:
        known = top in sys.stdlib_module_names or top in ANSWERED or top in PACKAGES or top in _BUILT_IN_LATER
        return known or any(
            os.path.isdir(os.path.join(place, top)) or os.path.isfile(os.path.join(place, top + ".py"))
            for place in self._places
        )


_DISTRIBUTIONS = {"cv2": "opencv-python", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "PyYAML"}


def _missing(top: str) -> str:
    package = _DISTRIBUTIONS.get(top, top.replace("_", "-").lower())
    if package in ADVICE:
        failure = refusal([package])
        return f"{failure.message}: {ADVICE[package]}"
    if package in COMPANIONS:
        return f"{top} loads or runs weights, which is the host's work: leave it out"
    return f"{top} is not there: add {package} to python_packages in cog.yaml, or to requirements.txt"


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception"})
