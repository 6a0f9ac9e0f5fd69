"""componentize-py: from the staged folder to a component."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys

from .report import Failure
from .stage import FOLDER, Stage

WORLD = "predictor"

_ERROR_CHARS_MAX = 4000
# What the SDK itself finds wrong with a predictor says all there is to say.
_OWN_ERROR = re.compile(r"dormouse\.(signature\.SignatureError|load\.LoadError): (?P<message>.+)")


def componentize(stage: Stage, wit: str, output: str) -> int:
    """Builds the component and returns its size. `Failure` has the author's traceback."""
    command = [
        os.path.join(os.path.dirname(sys.executable), "componentize-py"),
        "--wit-path", wit, "--world", WORLD, "--quiet",
        "componentize", "dormouse_app", "--python-path", stage.path, "--output", output,
    ]  # fmt: skip
    # A virtual environment would put this build's own packages on the component's path.
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except FileNotFoundError:
        raise Failure(
            "componentize-py is not installed beside this Python",
            advice=f"{sys.executable} -m pip install 'componentize-py==0.25.*'",
        ) from None
    if done.returncode != 0:
        raise _failure(done.stdout + done.stderr)
    return os.path.getsize(output)


def version() -> str:
    """The componentize-py that is installed; empty if none is."""
    try:
        return importlib.metadata.version("componentize-py")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _failure(text: str) -> Failure:
    """The author's own traceback, in the author's paths."""
    text = text.replace(f"/0/{FOLDER}/", "").replace("/0/site/", "")
    start = text.find("Traceback (most recent call last)")
    trace = text[start:] if start >= 0 else text
    trace = re.split(r"\n\s*\n|\nCaused by:", trace)[0].strip()
    last = trace.splitlines()[-1].strip() if trace else "componentize-py said nothing"
    told = _OWN_ERROR.match(last)
    if told:
        return Failure(f"the predictor can't be served: {told['message']}")
    return Failure(f"the predictor could not be imported: {last}", advice=trace[-_ERROR_CHARS_MAX:])
