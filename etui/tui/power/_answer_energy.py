"""Energy of the running or last answer: joules, per token, speed, and a bar for each phase."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.cells import cell_len

from etui import units
from etui.plots.braille import PHASE_INKS
from etui.plots.terminal import bar
from etui.tui.power._spending_text import NO_BASELINE

if TYPE_CHECKING:
    from etui.energy.types import Energy
    from etui.turn.record import TurnEnergy, TurnRecord

Run = tuple[str, str]
"""Characters, and the name of what they show."""

PHASE_LETTERS = "PTA"
_WIDE_GAP, _GAP = "      ", "  "


@dataclass(frozen=True, slots=True)
class AnswerEnergy:
    """The energy of one answer."""

    energy: Energy | TurnEnergy | None = None  # Gross and net joules; None before the first answer
    output_tokens: int = 0  # Tokens so far
    tokens_per_second: float | None = None  # Speed of decoding; None if unknown
    phase_joules: Mapping[str, float] = field(default_factory=dict)
    """Gross joules by the letter of the phase; missing ones are unknown."""
    running: bool = False  # Whether it is still being written

    @property
    def kind(self) -> str | None:
        """How the joules were determined."""
        kind = self.energy.kind if self.energy is not None else None
        return None if kind is None else str(kind)

    @property
    def is_estimate(self) -> bool:
        """Whether the joules are an estimate."""
        return self.kind == units.ESTIMATE

    def joules_text(self, *, net: bool) -> str:
        """Return ``≈42 J`` or ``42.3 J``; in net mode why there are none."""
        if self.energy is None:
            return ""
        if not net or self.energy.joules is None:
            return units.short_energy_text(self.energy.joules, self.kind)
        if self.energy.net_joules is None:
            return NO_BASELINE
        if self.energy.net_joules <= 0:
            return units.NOT_ABOVE_IDLE
        return units.short_energy_text(self.energy.net_joules, self.kind)

    def joules_word(self, *, net: bool) -> str:
        """Return the joules for one line; without a baseline for net ones, the gross ones."""
        if self.energy is None or not net or self.energy.joules is None:
            return self.joules_text(net=False)
        if self.energy.net_joules is None:
            return f"{self.joules_text(net=False)} gross"
        return f"{self.joules_text(net=True)} net"

    def per_token_text(self, *, net: bool) -> str:
        """Return ``0.66 J/tok``, of the net joules in net mode; empty if unknown."""
        if self.energy is None or not self.output_tokens:
            return ""
        joules = self.energy.net_joules if net else self.energy.joules
        if joules is None or (net and joules <= 0):
            return ""
        return units.short_per_token_text(joules / self.output_tokens, self.kind)

    def speed_text(self) -> str:
        """Return ``30 tok/s``; empty if unknown."""
        if not self.tokens_per_second:
            return ""
        return units.short_rate_text(self.tokens_per_second)


def answer_of_record(record: TurnRecord) -> AnswerEnergy:
    """Return the energy of a finished answer."""
    seconds, tokens = record.seconds.decode, record.tokens.output
    return AnswerEnergy(
        record.energy,
        tokens,
        tokens / seconds if seconds and tokens else None,
        phases_of(record.energy, thought=bool(record.tokens.thinking)),
    )


def phases_of(energy: TurnEnergy, *, thought: bool) -> dict[str, float]:
    """Return the joules of prefill, thinking and answer by letter; unknown ones are missing."""
    found: dict[str, float] = {}
    prefill, decode = energy.phases.get("prefill"), energy.phases.get("decode")
    if prefill is not None:
        found["P"] = prefill
    if not thought and decode is not None:
        found["A"] = decode
    elif decode is not None and energy.thinking_joules is not None:
        found["T"] = energy.thinking_joules
        found["A"] = max(0.0, decode - energy.thinking_joules)
    return found


def facts_line(answer: AnswerEnergy, width: int, *, net: bool) -> str:
    """Return joules, joules per token and speed with wide gaps where they fit."""
    parts = [answer.joules_text(net=net), answer.per_token_text(net=net), answer.speed_text()]
    known = [part for part in parts if part]
    for gap in (_WIDE_GAP, _GAP):
        line = gap.join(known)
        if cell_len(line) <= width:
            return line
    return _GAP.join(known)


def phase_line(answer: AnswerEnergy, width: int) -> list[Run]:
    """Return a bar for each phase, as long as its part of the joules: ``P ▌3 J  T –  A ████ 39 J``.

    Returns:
        Runs of characters with ``prefill``, ``thinking``, ``answer`` or ``axis``; none where no
        phase is known.
    """
    if not answer.phase_joules:
        return []
    texts = {
        letter: _phase_text(answer.phase_joules.get(letter), answer.kind)
        for letter in PHASE_LETTERS
    }
    words = sum(len(letter) + 1 + cell_len(text) for letter, text in texts.items())
    gaps = len(PHASE_LETTERS) - 1
    gap = _GAP if words + len(_GAP) * gaps <= width else " "
    fixed = words + len(gap) * gaps
    # A bar has a space after it and at least one cell, so three of them may round up.
    room = width - fixed - 2 * len(PHASE_LETTERS)
    total = sum(answer.phase_joules.values())
    runs: list[Run] = []
    for letter, text in texts.items():
        drawn = bar(answer.phase_joules.get(letter), total, room)
        runs += [(f"{gap if runs else ''}{letter} ", "axis"), (drawn, PHASE_INKS[letter])]
        runs.append((f" {text}" if drawn else text, "axis"))
    return runs


def _phase_text(joules: float | None, kind: str | None) -> str:
    if joules is None:
        return "–"
    return units.short_energy_text(joules, kind).removeprefix(units.ABOUT)


NOW_NS = 2_000_000_000
"""Window that counts as now, ns: long enough for a counter to advance several times."""


@dataclass(slots=True)
class RecentTokens:
    """Recent token counts, as pairs of a time (monotonic, ns) and the tokens by then."""

    looks: deque[tuple[int, int]] = field(default_factory=deque)

    def since(self, now_ns: int, output_tokens: int) -> tuple[int, int] | None:
        """Note the token count, and return the start of the window with the tokens decoded in it.

        None until the window has passed since the first call, and while no token is in it.
        """
        if self.looks and output_tokens < self.looks[-1][1]:
            self.looks.clear()  # another answer
        self.looks.append((now_ns, output_tokens))
        while len(self.looks) > 1 and self.looks[1][0] <= now_ns - NOW_NS:
            self.looks.popleft()
        start_ns, tokens = self.looks[0]
        if start_ns > now_ns - NOW_NS or output_tokens == tokens:
            return None
        return start_ns, output_tokens - tokens


@dataclass(slots=True)
class PhaseJoules:
    """Joules of the phases of a running answer, from its joules so far at each look."""

    letter: str = " "
    closed: dict[str, float] = field(default_factory=dict)

    def look(self, letter: str, joules: float) -> dict[str, float]:
        """Return the joules of each phase until now.

        Args:
            joules: Joules of the answer so far; fewer than before begin another answer.
        """
        before = sum(self.closed.values())
        if joules < before:
            self.closed.clear()
            before, self.letter = 0.0, letter
        if letter != self.letter:
            if self.letter.strip():
                self.closed[self.letter] = self.closed.get(self.letter, 0.0) + joules - before
                before = joules
            self.letter = letter
        found = dict(self.closed)
        if letter.strip():
            found[letter] = found.get(letter, 0.0) + joules - before
        return {phase: found[phase] for phase in PHASE_LETTERS if phase in found}
