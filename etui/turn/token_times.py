"""Times between the tokens of a turn, as its user sees them."""

from __future__ import annotations

from dataclasses import dataclass, field

from etui.events import Answer, Batch, Finished, Loaded, Prefilled, Thought, Unloaded, Vote
from etui.turn.events import HopEnded, HopStarted, TurnEvent


@dataclass(slots=True)
class TokenTimes:
    """Collect the times between the tokens of a turn from its events.

    A gap is the time between two steps that show tokens. A step that shows n tokens (speculation)
    counts as n gaps of an n-th of its time. Votes are decoded together, so their gaps are those of
    each vote: between two batches that it takes part in. The time to the first token of an answer
    is not a gap, nor is the time between the answers of two arms.
    """

    _gaps: list[float] = field(default_factory=list)
    _running: list[float] = field(default_factory=list)
    """Gaps of the running answer, if it is a single sequence."""
    _voted: dict[int, list[float]] = field(default_factory=dict)
    """Vote -> gaps between its batches."""
    _last_ns: int | None = None
    _ends_ns: dict[int, int] = field(default_factory=dict)
    """Vote -> end of the last batch that it took part in."""
    _tokens: dict[int, int] = field(default_factory=dict)
    """Vote that has ended -> its tokens."""
    _is_known: bool = True

    def add(self, event: TurnEvent) -> None:
        """Add one event of the turn."""
        match event:
            case Thought() | Answer():
                self._add_tokens(event.t_ns, event.tokens)
            case Batch():
                self._add_batch(event)
            case Vote():
                self._tokens[event.index] = event.tokens
            case Prefilled() | Finished() | HopStarted() | HopEnded() | Loaded() | Unloaded():
                self._end_answer()
            case _:
                pass

    def list_gaps(self) -> tuple[float, ...] | None:
        """Return all gaps in seconds; None if those of a part of the turn are not known."""
        self._end_answer()
        return tuple(self._gaps) if self._is_known else None

    def _add_tokens(self, t_ns: int, tokens: int) -> None:
        if tokens <= 0:
            return
        if self._last_ns is not None:
            gap = max(0, t_ns - self._last_ns) / 1e9 / tokens
            self._running += [gap] * tokens
        self._last_ns = t_ns

    def _add_batch(self, batch: Batch) -> None:
        for index, tokens in batch.tokens:
            if tokens <= 0:
                continue
            before = self._ends_ns.get(index)
            if before is not None:
                gap = max(0, batch.end_ns - before) / 1e9
                self._voted.setdefault(index, []).append(gap)
            self._ends_ns[index] = batch.end_ns

    def _end_answer(self) -> None:
        if self._ends_ns:
            for index, gaps in self._voted.items():
                # The last batch of a vote may draw the end of its text, which is no token.
                most = max(0, self._tokens.get(index, len(gaps) + 1) - 1)
                self._gaps += gaps[:most]
        elif self._tokens:
            # A remote server answers them at the same time, and the events do not say which vote a
            # token belongs to.
            self._is_known = False
        else:
            self._gaps += self._running
        self._running, self._voted, self._ends_ns, self._tokens = [], {}, {}, {}
        self._last_ns = None
