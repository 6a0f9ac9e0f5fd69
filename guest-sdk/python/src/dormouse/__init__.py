"""Write a predictor in Python; Dormouse runs it as a component beside the model it calls.

    from dormouse import BasePredictor, ConcatenateIterator, Input
    from dormouse.llm import Model

    class Predictor(BasePredictor):
        def setup(self):
            self.model = Model("smollm2")

        def predict(self, prompt: str = Input(description="What to continue")) -> ConcatenateIterator[str]:
            yield from self.model.generate(prompt, max_tokens=100)

The modules in the order a prediction passes them: `load` finds the predictor in its file, `signature`
and `shape` read its types, `manifest` writes its schema, `worker` answers with it, and `host` is where
models, logs and streamed output come from and go to. `guest` is the part that only runs inside a
component; `build` is the part that only runs on an author's machine.
"""

from .input import FieldInfo, Input
from .model import BaseModel
from .predictor import BasePredictor, BaseRunner, concurrent, streaming
from .scope import current_scope, emit_metric, log, progress
from .types import (
    AsyncConcatenateIterator,
    CancelationException,
    ConcatenateIterator,
    File,
    Opaque,
    Path,
    Secret,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncConcatenateIterator",
    "BaseModel",
    "BasePredictor",
    "BaseRunner",
    "CancelationException",
    "ConcatenateIterator",
    "FieldInfo",
    "File",
    "Input",
    "Opaque",
    "Path",
    "Secret",
    "concurrent",
    "current_scope",
    "emit_metric",
    "log",
    "progress",
    "streaming",
]
