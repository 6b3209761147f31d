"""Predict the joules an arm spends on a query: pure arithmetic over facts already read.

The model's operating curve is used if there is one, else the tokens per second and the watts of
its last turns, else the joules of the arm's own audits; the ``source`` of a prediction says which.
An arm that speculates is predicted from the last turns with the same setting, if there are any.

An audit has no phases, so a model that answered nothing but audits has neither a curve nor a speed.
Its joules and seconds follow a line over the length of the prompt: a flat mean would make a long
prompt look cheap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, linear_regression, quantiles

from etui.arm import Arm
from etui.curves.operating_curve import OperatingCurve, Speed, format_source
from etui.routing.decision import UNCALIBRATED, PredictedJoules
from etui.routing.text_measures import TextFacts
from etui.units import significant

PRIOR_TURNS = 5
"""Weight of the prior answer length, in turns, against the turns in the log."""

_ANSWER_SHARE, _ANSWER_TOKENS = 0.5, 150.0
"""Prior length of an answer: this share of ``max_tokens``, but at most this many tokens, because a
high limit is set for the rare long answer."""

_THINKING_SHARE = 0.8
"""Prior length of the thinking as a share of ``think_tokens``: small models use most of it."""

_VOTE_SHARE = 2 / 3
"""Share of the votes that are drawn before a stop rule other than ``all`` ends them."""

_PRIOR_LENGTHS = (0.02, 0.08, 0.3, 0.6, 1.0)
"""Lengths of five answers of an arm without turns, as shares of the most that is expected."""

_MOST_EXPECTED_TOKENS = 512.0

_SHARE_OF_95 = 0.65
"""Half width of an interval of 80 % over that of 95 %, for a normal error."""

_OVERHEAD_TOKENS = 24
"""Tokens of a chat template, if no turn in the log shows its length."""

_UNCALIBRATED_SPREAD = 0.5
"""Relative half width of an uncalibrated prediction."""


@dataclass(frozen=True, slots=True)
class ArmKey:
    """The settings of an arm that determine the length of its output, whatever its name."""

    reasoning: str
    think_tokens: int
    max_tokens: int
    votes: int

    @classmethod
    def of(cls, arm: Arm) -> ArmKey:
        """Return the key of an arm, as its turns are logged."""
        return cls(
            arm.reasoning,
            arm.think_tokens if arm.reasoning != "direct" else 0,
            arm.max_tokens,
            arm.votes if arm.reasoning == "vote" else 0,
        )


@dataclass(frozen=True, slots=True)
class PastOutput:
    """Output of past turns with the same arm settings."""

    turns: int
    mean_tokens: float  # Mean output tokens, thinking and answer, of all votes together
    decode_joules_per_token: float | None = None
    """Decode joules over output tokens; None if not measured."""
    lengths: Sequence[int] = ()  # Output tokens of each


@dataclass(frozen=True, slots=True)
class LoggedModelFacts:
    """Logged facts about one model on this machine; an unknown fact is None, never 0."""

    curve: OperatingCurve | None = None
    speed: Speed | None = None
    """Tokens per second of its last turns, and their watts, if they were measured."""
    load_joules: float | None = None
    load_seconds: float | None = None
    past: Mapping[ArmKey, PastOutput] = field(default_factory=dict)
    """Arm settings -> output of past turns."""
    prompt_overhead: float | None = None
    """Tokens of a prompt beyond the estimate from its text: the chat template plus the error of the
    estimate."""
    speculated: Mapping[str, Speed] = field(default_factory=dict)
    """Setting of ``Arm.speculate`` -> tokens per second and watts of the last turns with it, which
    no curve describes: what drafted tokens save depends on the text."""
    audits: Mapping[str, PastAudits] = field(default_factory=dict)
    """Name of an arm -> its last audits with the model."""


@dataclass(frozen=True, slots=True)
class ExpectedTokens:
    """Tokens an arm is expected to process."""

    computed: float
    cached: float
    output: float  # Output tokens, thinking and all votes included


def predict_joules(
    arm: Arm, text: TextFacts, facts: LoggedModelFacts, *, resident: bool, cached_tokens: int = 0
) -> PredictedJoules | None:
    """Predict the joules an arm spends on a query; None without data about its model."""
    tokens = predict_tokens(arm, text, facts, cached_tokens)
    predicted = _predict_answer(arm, tokens, facts)
    if predicted is None:
        past = facts.audits.get(arm.name)
        predicted = predict_by_audits(past, tokens.computed + tokens.cached)
        return None if predicted is None else _add_load(predicted, facts, resident)
    predicted = _add_load(predicted, facts, resident)
    ends = (
        _predict_answer(arm, replace(tokens, output=output), facts)
        for output in _bound_output(arm, text, facts)
    )
    least, most = (predicted if end is None else end for end in ends)
    low = least.answer - _SHARE_OF_95 * (least.uncertainty or 0.0)
    high = most.answer + _SHARE_OF_95 * (most.uncertainty or 0.0)
    return replace(predicted, range=(max(0.0, low), high))


def _predict_answer(
    arm: Arm, tokens: ExpectedTokens, facts: LoggedModelFacts
) -> PredictedJoules | None:
    speculated = facts.speculated.get(arm.speculate)
    past = _get_past(arm, facts)
    predicted: PredictedJoules | None = None
    if speculated is not None:
        predicted = _predict_by_speed(speculated, arm, tokens, past)
    if predicted is not None:
        predicted = replace(predicted, source=f"{predicted.source}, speculation {arm.speculate}")
    elif facts.curve is not None:
        predicted = _predict_by_curve(facts.curve, arm, tokens, past)
    elif facts.speed is not None:
        predicted = _predict_by_speed(facts.speed, arm, tokens, past)
    if predicted is not None and arm.speculate != "off" and speculated is None:
        predicted = replace(predicted, source=f"{predicted.source}, without speculation")
    return predicted


def predict_seconds(
    arm: Arm, text: TextFacts, facts: LoggedModelFacts, *, resident: bool
) -> float | None:
    """Predict how long an arm takes, load included; None if its speed or its load is unknown."""
    speed = facts.curve.speed if facts.curve is not None else facts.speed
    tokens = predict_tokens(arm, text, facts)
    seconds = None
    if speed is not None:
        output = _limit_output(speed, tokens, _get_past(arm, facts))
        seconds = speed.seconds(tokens.computed, output)
    audited = facts.audits[arm.name].seconds if arm.name in facts.audits else None
    if seconds is None and audited is not None:
        seconds = audited.compute_at(tokens.computed)
    if resident or seconds is None:
        return seconds
    return None if facts.load_seconds is None else seconds + facts.load_seconds


def predict_tokens(
    arm: Arm, text: TextFacts, facts: LoggedModelFacts, cached_tokens: int = 0
) -> ExpectedTokens:
    """Estimate prompt tokens from the text, output tokens from the arm's budgets and its past."""
    extra = _OVERHEAD_TOKENS if facts.prompt_overhead is None else facts.prompt_overhead
    prompt = max(1.0, text.chat_tokens + extra)
    cached = min(float(cached_tokens), prompt - 1)
    return ExpectedTokens(prompt - cached, cached, _predict_output(arm, text, facts))


def _predict_votes(arm: Arm) -> float:
    if arm.reasoning != "vote":
        return 1.0
    return float(arm.votes) if arm.stop.rule == "all" else max(1.0, _VOTE_SHARE * arm.votes)


LEAST_AUDITS = 5
"""Smallest number of audits whose mean is a prediction."""

LEAST_FOR_LINE = 10
"""Smallest number of audits from which the length of the prompt is taken into account."""

_Z95 = 1.96


@dataclass(frozen=True, slots=True)
class MeasuredAudit:
    """What one audit took, without the load of its model."""

    joules: float | None  # Gross joules; None if unmeasured
    uncertainty: float | None  # Half width in joules; None if unknown
    seconds: float
    prompt_tokens: float | None = None
    """Length of the prompt, as counted for the audited answer; None if unknown."""


@dataclass(frozen=True, slots=True)
class Line:
    """``base + slope * prompt tokens``; neither is negative, and a mean has the slope 0."""

    base: float
    slope: float = 0.0

    def compute_at(self, prompt_tokens: float) -> float:
        """Compute the value for a prompt."""
        return self.base + self.slope * prompt_tokens


@dataclass(frozen=True, slots=True)
class PastAudits:
    """The last audits by one arm with one model."""

    measured: int  # Number of audits with joules
    joules: Line | None
    """Joules by length of the prompt; None with fewer than ``LEAST_AUDITS`` of them."""
    scatter: float  # Half width at 95 % of the joules of one more audit, from those of the audits
    meter_share: float  # Relative uncertainty of the meter itself
    seconds: Line | None  # Duration likewise; None with fewer than `LEAST_AUDITS`


def average_audits(audits: Sequence[MeasuredAudit]) -> PastAudits:
    """Fit joules and seconds of audits whose energy is of one kind."""
    joules = [(a.prompt_tokens, a.joules) for a in audits if a.joules is not None]
    found = fit_line(joules)
    seconds = fit_line([(a.prompt_tokens, a.seconds) for a in audits])
    return PastAudits(
        measured=len(joules),
        joules=None if found is None else found[0],
        scatter=0.0 if found is None else _Z95 * found[1] * math.sqrt(1 + 1 / len(joules)),
        meter_share=_compute_meter_share(audits),
        seconds=None if seconds is None else seconds[0],
    )


def fit_line(points: Sequence[tuple[float | None, float]]) -> tuple[Line, float] | None:
    """Fit values by prompt tokens, or take their mean where the tokens do not explain them.

    Returns the line and the deviation around it; None with fewer than ``LEAST_AUDITS`` points.
    """
    if len(points) < LEAST_AUDITS:
        return None
    values = [value for _, value in points]
    mean = Line(fmean(values))
    flat = mean, _compute_deviation([(0.0, value) for value in values], mean, 1)
    known = [(tokens, value) for tokens, value in points if tokens is not None]
    tokens, values = [at for at, _ in known], [value for _, value in known]
    if len(known) < LEAST_FOR_LINE or min(tokens) == max(tokens):
        return flat
    slope, base = linear_regression(tokens, values)
    if base < 0:
        slope, base = linear_regression(tokens, values, proportional=True)
    line = Line(base, slope)
    deviation = _compute_deviation(known, line, 2)
    return (line, deviation) if slope > 0 and deviation < flat[1] else flat


def predict_by_audits(past: PastAudits | None, prompt_tokens: float) -> PredictedJoules | None:
    """Predict the joules of an arm in memory from its audits; None with too few measured ones."""
    if past is None or past.joules is None:
        return None
    joules = past.joules.compute_at(prompt_tokens)
    how = f"{past.measured} audits, by length of the prompt"
    return PredictedJoules(
        load=0.0,
        prefill=None,
        decode=None,
        uncertainty=math.hypot(past.scatter, past.meter_share * joules),
        seconds=None if past.seconds is None else past.seconds.compute_at(prompt_tokens),
        source=how if past.joules.slope else f"mean of {past.measured} audits",
        whole=joules,
    )


def _compute_deviation(points: Sequence[tuple[float, float]], line: Line, terms: int) -> float:
    squares = math.fsum((value - line.compute_at(tokens)) ** 2 for tokens, value in points)
    return math.sqrt(squares / (len(points) - terms))


def _compute_meter_share(audits: Sequence[MeasuredAudit]) -> float:
    """Return the smallest relative uncertainty, which is left however long an audit is."""
    shares = [a.uncertainty / a.joules for a in audits if a.uncertainty is not None and a.joules]
    return min(shares, default=0.0)


def _get_past(arm: Arm, facts: LoggedModelFacts) -> PastOutput | None:
    return facts.past.get(ArmKey.of(arm))


def _predict_output(arm: Arm, text: TextFacts, facts: LoggedModelFacts) -> float:
    if arm.readout == "choices" and text.measure("options"):
        return 0.0
    prior = min(_ANSWER_SHARE * arm.max_tokens, _ANSWER_TOKENS)
    if arm.reasoning != "direct":
        prior += _THINKING_SHARE * arm.think_tokens
    prior *= _predict_votes(arm)
    past = _get_past(arm, facts)
    if past is None:
        return prior
    return (past.turns * past.mean_tokens + PRIOR_TURNS * prior) / (past.turns + PRIOR_TURNS)


def _bound_output(arm: Arm, text: TextFacts, facts: LoggedModelFacts) -> tuple[float, float]:
    """Return the output tokens that four of five answers lie between, by earlier lengths.

    While they are fewer than five, assumed lengths count too.
    """
    if arm.readout == "choices" and text.measure("options"):
        return 0.0, 0.0
    most = min(float(arm.max_tokens), _MOST_EXPECTED_TOKENS)
    thinking = arm.think_tokens if arm.reasoning != "direct" else 0
    votes = _predict_votes(arm)
    prior = [votes * (share * most + thinking * (0.4 + 0.6 * share)) for share in _PRIOR_LENGTHS]
    past = _get_past(arm, facts)
    lengths = [] if past is None else [float(length) for length in past.lengths]
    # The ends of so few values lie a little outside of them, as they should.
    low, *_, high = quantiles(lengths if len(lengths) >= PRIOR_TURNS else [*lengths, *prior], n=10)
    return max(1.0, low), min(max(1.0, high), max([*prior, *lengths]))


def _predict_by_curve(
    curve: OperatingCurve, arm: Arm, tokens: ExpectedTokens, past: PastOutput | None
) -> PredictedJoules:
    votes = _predict_votes(arm)
    one = curve.joules(tokens.computed, tokens.cached, tokens.output / votes)
    decode, source = votes * one.decode, format_source(curve.source)
    if arm.reasoning == "vote":
        decode, source = _adjust_for_votes(decode, source, tokens, past)
    joules = one.prefill + decode
    spread = one.uncertainty / one.total if one.total else 0.0
    return PredictedJoules(
        load=0.0,
        prefill=one.prefill,
        decode=decode,
        uncertainty=spread * joules,
        seconds=curve.speed.seconds(tokens.computed, tokens.output),
        source=source,
    )


def _predict_by_speed(
    speed: Speed, arm: Arm, tokens: ExpectedTokens, past: PastOutput | None
) -> PredictedJoules | None:
    prefill_rate, prefill_watts = speed.prefill_tokens_per_second, speed.prefill_watts
    rate, watts = speed.decode_tokens_per_second, speed.decode_watts
    if not prefill_rate or prefill_watts is None:
        return None
    prefill = tokens.computed / prefill_rate * prefill_watts
    output = _limit_output(speed, tokens, past)
    if rate and watts is not None:
        decode = max(output - 1, 0.0) / rate * watts
        source = f"{UNCALIBRATED}: {significant(rate, 2)} tok/s at {significant(watts, 2)} W"
    elif output <= 1:
        decode = 0.0  # the first output token is drawn at the end of the prefill
        speed_text = f"{significant(prefill_rate, 2)} tok/s at {significant(prefill_watts, 2)} W"
        source = f"{UNCALIBRATED}: prefill {speed_text}, {_say_no_decode(output, past)}"
    else:
        return None
    if arm.reasoning == "vote":
        decode, source = _adjust_for_votes(decode, source, tokens, past)
    return PredictedJoules(
        load=0.0,
        prefill=prefill,
        decode=decode,
        uncertainty=_UNCALIBRATED_SPREAD * (prefill + decode),
        seconds=speed.seconds(tokens.computed, output),
        source=source,
    )


def _limit_output(speed: Speed, tokens: ExpectedTokens, past: PastOutput | None) -> float:
    """Return the output tokens to predict; 1 for a model that has never decoded any but the first.

    No rate of the decode is known of it. It is assumed if enough turns of the arm had one each.
    """
    if speed.decode_tokens_per_second or past is None or past.turns < PRIOR_TURNS:
        return tokens.output
    return min(tokens.output, 1.0) if past.mean_tokens <= 1 else tokens.output


def _say_no_decode(output: float, past: PastOutput | None) -> str:
    if past is None or output <= 0:
        return "no decode expected"
    return f"one output token assumed, as in {past.turns} earlier turns"


def _adjust_for_votes(
    decode: float, source: str, tokens: ExpectedTokens, past: PastOutput | None
) -> tuple[float, str]:
    """Replace the decode joules of a vote by those measured per token in earlier votes.

    Votes share each read of the weights, so a curve of single answers overestimates them.
    """
    if past is None or past.decode_joules_per_token is None:
        return decode, f"{source}, votes one by one"
    return past.decode_joules_per_token * tokens.output, source


def _add_load(
    predicted: PredictedJoules, facts: LoggedModelFacts, resident: bool
) -> PredictedJoules:
    if resident:
        return predicted
    known = predicted.seconds is not None and facts.load_seconds is not None
    seconds = (predicted.seconds or 0.0) + (facts.load_seconds or 0.0) if known else None
    if facts.load_joules is None:
        source = f"{predicted.source}; its load is unmeasured and not included"
        return replace(predicted, seconds=seconds, source=source)
    return replace(predicted, load=facts.load_joules, seconds=seconds)
