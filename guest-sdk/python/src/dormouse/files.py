"""Files as they travel in JSON: `data:` URLs."""

from __future__ import annotations

import base64
import binascii
import io
import itertools
import mimetypes
import os
import urllib.parse

from .types import Path

FOLDER = "/tmp/dormouse"
"""Where the content of an input's `data:` URL is written."""

_numbers = itertools.count(1)


def receive(url: str) -> Path:
    """Writes the content of a `data:` URL to a file of its own."""
    media_type, content = decode(url)
    folder = f"{FOLDER}/{os.getpid()}-{next(_numbers)}"
    os.makedirs(folder, exist_ok=True)
    path = Path(folder, "file" + (mimetypes.guess_extension(media_type) or ""))
    path.write_bytes(content)
    return path


def open_url(url: str) -> io.BytesIO:
    """The content of a `data:` URL as an open file."""
    return io.BytesIO(decode(url)[1])


def send(path: os.PathLike[str]) -> str:
    """The content of a file as a `data:` URL."""
    media_type = mimetypes.guess_type(os.fspath(path))[0] or "application/octet-stream"
    with open(path, "rb") as file:
        content = file.read()
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def decode(url: str) -> tuple[str, bytes]:
    """The media type and the content of a `data:` URL. `ValueError` says what is wrong with it."""
    scheme, colon, rest = url.partition(":")
    if not colon or scheme.lower() != "data":
        raise ValueError(
            f"a file comes as a data: URL here, as a predictor reaches no network, not as {url[:60]!r}"
        )
    header, comma, text = rest.partition(",")
    if not comma:
        raise ValueError("a data: URL needs a comma between its type and its content")
    media_type, *parameters = header.split(";")
    content = urllib.parse.unquote_to_bytes(text)
    if "base64" in (parameter.strip().lower() for parameter in parameters):
        try:
            content = base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise ValueError(f"the content of a data: URL is not base64: {error}") from error
    return media_type.strip() or "text/plain", content
