"""examples/hello for Cog."""

from cog import BaseRunner


class Runner(BaseRunner):
    def run(self, name: str) -> str:
        return f"Hello, {name}!"
