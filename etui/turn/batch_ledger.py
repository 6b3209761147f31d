"""Keep the batches that several requests share, to find those of one request later."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace

from etui.events import BatchShare, SharedBatch
from etui.turn.attribution import BatchCost

KEEP_SECONDS = 3600.0
"""How long batches are kept; the recorder forgets readings after this time, too."""


@dataclass(frozen=True, slots=True)
class BatchGroup:
    """Adjacent batches of one model with the same tokens of the same requests.

    A request has the same share in each of them, so they are measured as one.

    Attributes:
        start_ns, end_ns: From the start of the first batch to the end of the last one.
    """

    index: int  # Number of the group since the start of the ledger
    model: str
    start_ns: int
    end_ns: int
    shares: tuple[BatchShare, ...]  # The tokens of each request in one of its batches
    batches: int = 1


class BatchLedger:
    """The shared batches of an engine, in order; any thread may use it.

    Batches are added in the order of time and do not overlap; what overlaps the one before is cut
    off, so that no joule is counted twice.

    Args:
        keep_seconds: Age at which batches are forgotten, counted from the newest.
    """

    def __init__(self, keep_seconds: float = KEEP_SECONDS) -> None:
        self._keep_ns = int(keep_seconds * 1e9)
        self._lock = threading.Lock()
        self._groups: list[BatchGroup] = []
        self._first = 0
        self._of_number: dict[int, list[int]] = {}
        self._costs: dict[int, BatchCost | None] = {}
        self._forgotten_ns: int | None = None

    def __len__(self) -> int:
        """Return the number of groups that are kept."""
        with self._lock:
            return len(self._groups)

    @property
    def forgotten_ns(self) -> int | None:
        """End of the newest batch that was forgotten; None if none was."""
        with self._lock:
            return self._forgotten_ns

    @property
    def newest_ns(self) -> int | None:
        """End of the newest batch; None without one."""
        with self._lock:
            return self._groups[-1].end_ns if self._groups else self._forgotten_ns

    def add(self, batch: SharedBatch) -> None:
        """Add a batch that has ended; one without requests or without a duration is ignored."""
        shares = tuple(sorted(batch.shares, key=lambda share: share.number))
        if not shares:
            return
        with self._lock:
            self._append(batch.model, batch.start_ns, batch.end_ns, shares)

    def close_span(self, model: str, start_ns: int, end_ns: int, numbers: Iterable[int]) -> None:
        """Add the time after the last batch in which answers ran that a crash ended.

        Args:
            start_ns: End of the last batch, or the start of the first answer.
            numbers: The answers that were running; they share the span equally.
        """
        shares = tuple(BatchShare(number, 0, 0) for number in sorted(set(numbers)))
        if shares:
            self.add(SharedBatch(model, start_ns, end_ns, shares))

    def find(self, numbers: Iterable[int]) -> list[BatchGroup]:
        """Return the groups in which answers of these numbers take part, oldest first."""
        with self._lock:
            lists = [self._of_number.get(number, []) for number in set(numbers)]
            indices = lists[0] if len(lists) == 1 else sorted(set().union(*lists))
            first = self._first
            return [self._groups[index - first] for index in indices]

    def is_shared_at(self, t_ns: int, own: Container[int], margin_ns: int) -> bool:
        """Return whether a batch close to a time has an answer of others.

        Args:
            own: Numbers of the answers that are not others'.
        """
        with self._lock:
            low = bisect_left(self._groups, t_ns - margin_ns, key=lambda group: group.end_ns)
            for index in range(low, len(self._groups)):
                group = self._groups[index]
                if group.start_ns > t_ns + margin_ns:
                    break
                if any(share.number not in own for share in group.shares):
                    return True
        return False

    def fix_cost(
        self, group: BatchGroup, find_cost: Callable[[str], BatchCost | None]
    ) -> BatchCost | None:
        """Return the cost by which a group is divided; the first call decides for all requests.

        A curve may change between the ends of two answers that shared a batch. If each of them
        used the curve of its time, their shares would not sum to 1.

        Args:
            find_cost: Returns the cost of a batch of a model; None divides by tokens.
        """
        with self._lock:
            if group.index in self._costs:
                return self._costs[group.index]
        cost = find_cost(group.model)
        with self._lock:
            if group.index < self._first:
                return cost
            return self._costs.setdefault(group.index, cost)

    def forget_before(self, t_ns: int) -> None:
        """Forget the batches that ended by a time: no running turn began before it."""
        with self._lock:
            self._forget(t_ns)

    def _append(
        self, model: str, start_ns: int, end_ns: int, shares: tuple[BatchShare, ...]
    ) -> None:
        last = self._groups[-1] if self._groups else None
        before_ns = last.end_ns if last else self._forgotten_ns
        if before_ns is not None:
            start_ns = max(start_ns, before_ns)
        if end_ns <= start_ns:
            return
        if (
            last is not None
            and last.end_ns == start_ns
            and last.shares == shares
            and last.model == model
        ):
            self._groups[-1] = replace(last, end_ns=end_ns, batches=last.batches + 1)
            return
        index = self._first + len(self._groups)
        self._groups.append(BatchGroup(index, model, start_ns, end_ns, shares))
        for share in shares:
            self._of_number.setdefault(share.number, []).append(index)
        if self._groups[0].end_ns < end_ns - self._keep_ns - self._keep_ns // 16:
            self._forget(end_ns - self._keep_ns)  # many at a time, for that moves all the others

    def _forget(self, t_ns: int) -> None:
        count = bisect_right(self._groups, t_ns, key=lambda group: group.end_ns)
        if not count:
            return
        dropped = self._groups[:count]
        del self._groups[:count]
        self._first += count
        self._forgotten_ns = dropped[-1].end_ns
        for group in dropped:
            self._costs.pop(group.index, None)
        for number in {share.number for group in dropped for share in group.shares}:
            indices = self._of_number[number]
            del indices[: bisect_left(indices, self._first)]
            if not indices:
                del self._of_number[number]
