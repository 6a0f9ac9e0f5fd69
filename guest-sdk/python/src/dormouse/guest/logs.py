"""`logging` and `print`, on their way to the prediction's logs."""

from __future__ import annotations

import logging
import sys

from .. import host


class HostHandler(logging.Handler):
    """Hands records to the host with their level."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hands over one record."""
        host.current().log(_level(record.levelno), self.format(record))


def install() -> None:
    """Makes the host the handler of records that no other handler takes, and prints line by line."""
    logging.lastResort = HostHandler(logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    return "info" if number >= logging.INFO else "debug"
