"""Files in memory: a component has no file system.

The author's data files are put here while the component is built, and a prediction may write files of
its own, which end with it. `open`, `pathlib` and the parts of `os` they use see them. Memory is
bounded by the instance's limit.
"""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import shutil
import stat as stats
from collections.abc import Iterator
from typing import Any

FOLDERS = ("/tmp",)
"""Folders that are there from the start."""


DESCRIPTOR_MIN = 1 << 16
"""Where the overlay's file descriptors start, far above the system's."""


class Overlay:
    """A tree of files, by absolute path."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._folders = {"/", *FOLDERS}
        self._descriptors: dict[int, _File] = {}
        self._numbers = itertools.count(DESCRIPTOR_MIN)

    def add(self, path: str, content: bytes) -> None:
        """Puts a file in place, with the folders above it."""
        path = _absolute(path)
        self._files[path] = content
        folder = os.path.dirname(path)
        while folder not in self._folders:
            self._folders.add(folder)
            folder = os.path.dirname(folder)

    def open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """Opens a file as `open` does."""
        if opener is not None:
            file = opener(file, os.O_RDWR)
        if not isinstance(file, int):
            raw = self._open(_absolute(file), set(mode) - {"b", "t"})
        elif file in self._descriptors:
            raw = self._descriptors[file]
        else:
            return _open(file, mode, buffering, encoding, errors, newline, closefd)
        if "b" in mode:
            return raw
        return io.TextIOWrapper(raw, encoding or "utf-8", errors, newline)

    def open_descriptor(self, path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        """Opens a file as `os.open` does, for `tempfile`."""
        letters = "r" if flags & 3 == os.O_RDONLY else "x" if flags & os.O_EXCL else "w"
        descriptor = next(self._numbers)
        self._descriptors[descriptor] = self._open(_absolute(path), {letters})
        return descriptor

    def close_descriptor(self, descriptor: int) -> None:
        """Closes what `open_descriptor` opened."""
        if descriptor in self._descriptors:
            self._descriptors.pop(descriptor).close()
        else:
            _close(descriptor)

    def _open(self, path: str, mode: set[str]) -> _File:
        if path in self._folders:
            raise _error(IsADirectoryError, errno.EISDIR, path)
        if mode.isdisjoint("wax"):
            content = self._read(path)
        else:
            self._parent(path)
            if "x" in mode and path in self._files:
                raise _error(FileExistsError, errno.EEXIST, path)
            content = self._files.get(path, b"") if "a" in mode else b""
        is_written = bool(mode & set("wax+"))
        file = _File(self if is_written else None, path, content)
        if is_written:
            self._files[path] = content
        if "a" in mode:
            file.seek(0, io.SEEK_END)
        return file

    def write(self, path: str, content: bytes) -> None:
        """What a file holds from now on."""
        self._files[path] = content

    def stat(self, path: Any, **options: Any) -> os.stat_result:
        """Kind and size."""
        if isinstance(path, int):
            return _stat(path)
        path = _absolute(path)
        if path in self._folders:
            return _result(stats.S_IFDIR | 0o755, 0)
        return _result(stats.S_IFREG | 0o644, len(self._read(path)))

    def listdir(self, path: Any = ".") -> list[str]:
        """Names in a folder."""
        path = _absolute(path)
        if path not in self._folders:
            raise _error(FileNotFoundError, errno.ENOENT, path)
        everything = [*self._files, *(folder for folder in self._folders if folder != "/")]
        return sorted(os.path.basename(name) for name in everything if os.path.dirname(name) == path)

    def scandir(self, path: Any = ".") -> _Entries:
        """Entries of a folder."""
        path = os.fspath(path)
        return _Entries([_Entry(self, name, os.path.join(path, name)) for name in self.listdir(path)])

    def mkdir(self, path: Any, mode: int = 0o777, **options: Any) -> None:
        """Makes a folder."""
        path = _absolute(path)
        if path in self._folders or path in self._files:
            raise _error(FileExistsError, errno.EEXIST, path)
        self._parent(path)
        self._folders.add(path)

    def unlink(self, path: Any, **options: Any) -> None:
        """Removes a file."""
        path = _absolute(path)
        self._read(path)
        del self._files[path]

    def rmdir(self, path: Any, **options: Any) -> None:
        """Removes an empty folder."""
        if self.listdir(path):
            raise _error(OSError, errno.ENOTEMPTY, _absolute(path))
        self._folders.discard(_absolute(path))

    def rename(self, source: Any, target: Any, **options: Any) -> None:
        """Moves a file."""
        source, target = _absolute(source), _absolute(target)
        content = self._read(source)
        self._parent(target)
        del self._files[source]
        self._files[target] = content

    def _read(self, path: str) -> bytes:
        try:
            return self._files[path]
        except KeyError:
            raise _error(FileNotFoundError, errno.ENOENT, path) from None

    def _parent(self, path: str) -> None:
        if os.path.dirname(path) not in self._folders:
            raise _error(FileNotFoundError, errno.ENOENT, path)


class _File(io.BytesIO):
    """An open file; what was written is in place when it is flushed or closed."""

    def __init__(self, overlay: Overlay | None, path: str, content: bytes) -> None:
        super().__init__(content)
        self._overlay = overlay
        self.name = path

    def writable(self) -> bool:
        return self._overlay is not None

    def write(self, data: Any) -> int:
        if self._overlay is None:
            raise io.UnsupportedOperation("not writable")
        return super().write(data)

    def flush(self) -> None:
        super().flush()
        if self._overlay is not None:
            self._overlay.write(self.name, self.getvalue())

    def close(self) -> None:
        if not self.closed:
            self.flush()
        super().close()


class _Entry:
    """A name in a folder, as `os.scandir` gives it."""

    def __init__(self, overlay: Overlay, name: str, path: str) -> None:
        self._overlay = overlay
        self.name = name
        self.path = path

    def stat(self, **options: Any) -> os.stat_result:
        return self._overlay.stat(self.path)

    def is_dir(self, **options: Any) -> bool:
        return stats.S_ISDIR(self.stat().st_mode)

    def is_file(self, **options: Any) -> bool:
        return stats.S_ISREG(self.stat().st_mode)

    def is_symlink(self) -> bool:
        return False

    def __fspath__(self) -> str:
        return self.path


class _Entries(list[_Entry]):
    """What `os.scandir` returns: an iterator that can be closed."""

    def __enter__(self) -> Iterator[_Entry]:
        return iter(self)

    def __exit__(self, *error: object) -> None:
        pass

    def close(self) -> None:
        """Nothing is held."""


_open = io.open
_close = os.close
_stat = os.stat


def install(overlay: Overlay) -> None:
    """Makes `open` and `os` see the overlay, and nothing else."""
    # It asks which functions take descriptors of folders when it is imported.
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    builtins.open = io.open = overlay.open
    os.open = overlay.open_descriptor
    os.close = overlay.close_descriptor  # type: ignore[assignment]
    os.stat = os.lstat = overlay.stat
    os.listdir = overlay.listdir  # type: ignore[assignment]
    os.scandir = overlay.scandir  # type: ignore[assignment]
    os.mkdir = overlay.mkdir
    os.unlink = os.remove = overlay.unlink
    os.rmdir = overlay.rmdir
    os.rename = os.replace = overlay.rename  # type: ignore[assignment]


def _absolute(path: Any) -> str:
    name = os.fspath(path)
    name = name.decode() if isinstance(name, bytes) else name
    return os.path.normpath(os.path.join(os.getcwd(), name))


def _result(mode: int, size: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, 0, 0, size, 0, 0, 0))


def _error(kind: type[OSError], number: int, path: str) -> OSError:
    return kind(number, os.strerror(number), path)
