"""Which node answers which questions: pieces in flight, given back, retried, and counted once.

The first answer to a question counts, whichever node gave it. A piece that is given back is asked
again without the rows that were answered meanwhile. Nothing here waits, sends or reads a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from etui.bench.schedule import Piece
from etui.cluster.messages import Task

Key = tuple[str, str, int]
"""System, subject and row of a question."""


def list_keys(piece: Piece) -> tuple[Key, ...]:
    """List the keys of the questions of a piece, in order."""
    return tuple((piece.system, piece.subject, row) for row in piece.rows)


@dataclass(slots=True)
class _Flight:
    """A piece that a machine was given."""

    piece: Piece
    owner: str | None
    keys: frozenset[Key]
    given_back: bool = False  # Whether others may answer it too, since the machine has been silent
    overtaken: bool = False  # Whether another machine has answered one of its questions meanwhile


class PieceBoard:
    """The pieces of a run on several machines.

    Args:
        pieces: Machine that has to answer -> its pieces; those of None are for any machine.
        answered: Keys that are answered already.
    """

    def __init__(
        self, pieces: Mapping[str | None, Iterable[Piece]], answered: Collection[Key] = ()
    ) -> None:
        self._waiting = {owner: deque(inside) for owner, inside in pieces.items()}
        self._flights: dict[str, _Flight] = {}
        self._losers: dict[Piece, list[str]] = {}
        every = {
            key for inside in self._waiting.values() for piece in inside for key in list_keys(piece)
        }
        self._left = every.difference(answered)

    @property
    def left(self) -> int:
        """Number of unanswered questions."""
        return len(self._left)

    def take(self, machine: str) -> Task | None:
        """Give a machine the next piece that it may answer; None if there is none now.

        Raises:
            ValueError: It has a piece already.
        """
        if machine in self._flights:
            raise ValueError(f"{machine} has a piece already")
        for owner in (machine, None):
            waiting = self._waiting.get(owner)
            while waiting:
                piece = waiting.popleft()
                left = self._unanswered(piece)
                if left:
                    keys = list_keys(piece)
                    self._flights[machine] = _Flight(piece, owner, frozenset(keys))
                    return Task(piece, tuple(key[2] for key in keys if key not in left))
        return None

    def add(self, machine: str, keys: Sequence[Key]) -> list[bool]:
        """Count answers of a machine; return for each whether it is the first to its key."""
        for other, flight in self._flights.items():
            if other != machine and not flight.keys.isdisjoint(keys):
                flight.overtaken = True
        first = []
        for key in keys:
            first.append(key in self._left)
            self._left.discard(key)
        return first

    def in_flight(self, machine: str) -> tuple[Key, ...]:
        """Return the unanswered keys of the piece that a machine has."""
        flight = self._flights.get(machine)
        return self._unanswered(flight.piece) if flight is not None else ()

    def finish(self, machine: str) -> None:
        """Note that a machine has ended its piece; rows it left out wait again."""
        self._release(machine)

    def lose(self, machine: str) -> tuple[str, ...]:
        """Take the piece of a machine back, because it died or failed.

        Returns:
            The machines that lost this piece, one for each time; none if nothing of it was left to
            answer, or if the machine had none.
        """
        flight = self._release(machine)
        if flight is None or not self._unanswered(flight.piece):
            return ()
        losers = self._losers.setdefault(flight.piece, [])
        losers.append(machine)
        return tuple(losers)

    def give_back(self, machine: str) -> int:
        """Let other machines answer the piece of a silent machine, whose late answers still count.

        Returns:
            The number of questions given back.
        """
        flight = self._flights.get(machine)
        if flight is None or flight.given_back:
            return 0
        self._wait_again(flight)
        flight.given_back = True
        return len(self._unanswered(flight.piece))

    def is_answered_by_others(self, machine: str) -> bool:
        """Return whether others have helped to answer all of the piece that a machine has."""
        flight = self._flights.get(machine)
        return flight is not None and flight.overtaken and not self._unanswered(flight.piece)

    def can_continue(self, machines: Collection[str]) -> bool:
        """Return whether these machines are enough to answer, or are answering, what is left."""
        if any(machine in self._flights for machine in machines):
            return True
        return any(
            self._unanswered(piece)
            for owner, waiting in self._waiting.items()
            if (owner in machines if owner is not None else machines)
            for piece in waiting
        )

    def _release(self, machine: str) -> _Flight | None:
        flight = self._flights.pop(machine, None)
        if flight is not None and not flight.given_back:
            self._wait_again(flight)
        return flight

    def _wait_again(self, flight: _Flight) -> None:
        if self._unanswered(flight.piece):
            self._waiting[flight.owner].appendleft(flight.piece)

    def _unanswered(self, piece: Piece) -> tuple[Key, ...]:
        return tuple(key for key in list_keys(piece) if key in self._left)
