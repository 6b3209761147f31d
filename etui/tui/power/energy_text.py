"""Energy spent by an answer, a chat, a day and a budget as text: gross or net, estimates apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from etui import units
from etui.log.daily_energy import EnergySum
from etui.plots.braille import PHASE_INKS, PHASE_WORDS, sparkline
from etui.plots.terminal import bar, meter
from etui.text import SEPARATOR, format_table
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.energy.types import Energy
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
        """Return ``≈42 J ±9`` or ``42.3 J``; in net mode why there are none."""
        if self.energy is None:
            return ""
        if not net or self.energy.joules is None:
            half = None if self.running else self.energy.uncertainty
            return units.spread_energy_text(self.energy.joules, half, self.kind)
        if self.energy.net_joules is None:
            return NO_BASELINE
        if self.energy.net_joules <= 0:
            return units.NOT_ABOVE_IDLE
        return units.short_energy_text(self.energy.net_joules, self.kind)

    def joules_word(self, *, net: bool) -> str:
        """Return the joules for one line; without a baseline for net ones, the gross ones."""
        if self.energy is None:
            return ""
        gross = units.short_energy_text(self.energy.joules, self.kind)
        if not net or self.energy.joules is None:
            return gross
        if self.energy.net_joules is None:
            return f"{gross} gross"
        return f"{self.joules_text(net=True)} net"

    def per_token_text(self, *, net: bool) -> str:
        """Return ``0.66 J/tok``, of the net joules in net mode; empty if unknown."""
        if self.energy is None or not self.output_tokens:
            return ""
        joules = self.energy.net_joules if net else self.energy.joules
        if joules is None or (net and joules <= 0):
            return ""
        text = units.short_per_token_text(joules / self.output_tokens, self.kind)
        return f"{units.ABOUT}{text}" if self.is_estimate else text

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
    """Return a bar for each known phase as runs: ``read ≈3 J ▌  write ≈39 J ████``."""
    texts = [
        (letter, f"{PHASE_WORDS[letter]} {units.short_energy_text(joules, answer.kind)}")
        for letter, joules in sorted(
            answer.phase_joules.items(), key=lambda each: PHASE_LETTERS.index(each[0])
        )
    ]
    words = sum(cell_len(text) for _, text in texts)
    gap = _GAP if words + len(_GAP) * (len(texts) - 1) <= width else " "
    # A bar has a space before it and at least one cell, so all of them may round up.
    room = width - words - len(gap) * (len(texts) - 1) - 2 * len(texts)
    total = sum(answer.phase_joules.values())
    runs: list[Run] = []
    for letter, text in texts:
        drawn = bar(answer.phase_joules[letter], total, room)
        runs.append((f"{gap if runs else ''}{text}{' ' if drawn else ''}", "axis"))
        runs.append((drawn, PHASE_INKS[letter]))
    return runs


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
        graph = sparkline(facts.history, facts.top_watts, spark) if spark and watts else ""
        shown = (joules, per_token, f"{watts} {graph.lstrip()}".strip(), model, budget)
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


def sum_chat(records: Sequence[TurnRecord], *, net: bool) -> EnergySum:
    """Sum the answers of a chat; in net mode one without a baseline counts as unmeasured."""
    total = EnergySum()
    for record in records:
        joules = record.energy.net_joules if net else record.energy.joules
        estimated = joules is not None and record.energy.kind == units.ESTIMATE
        total += EnergySum(1, joules, estimated, int(joules is None))
    return total


def sum_lines(title: str, rows: Sequence[tuple[str, EnergySum, str]], width: int) -> list[str]:
    """Format a table below ``title``: joules, watt-hours, answers, and what each row cost.

    Columns without room are left out, watt-hours and answers first.
    """
    table = [(title, "J", "Wh", "answers", "cost" if any(money for *_, money in rows) else "")]
    for name, found, money in rows:
        hours = None if found.joules is None else found.joules / units.JOULES_PER_WATT_HOUR
        joules, wh = (units.cell_text(each, found.kind) for each in (found.joules, hours))
        if found.joules is not None and found.joules < 0:  # net joules
            joules, wh = "≤ idle", "–"
        table.append((name, joules, wh, f"{found.turns:,}" if found.turns else "–", money))
    kept, left = [], width
    for at in (0, 1, 4, 2, 3):  # by importance
        gap = 2 if at and table[0][at] else 0
        left -= max(cell_len(row[at]) for row in table) + gap
        if left >= 0:
            kept.append(at)
    cells = [[row[at] for at in sorted(kept)] for row in table]
    return format_table(cells, align="<>", measure=cell_len)


def budget_text(budget: BudgetState) -> str:
    """Return ``20.0 kJ, 5.56 Wh · 12.3 kJ, 3.42 Wh spent · 62 %``."""
    limit = units.total_text(budget.limit_joules)
    if budget.period == "turn":
        return f"at most {limit}"
    if budget.spent_joules is None:
        return SEPARATOR.join([limit, f"spent {units.UNMEASURED}"])
    share = units.percent_text(spent_share(budget))
    kind = units.ESTIMATE if budget.estimated else None
    spent = units.total_text(budget.spent_joules, None, kind)
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
    share = spent_share(budget)
    text = f"{_share_text(budget)} of {limit}"
    room = min(24, width - len(budget.period) - len(text) - 2)
    bar = f"{meter(share, room)} " if room >= 4 else ""
    return f"{budget.period} {bar}{text}"


def budget_share_text(budget: BudgetState) -> str:
    """Return ``hour 19 %``."""
    return f"{budget.period} {_share_text(budget)}"


def _share_text(budget: BudgetState) -> str:
    about = units.ABOUT if budget.estimated else ""
    return about + units.whole_percent_text(spent_share(budget))


def spent_share(budget: BudgetState) -> float:
    """Return the part of a budget that is spent, above 1 if it is exceeded."""
    return (budget.spent_joules or 0.0) / budget.limit_joules


def tightest_budget(budgets: Sequence[BudgetState]) -> BudgetState | None:
    """Return the budget of an hour or a day of which the largest share is spent."""
    known = [b for b in budgets if b.period != "turn" and b.spent_joules is not None]
    return max(known, key=spent_share, default=None)
