"""Price an arm by measured answers, an operating curve and token counts: arithmetic only.

An arm that has answered is extrapolated by the mean of its answers, corrected for prompts that are
longer or shorter than theirs (a regression estimator: Cochran, Sampling Techniques, 3rd ed.,
chapter 7). An arm that has not is priced by the operating curve of its model, if the lengths of its
outputs are known from other runs. Else its joules are unknown; only their upper bound may be known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from etui.arm import Arm
from etui.bench.cost import find_weakest_kind
from etui.curves.operating_curve import OperatingCurve
from etui.log.past_answers import PastAnswer
from etui.stats.distributions import fit_non_negative, t_quantile

Source = Literal["answers", "curve", "none"]
"""Measured answers of the same arm, the operating curve of its model, or nothing."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A predicted amount, in joules or seconds."""

    value: float
    scatter: float | None  # Half width at 95 % on the same meter; None if unknown
    uncertainty: float | None  # The same, with the error of the meter itself

    def times(self, count: float) -> Amount:
        """Return ``count`` times the amount, as if its error were the same each time."""
        scatter = None if self.scatter is None else self.scatter * count
        uncertainty = None if self.uncertainty is None else self.uncertainty * count
        return Amount(self.value * count, scatter, uncertainty)


@dataclass(frozen=True, slots=True)
class ArmPrice:
    """What an arm will cost."""

    arm: str
    role: str
    model: str
    questions: int
    source: Source  # Where joules and seconds come from
    origin: str  # The same in words
    measured: int  # Number of measured answers behind it
    prompt_tokens: float | None  # Computed per question; None where unknown
    output_tokens: float | None
    most_output_tokens: int  # Per question, with all budgets used up
    joules: Amount | None  # Per question; None where unknown
    seconds: Amount | None
    most_joules: float | None  # Per question, with all budgets used up; None where unknown
    most_seconds: float | None
    total_joules: Amount | None
    total_seconds: Amount | None
    kind: str | None = None  # How the joules were measured; None where unknown


@dataclass(frozen=True, slots=True)
class DesignPrice:
    """What the questions of a design will cost."""

    questions: int
    arms: tuple[ArmPrice, ...]
    """The arms; one that has answered some of them pays only for the others."""
    joules: Amount | None  # Of all answers; None while an arm is unknown
    seconds: Amount | None
    most_joules: float | None  # With all budgets used up; None while one is unknown
    most_seconds: float | None
    curve_joules: float | None  # Of the curves measured on the way; 0 without, None if unknown
    curve_seconds: float | None
    unknown: tuple[str, ...]  # Arms of which the joules or the seconds are unknown
    kind: str | None = None  # Kind of the least certain joules; None where unknown

    @property
    def prompt_tokens(self) -> float | None:
        """Prompt tokens of all answers; None while those of an arm are unknown."""
        return _add_bounds((arm.prompt_tokens, arm.questions) for arm in self.arms)

    @property
    def most_output_tokens(self) -> int:
        """Output tokens of all answers with all budgets used up."""
        return sum(arm.most_output_tokens * arm.questions for arm in self.arms)

    @property
    def tokens(self) -> float | None:
        """Prompt and output tokens of all answers; None while those of an arm are unknown."""
        output = _add_bounds((arm.output_tokens, arm.questions) for arm in self.arms)
        prompt = self.prompt_tokens
        return None if prompt is None or output is None else prompt + output

    @property
    def total_seconds(self) -> float | None:
        """Seconds of answers and curves; None while one is unknown."""
        if self.seconds is None or self.curve_seconds is None:
            return None
        return self.seconds.value + self.curve_seconds

    @property
    def total_joules(self) -> float | None:
        """Joules of answers and curves; None while one is unknown."""
        if self.joules is None or self.curve_joules is None:
            return None
        return self.joules.value + self.curve_joules


def price_design(
    questions: int, arms: Sequence[ArmPrice], curves: tuple[float, float] | None
) -> DesignPrice:
    """Add up the prices of the arms, and their errors (:func:`add_amounts`).

    ``curves``: seconds and joules of the operating curves; None if unknown.
    """
    unknown = tuple(arm.arm for arm in arms if arm.joules is None or arm.seconds is None)
    return DesignPrice(
        questions,
        tuple(arms),
        add_amounts([arm.total_joules for arm in arms]),
        add_amounts([arm.total_seconds for arm in arms]),
        _add_bounds((arm.most_joules, arm.questions) for arm in arms),
        _add_bounds((arm.most_seconds, arm.questions) for arm in arms),
        None if curves is None else curves[1],
        None if curves is None else curves[0],
        unknown,
        find_weakest_kind(arm.kind for arm in arms),
    )


def add_amounts(amounts: Sequence[Amount | None]) -> Amount | None:
    """Add amounts; None if one is unknown.

    Their scatter adds up, as the error of their meter does: the arms were measured on the same
    questions, and a hard or a long one costs more in each of them; the arms of a model share its
    operating curve. That is right if the errors go together, and too wide if not.
    """
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(amounts) or not known:
        return None
    value = math.fsum(amount.value for amount in known)
    if any(amount.scatter is None or amount.uncertainty is None for amount in known):
        return Amount(value, None, None)
    scatter = math.fsum(amount.scatter or 0.0 for amount in known)
    meter = math.fsum(
        math.sqrt(max((amount.uncertainty or 0.0) ** 2 - (amount.scatter or 0.0) ** 2, 0.0))
        for amount in known
    )
    return Amount(value, scatter, math.hypot(scatter, meter))


def count_questions_within(
    price: DesignPrice, seconds: float, share: float, block: int
) -> int | None:
    """Count the questions that every arm answers within some time; None while an arm is unknown.

    Args:
        share: Share of it that the operating curves take at most.
        block: Questions of a block; the last one may be cut short.
    """
    if price.seconds is None or any(arm.seconds is None for arm in price.arms):
        return None
    each = math.fsum(arm.seconds.value for arm in price.arms if arm.seconds is not None)
    curves = min(price.curve_seconds or 0.0, share * seconds)
    left = max(seconds - curves, 0.0)
    if each <= 0:
        return price.questions
    whole = int(left / (each * block)) * block
    return min(whole, price.questions)


def _add_bounds(bounds: Iterable[tuple[float | None, int]]) -> float | None:
    found = list(bounds)
    if any(bound is None for bound, _ in found) or not found:
        return None
    return math.fsum((bound or 0.0) * count for bound, count in found)


LEAST_ANSWERS = 2
"""Answers of an arm from which it is extrapolated: the spread of one is unknown."""


_TAIL = 0.025
"""Probability on either side of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class ArmEvidence:
    """What is known of an arm before it answers."""

    answers: list[PastAnswer] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    """Output tokens of its answers anywhere, those on other machines included."""
    curve: OperatingCurve | None = None
    """Operating curve of its model on this machine; None without one."""
    origin: str = ""  # Where the answers are from, in a few words


@dataclass(frozen=True, slots=True)
class Slopes:
    """Cost of one more token of a model."""

    joules_per_prompt_token: float = 0.0
    joules_per_output_token: float = 0.0
    seconds_per_prompt_token: float = 0.0
    seconds_per_output_token: float = 0.0


def fit_slopes(answers: Iterable[PastAnswer], curve: OperatingCurve | None) -> Slopes:
    """Find the cost of one more token: from the curve of a model, else from answers of its arms.

    Answers are fitted by non-negative least squares to a constant, a cost of a prompt token and one
    of an output token; with too few of them every slope is 0.
    """
    if curve is not None and curve.speed.prefill_tokens_per_second:
        decode = curve.speed.decode_tokens_per_second
        return Slopes(
            curve.prefill.slope,
            curve.decode.slope,
            1 / curve.speed.prefill_tokens_per_second,
            1 / decode if decode else 0.0,
        )
    known = list(answers)
    joules = _fit([(a, a.joules) for a in known if a.joules is not None])
    seconds = _fit([(a, a.seconds) for a in known])
    return Slopes(joules[0], joules[1], seconds[0], seconds[1])


def count_most_output(arm: Arm, *, generates: bool = True) -> int:
    """Count the output tokens of an answer that uses up all budgets of an arm."""
    if not generates or (arm.reasoning == "direct" and arm.readout == "choices"):
        return 0
    thinking = arm.think_tokens if arm.reasoning != "direct" else 0
    each = thinking + arm.max_tokens + (arm.readout == "letter")
    return each * (arm.votes if arm.reasoning == "vote" else 1)


def price_arm(
    arm: Arm,
    role: str,
    evidence: ArmEvidence,
    questions: int,
    prompt_tokens: float | None,
    slopes: Slopes,
    *,
    generates: bool = True,
) -> ArmPrice:
    """Price an arm; ``prompt_tokens`` is the mean of those that are computed, None if unknown."""
    most = count_most_output(arm, generates=generates)
    mean = (
        _extrapolate_answers(evidence, questions, prompt_tokens, slopes, generates=generates)
        or _predict_mean(arm, evidence, questions, prompt_tokens, most)
        or _Mean(
            "none",
            "unknown: measure a few questions with --pilot",
            _mean([float(tokens) for tokens in evidence.outputs]),
        )
    )
    joules, seconds = mean.joules, mean.seconds
    kind = find_weakest_kind(answer.kind for answer in evidence.answers)
    if mean.source == "curve":
        kind = None if evidence.curve is None else evidence.curve.kind
    most_joules, most_seconds = _bound(arm, evidence.curve, prompt_tokens, mean, slopes, most)
    return ArmPrice(
        arm=arm.name,
        role=role,
        model=arm.model,
        questions=questions,
        source=mean.source,
        origin=mean.origin,
        measured=len(evidence.answers) if mean.source == "answers" else 0,
        prompt_tokens=prompt_tokens,
        output_tokens=mean.output_tokens if most else 0.0,
        most_output_tokens=most,
        joules=joules,
        seconds=seconds,
        most_joules=most_joules,
        most_seconds=most_seconds,
        total_joules=None if joules is None else joules.times(questions),
        total_seconds=None if seconds is None else seconds.times(questions),
        kind=None if joules is None else kind,
    )


@dataclass(frozen=True, slots=True)
class _Mean:
    """Mean cost of an answer, and where it is from; None where it is unknown."""

    source: Source
    origin: str
    output_tokens: float | None
    joules: Amount | None = None
    seconds: Amount | None = None


def _extrapolate_answers(
    evidence: ArmEvidence,
    questions: int,
    prompt_tokens: float | None,
    slopes: Slopes,
    *,
    generates: bool,
) -> _Mean | None:
    timed = evidence.answers
    if len(timed) < LEAST_ANSWERS:
        return None
    # How many more prompt tokens the further questions have than the measured ones. The log does
    # not say which share of a subject's examples an answer without generation computed.
    shift = 0.0
    if generates and prompt_tokens is not None:
        shift = prompt_tokens - math.fsum(one.tokens_computed for one in timed) / len(timed)
    joules = None
    if all(answer.joules is not None for answer in timed):
        spent = [answer.joules or 0.0 for answer in timed]
        total = math.fsum(spent)
        meter = math.fsum(one.uncertainty or 0.0 for one in timed) / total if total else 0.0
        joules = extrapolate(spent, questions, shift * slopes.joules_per_prompt_token, meter)
    return _Mean(
        "answers",
        f"{len(timed)} answers of {evidence.origin}",
        _mean([float(answer.tokens_output) for answer in timed]),
        joules,
        extrapolate(
            [answer.seconds for answer in timed], questions, shift * slopes.seconds_per_prompt_token
        ),
    )


def _predict_mean(
    arm: Arm, evidence: ArmEvidence, questions: int, prompt_tokens: float | None, most: int
) -> _Mean | None:
    """Predict by the operating curve; None without a curve or without known output lengths."""
    counted = [0.0] if most == 0 else [float(tokens) for tokens in evidence.outputs]
    if evidence.curve is None or prompt_tokens is None or not counted:
        return None
    lengths = f" x {len(counted)} output lengths of the log" if most else ""
    return _Mean(
        "curve",
        f"operating curve of the model{lengths}",
        _mean(counted),
        predict_by_curve(arm, evidence.curve, prompt_tokens, counted, questions),
        _predict_seconds(arm, evidence.curve, prompt_tokens, counted),
    )


def extrapolate(
    values: Sequence[float], questions: int, shift: float = 0.0, meter_share: float = 0.0
) -> Amount:
    """Predict the mean of further answers from those that were measured.

    Args:
        values: Cost of each measured answer, at least two.
        questions: Number of further answers, whose own spread is part of the interval.
        shift: Added to the mean, because the further questions have other lengths.
        meter_share: Relative uncertainty of the meter itself.
    """
    count = len(values)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    spread = math.sqrt(variance * (1 / count + 1 / max(questions, 1)))
    scatter = t_quantile(_TAIL, count - 1) * spread
    value = max(mean + shift, 0.0)
    return Amount(value, scatter, math.hypot(scatter, meter_share * value))


def predict_by_curve(
    arm: Arm, curve: OperatingCurve, prompt_tokens: float, outputs: Sequence[float], questions: int
) -> Amount:
    """Predict the joules of an answer from a curve and past lengths of its output.

    The prompt of a vote is computed once, and its answers are decoded one after the other; drawn
    together they cost less.
    """
    costs = [_curve_joules(arm, curve, prompt_tokens, output) for output in outputs]
    value = math.fsum(cost for cost, _ in costs) / len(costs)
    of_curve = math.fsum(scatter for _, scatter in costs) / len(costs)
    of_lengths = 0.0
    if len(costs) > 1:
        of_lengths = extrapolate([cost for cost, _ in costs], questions).scatter or 0.0
    scatter = math.hypot(of_curve, of_lengths)
    return Amount(value, scatter, math.hypot(scatter, curve.meter_share * value))


def _curve_joules(
    arm: Arm, curve: OperatingCurve, prompt_tokens: float, output: float
) -> tuple[float, float]:
    votes = arm.votes if arm.reasoning == "vote" else 1
    each = max(output / votes - 1, 0.0)
    prefill = curve.prefill.joules(0, prompt_tokens)
    decode = votes * curve.decode.joules(prompt_tokens, each)
    scatter = math.hypot(curve.prefill.half_width(prefill), curve.decode.half_width(decode))
    return prefill + decode, scatter


def _predict_seconds(
    arm: Arm, curve: OperatingCurve, prompt_tokens: float, outputs: Sequence[float]
) -> Amount | None:
    votes = arm.votes if arm.reasoning == "vote" else 1
    output = math.fsum(outputs) / len(outputs)
    whole = curve.speed.seconds(prompt_tokens, max(output - votes + 1, 0.0))
    return None if whole is None else Amount(whole, None, None)


def _bound(
    arm: Arm,
    curve: OperatingCurve | None,
    prompt_tokens: float | None,
    mean: _Mean,
    slopes: Slopes,
    most: int,
) -> tuple[float | None, float | None]:
    """Return the most joules and seconds of an answer, with all its budgets used up."""
    joules, seconds, outputs = mean.joules, mean.seconds, mean.output_tokens
    if curve is not None and prompt_tokens is not None:
        votes = arm.votes if arm.reasoning == "vote" else 1
        by_curve = _curve_joules(arm, curve, prompt_tokens, most)[0]
        by_speed = curve.speed.seconds(prompt_tokens, max(most - votes + 1, 0))
        return (
            max(by_curve, joules.value if joules else 0.0),
            None if by_speed is None else max(by_speed, seconds.value if seconds else 0.0),
        )
    more = None if outputs is None else max(most - outputs, 0.0)
    return (
        _extend(joules, more, outputs, slopes.joules_per_output_token),
        _extend(seconds, more, outputs, slopes.seconds_per_output_token),
    )


def _extend(
    amount: Amount | None, more: float | None, outputs: float | None, slope: float
) -> float | None:
    """Add the cost of more output tokens; without a slope, all of it is that of the output."""
    if amount is None or more is None:
        return None
    if slope > 0:
        return amount.value + more * slope
    return amount.value * (1 + more / outputs) if outputs else amount.value


def _fit(pairs: Sequence[tuple[PastAnswer, float]]) -> tuple[float, float]:
    """Fit costs to a constant and both kinds of tokens; return the cost of a token of each kind."""
    if len(pairs) < 2 * 3:
        return 0.0, 0.0
    rows = [(1.0, answer.tokens_computed, float(answer.tokens_output)) for answer, _ in pairs]
    _, prompt, output = fit_non_negative(rows, [cost for _, cost in pairs])
    return prompt, output


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
