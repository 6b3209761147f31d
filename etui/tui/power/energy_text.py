"""Energy spent by an answer, a chat, a day and a budget as text: gross or net, estimates apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from etui import units
from etui.plots.braille import PHASE_INKS, sparkline
from etui.plots.terminal import bar, meter
from etui.text import SEPARATOR
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.energy.types import Energy
    from etui.log.totals import Total
    from etui.tui.services import BudgetState
    from etui.turn.record import TurnEnergy, TurnRecord


Run = tuple[str, str]  # Characters, and the name of what they show


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
        kind = self.energy.kind if self.energy is not None else None
        return None if kind is None else str(kind)

    @property
    def is_estimate(self) -> bool:
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
    return AnswerEnergy(
        record.energy,
        record.tokens.output,
        record.tokens_per_second,
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
        """Return the joules of each phase until now."""
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


_MOST_SPARK, _LEAST_SPARK = 12, 4
_LEAST_MODEL = 6


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """What the line shows; an empty text is left out."""

    joules: str = ""  # Joules of the running or last answer, always shown
    per_token: str = ""
    watts: str = ""
    history: tuple[float | None, ...] = ()  # Recent watts, two a cell
    top_watts: float = 1.0  # Top of the scale of the sparkline
    model: str = ""  # The model that answers, or that answered last
    budget: str = ""  # Share of the hour's or day's budget


def status_line(facts: StatusFacts, width: int) -> str:
    """Return ``≈42 J · 0.66 J/tok · 18 W ⣀⣤⣶⣿ · 1.5b · 19 %`` in at most ``width`` cells.

    What does not fit is left out from the right: the sparkline shrinks first, then the model's name
    is cut, and the joules stay to the last.
    """
    texts = [facts.joules, facts.per_token, facts.watts, facts.model, facts.budget]
    for kept in range(len(texts), 0, -1):
        parts = [text if number < kept else "" for number, text in enumerate(texts)]
        line = _fit(parts, facts, width)
        if line is not None:
            return line
    return set_cell_size(facts.joules or facts.watts, max(0, width)).rstrip()


def short_model(name: str) -> str:
    """Return the end of a model's name that tells it from others: ``1.5b`` of ``qwen2.5-1.5b``.

    The first part that is a size, with what follows it; the whole name without one.
    """
    parts = name.split("-")
    for number, part in enumerate(parts):
        if number and part[:1].isdigit() and part[-1:].lower() in ("b", "m"):
            return "-".join(parts[number:])
    return name


def _fit(parts: list[str], facts: StatusFacts, width: int) -> str | None:
    def joined(model: str, spark: int) -> str:
        joules, per_token, watts, _, budget = parts
        graph = f" {sparkline(facts.history, facts.top_watts, spark)}" if spark and watts else ""
        shown = (joules, per_token, watts + graph, model, budget)
        return SEPARATOR.join(text for text in shown if text)

    model = parts[3]
    models = [model] + ([short_model(model)] if short_model(model) != model else [])
    for name in models:
        for spark in (_MOST_SPARK, 8, _LEAST_SPARK):
            line = joined(name, spark)
            if cell_len(line) <= width:
                return line
    spare = width - cell_len(joined("", _LEAST_SPARK)) - len(SEPARATOR)
    if model and spare >= _LEAST_MODEL:
        return joined(set_cell_size(models[-1], spare - 1) + "…", _LEAST_SPARK)
    if not model and cell_len(joined("", 0)) <= width:
        return joined("", 0)
    return None


NO_BASELINE = "net needs an idle baseline: leave etui idle for 35 s"


def chat_text(records: Sequence[TurnRecord], *, net: bool) -> str:
    """Return ``181 J, 50.3 mWh · 3 answers``, with the unmeasured answers counted apart."""
    answers = units.count_text(len(records), "answer")
    energies = [record.energy for record in records if record.energy.joules is not None]
    if not records:
        return "nothing yet"
    if not energies:
        return SEPARATOR.join([units.UNMEASURED, answers])
    joules = [energy.net_joules if net else energy.joules for energy in energies]
    known = [value for value in joules if value is not None]
    estimated = any(energy.kind == units.ESTIMATE for energy in energies)
    kind = units.ESTIMATE if estimated else None
    if net and known and sum(known) <= 0:
        parts = [units.NOT_ABOVE_IDLE, answers]
    else:
        parts = [units.total_text(sum(known), None, kind) if known else NO_BASELINE, answers]
    if known and len(known) < len(energies):
        parts.append(f"{len(energies) - len(known)} of them without a baseline")
    if len(energies) < len(records):
        parts.append(f"{len(records) - len(energies)} of them {units.UNMEASURED}")
    return SEPARATOR.join(parts)


def today_text(total: Total | None) -> str:
    """Format the energy of all chats, questions and runs of today."""
    if total is None:
        return "nothing yet"
    answers = units.count_text(total.turns, "answer")
    parts = []
    if total.joules is not None:
        parts.append(units.total_text(total.joules))
    if total.estimated_joules is not None:
        parts.append(units.total_text(total.estimated_joules, None, units.ESTIMATE))
    if not parts:
        return SEPARATOR.join([units.UNMEASURED, answers])
    parts.append(answers)
    if total.unmeasured_turns:
        parts.append(f"{total.unmeasured_turns} of them {units.UNMEASURED}")
    return SEPARATOR.join(parts)


def budget_text(budget: BudgetState) -> str:
    """Return ``20.0 kJ, 5.56 Wh · 12.3 kJ, 3.42 Wh spent · 62 %``."""
    limit = units.total_text(budget.limit_joules)
    if budget.period == "turn":
        return f"at most {limit}"
    if budget.spent_joules is None:
        return SEPARATOR.join([limit, f"spent {units.UNMEASURED}"])
    share = units.percent_text(budget.spent_joules / budget.limit_joules)
    spent = units.total_text(budget.spent_joules)
    return SEPARATOR.join([limit, f"{spent} spent", share])


def budget_bar(budget: BudgetState, width: int) -> str:
    """Return ``hour ███░░░░░ 19 % of 20.0 kJ`` in about ``width`` cells; empty for a turn's budget.

    Where nothing was measured there is no share, and no bar.
    """
    if budget.period == "turn":
        return ""
    limit = units.short_energy_text(budget.limit_joules)
    if budget.spent_joules is None:
        return f"{budget.period} {units.UNMEASURED} of {limit}"
    share = budget.spent_joules / budget.limit_joules
    text = f"{units.whole_percent_text(share)} of {limit}"
    room = min(24, width - len(budget.period) - len(text) - 2)
    bar = f"{meter(share, room)} " if room >= 4 else ""
    return f"{budget.period} {bar}{text}"


def budget_share_text(budget: BudgetState) -> str:
    """Return ``hour 19 %``."""
    return f"{budget.period} {units.whole_percent_text(spent_share(budget))}"


def spent_share(budget: BudgetState) -> float:
    """Return the part of a budget that is spent, above 1 if it is exceeded."""
    return (budget.spent_joules or 0.0) / budget.limit_joules


def tightest_budget(budgets: Sequence[BudgetState]) -> BudgetState | None:
    """Return the budget of an hour or a day of which the largest share is spent."""
    known = [b for b in budgets if b.period != "turn" and b.spent_joules is not None]
    return max(known, key=spent_share, default=None)


def spent_joules(total: Total | None) -> float | None:
    """Add readings and estimates, as a budget counts them; None if nothing was measured."""
    if total is None:
        return 0.0
    known = [j for j in (total.joules, total.estimated_joules) if j is not None]
    return sum(known) if known else None
