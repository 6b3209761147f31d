"""The table of models: its columns, and the cells of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.text import Text

from etui import units
from etui.curves.operating_curve import OperatingCurve
from etui.curves.text import age_text, r2_text
from etui.runtime.forecast import DecodeForecast
from etui.text import sanitize
from etui.tui.models.cards import Cards, ModelCard
from etui.tui.widgets.columns import FittedColumn, TableColumn

UNCALIBRATED = "uncalibrated"
_STATES = {
    "absent": "not on disk",
    "unchecked": "unchecked",
    "refused": "refused",
    "checked": "on disk",
}
_SOURCES = {"calibration": "measured", "log": "from the log"}


COLUMNS = (
    TableColumn("name", "MODEL", 0, most=40, sorts=False),
    TableColumn("state", "WHERE", 3, most=20, sorts=False),
    TableColumn("size", "SIZE", 1, most=10, right=True, sorts=False),
    TableColumn("fits", "FITS", 2, most=10, sorts=False),
    TableColumn("speed", "TOK/S", 4, most=10, right=True, sorts=False),
    TableColumn("joules", "J/TOKEN", 5, most=10, right=True, sorts=False),
    TableColumn("good_for", "GOOD FOR", 6, most=60, least=16, sorts=False),
    TableColumn("curve", "CURVE", 7, most=40, least=12, sorts=False),
)
CHOOSER_COLUMNS = tuple(c for c in COLUMNS if c.key not in ("state", "curve"))
"""Without a model, all of them are not on disk and uncalibrated."""

_FITS = {"gpu": "GPU", "memory": "memory", "too large": "too large", "unknown": "unknown"}
RECOMMENDED = "★"


def model_texts(card: ModelCard, cards: Cards, *, resident: bool) -> dict[str, str]:
    """Return the text of each column of one row, by key, safe for the terminal."""
    mark = f" {RECOMMENDED}" if card.spec.name == cards.recommended else ""
    texts = {
        "name": f"{card.spec.name}{mark}",
        "state": state_text(card, resident=resident),
        "size": units.bytes_text(card.file_bytes),
        "fits": "remote" if card.spec.backend is not None else _FITS[card.fit],
        "speed": speed_cell(card.forecast),
        "joules": joules_cell(card.forecast),
        "good_for": card.spec.good_for,
        "curve": curve_cell(card.curve),
    }
    return {key: sanitize(text) for key, text in texts.items()}


def model_cells(texts: Mapping[str, str], fitted: Sequence[FittedColumn]) -> tuple[Text, ...]:
    """Build the cells of one row without markup; what does not fit ends with an ellipsis."""
    return tuple(
        Text(
            texts[one.column.key],
            justify="right" if one.column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
        for one in fitted
    )


def speed_cell(forecast: DecodeForecast) -> str:
    """Format tokens per second: ``33``, ``≈18`` where they were predicted, or a dash."""
    return _format_cell(forecast.tokens_per_second, forecast.speed_source)


def joules_cell(forecast: DecodeForecast) -> str:
    """Format joules per token: ``0.25``, ``≈1.0`` where they were predicted, or a dash."""
    return _format_cell(forecast.joules_per_token, forecast.joules_source)


def _format_cell(value: float | None, source: str) -> str:
    if value is None:
        return "–"
    return f"{'' if source in ('curve', 'log') else units.ABOUT}{units.significant(value, 2)}"


def state_text(card: ModelCard, *, resident: bool) -> str:
    """Return where the model is, in words."""
    if card.spec.backend is not None:
        return f"on {card.spec.backend}"
    if card.fault:
        return "damaged"
    if card.state == "absent" and card.kept_bytes:
        return "partly pulled"
    return "in memory" if resident and card.has_file else _STATES[card.state]


def curve_cell(curve: OperatingCurve | None, now: datetime | None = None) -> str:
    """Describe how well the cost of tokens is known: ``R² 0.991 measured, 3 d ago``."""
    if curve is None:
        return UNCALIBRATED
    source = _SOURCES.get(curve.source, curve.source)
    return f"R² {r2_text(curve.decode.r2)} {source}, {age_text(curve.created_at, now)}"
