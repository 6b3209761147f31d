"""What recordings of counters and of power have in common: their newest rows, and their marks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, get_type_hints

from etui.energy.types import Phase

if TYPE_CHECKING:
    import numpy as np

_FIRST_ROWS = 1024
_DTYPES = {int: "i8", float: "f8", bool: "?"}
_MOST_MARKS = 1000
_MOST_PLACED = 64
_SAME_NS = 1_000_000
Row = TypeVar("Row", bound=tuple[Any, ...])


class Point(NamedTuple):
    """The running totals of a channel at one time."""

    joules: float  # Energy since the first row
    covered_ns: float  # Time that was recorded
    known_ns: float  # Time whose energy is known, bridged gaps included
    systematic: float
    """Half width of ``joules`` that all devices share: what the power did between two refreshes,
    and when it stepped at a mark."""
    variance: float = 0.0  # Accumulated variance of sampling, J^2 (power readings only)
    noise: float = 0.0  # Half width of `joules` that is the device's own: when its counter moved


class Mark(NamedTuple):
    """A time at which the power steps, and the name of the phase that begins there."""

    t_ns: int
    phase: Phase = ""


class Columns(Generic[Row]):
    """Rows of a NamedTuple in the order of their first field, one numpy array per field.

    At least the newest ``keep`` rows are always available as one contiguous slice: the arrays have
    room for twice as many, and when they are full the newest half moves to the front. One
    structured array would do the same with a name per field, but numpy copies a field of it before
    each search.
    """

    def __init__(self, row_type: type[Row], keep: int) -> None:
        import numpy as np

        self._np = np
        self._keep = max(keep, 2)
        self._make_row: Callable[[list[Any]], Row] = row_type._make  # type: ignore[attr-defined]
        rows = min(2 * self._keep, _FIRST_ROWS)
        self._columns: dict[str, np.ndarray[Any, Any]] = {
            name: np.zeros(rows, dtype=_DTYPES[kind])
            for name, kind in get_type_hints(row_type).items()
        }
        self._arrays = list(self._columns.values())
        self._end = 0
        self.dropped = False  # Whether old rows were dropped

    def __len__(self) -> int:
        return self._end

    def append(self, row: Row) -> None:
        if self._end == len(self._arrays[0]):
            self._make_room()
        for array, value in zip(self._arrays, row, strict=True):
            array[self._end] = value
        self._end += 1

    def insert(self, index: int, row: Row) -> None:
        """Add a row before the row at ``index``."""
        later = self._end - index
        self.append(row)  # which may drop old rows, so that the index changes
        end = self._end
        start = max(end - 1 - later, 0)
        for array, value in zip(self._arrays, row, strict=True):
            array[start + 1 : end] = array[start : end - 1].copy()
            array[start] = value

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """Return a view of one field, oldest row first; valid until the next append."""
        return self._columns[name][: self._end]

    def row(self, index: int) -> Row:
        """Return one row; negative indices count from the newest."""
        at = index if index >= 0 else self._end + index
        return self._make_row([array.item(at) for array in self._arrays])

    def search(self, value: int) -> int:
        """Count the rows whose first field is at most ``value``."""
        return int(self._arrays[0][: self._end].searchsorted(value, side="right"))

    def _make_room(self) -> None:
        size = len(self._arrays[0])
        full = 2 * self._keep
        if size == full:
            for array in self._arrays:
                array[: self._keep] = array[size - self._keep :]
            self._end = self._keep
            self.dropped = True
            return
        for name, array in self._columns.items():
            self._columns[name] = self._np.zeros(min(2 * size, full), dtype=array.dtype)
            self._columns[name][:size] = array
        self._arrays = list(self._columns.values())


class Recording(ABC, Generic[Row]):
    """Rows whose fields begin with ``t_ns``, and marks at which the power steps.

    What is fitted at a mark is final, so that an interval that has settled does not change.
    """

    def __init__(self, row_type: type[Row], keep: int) -> None:
        self._rows = Columns(row_type, keep)
        self._marks: list[Mark] = []
        """Marks in order, until the energy there is fitted."""
        self._placed: list[Mark] = []
        """The newest marks at which the energy was fitted, or could not be."""
        self._before: Phase = "idle"  # The phase before them

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def first_ns(self) -> int | None:
        """Time of the oldest row; None without one."""
        return int(self._rows.row(0)[0]) if len(self._rows) else None

    @property
    def last_ns(self) -> int | None:
        """Time of the newest row: the last movement of a counter, what the last reading shows."""
        return int(self._rows.row(-1)[0]) if len(self._rows) else None

    @property
    def dropped_until_ns(self) -> int | None:
        """Time before which the record was dropped; None if all of it is kept."""
        return self.first_ns if self._rows.dropped else None

    def curve(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return times in nanoseconds and joules up to them: views, valid until the next read."""
        return self._rows.column("t_ns"), self._rows.column("joules")

    def mark(self, t_ns: int, phase: Phase = "") -> None:
        """Note that the power steps at a time; the energy there is fitted when it is surrounded.

        Of marks within a millisecond of each other the first one stays, with the last one's phase.
        """
        if phase == "shared":
            self._keep_mark(Mark(t_ns))
            return
        at = bisect_left(self._marks, t_ns, key=lambda mark: mark.t_ns)
        near = [i for i in (at - 1, at) if 0 <= i < len(self._marks)]
        same = [i for i in near if abs(self._marks[i].t_ns - t_ns) <= _SAME_NS]
        if same:
            self._marks[same[0]] = self._marks[same[0]]._replace(phase=phase)
        else:
            self._marks.insert(at, Mark(t_ns, phase))
            del self._marks[:-_MOST_MARKS]
        self._place_marks()

    def is_pending(self, end_ns: int) -> bool:
        """Return whether a mark up to a time waits for readings after it."""
        return bool(self._marks) and self._marks[0].t_ns <= end_ns

    def _keep_mark(self, mark: Mark) -> None:
        """Keep a mark that no longer waits, for the phases around later ones."""
        self._placed.append(mark)
        if len(self._placed) > _MOST_PLACED:
            self._before = self._placed.pop(0).phase

    def _list_marks(self, start_ns: int, end_ns: int) -> tuple[list[int], list[Phase]]:
        """Return the times of the marks inside an interval, and the phases around them."""
        known = sorted([*self._placed, *self._marks])
        inside = [mark for mark in known if start_ns < mark.t_ns < end_ns]
        before = [mark.phase for mark in known if mark.t_ns <= start_ns]
        phases = [before[-1] if before else self._before, *(mark.phase for mark in inside)]
        return [mark.t_ns for mark in inside], phases

    @abstractmethod
    def at(self, t_ns: int) -> Point:
        """Return the running totals at a time; constant where nothing is known."""

    @abstractmethod
    def totals(
        self, times: np.ndarray[Any, Any]
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the joules and known nanoseconds of :meth:`at` for many times (int64)."""

    @abstractmethod
    def _place_marks(self) -> None: ...
