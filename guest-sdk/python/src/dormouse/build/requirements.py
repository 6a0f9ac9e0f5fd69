"""Requirements, as far as they are pure Python: nothing else loads in a component."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence

from ..lookalike import PACKAGES
from .cogyaml import GUEST_PYTHON
from .report import Failure, Note

ANSWERED = {"cog", "dormouse", *PACKAGES}
"""Packages the SDK answers for."""

COMPANIONS = {
    "accelerate", "bitsandbytes", "flash-attn", "hf-transfer", "huggingface-hub", "optimum", "peft",
    "protobuf", "safetensors", "sentencepiece", "tiktoken", "tokenizers", "triton", "xformers",
}  # fmt: skip
"""Packages that only help to load or run weights, which the host does."""

_LLM = "the host runs models: use dormouse.llm.Model, or the calls of transformers that the SDK answers"
_MATH = "write the arithmetic in Python (math, statistics), or have the model's embeddings come from `embed`"
_IMAGE = "images can't be decoded in a component yet; take text or bytes"
_MODEL = "use dormouse.BaseModel or a dataclass"

ADVICE = {
    "numpy": _MATH, "scipy": _MATH, "pandas": _MATH + "; csv and json are there", "scikit-learn": _MATH,
    "numba": _MATH, "pyarrow": "csv and json are there",
    "pillow": _IMAGE, "opencv-python": _IMAGE, "opencv-python-headless": _IMAGE, "imageio": _IMAGE,
    "torchvision": _IMAGE, "torchaudio": _LLM, "tensorflow": _LLM, "jax": _LLM, "onnxruntime": _LLM,
    "vllm": _LLM, "llama-cpp-python": _LLM, "diffusers": _LLM, "sentence-transformers": _LLM,
    "ctransformers": _LLM,
    "pydantic": _MODEL, "pydantic-core": _MODEL,
    "orjson": "use json", "ujson": "use json", "lxml": "use xml.etree", "regex": "use re",
    "aiohttp": "a component reaches no network", "grpcio": "a component reaches no network",
    "cryptography": "use hashlib and hmac", "psycopg2": "a component reaches no network",
}  # fmt: skip
"""What to do instead of packages with native code."""

_NATIVE = (
    "it has native code or no wheel at all; look for a pure-Python package (its wheel ends in -none-any.whl)"
)


def split(requirements: Iterable[str]) -> tuple[list[str], list[Note]]:
    """The requirements to install, and a note for each that the SDK answers or the host makes needless."""
    kept, notes = [], []
    for requirement in requirements:
        name = normalized(requirement)
        if name in ANSWERED:
            notes.append(Note("info", f"{requirement} is not installed: the SDK answers for {name}"))
        elif name in COMPANIONS:
            notes.append(Note("info", f"{requirement} is not installed: loading weights is the host's work"))
        else:
            kept.append(requirement)
    return kept, notes


def install(requirements: Sequence[str], folder: str) -> list[str]:
    """Installs pure-Python wheels into a folder; returns what. `Failure` names the native ones."""
    os.makedirs(folder, exist_ok=True)
    if not requirements:
        return []
    refused = [name for name in map(normalized, requirements) if name in ADVICE]
    if refused:
        raise refusal(refused)
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
        "--target", folder, "--only-binary", ":all:", "--platform", "any", "--implementation", "py",
        "--abi", "none", "--python-version", GUEST_PYTHON, "--no-input", "--", *requirements,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise _failure(done.stderr)
    return installed(folder)


def installed(folder: str) -> list[str]:
    """`name version` of each distribution in a folder."""
    names = [name.removesuffix(".dist-info") for name in os.listdir(folder) if name.endswith(".dist-info")]
    return sorted(name.replace("-", " ") for name in names)


def refusal(names: Sequence[str], wanted_by: str | None = None) -> Failure:
    """What is said of packages with native code."""
    lines = [f"{name}: {ADVICE.get(name, _NATIVE)}" for name in names]
    by = f" (wanted by {wanted_by})" if wanted_by else ""
    verb = "is" if len(names) == 1 else "are"
    return Failure(
        f"{', '.join(names)}{by} {verb} not pure Python and can't be loaded", advice="\n".join(lines)
    )


def normalized(requirement: str) -> str:
    """The name in a requirement, as package indexes compare names."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else requirement


def _failure(errors: str) -> Failure:
    missing = re.search(
        r"Could not find a version that satisfies the requirement (\S+?)(?:\[.*?\])?(?: \(from ([^)]*?)\))?"
        r" \(from versions: (.*?)\)",
        errors,
    )
    if missing:
        return refusal([normalized(missing[1])], missing[2])
    last = [line for line in errors.strip().splitlines() if line.startswith("ERROR:")]
    return Failure("pip could not install the requirements", advice="\n".join(last) or errors.strip()[-2000:])
