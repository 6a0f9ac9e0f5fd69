"""tests/guests/sleeper.rs for Cog."""

import time
from collections.abc import Iterator

from cog import BaseRunner, streaming


class Runner(BaseRunner):
    @streaming
    def run(self, ms: int = 600000) -> Iterator[str]:
        yield "awake"
        time.sleep(ms / 1000)
        yield "slept"
