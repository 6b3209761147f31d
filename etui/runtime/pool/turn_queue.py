"""The turns that wait for a place: first come, first served, and the keys in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.runtime.pool.pooled_turn import PooledTurn


class TurnQueue:
    """The waiting turns, from which no key can shut out another one; used under the pool's lock.

    Without keys, or with a single one, it is a queue like any other.

    Args:
        limit: Most turns that wait; 0 refuses all. A key without a turn in a full queue may add
            one, so that there are at most as many more as there are other keys.
    """

    def __init__(self, limit: int) -> None:
        self.limit = max(0, limit)
        self._turns: list[PooledTurn] = []
        self._served: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[PooledTurn]:
        return iter(tuple(self._turns))

    def has_room(self, key: str) -> bool:
        """Return whether another turn of a key may wait."""
        if len(self._turns) < self.limit:
            return True
        return self.limit > 0 and all(turn.request.key != key for turn in self._turns)

    def append(self, turn: PooledTurn) -> None:
        """Add a turn behind the others of its key."""
        self._turns.append(turn)

    def remove(self, turn: PooledTurn) -> None:
        """Take a turn out.

        Raises:
            ValueError: It does not wait.
        """
        self._turns.remove(turn)

    def note_begun(self, turn: PooledTurn) -> None:
        """Note that a turn begins, which puts its key behind the others."""
        self._count += 1
        self._served[turn.request.key] = self._count

    def take(self, running: Iterable[PooledTurn]) -> PooledTurn | None:
        """Take the next turn out; None if none waits.

        It is the oldest one of the key with the fewest running turns, and of several such keys that
        of the key whose last turn began first.
        """
        if not self._turns:
            return None
        busy = Counter(turn.request.key for turn in running)
        keys = dict.fromkeys(turn.request.key for turn in self._turns)
        chosen = min(keys, key=lambda key: (busy[key], self._served.get(key, 0)))
        turn = next(turn for turn in self._turns if turn.request.key == chosen)
        self._turns.remove(turn)
        self.note_begun(turn)
        return turn
