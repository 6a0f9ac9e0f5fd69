"""The names of `torch` that a tutorial uses around a language model. See `dormouse.lookalike`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from dormouse.lookalike.tensor import Tensor

from . import backends, cuda

__version__ = "0.0.0+dormouse"

__all__ = ["Tensor", "backends", "cuda", "device", "dtype", "manual_seed", "no_grad", "tensor"]


class dtype:
    """A type of number, in name: the host keeps its weights in their own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"torch.{self._name}"


float64 = double = dtype("float64")
float32 = float = dtype("float32")
float16 = half = dtype("float16")
bfloat16 = dtype("bfloat16")
int64 = long = dtype("int64")
int32 = int = dtype("int32")
int8 = dtype("int8")
uint8 = dtype("uint8")
bool = dtype("bool")


class device:
    """A device, in name: the host decides where its models run."""

    def __init__(self, type: Any = "cpu", index: Any = None) -> None:
        self.type = str(type).partition(":")[0]
        self.index = index

    def __str__(self) -> str:
        return self.type

    def __repr__(self) -> str:
        return f"device(type={self.type!r})"


class no_grad(contextlib.ContextDecorator):
    """A block without gradients, as every block is."""

    def __init__(self, mode: Any = True) -> None:
        self.mode = mode

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, function: Any = None) -> Any:
        return self if function is None else super().__call__(function)


class inference_mode(no_grad):
    """The same."""

    def __new__(cls, mode: Any = True) -> Any:
        # `@torch.inference_mode` is also used without being called.
        return mode if callable(mode) else super().__new__(cls)


@contextlib.contextmanager
def autocast(*device: Any, **options: Any) -> Iterator[None]:
    """A block of mixed precision, which is the host's business."""
    yield


def tensor(data: Any, **options: Any) -> Tensor:
    """A tensor of token ids."""
    return Tensor(data)


LongTensor = tensor


def manual_seed(seed: Any) -> None:
    """The seed of completions that sample."""
    from dormouse.lookalike import seed as seeds

    seeds.current = seed


def compile(model: Callable[..., Any], *options: Any, **more: Any) -> Callable[..., Any]:
    """The same model."""
    return model


def set_grad_enabled(mode: Any) -> no_grad:
    """Gradients are never computed."""
    return no_grad()


def set_default_device(place: Any) -> None:
    """The host decides."""


def set_default_dtype(kind: Any) -> None:
    """The host decides."""


def set_float32_matmul_precision(precision: str) -> None:
    """The host decides."""
