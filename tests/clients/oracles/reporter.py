"""tests/guests/reporter.rs for Cog."""

import sys
from collections.abc import Iterator

from cog import BaseRunner, current_scope, streaming


class Runner(BaseRunner):
    @streaming
    def run(self, count: int = 3) -> Iterator[int]:
        print(f"counting to {count}", flush=True)
        print("on stdout", flush=True)
        print("on stderr", file=sys.stderr, flush=True)
        for number in range(1, count + 1):
            current_scope().record_metric("counted", number)
            yield number
        print("line separators \u2028 and \x85 stay inside", flush=True)
        print("no line end", end="", flush=True)
