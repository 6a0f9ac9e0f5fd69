"""`python -m dormouse.build FOLDER -o predictor.wasm`: see the package."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict

from . import component, project, requirements, stage, usage
from .report import Failure, Reporter


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
) -> dict[str, object]:
    """Builds a folder; what came of it."""
    start = time.monotonic()
    reporter.step("project", "reading the project")
    plan = project.read(folder)
    wanted, notes = requirements.split(plan.requirements)
    for note in [*plan.notes, *notes]:
        reporter.note(note)
    result: dict[str, object] = {"name": plan.name, "settings": plan.settings}
    with tempfile.TemporaryDirectory(prefix="dormouse-build-") as path:
        staged = stage.lay_out(plan, path)
        for note in staged.notes:
            reporter.note(note)
        if wanted:
            reporter.step("requirements", f"installing {', '.join(wanted)}")
        packages = requirements.install(wanted, staged.site)
        reporter.step("usage", f"checking {plan.file}")
        found = usage.examine(plan, staged.site)
        for note in found.notes:
            reporter.note(note)
        models = list(dict.fromkeys([*plan.models, *found.models]))
        if not is_check:
            reporter.step("component", "importing the predictor and taking its snapshot")
            stage.write_plan(plan, staged, models, found.imports)
            result |= {"component": output, "bytes": component.componentize(staged, wit, output)}
    notes_told = [asdict(note) for note in reporter.notes]
    seconds = round(time.monotonic() - start, 2)
    return result | {"models": models, "packages": packages, "notes": notes_told, "seconds": seconds}


def _default_wit() -> str:
    return os.path.join(os.path.dirname(os.path.dirname(__file__)), "wit")


if __name__ == "__main__":
    sys.exit(main())
