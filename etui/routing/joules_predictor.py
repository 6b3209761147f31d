"""What an arm is expected to spend on a query: pure arithmetic over facts that were read before.

By the model's operating curve where there is one, else by the tokens a second and the watts of its
last turns, and the source says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from etui.arm import Arm
from etui.curves.operating_curve import OperatingCurve, Speed, source_words
from etui.routing.prediction import PredictedJoules
from etui.routing.signals.text_measures import TextFacts
from etui.units import significant

PRIOR_TURNS = 5
"""Turns that the expected length of an answer counts for beside those that were seen."""


_ANSWER_SHARE, _ANSWER_TOKENS = 0.5, 150.0
"""What an answer takes before any was seen: this share of ``max_tokens``, but no more than so many
tokens, for a high limit is there for the rare long answer."""


_THOUGHT_SHARE = 0.8
"""Of ``think_tokens``, the same for a thought: small models use most of their budget."""


_VOTE_SHARE = 2 / 3
"""Of the votes, those that are drawn before a stop rule other than ``all`` ends them."""


_OVERHEAD_TOKENS = 24
"""Tokens of a chat template, where no turn has told."""


_ROUGH = 0.5
"""Half width of an uncalibrated prediction, relative to it."""


@dataclass(frozen=True, slots=True)
class ExpectedTokens:
    """Tokens an arm is expected to take, beside what lies in the cache."""

    computed: float
    cached: float
    output: float


def forecast(
    arm: Arm, text: TextFacts, facts: LoggedModelFacts, *, resident: bool, cached_tokens: int = 0
) -> PredictedJoules | None:
    """The joules an arm is expected to spend; None where nothing is known of its model.

    Args:
        text: The query, looked at once.
        facts: What is known of the arm's model.
        resident: Whether the model is in memory; its load costs nothing then.
        cached_tokens: Tokens of the conversation that are in its cache.
    """
    tokens = expected_tokens(arm, text, facts, cached_tokens)
    past = facts.past.get(ArmKey.of(arm))
    made: PredictedJoules | None = None
    if facts.curve is not None:
        made = _by_curve(facts.curve, arm, tokens, past)
    elif facts.speed is not None:
        made = _by_speed(facts.speed, arm, tokens, past)
    return None if made is None else _with_load(made, facts, resident)


def expected_tokens(
    arm: Arm, text: TextFacts, facts: LoggedModelFacts, cached_tokens: int = 0
) -> ExpectedTokens:
    """Prompt tokens by the length of the text, output tokens by the arm's budgets and its past."""
    extra = _OVERHEAD_TOKENS if facts.prompt_overhead is None else facts.prompt_overhead
    prompt = max(1.0, text.chat_tokens + extra)
    cached = min(float(cached_tokens), prompt - 1)
    return ExpectedTokens(prompt - cached, cached, _output(arm, text, facts))


def expected_votes(arm: Arm) -> float:
    """Votes an arm is expected to draw; 1 for an arm that does not vote."""
    if arm.reasoning != "vote":
        return 1.0
    return float(arm.votes) if arm.stop.rule == "all" else max(1.0, _VOTE_SHARE * arm.votes)


def _output(arm: Arm, text: TextFacts, facts: LoggedModelFacts) -> float:
    if arm.readout == "choices" and text.measure("options"):
        return 0.0
    prior = min(_ANSWER_SHARE * arm.max_tokens, _ANSWER_TOKENS)
    if arm.reasoning != "direct":
        prior += _THOUGHT_SHARE * arm.think_tokens
    prior *= expected_votes(arm)
    past = facts.past.get(ArmKey.of(arm))
    if past is None:
        return prior
    return (past.turns * past.mean_tokens + PRIOR_TURNS * prior) / (past.turns + PRIOR_TURNS)


def _by_curve(
    curve: OperatingCurve, arm: Arm, tokens: ExpectedTokens, past: PastOutput | None
) -> PredictedJoules:
    votes = expected_votes(arm)
    one = curve.joules(tokens.computed, tokens.cached, tokens.output / votes)
    decode, source = votes * one.decode, source_words(curve.source)
    if arm.reasoning == "vote":
        decode, source = _of_votes(decode, source, tokens, past)
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


def _by_speed(
    speed: Speed, arm: Arm, tokens: ExpectedTokens, past: PastOutput | None
) -> PredictedJoules | None:
    prefill_rate, prefill_watts = speed.prefill_tokens_per_second, speed.prefill_watts
    rate, watts = speed.decode_tokens_per_second, speed.decode_watts
    if not prefill_rate or prefill_watts is None or not rate or watts is None:
        return None
    prefill = tokens.computed / prefill_rate * prefill_watts
    decode = max(tokens.output - 1, 0.0) / rate * watts
    source = f"uncalibrated: {significant(rate, 2)} tok/s at {significant(watts, 2)} W"
    if arm.reasoning == "vote":
        decode, source = _of_votes(decode, source, tokens, past)
    return PredictedJoules(
        load=0.0,
        prefill=prefill,
        decode=decode,
        uncertainty=_ROUGH * (prefill + decode),
        seconds=speed.seconds(tokens.computed, tokens.output),
        source=source,
    )


def _of_votes(
    decode: float, source: str, tokens: ExpectedTokens, past: PastOutput | None
) -> tuple[float, str]:
    """Votes of one batch share each read of the weights: what such turns took per token tells."""
    if past is None or past.decode_joules_per_token is None:
        return decode, f"{source}, votes one by one"
    return past.decode_joules_per_token * tokens.output, source


def _with_load(made: PredictedJoules, facts: LoggedModelFacts, resident: bool) -> PredictedJoules:
    if resident:
        return made
    known = made.seconds is not None and facts.load_seconds is not None
    seconds = (made.seconds or 0.0) + (facts.load_seconds or 0.0) if known else None
    if facts.load_joules is None:
        source = f"{made.source}; its load is unmeasured and left out"
        return replace(made, seconds=seconds, source=source)
    return replace(made, load=facts.load_joules, seconds=seconds)


@dataclass(frozen=True, slots=True)
class ArmKey:
    """What of an arm decides how much it puts out, whatever its name is."""

    reasoning: str
    think_tokens: int
    max_tokens: int
    votes: int

    @classmethod
    def of(cls, arm: Arm) -> ArmKey:
        """The key of an arm, as its turns are logged."""
        return cls(
            arm.reasoning,
            arm.think_tokens if arm.reasoning != "direct" else 0,
            arm.max_tokens,
            arm.votes if arm.reasoning == "vote" else 0,
        )


@dataclass(frozen=True, slots=True)
class PastOutput:
    """What turns of one kind of arm put out.

    Attributes:
        turns: How many there were.
        mean_tokens: Mean output tokens, thinking and answer, of all votes together.
        decode_joules_per_token: Decode joules over output tokens; None where not measured.
    """

    turns: int
    mean_tokens: float
    decode_joules_per_token: float | None = None


@dataclass(frozen=True, slots=True)
class LoggedModelFacts:
    """What is known of one model here; what is not known is None, never 0.

    Attributes:
        curve: Its operating curve.
        speed: Tokens a second and watts of its last turns.
        load_joules, load_seconds: Means of its last loads.
        past: Kind of arm -> what it put out.
        prompt_overhead: Tokens a prompt has beyond the estimate from its text: the chat template,
            and what the estimate errs by.
    """

    curve: OperatingCurve | None = None
    speed: Speed | None = None
    load_joules: float | None = None
    load_seconds: float | None = None
    past: Mapping[ArmKey, PastOutput] = field(default_factory=dict)
    prompt_overhead: float | None = None
