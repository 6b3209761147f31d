"""Measure turns of given lengths with the engine: the points of an operating curve.

The work is that of a real turn (tokenize, prefill, one step per token), without the parts that
depend on the question: end tokens are skipped, so that every output has the requested length.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etui.arm import Sampling
from etui.calibration.grid import CurveVisit
from etui.curves.fit import TurnPoint, compute_speed
from etui.curves.operating_curve import Speed
from etui.energy.types import Energy, Kind
from etui.engine.session import Sampled, Session, TokenSequence
from etui.errors import EtuiError
from etui.turn.interfaces import Meter

GREEDY = Sampling()
_TEXT = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had
an they which one you were all her she there would their we him been has when who will no more if
out so up said what its about than into them can only other time new some
"""
_FILLER = " and"


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """The result of one visit, and its line in a file of points."""

    held_out: bool  # Whether it tests the fit and is not part of it
    point: TurnPoint  # Joules of one turn of its length
    kind: Kind | None  # How its energy was determined
    shared: bool  # Whether other processes used a GPU meanwhile

    @property
    def visit(self) -> CurveVisit:
        """The visit that it is the result of."""
        point = self.point
        return CurveVisit(point.computed_tokens, point.output_tokens, self.held_out)


@dataclass(slots=True)
class _Window:
    """One phase that was run ``runs`` times in these intervals of the monotonic clock."""

    intervals: list[tuple[int, int]]
    runs: int = 0

    @property
    def seconds(self) -> float:
        return sum(end - start for start, end in self.intervals) / 1e9


class TurnTimer:
    """A loaded model, which nothing else may use meanwhile, and a running meter of its turns.

    A phase is repeated back to back until it has lasted ``window_s``. Prompts are words in random
    order, by the seed: no two share a prefix.
    """

    def __init__(
        self,
        session: Session,
        meter: Meter,
        window_s: float,
        seed: int = 0,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._session = session
        self._meter = meter
        self._window_s = window_s
        self._random = random.Random(seed)
        self._clock = clock
        self._words = _TEXT.split()
        self._filler = session.tokenize(_FILLER)[:1]

    def measure(self, visit: CurveVisit) -> MeasuredPoint:
        """Measure one length; EtuiError if nothing can be measured, or the engine failed."""
        start_ns = self._mark()
        prefill = _Window([])
        while True:
            sequence, drawn = self._prefill(visit)
            prefill.runs += 1
            prefill.intervals = [(start_ns, self._clock())]
            if prefill.seconds >= self._window_s:
                break
            self._session.close(sequence, keep=False)
        self._meter.mark(prefill.intervals[-1][1])
        decode = self._decode(sequence, drawn, visit)
        self._meter.settle(decode.intervals[-1][1])
        return self._build_point(visit, prefill, decode)

    def repeat(self, length: CurveVisit, stop: threading.Event) -> None:
        """Run turns of a length, unmeasured, until an event is set."""
        while not stop.is_set():
            sequence, drawn = self._prefill(length)
            self._decode(sequence, drawn, length)

    def _make_prompt(self, tokens: int) -> list[int]:
        """Make a prompt of exactly this length, tokenized as a question is."""
        words = self._random.choices(self._words, k=tokens + 8)
        return self._session.tokenize(" ".join(words), bos=True)[:tokens]

    def _prefill(self, length: CurveVisit) -> tuple[TokenSequence, Sampled]:
        sequence = self._session.open(self._make_prompt(length.computed), GREEDY)
        while True:
            step = self._session.step([sequence])
            if step.sampled:
                return sequence, step.sampled[0]

    def _decode(self, sequence: TokenSequence, drawn: Sampled, length: CurveVisit) -> _Window:
        """Decode after the prompt repeatedly, in one interval while the model can be rolled back.

        A model that cannot be rolled back is prefilled again, outside the intervals.
        """
        done = _Window([])
        begun = True
        while not done.runs or done.seconds < self._window_s:
            if not begun and not self._roll_back(sequence, length):
                self._meter.mark(done.intervals[-1][1])
                self._session.close(sequence, keep=False)
                sequence, drawn = self._prefill(length)
                begun = True
            start_ns = self._mark() if begun else done.intervals.pop()[0]
            if begun:
                self._queue(sequence, drawn)
            for _ in range(length.output - 1):
                self._queue(sequence, self._session.step([sequence]).sampled[0])
            done.intervals.append((start_ns, self._clock()))
            done.runs += 1
            begun = False
        self._meter.mark(done.intervals[-1][1])
        self._session.close(sequence, keep=False)
        return done

    def _mark(self) -> int:
        """Return the time, and note that the power steps now."""
        now_ns = self._clock()
        self._meter.mark(now_ns)
        return now_ns

    def _roll_back(self, sequence: TokenSequence, length: CurveVisit) -> bool:
        count = len(sequence.tokens) - length.computed
        return self._session.rollback(sequence, count) and not sequence.pending

    def _queue(self, sequence: TokenSequence, drawn: Sampled) -> None:
        """Queue a word in place of a token that ends the text; other tokens queue themselves."""
        if drawn.ends:
            self._session.extend(sequence, self._filler)

    def _build_point(self, visit: CurveVisit, prefill: _Window, decode: _Window) -> MeasuredPoint:
        energies = [
            [self._meter.energy(*interval) for interval in window.intervals]
            for window in (prefill, decode)
        ]
        prefill_joules, prefill_half = _divide_by_runs(energies[0], prefill.runs)
        decode_joules, decode_half = _divide_by_runs(energies[1], decode.runs)
        point = TurnPoint(
            computed_tokens=visit.computed,
            cached_tokens=0,
            output_tokens=visit.output,
            prefill_joules=prefill_joules,
            decode_joules=decode_joules,
            prefill_uncertainty=prefill_half,
            decode_uncertainty=decode_half,
            prefill_seconds=prefill.seconds / prefill.runs,
            decode_seconds=decode.seconds / decode.runs,
        )
        shared = any(energy.shared for part in energies for energy in part)
        return MeasuredPoint(visit.held_out, point, energies[0][0].kind, shared)


def warm_up(timer: TurnTimer, lengths: Sequence[CurveVisit]) -> Speed:
    """Run turns that are not recorded, to load the weights into memory and raise the clocks.

    Returns the speed of the last turn, to predict the remaining time.
    """
    speed = Speed()
    for length in lengths:
        speed = compute_speed([timer.measure(length).point])
    return speed


def _divide_by_runs(parts: Sequence[Energy], runs: int) -> tuple[float, float]:
    """Return the joules of one of ``runs`` equal runs, and their half width."""
    joules = [energy.joules for energy in parts if energy.joules is not None]
    if len(joules) < len(parts):
        raise EtuiError("nothing can be measured on this machine", "see `etui doctor`")
    uncertainty = math.fsum(energy.uncertainty or 0.0 for energy in parts)
    return math.fsum(joules) / runs, uncertainty / runs
