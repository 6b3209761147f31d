"""Write the price of a plan for a reader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from etui.codec import to_document
from etui.design.dry_run import PlanPrice
from etui.design.price import Amount, ArmPrice, DesignPrice
from etui.text import format_table
from etui.units import count_text, energy_text, seconds_text, significant

_HEADER = (
    "arm", "prompt", "output", "at most", "energy each", "time each", "energy", "time", "from",
)  # fmt: skip
_WAYS = "--pilot N measures N questions of each arm first"


def format_price(price: PlanPrice, within: tuple[float, int | None] | None) -> list[str]:
    """Write a price as lines.

    Args:
        within: Seconds of ``--max-hours``, and the questions of every arm that they suffice for;
            None without a limit.
    """
    left = price.left
    name = f"{price.name}: " if price.name is not None else ""
    lines = [f"{name}{count_text(left.questions, 'question')} of {price.suite}, "
             f"{count_text(len(left.arms), 'arm')}; tokens per question"]  # fmt: skip
    lines += format_table([_build_row(arm) for arm in left.arms], header=_HEADER, align="<>>>>>>><")
    if left.questions:
        lines += _format_total("in all", left)
    else:
        lines.append("in all: every arm has answered every question")
    if left.curve_seconds:
        lines.append(
            f"with operating curves: {seconds_text(left.total_seconds)}, of which the curves take "
            f"{seconds_text(left.curve_seconds)}"
        )
    if price.whole is not None:
        what = f"all {count_text(price.whole.questions, 'question')} of {price.suite}"
        lines += _format_total(what, price.whole)
    if within is not None:
        lines.append(_format_within(*within, left))
    if left.unknown:
        lines.append(_format_unknown(left))
    return lines


def build_price_document(price: PlanPrice, within: tuple[float, int | None] | None) -> Any:
    """Return the price as plain JSON values."""
    document = to_document(price)
    for part in ("left", "whole"):
        found: DesignPrice | None = getattr(price, part)
        if found is not None:
            document[part]["tokens"] = found.tokens
            document[part]["total_joules"] = found.total_joules
            document[part]["total_seconds"] = found.total_seconds
    document["max_seconds"] = None if within is None else within[0]
    document["questions_within"] = None if within is None else within[1]
    return document


def _build_row(arm: ArmPrice) -> tuple[str, ...]:
    return (
        arm.arm,
        _tokens(arm.prompt_tokens),
        _tokens(arm.output_tokens),
        f"{arm.most_output_tokens:,}",
        _joules(arm.joules, arm.kind),
        _seconds(arm.seconds),
        _joules(arm.total_joules, arm.kind),
        _seconds(arm.total_seconds),
        arm.origin,
    )


def _format_total(what: str, price: DesignPrice) -> Iterator[str]:
    if price.joules is None and price.seconds is None:
        if price.prompt_tokens is not None:
            yield (
                f"{what}: {price.prompt_tokens:,.0f} prompt tokens and at most "
                f"{price.most_output_tokens:,} output tokens"
            )
        return
    most = ""
    if price.most_joules is not None and price.most_seconds is not None:
        most = (
            f"; at most {energy_text(price.most_joules, None, price.kind)} and "
            f"{seconds_text(price.most_seconds)} with all budgets used up"
        )
    tokens = price.tokens
    counted = "" if tokens is None else f"{_count_tokens(tokens)}, "
    cost = f"{_joules(price.joules, price.kind)} in {_seconds(price.seconds)}"
    yield f"{what}: {counted}{cost}{most}"
    if price.joules is not None and price.joules.uncertainty is not None:
        half = energy_text(price.joules.uncertainty, None, price.kind)
        own = energy_text(price.joules.scatter, None, price.kind)
        yield f"  the joules are known to ± {half}, of which ± {own} by the spread of the answers"


def _count_tokens(tokens: float) -> str:
    if tokens < 1e5:
        return f"{tokens:,.0f} tokens"
    return f"{significant(tokens / 1e6, 3)} million tokens"


def _format_within(seconds: float, questions: int | None, price: DesignPrice) -> str:
    hours = seconds_text(seconds)
    if questions is None:
        return f"{hours}: unknown how many questions, because the seconds of an arm are unknown"
    if questions >= price.questions:
        return f"{hours} suffice for all of them"
    return f"{hours} suffice for about {count_text(questions, 'question')} of every arm"


def _format_unknown(price: DesignPrice) -> str:
    count = len(price.unknown)
    arms = "every arm" if count == len(price.arms) else count_text(count, "arm")
    return f"unknown joules or seconds of {arms}: {_WAYS}, or etui calibrate MODEL gives its curve"


def _tokens(tokens: float | None) -> str:
    return "?" if tokens is None else f"{tokens:,.0f}"


def _joules(amount: Amount | None, kind: str | None) -> str:
    return "unknown" if amount is None else energy_text(amount.value, amount.uncertainty, kind)


def _seconds(amount: Amount | None) -> str:
    return "unknown" if amount is None else seconds_text(amount.value)
