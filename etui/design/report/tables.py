"""Tables of the report as texts; the page and the Markdown show the same cells."""

from __future__ import annotations

from dataclasses import dataclass

from etui import units
from etui.bench.summary_text import DASH, interval_text, joules_text
from etui.design.analysis.analysis import PartAnalysis
from etui.design.analysis.arm_figures import ArmFigures
from etui.design.analysis.band_verdict import name_band
from etui.design.analysis.bands import Bands
from etui.design.analysis.multiples import Against, Multiple
from etui.design.analysis.router_verdict import ROUTER_NAMES
from etui.design.analysis.statement import each_text, percent_change_text, points_text
from etui.stats.tests import Interval

_ROUNDING = 1e-9
"""Share of a mean below which its interval is rounding: an arm that always uses up its budget."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts."""

    header: tuple[str, ...]  # Names of the columns; the first one names the rows
    rows: tuple[tuple[str, ...], ...]
    colours: tuple[int, ...] = ()  # Number of the colour of each row; empty without colours


def tabulate_arms(part: PartAnalysis) -> Table:
    """Tabulate the figures of every arm; a column without any figure is left out."""
    kind = part.kind
    mark = f" ({kind})" if kind == units.ESTIMATE else ""
    header = (
        "arm", "accuracy", f"J/token{mark}", f"J/question{mark}", f"J/correct{mark}",
        "output tokens", "time", "first token", "no answer",
    )  # fmt: skip
    rows = [_list_arm(one, kind) for one in part.arms]
    kept = [at for at in range(len(header)) if at < 2 or any(row[at] != DASH for row in rows)]
    return Table(
        tuple(header[at] for at in kept),
        tuple(tuple(row[at] for at in kept) for row in rows),
        tuple(list(part.paired.layout.roles).index(one.strategy.role) % 8 for one in part.arms),
    )


def _list_arm(one: ArmFigures, kind: str | None) -> tuple[str, ...]:
    energy = one.energy
    joules = (
        (DASH, DASH if kind is None else units.UNMEASURED, DASH)
        if energy is None
        else tuple(
            joules_text(figure, kind).removesuffix(f" ({units.ESTIMATE})")
            for figure in (energy.per_output_token, energy.per_question, energy.per_correct)
        )
    )
    return (
        one.strategy.label,
        f"{units.accuracy_text(one.accuracy.value)} ({interval_text(one.accuracy)})",
        *joules,
        _mean_text(one.output_tokens),
        _seconds_text(one.seconds),
        DASH if one.ttft_seconds is None else _seconds_text(one.ttft_seconds),
        units.percent_text(one.lost / one.questions),
    )


def _mean_text(figure: Interval) -> str:
    half = _half(figure)
    if half is None or half == 0:
        return units.significant(figure.value, 3)
    return units.with_uncertainty(figure.value, half)


def _seconds_text(figure: Interval) -> str:
    half = _half(figure)
    text = units.seconds_text(figure.value)
    return text if not half else f"{text} ± {units.seconds_text(half)}"


def _half(figure: Interval) -> float | None:
    """Return the larger half of an interval; 0 where it is only the rounding of equal values."""
    if figure.low is None or figure.high is None:
        return None
    half = max(figure.value - figure.low, figure.high - figure.value)
    return half if half > _ROUNDING * abs(figure.value) else 0.0


def tabulate_multiples(part: PartAnalysis, against: Against) -> Table | None:
    """Tabulate every arm against a direct answer; None without any."""
    chosen = [one for one in part.multiples if one.against == against]
    if not chosen:
        return None
    header = (
        "arm", "against", "accuracy", "test", "joules", "J/correct",
        "J per additional right answer", "time",
    )  # fmt: skip
    rows = [_list_multiple(one, part.kind) for one in chosen]
    kept = [at for at in range(len(header)) if any(row[at] != DASH for row in rows)]
    return Table(
        tuple(header[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows)
    )


def _list_multiple(one: Multiple, kind: str | None) -> tuple[str, ...]:
    def times(figure: Interval | None) -> str:
        if figure is None:
            return DASH
        return units.multiple_text(figure.value, figure.low, figure.high)

    return (
        one.strategy.label,
        one.base.label,
        points_text(one.difference),
        units.p_value_text(one.p_holm),
        times(one.joules),
        times(one.per_correct),
        each_text(one.per_additional, kind),
        times(one.seconds),
    )


def tabulate_groups(part: PartAnalysis) -> Table | None:
    """Tabulate thinking minus direct by group of MMLU, claims marked by ``*``; None without."""
    return _tabulate_wide(part.groups)


def _tabulate_wide(bands: Bands) -> Table | None:
    names = list(dict.fromkeys(row.band for row in bands.rows))
    if not names:
        return None
    found = {(row.strategy.label, row.band): row for row in bands.rows}
    labels = list(dict.fromkeys(row.strategy.label for row in bands.rows))
    counts = {row.band: row.questions for row in bands.rows}
    rows = []
    for label in labels:
        cells = [label]
        for band in names:
            row = found[label, band]
            mark = " *" if row.effect in ("helps", "hurts") else ""
            cells.append(f"{points_text(row.difference)}{mark}".replace(" points", ""))
        arm = next(row.strategy.arm for row in bands.rows if row.strategy.label == label)
        cells.append(units.p_value_text(bands.equal_p.get(arm)))
        rows.append(tuple(cells))
    header = ("arm", *(f"{name_band(band)} ({counts[band]:,})" for band in names), "same in all")
    return Table(header, tuple(rows))


def tabulate_subjects(part: PartAnalysis) -> Table | None:
    """Tabulate the claimed differences by subject; None if there is none."""
    claimed = [row for row in part.subjects.rows if row.effect in ("helps", "hurts")]
    if not claimed:
        return None
    header = ("subject", "arm", "questions", "direct", "thinking", "difference", "test", "each")
    return Table(
        header,
        tuple(
            (
                name_band(row.band),
                row.strategy.label,
                f"{row.questions:,}",
                units.accuracy_text(row.direct),
                units.accuracy_text(row.thinking),
                points_text(row.difference),
                units.p_value_text(row.p_holm),
                each_text(row.per_additional, part.kind),
            )
            for row in claimed
        ),
    )


def tabulate_routers(part: PartAnalysis) -> Table | None:
    """Tabulate what routers would have reached; None if nothing was replayed."""
    if not part.replay.routed:
        return None
    labels = {one.arm: one.label for one in part.paired.layout.strategies}
    rows = []
    for one in part.replay.routed:
        top = sorted(one.shares.items(), key=lambda item: (-item[1], item[0]))[:3]
        used = ", ".join(f"{labels[arm]} {units.percent_text(share)}" for arm, share in top)
        rows.append(
            (
                ROUTER_NAMES[one.name],
                units.accuracy_text(one.accuracy),
                units.energy_text(one.joules_per_question, None, _mark(part.kind)),
                points_text(one.difference),
                percent_change_text(one.saved, signed=True),
                DASH if one.lead is None else points_text(one.lead),
                used,
            )
        )
    header = (
        "chosen by", "accuracy", "J/question", "accuracy against it", "joules saved",
        "against a mixture", "mostly used",
    )  # fmt: skip
    return Table(header, tuple(rows))


def tabulate_curves(part: PartAnalysis) -> Table | None:
    """Tabulate the fitted curves and their nonlinear parts; None without a fit."""
    rows = []
    for curve in part.curves:
        for name, phase in (("prefill", curve.prefill), ("decode", curve.decode)):
            if phase is None:
                continue
            term = next((one for one in curve.terms if one.phase == name), None)
            shares = [] if term is None else [percent_change_text_of(s) for s in term.shares]
            rows.append(
                (
                    f"{curve.role} {name}",
                    units.energy_text(phase.e0, None, _mark(curve.kind)),
                    units.per_token_text(phase.slope, _mark(curve.kind)),
                    DASH if phase.r2 is None else f"{phase.r2:.4f}",
                    *(shares or [DASH, DASH]),
                    DASH if term is None else units.p_value_text(term.p),
                )
            )
    if not rows:
        return None
    header = (
        "curve", "constant", "per token", "R2", "context at 1,024", "context at 4,096", "test",
    )  # fmt: skip
    return Table(header, tuple(rows))


def percent_change_text_of(share: object) -> str:
    """Format the share of the context with its interval; ``~`` marks an extrapolated one."""
    from etui.curves.context_share import Share

    assert isinstance(share, Share)
    text = percent_change_text(Interval(share.value, share.low, share.high, None))
    return text if share.measured else f"{text} (extrapolated)"


def _mark(kind: str | None) -> str | None:
    return kind if kind == units.ESTIMATE else None
