"""Walk a cascade: whether an answer is accepted, which arm follows, which answer counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from etui.arm import Arm
from etui.errors import EngineFailed, EtuiError, ModelUnavailable
from etui.events import Finished, Loaded
from etui.multiple_choice import options_of
from etui.reasoning.extraction import extract
from etui.routing.decision import Decision
from etui.routing.limits import Cascade
from etui.units import count_text, energy_text, percent_text


@dataclass(frozen=True, slots=True)
class Hop:
    """One arm's part of a turn, after the fact.

    Attributes:
        arm: What answered, as it was asked (a budget may have lowered its ``max_joules``).
        model: Name of the model that served.
        sha256: Hash of its file; None where it is not known.
        end: Its last word, made up from what was seen where it has none.
        load: The load it waited for.
        answered: Its text is an answer: a letter where options were given.
        probability: Calibrated; None where nothing was fitted.
        accepted: Sure enough for the cascade, or no cascade asked.
        failure: What stopped it.
        at_load: It failed before anything was computed.
        joules: Gross, its load excluded; None when unmeasured.
        why: What came of it, in words.
    """

    arm: Arm
    model: str
    sha256: str | None
    end: Finished
    load: Loaded | None = None
    answered: bool = True
    probability: float | None = None
    accepted: bool = True
    failure: EtuiError | None = None
    at_load: bool = False
    joules: float | None = None
    why: str = ""

    @property
    def stopped(self) -> bool:
        """The user ended it."""
        return self.end.status == "stopped"

    @property
    def outcome(self) -> Outcome:
        """The hop as a walk over the cascade takes it."""
        failed: Failed | None = None
        if self.failure is not None:
            failed = "load" if self.at_load else "answer"
        return Outcome(
            arm=self.arm,
            probability=self.probability,
            accepted=self.accepted,
            usable=failed is None and not self.stopped and bool(self.end.answer),
            answered=self.answered,
            failed=failed,
        )


@dataclass(frozen=True, slots=True)
class AskConstrained:
    """The arm to ask next, and why."""

    arm: Arm
    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """No further arm is asked; ``why`` says what forbids it, empty where nothing is left to say."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a turn has spent when the next hop is considered.

    Attributes:
        joules: Since its first answer began, loads between hops included; None when unmeasured.
        budget: The turn's budget that is spent, in words; None if none is.
    """

    joules: float | None
    budget: str | None = None


def gave_answer(question: str, arm: Arm, end: Finished) -> bool:
    """Whether the answer is one: a letter where options are given, else any text, or a majority."""
    if arm.reasoning == "vote":
        return end.confidence is not None
    options = options_of(question)
    if not options:
        return bool(end.answer.strip())
    cut = end.status == "truncated"
    return extract(end.answer, question, options, truncated=cut).key is not None


def is_accepted(decision: Decision, hop: Hop) -> bool:
    """Whether an answer is taken without asking any further arm."""
    if hop.failure is not None or hop.end.status not in ("complete", "budget"):
        return decision.cascade is None and hop.failure is None
    if not hop.answered and decision.fallbacks.no_answer != "keep":
        return False
    if decision.cascade is None:
        return True
    return is_sure(decision.cascade, hop.end.confidence, hop.probability)


def next_step(
    question: str,
    decision: Decision,
    hops: Sequence[Hop],
    spent: Spent,
    predict: Callable[[Arm], float | None],
) -> AskConstrained | Stop:
    """Decide what follows the last hop.

    Args:
        question: What was asked.
        decision: The arm, the cascade, the fallbacks.
        hops: Those that have ended, in order; at least one.
        spent: What the turn has spent.
        predict: Joules an arm is expected to take; None where that is not known.
    """
    last = hops[-1]
    if last.stopped:
        return Stop()
    if last.failure is not None:
        return _after_failure(decision, hops, last)
    if spent.budget is not None:
        told = f"no further arm is asked: {spent.budget} is spent"
        return Stop("" if last.accepted else told)
    again = _constrained(question, decision, hops, last)
    if again is not None:
        return again
    if last.accepted or decision.cascade is None:
        return Stop()
    outcomes = [hop.outcome for hop in hops]
    step = advance(decision.cascade, outcomes, spent.joules, predict)
    if step.arm is None:
        return Stop()
    if step.barred is not None:
        return Stop(_barred_text(decision.cascade, step.arm, step, spent.joules or 0.0))
    return AskConstrained(step.arm, f"{last.arm.name} was {sure_text(last)}")


def best(hops: Sequence[Hop]) -> Hop | None:
    """Return the hop whose answer is the turn's where no hop was stopped; None without any."""
    index = best_of([hop.outcome for hop in hops])
    return None if index is None else hops[index]


def taken(hops: Sequence[Hop]) -> Hop:
    """The hop whose answer is the turn's: of a stopped turn the one that ran, if it said anything.

    Without any answer it is the last.
    """
    last = hops[-1]
    if last.stopped and last.end.answer:
        return last
    return best(hops) or last


def sure_text(hop: Hop) -> str:
    """``82 % sure``, ``confidence 82 % (uncalibrated)``, or what it lacks."""
    if not hop.answered:
        return "without an answer"
    if hop.end.status == "truncated":
        return "cut off"
    if hop.probability is not None:
        return f"{percent_text(hop.probability)} sure"
    if hop.end.confidence is not None:
        return f"{percent_text(hop.end.confidence)} confident (uncalibrated)"
    return "without a confidence"


def hop_words(decision: Decision, hop: Hop, step: AskConstrained | Stop) -> str:
    """What came of a hop, in words."""
    if hop.failure is not None:
        return f"failed: {hop.failure.what.splitlines()[0]}"
    if hop.stopped:
        return "stopped"
    words = [sure_text(hop)]
    if decision.cascade is not None:
        words.append(f"{percent_text(decision.cascade.accept_at)} asked")
    if isinstance(step, AskConstrained) and step.arm.name == hop.arm.name:
        words.append("asked again for the letter alone")
    elif isinstance(step, AskConstrained):
        words.append(f"{step.arm.name} is asked")
    elif step.why:
        words.append(step.why)
    return ", ".join(words)


def course_words(decision: Decision, hops: Sequence[Hop], stands: Hop) -> str:
    """How a turn of several hops, or of a cascade, went; empty for a plain turn."""
    if decision.cascade is None and len(hops) == 1:
        return ""
    parts = [f"{hop.arm.name} {hop.why}" for hop in hops]
    if stands is not hops[-1]:
        parts.append(f"the answer of {stands.arm.name} stands")
    return "; ".join(parts)


def _after_failure(decision: Decision, hops: Sequence[Hop], last: Hop) -> AskConstrained | Stop:
    if best(hops) is not None:
        return Stop()
    reason = f"{last.arm.name} failed"
    fallback = decision.fallbacks.load_failed
    if last.at_load and fallback is not None and not _asked(hops, fallback):
        return AskConstrained(fallback, f"{last.arm.model} could not be loaded")
    if decision.cascade is None:
        return Stop()
    step = advance(decision.cascade, [hop.outcome for hop in hops], None, lambda arm: None)
    return Stop() if step.arm is None else AskConstrained(step.arm, reason)


def _asked(hops: Sequence[Hop], arm: Arm) -> bool:
    return any(hop.arm.name == arm.name and hop.arm.model == arm.model for hop in hops)


def _constrained(
    question: str, decision: Decision, hops: Sequence[Hop], last: Hop
) -> AskConstrained | None:
    """The same model asked for the letter alone, where a multiple choice came to none."""
    wanted = decision.fallbacks.no_answer == "ask_constrained"
    if last.answered or not wanted or last.arm.readout == "choices" or not options_of(question):
        return None
    arm = replace(last.arm, reasoning="direct", readout="choices")
    return AskConstrained(arm, f"{last.arm.name} named no option")


def _barred_text(cascade: Cascade, arm: Arm, step: CascadeStep, spent: float) -> str:
    if step.barred == "hops":
        most = count_text(cascade.max_hops, "hop")
        return f"{arm.name} is not asked: {most} at most"
    assert cascade.max_joules is not None
    limit = energy_text(cascade.max_joules)
    if step.predicted is None:
        return f"{arm.name} is not asked: the {limit} of the cascade are spent"
    about = energy_text(step.predicted, kind="estimate").removesuffix(" (estimate)")
    left = energy_text(cascade.max_joules - spent)
    return f"{arm.name} is not asked: it would take {about}, and {left} of {limit} is left"


def failed_at_load(failure: EtuiError, *, began: bool) -> bool:
    """Whether a failure means that the model could not be brought into memory."""
    return not began and isinstance(failure, ModelUnavailable | EngineFailed)


Failed = Literal["load", "answer"]
"""An arm whose model could not be loaded, or one that failed while it answered."""


Barred = Literal["hops", "spent", "predicted"]
"""What forbids an arm: the number of hops, the joules spent, or those it is expected to take."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of asking an arm.

    Attributes:
        arm: What was asked.
        probability: Calibrated probability of being right; None where nothing was fitted.
        accepted: Sure enough, so that no further arm is asked.
        usable: Its text can be the turn's answer: it is there, and nothing cut it off.
        answered: The text is an answer: a letter where options were given.
        failed: What it failed at; None if it did not.
    """

    arm: Arm
    probability: float | None
    accepted: bool
    usable: bool = True
    answered: bool = True
    failed: Failed | None = None


@dataclass(frozen=True, slots=True)
class CascadeStep:
    """What follows in a cascade.

    Attributes:
        arm: The next arm; None at the end.
        barred: What forbids to ask it; None if it is to be asked.
        predicted: Joules it is expected to take, where they forbid it.
    """

    arm: Arm | None = None
    barred: Barred | None = None
    predicted: float | None = None


def is_sure(cascade: Cascade, confidence: float | None, probability: float | None) -> bool:
    """Return whether an answer is sure enough to be accepted.

    Args:
        cascade: Whose ``accept_at`` it has to reach.
        confidence: Raw, 0..1; counts where nothing was fitted. None is never sure.
        probability: Calibrated; None where nothing was fitted.
    """
    sure = confidence if probability is None else probability
    return sure is not None and sure >= cascade.accept_at


def advance(
    cascade: Cascade,
    outcomes: Sequence[Outcome],
    spent: float | None,
    predict: Callable[[Arm], float | None],
) -> CascadeStep:
    """Decide what follows the arms that were asked.

    After an arm that failed the next one is asked whatever was spent, unless an answer is there
    already; arms of a model that could not be loaded are passed over.

    Args:
        cascade: The arms and their limits.
        outcomes: Of the arms that were asked, in order; none at the start.
        spent: Joules so far, loads included; None when unmeasured.
        predict: Joules an arm is expected to take; None where that is not known.
    """
    if not outcomes:
        return CascadeStep(cascade.arms[0])
    last = outcomes[-1]
    if last.accepted or (last.failed is not None and best_of(outcomes) is not None):
        return CascadeStep()
    asked = {outcome.arm.name for outcome in outcomes}
    at = [index for index, arm in enumerate(cascade.arms) if arm.name in asked]
    behind = cascade.arms[at[-1] + 1 :] if at else cascade.arms
    if last.failed == "load":
        behind = tuple(arm for arm in behind if arm.model != last.arm.model)
    if not behind:
        return CascadeStep()
    if last.failed is not None:
        return CascadeStep(behind[0])
    return _limited(cascade, behind[0], len(at), spent or 0.0, predict)


def best_of(outcomes: Sequence[Outcome]) -> int | None:
    """Return the index of the answer that is the turn's; None if there is no answer.

    It is the one that was accepted, or the one most likely right, of equals the later. Raw
    confidences of different ways of answering are not comparable, so where one is uncalibrated the
    later arm's is taken.
    """
    answers = [index for index, outcome in enumerate(outcomes) if outcome.usable]
    answers = [index for index in answers if outcomes[index].answered] or answers
    if not answers:
        return None
    accepted = [index for index in answers if outcomes[index].accepted]
    if accepted:
        return accepted[-1]
    ranked = [(outcomes[index].probability, index) for index in answers]
    calibrated = [(p, index) for p, index in ranked if p is not None]
    return max(calibrated)[1] if len(calibrated) == len(answers) else answers[-1]


def _limited(
    cascade: Cascade,
    arm: Arm,
    hops: int,
    spent: float,
    predict: Callable[[Arm], float | None],
) -> CascadeStep:
    if hops >= cascade.max_hops:
        return CascadeStep(arm, "hops")
    if cascade.max_joules is None:
        return CascadeStep(arm)
    if spent >= cascade.max_joules:
        return CascadeStep(arm, "spent")
    predicted = predict(arm)
    if predicted is not None and spent + predicted > cascade.max_joules:
        return CascadeStep(arm, "predicted", predicted)
    return CascadeStep(arm)
