from __future__ import annotations

import base64
import hashlib
import pathlib
import zipfile

import pytest

from dormouse.build import requirements
from dormouse.build.report import Failure


def wheel(folder: pathlib.Path, name: str, tag: str) -> str:
    """A wheel with one module, as a requirement."""
    path = folder / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "x = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    digests = {n: base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()) for n, t in files.items()}
    record = "".join(f"{n},sha256={d.decode().rstrip('=')},{len(files[n])}\n" for n, d in digests.items())
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            archive.writestr(inner, text)
    return str(path)


def test_a_pure_wheel_is_installed(tmp_path: pathlib.Path) -> None:
    site = tmp_path / "site"
    assert requirements.install([wheel(tmp_path, "pure", "py3-none-any")], str(site)) == ["pure 1.0"]
    assert (site / "pure.py").exists()


def test_a_native_wheel_is_refused(tmp_path: pathlib.Path) -> None:
    native = wheel(tmp_path, "native", "cp314-cp314-manylinux_2_28_x86_64")
    with pytest.raises(Failure, match="not a supported wheel"):
        requirements.install([native], str(tmp_path / "site"))


def test_known_native_packages_are_refused_with_advice(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Failure) as caught:
        requirements.install(["numpy>=2", "Pillow"], str(tmp_path / "site"))
    assert caught.value.message == "numpy, pillow are not pure Python and can't be loaded"
    assert "pillow: images can't be decoded" in str(caught.value.advice)


def test_pips_refusal_names_the_package_and_who_wants_it() -> None:
    text = (
        "ERROR: Could not find a version that satisfies the requirement msgspec-core==2.1 (from msgspec) "
        "(from versions: none)\nERROR: No matching distribution found for msgspec-core==2.1\n"
    )
    assert requirements._failure(text).message == (
        "msgspec-core (wanted by msgspec) is not pure Python and can't be loaded"
    )


def test_what_the_sdk_answers_is_not_installed() -> None:
    kept, notes = requirements.split(["torch==2.3", "accelerate", "Emoji[x]==1", "transformers"])
    assert kept == ["Emoji[x]==1"]
    assert [note.message.split(":")[0] for note in notes] == [
        "torch==2.3 is not installed",
        "accelerate is not installed",
        "transformers is not installed",
    ]
