"""Quantities as text: the only place that decides digits, unit and kind of a number.

Three rules hold everywhere. A quantity that was not measured is written ``unmeasured``, never 0. An
estimate is marked: ``≈12 J (estimate)``, or ``≈12 J`` where a heading, a badge or a row says the
word once. The uncertainty decides the digits: it is rounded
to two significant digits (a trailing zero is omitted), and the value is rounded to the same decimal
place, as recommended by the Guide to the Expression of Uncertainty in Measurement (JCGM 100:2008,
7.2.6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

UNKNOWN = "unknown"
"""Any unknown quantity that is no energy and no power."""


def accuracy_text(share: float | None) -> str:
    """Format an accuracy with one decimal: ``61.2 %``; None is unknown."""
    return f"{share * 100:.1f} %" if is_known(share) else UNKNOWN


def points_text(low: float, high: float) -> str:
    """Format an interval of accuracies in per cent, without the sign: ``58.9-63.5``."""
    return f"{low * 100:.1f}-{high * 100:.1f}"


def margin_text(points: float) -> str:
    """Format a half width in percentage points: ``±3 points``, ``±0.5 points``."""
    return f"±{points:.3g} points"


def difference_text(difference: float) -> str:
    """Format a difference of accuracies in percentage points: ``+1.2``, ``-0.4``, ``0.0``."""
    text = f"{difference * 100:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


MULTIPLE_ABOVE_PERCENT = 300.0
"""A change above it is written as a multiple: ``20.4x [19.6, 21.2]``, not ``+1,937 % [...]``."""


def change_text(
    percent: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    signed: bool = True,
) -> str:
    """Format a relative difference with its interval: ``-18 % [-20, -16]``, ``+0.4 % [-0.2, 1.0]``.

    All are in per cent; the interval is omitted unless both ends are known. It decides the digits:
    half of it keeps one significant digit, and an end that is not 0 is not rounded to 0. Without an
    interval the difference keeps one decimal below 10 %. A share or a floor is not ``signed``,
    and is in per cent at any size.
    """
    if not is_known(percent):
        return UNKNOWN
    if signed and percent > MULTIPLE_ABOVE_PERCENT:
        ratios = (None if end is None else 1 + end / 100 for end in (low, high))
        return multiple_text(1 + percent / 100, *ratios)
    sign = "+" if signed and percent > 0 else ""
    if not is_known(low) or not is_known(high):
        size = abs(percent)
        decimals = 0 if size >= 9.95 else 1 if size >= 0.095 or size == 0 else -exponent(size, 1)
        return f"{_sign_of(sign, _short(percent, decimals))} %"
    decimals = _interval_decimals(low, high)
    figure, *ends = (plain(value, decimals) for value in (percent, low, high))
    zeros = "." + "0" * decimals
    if decimals and all(end.endswith(zeros) for end in ends):
        figure, *ends = (plain(value, 0) for value in (percent, low, high))
    return f"{_sign_of(sign, figure)} % [{', '.join(ends)}]"


def size_text(percent: float, low: float | None = None, high: float | None = None) -> str:
    """Format a change whose direction the sentence says: ``18 % [16, 20]`` less; ``20.4x``."""
    if percent > MULTIPLE_ABOVE_PERCENT:
        return change_text(percent, low, high)
    if percent < 0:
        low, high = (None if end is None else -end for end in (high, low))
    return change_text(abs(percent), low, high, signed=False)


def points_change_text(
    points: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    signed: bool = True,
) -> str:
    """Format percentage points with their interval: ``-2.1 points [-3.4, -0.8]``."""
    if not is_known(points):
        return UNKNOWN
    text = _sign_of("+" if signed and points > 0 else "", plain(points, 1))
    if not is_known(low) or not is_known(high):
        return f"{text} points"
    return f"{text} points [{plain(low, 1)}, {plain(high, 1)}]"


def multiple_text(
    multiple: float | None, low: float | None = None, high: float | None = None
) -> str:
    """Format a ratio with its interval: ``6.1x [5.2, 7.3]``, ``0.42x [0.37, 0.48]``."""
    if not is_known(multiple):
        return UNKNOWN
    decimals = 1 if multiple == 0 else max(0, 1 - exponent(multiple, 2))
    text = f"{plain(multiple, decimals)}x"
    if not is_known(low) or not is_known(high):
        return text
    if high - low > 0:  # a narrow interval keeps both ends apart
        decimals = max(decimals, min(3, -exponent((high - low) / 2, 1)))
        text = f"{plain(multiple, decimals)}x"
    return f"{text} [{plain(low, decimals)}, {plain(high, decimals)}]"


def p_value_text(p: float | None) -> str:
    """Format a p-value: ``p = 0.031``, ``p < 0.001``; None is ``not tested``."""
    if not is_known(p):
        return "not tested"
    return "p < 0.001" if p < 0.0005 else f"p = {significant(p, 2) if p < 0.0995 else f'{p:.2f}'}"


def _interval_decimals(low: float, high: float) -> int:
    """Return the decimals of an interval's ends: at most 2, and no end but 0 becomes 0."""
    half = abs(high - low) / 2
    decimals = 0 if half == 0 else max(0, min(2, -exponent(half, 1)))
    while decimals < 2 and any(
        abs(end) >= 0.005 and round(end, decimals) == 0 for end in (low, high)
    ):
        decimals += 1
    return decimals


def _short(value: float, decimals: int) -> str:
    """Round to ``decimals`` without the zeros behind the point of a whole number."""
    return plain(value, decimals).removesuffix("." + "0" * decimals)


def _sign_of(sign: str, text: str) -> str:
    """Put a plus sign before a number unless it was rounded to 0."""
    return f"{sign}{text}" if text.strip("0.,") else text


UNMEASURED = "unmeasured"
"""An energy or a power without any reading."""
NOT_ABOVE_IDLE = "not above idle"
"""Net joules of 0 or below."""
ESTIMATE = "estimate"
"""The kind of a value without any hardware reading behind it."""
ABOUT = "≈"
"""The mark before an estimated number."""
JOULES_PER_WATT_HOUR = 3600.0


def energy_text(
    joules: float | None,
    uncertainty: float | None = None,
    kind: str | None = None,
    *,
    spread: bool | None = None,
) -> str:
    """Format an energy: ``12.3 ± 0.4 J (counter)``, ``≈12 J (estimate)``, ``unmeasured``.

    ``spread`` says whether to write the ±; None writes it unless the kind is an estimate.
    """
    return _measured(joules, uncertainty, kind, "J", spread)


def short_energy_text(joules: float | None, kind: str | None = None) -> str:
    """Format an energy without its kind: ``12.3 J``, an estimate as ``≈12 J``; ``unmeasured``."""
    return _short_measured(joules, kind, "J")


def cell_text(value: float | None, kind: str | None = None) -> str:
    """Format a number of a table whose heading has the unit: ``12.3``, ``≈12,000``; ``–``."""
    if not is_known(value):
        return "–"
    if kind != ESTIMATE or not value:
        return significant(value, 3)
    return f"{ABOUT}{plain(value, 1 - exponent(value, 2))}"


def spread_energy_text(
    joules: float | None, uncertainty: float | None = None, kind: str | None = None
) -> str:
    """Format an energy in few characters, with the half width behind it: ``≈11 J ±4``.

    The half width is left out where it changes no digit that is shown.
    """
    text = short_energy_text(joules, kind)
    if not joules or not is_known(joules) or not is_spread(uncertainty):
        return text
    step, digits = prefix_of(abs(joules))[0], 2 if kind == ESTIMATE else 3
    decimals = digits - 1 - exponent(joules / step, digits)
    half = plain(uncertainty / step, decimals if kind == ESTIMATE else max(0, decimals))
    return f"{text} ±{half}" if half.strip("0.,") else text


def about_joules(joules: float | None) -> str:
    """Format estimated joules without the kind: ``≈21 J``, ``unmeasured``."""
    return short_energy_text(joules, ESTIMATE)


def marked(text: str) -> str:
    """Drop the word behind an estimate, which its ``≈`` marks already: ``≈12 ± 4 J``."""
    return text.removesuffix(f" ({ESTIMATE})")


def short_per_token_text(joules_per_token: float | None, kind: str | None = None) -> str:
    """Format an energy per token without its kind: ``0.66 J/tok``; an estimate has 2 digits.

    The energy next to it is marked as an estimate already.
    """
    return _short_measured(joules_per_token, kind, "J/tok").removeprefix(ABOUT)


def short_watts_text(watts: float | None, kind: str | None = None) -> str:
    """Format a power without its kind: ``118 W``, an estimate as ``≈12 W``; ``unmeasured``."""
    return _short_measured(watts, kind, "W")


def _short_measured(value: float | None, kind: str | None, unit: str) -> str:
    return _measured(value, None, kind, unit, None, suffix="")


def energy_range_text(joules: float, low: float, high: float, kind: str | None = None) -> str:
    """Format an energy with its interval: ``580 J, 370-1,400``, ``≈580 J, ... (estimate)``."""
    step, prefix = prefix_of(abs(high))
    mark, suffix = (ABOUT if kind == ESTIMATE else ""), (f" ({kind})" if kind else "")
    digits = 2 if kind == ESTIMATE else 3
    number = plain(joules / step, digits - 1 - exponent(joules / step, digits))
    ends = [plain(end / step, 1 - exponent(end / step, 2)) for end in (low, high)]
    return f"{mark}{number} {prefix}J, {'-'.join(ends)}{suffix}"


def joules_between_text(low: float, high: float) -> str:
    """Format a forecast of joules with two digits: ``≈8-60 J``, ``≈12 J`` if both ends agree."""
    step, prefix = prefix_of(high)
    ends = [significant(max(0.0, end) / step, 2) for end in (low, high)]
    return f"{ABOUT}{'-'.join(dict.fromkeys(ends))} {prefix}J"


def net_text(
    net_joules: float | None, uncertainty: float | None = None, kind: str | None = None
) -> str:
    """Format net joules as :func:`energy_text`, or as ``not above idle`` from 0 down.

    No work has negative energy: such a value only says that the work took less than the idle power
    varies, or that the machine was not at rest when its idle power was measured.
    """
    if is_known(net_joules) and net_joules <= 0:
        return NOT_ABOVE_IDLE
    return energy_text(net_joules, uncertainty, kind)


def watt_hours_text(joules: float | None, kind: str | None = None) -> str:
    """Format a large energy, given in joules, in Wh: ``3.42 Wh``, an estimate as ``≈1.2 kWh``."""
    watt_hours = None if joules is None else joules / JOULES_PER_WATT_HOUR
    return _short_measured(watt_hours, kind, "Wh")


def total_text(
    joules: float | None, uncertainty: float | None = None, kind: str | None = None
) -> str:
    """Format the total of a chat, a day or a budget in J and Wh: ``12.3 kJ, 3.42 Wh``.

    An estimate is only marked: ``≈12 kJ, ≈3.4 Wh``.
    """
    energy = marked(energy_text(joules, uncertainty, kind))
    if not is_known(joules):
        return energy
    return f"{energy}, {watt_hours_text(joules, kind if kind == ESTIMATE else None)}"


def per_token_text(
    joules_per_token: float | None,
    kind: str | None = None,
    uncertainty: float | None = None,
    *,
    spread: bool | None = None,
) -> str:
    """Format an energy per token: ``0.56 J/token``, ``12 mJ/token``, ``≈0.5 J/token (estimate)``.

    Only an estimate is marked: the energy next to it shows the kind already.
    """
    return per_text(joules_per_token, "token", kind, uncertainty, spread=spread)


def per_text(
    joules_per_unit: float | None,
    unit: str,
    kind: str | None = None,
    uncertainty: float | None = None,
    *,
    spread: bool | None = None,
) -> str:
    """Format an energy per unit: ``3.1 ± 0.4 J/question``, ``≈5 J/correct (estimate)``."""
    shown = kind if kind == ESTIMATE else None
    return _measured(joules_per_unit, uncertainty, shown, f"J/{unit}", spread)


def several_text(values: Sequence[float], unit: str, kind: str | None = None) -> str:
    """Format several values with one prefix: ``3.1, 4.2, 5.0 J``, ``20, 29, 33 ms``."""
    step, prefix = prefix_of(max(map(abs, values)))
    mark, suffix = (ABOUT, f" ({kind})") if kind == ESTIMATE else ("", "")
    digits = 2 if kind == ESTIMATE else 3
    numbers = ", ".join(significant(value / step, digits) for value in values)
    return f"{mark}{numbers} {prefix}{unit}{suffix}"


def watts_text(
    watts: float | None, kind: str | None = None, uncertainty: float | None = None
) -> str:
    """Format a power: ``118 W``, ``≈12 W (estimate)``, ``unmeasured``; other kinds are omitted."""
    return _measured(watts, uncertainty, kind if kind == ESTIMATE else None, "W", None)


def limit_text(watts: float | None) -> str:
    """Format a power limit with all its digits, to the milliwatt: ``350 W``; ``unknown``."""
    return "unknown" if watts is None else f"{round(watts, 3):,.10g} W"


def cost_text(
    grams_co2e: float | None,
    price: float | None,
    currency: str = "",
    *,
    fine: bool = False,
    about: bool = False,
) -> str:
    """Format emissions and the price of electricity: ``1.2 g CO2e, < 0.01 EUR``.

    ``fine`` shows the price of one answer, which is far below a cent, with two digits; ``about``
    marks both as estimated.
    """
    parts, mark = [], ABOUT if about else ""
    if is_known(grams_co2e):
        parts.append(f"{mark}{significant(grams_co2e, 3)} g CO2e")
    if is_known(price):
        money = f"{significant(price, 2)} {currency}".strip()
        text = money if fine else price_text(price, currency)
        parts.append(text if text[0] in "<>" else f"{mark}{text}")
    return ", ".join(parts)


def price_text(price: float | None, currency: str = "") -> str:
    """Format money to the cent: ``1.23 EUR``, ``< 0.01 EUR``; None is unknown."""
    if not is_known(price):
        return UNKNOWN
    small = "< 0.01" if price > 0 else "> -0.01"
    number = "0" if not price else small if abs(price) < 0.005 else f"{price:,.2f}"
    return f"{number} {currency}".strip()


def clock_text(mhz: float) -> str:
    """Format the clock of a chip: ``1.98 GHz``, ``405 MHz``."""
    return f"{mhz / 1e3:.2f} GHz" if mhz >= 999.5 else f"{mhz:.0f} MHz"


def celsius_text(celsius: float) -> str:
    """Format a temperature: ``61 °C``."""
    return f"{celsius:.0f} °C"


def watts_of_text(watts: float | None, limit_watts: float | None, kind: str | None = None) -> str:
    """Format a power against its limit: ``231/350 W``, ``≈12/65 W``; ``unmeasured``.

    Without a limit it reads ``231 W``.
    """
    if not is_known(watts) or not is_known(limit_watts):
        return short_watts_text(watts, kind)
    about = ABOUT if kind == ESTIMATE else ""
    step, prefix = prefix_of(limit_watts) if limit_watts >= KILO_FROM else (1.0, "")
    return f"{about}{axis_text(watts / step)}/{axis_text(limit_watts / step)} {prefix}W"


def of_limit_text(watts: float, limit_watts: float | None, kind: str | None = None) -> str:
    """Format a power and its limit: ``231 of at most 350 W``, ``≈18 of at most 65 W``."""
    mark = ABOUT if kind == ESTIMATE else ""
    limit = f" of at most {axis_text(limit_watts)}" if limit_watts else ""
    return f"{mark}{axis_text(watts)}{limit} W"


def whole_percent_text(share: float) -> str:
    """Format a share of 1 in whole per cent, in at most five characters: ``87 %``."""
    return f"{100 * share:.0f} %"


def memory_text(used_bytes: float, total_bytes: float) -> str:
    """Format used and whole memory in few characters: ``40/48 GB``, ``0.9/8 GB``."""
    return f"{axis_text(used_bytes / 1e9)}/{axis_text(total_bytes / 1e9)} GB"


def short_rate_text(tokens_per_second: float) -> str:
    """Format a speed of decoding in few characters: ``30 tok/s``, ``4.2 tok/s``."""
    return f"{axis_text(tokens_per_second)} tok/s"


def axis_text(value: float) -> str:
    """Format a number of an axis in few characters: ``2.5``, ``18``, ``350``, ``2.4k``."""
    if abs(value) >= 9999.5:
        return f"{value / 1e3:.0f}k"
    if abs(value) >= 999.5:
        return f"{value / 1e3:.1f}".removesuffix(".0") + "k"
    return f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}".removesuffix(".0")


def decode_speed(
    output_tokens: float, decode_seconds: float | None, answers: int = 1
) -> float | None:
    """Compute the speed that etui means by tok/s: that of the decode alone, tokens per second.

    The first token of an answer is computed with its prompt, and the time until it is the TTFT. So
    these are the tokens after the first, over the seconds from the first to the last one.

    Args:
        answers: Number of answers that the tokens and seconds are of, each with a first token.

    Returns:
        None where no token was decoded after a first one, or no time is known.
    """
    tokens = output_tokens - answers
    return tokens / decode_seconds if decode_seconds and tokens > 0 else None


def speed_text(tokens_per_second: float | None) -> str:
    """Format tokens per second: ``38.2 tok/s``; ``unknown`` for None."""
    if not is_known(tokens_per_second):
        return UNKNOWN
    return f"{significant(tokens_per_second, 3)} tok/s"


def count_text(count: int | None, noun: str, plural: str | None = None) -> str:
    """Format a count with its noun: ``1 turn``, ``12,345 turns``."""
    if count is None:
        return UNKNOWN
    word = noun if count == 1 else plural or f"{noun}s"
    return f"{count:,} {word}"


def place_text(place: int) -> str:
    """Format a place in a row, counted from 1: ``1st``, ``2nd``, ``11th``, ``22nd``."""
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10)
    return f"{place:,}{ending or 'th'}"


def tokens_text(tokens: int | None) -> str:
    """Format a count of tokens: ``1 token``, ``12,345 tokens``."""
    return count_text(tokens, "token")


def short_count_text(count: float) -> str:
    """Format a large count in few characters: ``980``, ``1.2k``, ``51k``, ``1.5M``."""
    for step, letter in ((1e6, "M"), (1e3, "k")):
        if count >= step * 0.9995:
            scaled = count / step
            return f"{plain(scaled, 1 if scaled < 9.95 else 0)}{letter}"
    return plain(count, 0)


def parameters_text(count: int) -> str:
    """Format the parameters of a model: ``4.0B parameters``, ``135M parameters``."""
    if count >= 1e9:
        return f"{count / 1e9:.1f}B parameters"
    return f"{plain(count / 1e6, 0 if count >= 1e7 else 1)}M parameters"


def short_tokens_text(tokens: int, *, exact: bool = True) -> str:
    """Format a count of tokens in few characters: ``1 token``, ``1.2k tokens``, ``≈12 tokens``."""
    mark = "" if exact else ABOUT
    return f"{mark}{short_count_text(tokens)} {'token' if tokens == 1 else 'tokens'}"


def tok_text(tokens: int | None) -> str:
    """Format a count of tokens in few cells: ``64 tok``, ``12,345 tok``."""
    return UNKNOWN if tokens is None else f"{tokens:,} tok"


def times_text(ratio: float) -> str:
    """Format a ratio in words: ``10.7×``, ``0.42×``; one decimal from 1 to 100."""
    decimals = 0 if ratio >= 99.95 else 1 if ratio >= 0.995 else 1 - exponent(ratio, 2)
    return f"{plain(ratio, decimals)}×"


def bytes_text(size_bytes: float | None) -> str:
    """Format a size in decimal units, as disks are sold: ``512 B``, ``94.1 MB``, ``1.12 GB``."""
    if not is_known(size_bytes):
        return UNKNOWN
    sign, size = ("-", -size_bytes) if size_bytes < 0 else ("", size_bytes)
    for step, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= step * 0.9995:
            return f"{sign}{significant(size / step, 3)} {unit}"
    return f"{plain(round(size_bytes), 0)} B"


def percent_text(share: float | None, uncertainty: float | None = None) -> str:
    """Format a share of 1 in per cent: ``38 %``, ``0.4 %``, ``51.2 ± 3.2 %``; None is unknown.

    Only exactly 1 and 0 are written ``100 %`` and ``0 %``.
    """
    if not is_known(share):
        return UNKNOWN
    percent = share * 100
    if is_spread(uncertainty):
        return f"{with_uncertainty(percent, uncertainty * 100)} %"
    if 0 < percent < 0.05:
        return "<0.1 %"
    if 99.95 < percent < 100:
        return ">99.9 %"
    if percent < 9.95 or percent > 99:
        return f"{plain(percent, 1).removesuffix('.0')} %"
    return f"{plain(percent, 0)} %"


def _measured(
    value: float | None,
    uncertainty: float | None,
    kind: str | None,
    unit: str,
    spread: bool | None,
    suffix: str | None = None,
) -> str:
    if not is_known(value):
        return UNMEASURED
    estimate = kind == ESTIMATE
    wanted = (not estimate) if spread is None else spread
    shown = uncertainty if wanted and is_spread(uncertainty) else None
    step, prefix = prefix_of(max(abs(value), shown or 0.0))
    if shown is None:
        scaled = value / step
        number = plain(scaled, 1 - exponent(scaled, 2)) if estimate else significant(scaled, 3)
    else:
        number = with_uncertainty(value / step, shown / step)
    if suffix is None:
        suffix = f" ({kind})" if kind else ""
    return f"{ABOUT if estimate else ''}{number} {prefix}{unit}{suffix}"


_SECONDS_FROM, _MINUTE_FROM = 0.0095, 59.95


def seconds_text(seconds: float | None, uncertainty: float | None = None) -> str:
    """Format a duration: ``4 ms``, ``0.21 s``, ``12.3 s``, ``3 min 05 s``, ``2 h 05 min``.

    With its half width ``4.20 ± 0.04 s``; from a minute on ``3 min 05 s ± 12.0 s``.
    """
    if not is_known(seconds):
        return UNKNOWN
    if is_spread(uncertainty):
        most = max(abs(seconds), uncertainty)
        if most >= _MINUTE_FROM:
            return f"{seconds_text(seconds)} ± {seconds_text(uncertainty)}"
        step, unit = (1e-3, "ms") if most < _SECONDS_FROM else (1.0, "s")
        return f"{with_uncertainty(seconds / step, uncertainty / step)} {unit}"
    sign, size = ("-", -seconds) if seconds < 0 else ("", seconds)
    if size == 0:
        return "0 s"
    if size < _SECONDS_FROM:
        return f"{sign}{significant(size * 1e3, 2)} ms"
    if size < _MINUTE_FROM:
        return f"{sign}{significant(size, 2 if size < 0.995 else 3)} s"
    whole = round(size)
    if whole < 3600:
        return f"{sign}{whole // 60} min {whole % 60:02d} s"
    minutes = round(size / 60)
    if minutes < 48 * 60:
        return f"{sign}{minutes // 60} h {minutes % 60:02d} min"
    hours = round(size / 3600)
    return f"{sign}{hours // 24} d {hours % 24} h"


def age_text(seconds: float) -> str:
    """Format the age of a mark on an axis of time: ``30s``, ``120s``, ``10min``, ``2h``."""
    if seconds < 180:
        return f"{seconds:.0f}s"
    if seconds < 7200 or seconds % 1800:
        return f"{seconds / 60:.5g}min"
    return f"{seconds / 3600:.3g}h"


def span_text(seconds: float) -> str:
    """Format the time that a graph shows: ``30 s``, ``2 min``, ``1 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.0f} h"


_PREFIXES = ((1e-3, "m"), (1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"))
_MILLI_BELOW = 0.0995
"""Values below a tenth of the unit (rounded to three digits) use the milli-unit."""
KILO_FROM = 9999.5
"""Up to four digits before the point keep the unit, so that 4,321 J and 987 J compare easily."""


def significant(value: float, digits: int) -> str:
    """Format ``value`` with ``digits`` significant digits: ``0.0123``, ``1,230``.

    The exponent form is never used, and all digits before the point are kept: 12,345 stays 12,345
    with three digits.
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, digits - 1 - exponent(value, digits))
    return plain(value, decimals)


def number_text(value: float) -> str:
    """Format a number as it was written, but never with an exponent: ``0.8``, ``1,040``."""
    return plain(value, 0) if value == round(value) or abs(value) >= 1e6 else f"{value:.6g}"


def with_uncertainty(value: float, uncertainty: float) -> str:
    """Format ``value ± uncertainty`` (above 0) without a unit: ``12.3 ± 0.4``, ``12,350 ± 120``."""
    decimals = 1 - exponent(uncertainty, 2)
    rounded = f"{round(uncertainty, decimals):.{max(decimals, 0)}f}"
    if decimals > 0 and rounded.endswith("0"):
        decimals -= 1
    return f"{plain(value, decimals)} ± {plain(uncertainty, decimals)}"


def is_known(value: float | None) -> TypeGuard[float]:
    """Check whether a value is there, and finite."""
    return value is not None and math.isfinite(value)


def is_spread(uncertainty: float | None) -> TypeGuard[float]:
    """Check whether an uncertainty is there, finite and above 0."""
    return uncertainty is not None and math.isfinite(uncertainty) and uncertainty > 0


def prefix_of(size: float) -> tuple[float, str]:
    """Choose the factor and the letter of the SI prefix that suits a size."""
    if size == 0 or _MILLI_BELOW <= size < KILO_FROM:
        return 1.0, ""
    if size < _MILLI_BELOW:
        return _PREFIXES[0]
    fitting = [pair for pair in _PREFIXES[2:] if size >= pair[0] * 0.9995]
    return fitting[-1]


def exponent(value: float, digits: int) -> int:
    """Return the power of ten of the first digit of ``value`` rounded to ``digits`` digits."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def plain(value: float, decimals: int) -> str:
    """Round at ``decimals`` (negative: before the point) and add thousands separators."""
    text = f"{round(value, decimals):,.{max(decimals, 0)}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text
