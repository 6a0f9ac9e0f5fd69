"""A tensor of token ids: nested lists with the shape, slicing and moving that tutorials use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Tensor:
    """Numbers in rows. It lives nowhere: moving it returns it.

    `sources` keeps the plain text that a row was tokenized from, so that the model is given that and begins
    it as its vocabulary says.
    """

    def __init__(self, data: Any, sources: list[Any] | None = None) -> None:
        self._data = data.tolist() if isinstance(data, Tensor) else data
        self.sources = sources

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return _shape(self._data)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def device(self) -> str:
        """Where it is, in name."""
        return "cpu"

    def size(self, axis: int | None = None) -> Any:
        """The shape, or the length of one axis."""
        return self.shape if axis is None else self.shape[axis]

    def numel(self) -> int:
        """How many numbers it holds."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    def dim(self) -> int:
        """Number of axes."""
        return self.ndim

    def to(self, *place: Any, **options: Any) -> Tensor:
        """The same tensor, as are the next ones."""
        return self

    cuda = cpu = detach = clone = contiguous = long = to

    def tolist(self) -> Any:
        """The numbers as lists."""
        return self._data

    def item(self) -> Any:
        """The only number."""
        data = self._data
        while isinstance(data, list):
            if len(data) != 1:
                raise ValueError(f"item() wants one number, the tensor has {self.numel()}")
            data = data[0]
        return data

    def squeeze(self, axis: int = 0) -> Tensor:
        """Without an axis of length 1."""
        return Tensor(self._data[0]) if self.shape[axis] == 1 and axis == 0 else self

    def unsqueeze(self, axis: int) -> Tensor:
        """With an axis of length 1 in front."""
        if axis != 0:
            raise ValueError(f"unsqueeze takes axis 0 here, not {axis}")
        return Tensor([self._data], self.sources)

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        return _wrap(_index(self._data, index if isinstance(index, tuple) else (index,)))

    def __eq__(self, other: object) -> Any:
        return self._data == (other._data if isinstance(other, Tensor) else other)

    def __hash__(self) -> int:
        return id(self)

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def __repr__(self) -> str:
        return f"tensor({self._data})"


def _shape(data: Any) -> tuple[int, ...]:
    if not isinstance(data, list):
        return ()
    return (len(data), *(_shape(data[0]) if data else ()))


def _index(data: Any, indices: tuple[Any, ...]) -> Any:
    if not indices:
        return data
    first, rest = indices[0], indices[1:]
    if isinstance(first, Tensor):
        first = int(first)
    if isinstance(first, slice):
        return [_index(item, rest) for item in data[first]] if rest else data[first]
    return _index(data[first], rest)


def _wrap(data: Any) -> Any:
    return Tensor(data) if isinstance(data, list) else Scalar(data)


class Scalar(int):
    """A number taken out of a tensor; it still answers `item()`."""

    def item(self) -> int:
        """The number."""
        return int(self)
