"""The example hello, for Cog's own server as well."""

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def predict(self, name: str = Input(description="Who to greet", min_length=1, max_length=80)) -> str:
        return f"Hello, {name}!"
