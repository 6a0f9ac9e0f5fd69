"""tests/guests/failing.rs for Cog."""

from cog import BaseRunner


class Runner(BaseRunner):
    def run(self, number: int = 3) -> None:
        print("about to fail", flush=True)
        raise ValueError(f"wanted {number}: invalid digit found in string")
