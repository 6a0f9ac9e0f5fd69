"""`python -m dormouse.build FOLDER -o predictor.wasm`: see the package."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

from . import cache, component, project, requirements, stage, usage
from .project import Project
from .report import Failure, Note, Reporter
from .stage import Stage


def main() -> int:
    """Parses, builds, and turns a failure into an exit status of 1."""
    parser = argparse.ArgumentParser(prog="python -m dormouse.build", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("-o", "--output", required=True, help="where the component goes")
    parser.add_argument("--wit", default=_default_wit(), help="folder of the host interface")
    parser.add_argument("--check", action="store_true", help="say what would not work, build nothing")
    args = parser.parse_args()
    reporter = Reporter()
    try:
        result = build(args.folder, args.output, args.wit, reporter, is_check=args.check)
    except Failure as failure:
        reporter.failed(failure)
        return 1
    print(json.dumps(result))
    return 0


def build(
    folder: str, output: str, wit: str, reporter: Reporter, *, is_check: bool = False
) -> dict[str, Any]:
    """Builds a folder, unless the component at `output` was made of the same; what came of it."""
    start = time.monotonic()
    reporter.step("project", "reading the project")
    plan = project.read(folder)
    wanted, notes = requirements.split(plan.requirements)
    with tempfile.TemporaryDirectory(prefix="dormouse-build-") as path:
        staged = stage.lay_out(plan, path)
        for note in [*plan.notes, *notes, *staged.notes]:
            reporter.note(note)
        if is_check:
            made = _examine(plan, staged, wanted, reporter)
        else:
            inputs = cache.digest([path, wit], plan.facts(), wanted, component.version())
            made = cache.recall(output, inputs) or _make(plan, staged, wanted, reporter, wit, output)
            cache.keep(output, inputs, made)
        for told in made["notes"]:
            reporter.note(Note(**told))
    made |= {"name": plan.name, "settings": plan.settings}
    return made | {
        "notes": [asdict(note) for note in reporter.notes],
        "seconds": round(time.monotonic() - start, 2),
    }


def _examine(plan: Project, staged: Stage, wanted: list[str], reporter: Reporter) -> dict[str, Any]:
    """Installs what the project requires and compares what it uses with what a component has."""
    if wanted:
        reporter.step("requirements", f"installing {', '.join(wanted)}")
    packages = requirements.install(wanted, staged.site)
    reporter.step("usage", f"checking {plan.file}")
    found = usage.examine(plan, staged.site)
    for note in found.notes:
        reporter.note(note)
    models = list(dict.fromkeys([*plan.models, *found.models]))
    stage.write_plan(plan, staged, models, found.imports)
    return {"models": models, "packages": packages, "notes": [asdict(note) for note in found.notes]}


def _make(
    plan: Project, staged: Stage, wanted: list[str], reporter: Reporter, wit: str, output: str
) -> dict[str, Any]:
    """Makes the component."""
    examined = _examine(plan, staged, wanted, reporter)
    reporter.step("component", "importing the predictor and taking its snapshot")
    return examined | {"component": output, "bytes": component.componentize(staged, wit, output)}


def _default_wit() -> str:
    return os.path.join(os.path.dirname(os.path.dirname(__file__)), "wit")


if __name__ == "__main__":
    sys.exit(main())
