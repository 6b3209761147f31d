"""Columns of numbers that keep only the newest rows, so that memory use is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_FIRST_ROWS = 1024


class Columns:
    """Rows of numbers, with one numpy array per column.

    At least the newest ``keep`` rows are always available as one contiguous slice: the arrays have
    room for twice as many, and when they are full the newest half moves to the front.

    Args:
        dtypes: One numpy dtype per column.
        keep: Least number of rows to keep.

    Attributes:
        dropped: Whether old rows were dropped.
    """

    def __init__(self, dtypes: tuple[str, ...], keep: int) -> None:
        import numpy as np

        self._np = np
        self._keep = max(keep, 2)
        rows = min(2 * self._keep, _FIRST_ROWS)
        self._arrays: list[Any] = [np.zeros(rows, dtype=dtype) for dtype in dtypes]
        self._end = 0
        self.dropped = False

    def __len__(self) -> int:
        return self._end

    def append(self, *row: float) -> None:
        """Add a row."""
        if self._end == len(self._arrays[0]):
            self._make_room()
        for array, value in zip(self._arrays, row, strict=True):
            array[self._end] = value
        self._end += 1

    def insert(self, index: int, *row: float) -> None:
        """Add a row before the row at ``index``."""
        later = self._end - index
        self.append(*row)  # which may drop old rows, so that the index changes
        end = self._end
        start = max(end - 1 - later, 0)
        for array, value in zip(self._arrays, row, strict=True):
            array[start + 1 : end] = array[start : end - 1].copy()
            array[start] = value

    def column(self, index: int) -> np.ndarray[Any, Any]:
        """Return a view of one column, oldest row first; valid until the next append."""
        view: np.ndarray[Any, Any] = self._arrays[index][: self._end]
        return view

    def row(self, index: int) -> tuple[Any, ...]:
        """Return one row as plain numbers; negative indices count from the newest."""
        at = index if index >= 0 else self._end + index
        return tuple([array.item(at) for array in self._arrays])

    def search(self, column: int, value: int) -> int:
        """Count the rows whose value in a sorted column is at most ``value``."""
        return int(self._arrays[column][: self._end].searchsorted(value, side="right"))

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
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
        self.dropped = True
