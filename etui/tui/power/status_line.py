"""The facts of the panel in one line, for terminals too narrow for the panel."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from etui.plots.braille import sparkline
from etui.text import SEPARATOR

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
