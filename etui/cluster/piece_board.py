"""Which node answers which questions: pieces in flight, given back, retried, and counted once.

A question is known by its key (system, subject, row). The first answer to a key counts, whichever
node gave it; all others are doubled. A piece that is given back is asked again without the rows
that were answered meanwhile. Nothing here waits, sends or reads a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from etui.bench.schedule import Piece

Key = tuple[str, str, int]
"""System, subject and row of a question."""


@dataclass(frozen=True, slots=True)
class BoundPiece:
    """A piece, and the only machine that may answer it; None if any may."""

    piece: Piece
    machine: str | None = None

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys of its questions, in order."""
        return tuple((self.piece.system, self.piece.subject, row) for row in self.piece.rows)


@dataclass(slots=True)
class _Flight:
    """A piece that a machine was given."""

    bound: BoundPiece
    keys: frozenset[Key]  # The questions of the piece
    given_back: bool = False  # Whether others may answer it too, since the machine has been silent
    overtaken: bool = False  # Whether another machine has answered one of its questions meanwhile


@dataclass(frozen=True, slots=True)
class Assignment:
    """A piece to send to a machine, and its rows that are answered already."""

    piece: Piece
    done: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LostPiece:
    """How often a piece was lost, and by how many machines."""

    times: int
    machines: int


@dataclass(slots=True)
class PieceBoard:
    """The pieces of a run on several machines.

    Args:
        answered: Keys that are answered already.
    """

    pieces: Iterable[BoundPiece]
    answered: set[Key] = field(default_factory=set)
    _waiting: dict[str | None, deque[BoundPiece]] = field(default_factory=dict, init=False)
    _flights: dict[str, _Flight] = field(default_factory=dict, init=False)
    _losses: dict[BoundPiece, list[str]] = field(default_factory=dict, init=False)
    _total: set[Key] = field(default_factory=set, init=False)
    _left: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for bound in self.pieces:
            self._total.update(bound.keys)
            self._waiting.setdefault(bound.machine, deque()).append(bound)
        self._left = len(self._total - self.answered)

    @property
    def left(self) -> int:
        """Number of unanswered questions."""
        return self._left

    @property
    def is_complete(self) -> bool:
        """Whether every question is answered."""
        return not self._left

    def take(self, machine: str) -> Assignment | None:
        """Give a machine the next piece that it may answer; None if there is none now.

        Raises:
            ValueError: It has a piece already.
        """
        if machine in self._flights:
            raise ValueError(f"{machine} has a piece already")
        for owner in (machine, None):
            waiting = self._waiting.get(owner)
            while waiting:
                bound = waiting.popleft()
                if self._unanswered(bound):
                    self._flights[machine] = _Flight(bound, frozenset(bound.keys))
                    return Assignment(bound.piece, self._done_rows(bound))
        return None

    def add(self, machine: str, keys: Sequence[Key]) -> list[bool]:
        """Count answers of a machine; return for each whether it is the first to its key."""
        for other, flight in self._flights.items():
            if other != machine and not flight.overtaken:
                flight.overtaken = any(key in flight.keys for key in keys)
        first = []
        for key in keys:
            first.append(key in self._total and key not in self.answered)
            self.answered.add(key)
        self._left -= sum(first)
        return first

    def in_flight(self, machine: str) -> tuple[Key, ...]:
        """Return the unanswered keys of the piece that a machine has."""
        flight = self._flights.get(machine)
        return self._unanswered(flight.bound) if flight is not None else ()

    def finish(self, machine: str) -> None:
        """Note that a machine has ended its piece; rows it left out wait again."""
        self._release(machine)

    def lose(self, machine: str) -> LostPiece | None:
        """Take the piece of a machine back, because it died or failed.

        Returns:
            How often this piece was lost in all; None if nothing of it was left to answer, or if
            the machine had none.
        """
        flight = self._release(machine)
        if flight is None or not self._unanswered(flight.bound):
            return None
        losers = self._losses.setdefault(flight.bound, [])
        losers.append(machine)
        return LostPiece(len(losers), len(set(losers)))

    def give_back(self, machine: str) -> int:
        """Let other machines answer the piece of a silent machine, whose late answers still count.

        Returns:
            The number of questions given back.
        """
        flight = self._flights.get(machine)
        if flight is None or flight.given_back:
            return 0
        flight.given_back = True
        keys = self._unanswered(flight.bound)
        if keys:
            self._waiting.setdefault(flight.bound.machine, deque()).appendleft(flight.bound)
        return len(keys)

    def is_answered_by_others(self, machine: str) -> bool:
        """Return whether others have helped to answer all of the piece that a machine has."""
        flight = self._flights.get(machine)
        if flight is None or not flight.overtaken:
            return False
        return not self._unanswered(flight.bound)

    def can_continue(self, machines: Collection[str]) -> bool:
        """Return whether these machines are enough to answer, or are answering, what is left."""
        if any(machine in self._flights for machine in machines):
            return True
        return any(
            self._unanswered(bound)
            for owner, waiting in self._waiting.items()
            if (owner in machines if owner is not None else machines)
            for bound in waiting
        )

    def _release(self, machine: str) -> _Flight | None:
        flight = self._flights.pop(machine, None)
        if flight is not None and not flight.given_back and self._unanswered(flight.bound):
            self._waiting.setdefault(flight.bound.machine, deque()).appendleft(flight.bound)
        return flight

    def _unanswered(self, bound: BoundPiece) -> tuple[Key, ...]:
        return tuple(key for key in bound.keys if key not in self.answered)

    def _done_rows(self, bound: BoundPiece) -> tuple[int, ...]:
        return tuple(row for _, _, row in bound.keys if (*bound.keys[0][:2], row) in self.answered)
