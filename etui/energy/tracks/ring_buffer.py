"""Columns of numbers that keep the newest rows: memory stays flat however long etui runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_FIRST_ROWS = 1024


class Columns:
    """Rows of numbers in one numpy array a column.

    The newest ``keep`` rows or more are always there as one contiguous slice: the arrays hold twice
    as many, and when they are full the newest half moves to the front.

    Args:
        dtypes: One numpy dtype a column.
        keep: Rows that are kept at least.
    """

    def __init__(self, dtypes: tuple[str, ...], keep: int) -> None:
        import numpy as np

        self._np = np
        self._keep = max(keep, 2)
        rows = min(2 * self._keep, _FIRST_ROWS)
        self._arrays: list[Any] = [np.zeros(rows, dtype=dtype) for dtype in dtypes]
        self._end = 0

    def __len__(self) -> int:
        return self._end

    def append(self, *row: float) -> None:
        """Add a row."""
        if self._end == len(self._arrays[0]):
            self._make_room()
        for array, value in zip(self._arrays, row, strict=True):
            array[self._end] = value
        self._end += 1

    def column(self, index: int) -> np.ndarray[Any, Any]:
        """A view of one column, oldest row first; valid until the next append."""
        view: np.ndarray[Any, Any] = self._arrays[index][: self._end]
        return view

    def row(self, index: int) -> tuple[Any, ...]:
        """One row as plain numbers; negative indices count from the newest."""
        at = index if index >= 0 else self._end + index
        return tuple([array.item(at) for array in self._arrays])

    def search(self, column: int, value: int) -> int:
        """Rows whose value in a sorted column is at most ``value``."""
        return int(self._arrays[column][: self._end].searchsorted(value, side="right"))

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return sum(int(array.nbytes) for array in self._arrays)

    def _make_room(self) -> None:
        size = len(self._arrays[0])
        full = 2 * self._keep
        if size < full:
            rows = min(2 * size, full)
            for index, array in enumerate(self._arrays):
                grown = self._np.zeros(rows, dtype=array.dtype)
                grown[:size] = array
                self._arrays[index] = grown
            return
        for array in self._arrays:
            array[: self._keep] = array[size - self._keep :]
        self._end = self._keep
