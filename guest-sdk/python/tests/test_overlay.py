from __future__ import annotations

import glob
import io
import os
import tempfile
from collections.abc import Iterator

import pytest

from dormouse import Path
from dormouse.guest import overlay


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[overlay.Overlay]:
    """An overlay in place of the machine's files, for as long as a test runs."""
    kept = {name: getattr(os, name) for name in dir(os)}
    opened = io.open
    made = overlay.Overlay()
    made.add("/here/data/labels.txt", b"a b\n")
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    overlay.install(made)
    yield made
    io.open = __builtins__["open"] = opened  # type: ignore[index]
    for name, value in kept.items():
        setattr(os, name, value)


def test_data_files_are_read_by_relative_and_absolute_paths(files: overlay.Overlay) -> None:
    assert open("data/labels.txt").read() == open("/here/data/labels.txt").read() == "a b\n"
    assert (
        os.listdir("/here") == ["data"] and os.path.isdir("data") and os.path.getsize("data/labels.txt") == 4
    )


def test_a_written_file_is_read_again(files: overlay.Overlay) -> None:
    Path("/tmp/a.txt").write_text("hé")
    with open("/tmp/a.txt", "a") as file:
        file.write("!")
    assert Path("/tmp/a.txt").read_bytes() == "hé!".encode()
    os.rename("/tmp/a.txt", "/tmp/b.txt")
    assert glob.glob("/tmp/*.txt") == ["/tmp/b.txt"] and not Path("/tmp/a.txt").exists()
    Path("/tmp/b.txt").unlink()
    assert os.listdir("/tmp") == []


def test_temporary_files_and_folders_work(files: overlay.Overlay) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write("x")
    assert open(file.name).read() == "x"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "y").write_text("z")
        assert os.listdir(folder) == ["y"]
    assert not os.path.exists(folder)


@pytest.mark.parametrize(
    ("path", "mode", "error"),
    [
        ("/nowhere", "r", FileNotFoundError),
        ("/nowhere/a", "w", FileNotFoundError),
        ("/tmp", "r", IsADirectoryError),
        ("/here/data/labels.txt", "x", FileExistsError),
    ],
)
def test_what_is_wrong_is_an_os_error(
    files: overlay.Overlay, path: str, mode: str, error: type[OSError]
) -> None:
    with pytest.raises(error) as caught:
        open(path, mode)
    assert caught.value.filename == path


def test_a_file_opened_for_reading_is_not_written(files: overlay.Overlay) -> None:
    with pytest.raises(io.UnsupportedOperation):
        open("data/labels.txt", "rb").write(b"x")
