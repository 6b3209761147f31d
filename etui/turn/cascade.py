"""Decide what follows an attempt: whether its answer is accepted, and which arm is next.

A live turn and a replay call the same functions, so that both walk a cascade alike. Of several
answers of a step it is judged whether they agree, and whether that makes them sure enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, TypeVar

from etui.arm import Arm
from etui.multiple_choice import parse_options
from etui.routing.decision import Agreement, Cascade, Decision, PredictedAgreement, RawConfidence
from etui.turn.attempt import ArmAttempt, LiveAttempt, Together, has_output
from etui.units import count_text, energy_text, percent_text

A = TypeVar("A", bound=ArmAttempt)

PredictAgreement = Callable[[Sequence[Arm], Sequence[RawConfidence]], PredictedAgreement | None]
"""Predicts how likely an agreed answer is right; see ``Predictor.agreement``."""

ALL_VOTES = 1.0 - 1e-9
"""Share of the votes from which all of them are for one answer."""

Barred = Literal["hops", "spent", "predicted"]
"""The limit that prevents an arm: number of hops, joules spent, or joules predicted for it."""


class CascadeStep(NamedTuple):
    """What follows in a cascade."""

    arm: Arm | None = None  # The next arm; None at the end
    barred: Barred | None = None  # The limit that prevents it; None if it runs
    predicted: float | None = None  # Its predicted joules, if they are what prevents it


class NextHop(NamedTuple):
    """What follows an attempt in a turn."""

    arm: Arm | None = None  # The arm that follows; None at the end
    why: str = ""  # Why it follows, or the limit that prevents another one


def is_sure(cascade: Cascade, confidence: float | None, probability: float | None) -> bool:
    """Return whether an answer is sure enough: by its probability, without a fit its confidence."""
    sure = confidence if probability is None else probability
    return sure is not None and sure >= cascade.accept_at


def advance(
    cascade: Cascade,
    attempts: Sequence[ArmAttempt],
    spent: float | None,
    predict: Callable[[Arm], float | None],
) -> CascadeStep:
    """Decide what follows the arms that have run, with the joules spent so far, loads included.

    After a failed arm the next one runs regardless of the joules, unless there is an answer
    already; arms of a model that could not be loaded are skipped.
    """
    if not attempts:
        return CascadeStep(cascade.arms[0])
    last = attempts[-1]
    if last.accepted or (last.failed is not None and find_best(attempts) is not None):
        return CascadeStep()
    asked = {each.arm.name for each in attempts}
    at = [index for index, arm in enumerate(cascade.arms) if arm.name in asked]
    behind = cascade.arms[at[-1] + 1 :] if at else cascade.arms
    step = cascade.find_agreement(last.arm.name)
    if step is not None and last.together == "apart":  # no other answer can make them agree
        behind = tuple(arm for arm in behind if arm.name not in step.arms)
    if last.failed == "load":
        behind = tuple(arm for arm in behind if arm.model != last.arm.model)
    if not behind:
        return CascadeStep()
    if last.failed is not None:
        return CascadeStep(behind[0])
    step = cascade.find_agreement(behind[0].name)
    # The arms that are still to be asked in the step of the next arm, that arm first.
    following = [arm for arm in behind if arm is behind[0] or (step and arm.name in step.arms)]
    return _apply_limits(cascade, following, len(at), spent or 0.0, predict)


def _apply_limits(
    cascade: Cascade,
    following: Sequence[Arm],
    hops: int,
    spent: float,
    predict: Callable[[Arm], float | None],
) -> CascadeStep:
    """Check the limits for the rest of a step: one that cannot be finished is not started."""
    arm = following[0]
    if hops + len(following) > cascade.max_hops:
        return CascadeStep(arm, "hops")
    if cascade.max_joules is None:
        return CascadeStep(arm)
    if spent >= cascade.max_joules:
        return CascadeStep(arm, "spent")
    known = [joules for each in following if (joules := predict(each)) is not None]
    predicted = sum(known) if known else None
    if predicted is not None and spent + predicted > cascade.max_joules:
        return CascadeStep(arm, "predicted", predicted)
    return CascadeStep(arm)


def find_best(attempts: Sequence[A]) -> A | None:
    """Return the attempt with the answer of the turn; None if there is no answer.

    It is the accepted one, or the one most likely right; of equals the later one. Raw confidences
    of different reasoning methods are not comparable, so if one of them is uncalibrated, the last
    answer is used.
    """
    answers = [each for each in attempts if each.usable]
    answers = [each for each in answers if each.answered] or answers
    if not answers:
        return None
    accepted = [each for each in answers if each.accepted]
    if accepted:
        return accepted[-1]
    if any(each.probability is None for each in answers):
        return answers[-1]
    return max(reversed(answers), key=lambda each: each.probability or 0.0)


def settle(cascade: Cascade | None, attempts: Sequence[A], predict: PredictAgreement) -> list[A]:
    """Return the attempts with the verdict on the last one's step, if it is of several answers.

    While another answer may decide, none is accepted. An answer that all arms agree on is accepted
    if its probability of being right reaches that of the step: calibrated if the arms were fitted
    together, else the highest of their own confidences. Where they differ, none is accepted, and
    each has the probability of being right in spite of that. A step with an arm that failed is not
    judged: the others count like any arm of the cascade.
    """
    found = list(attempts)
    step = cascade.find_agreement(found[-1].arm.name) if cascade is not None and found else None
    if cascade is None or step is None:
        return found
    # An arm that was asked again for its letter counts with its last answer.
    places = {each.arm.name: at for at, each in enumerate(found) if each.arm.name in step.arms}
    given = [found[at] for at in places.values()]
    if any(each.failed is not None for each in given):
        return found
    together = compare(step, given)
    if together == "open":
        for at in places.values():
            found[at] = replace(found[at], accepted=False, together=together)
        return found
    asked = {each.arm.name: each.arm for each in given}
    arms = [asked.get(arm.name, arm) for arm in cascade.arms if arm.name in step.arms]
    raw = [(each.confidence, each.margin) for each in given] if together == "agreed" else []
    odds = predict(arms, raw)
    last = max(places.values())
    for name, at in places.items():
        each = found[at]
        probability = each.probability
        if odds is not None:
            alone = odds.apart[step.arms.index(name)]
            probability = odds.agreed if together == "agreed" else alone
        accepted = at == last and together == "agreed" and _is_sure(step, odds, given)
        found[at] = replace(each, probability=probability, accepted=accepted, together=together)
    return found


def compare(step: Agreement, given: Sequence[ArmAttempt]) -> Together:
    """Compare the answers of a step so far; it is decided as soon as one differs or is missing."""
    if len(step.arms) == 1:
        confidence = given[0].confidence
        whole = confidence is not None and confidence >= ALL_VOTES
        return "agreed" if given[0].key is not None and whole else "apart"
    if any(each.key is None or each.key != given[0].key for each in given):
        return "apart"
    return "agreed" if len(given) == len(step.arms) else "open"


def _is_sure(step: Agreement, odds: PredictedAgreement | None, given: Sequence[ArmAttempt]) -> bool:
    if odds is not None:
        return odds.agreed >= step.accept_at
    known = [each.confidence for each in given if each.confidence is not None]
    return bool(known) and max(known) >= step.accept_at


def draw_until_one_differs(cascade: Cascade | None, arm: Arm) -> Arm:
    """Return the arm; of a step of votes, one that stops at the first vote that differs.

    The other votes can no longer all agree, so they would change nothing.
    """
    step = cascade.find_agreement(arm.name) if cascade is not None else None
    if step is None or len(step.arms) > 1:
        return arm
    return replace(arm, stop=replace(arm.stop, rule="unanimous"))


def is_accepted(decision: Decision, hop: LiveAttempt) -> bool:
    """Return whether an answer is accepted, so that no further arm is needed."""
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
    hops: Sequence[LiveAttempt],
    joules: float | None,
    spent: str | None,
    predict: Callable[[Arm], float | None],
) -> NextHop:
    """Decide what follows the last hop; ``spent`` is the name of the turn's budget that is spent.

    The joules are those since the first answer began, with the loads between.
    """
    last, cascade = hops[-1], decision.cascade
    if last.stopped:
        return NextHop()
    if last.failure is not None:
        return _after_failure(decision, hops, last)
    if spent is not None:
        return NextHop(why="" if last.accepted else f"no further arm: {spent} is spent")
    asks_again = decision.fallbacks.no_answer == "ask_constrained" and not last.answered
    if asks_again and last.arm.readout != "choices" and parse_options(question):
        # The same model is asked for the letter only: the multiple choice ended without one.
        arm = replace(last.arm, reasoning="direct", readout="choices")
        return NextHop(arm, f"{last.arm.name} named no option")
    if last.accepted or cascade is None:
        return NextHop()
    step = advance(cascade, hops, joules, predict)
    if step.arm is None:
        return NextHop()
    if step.barred is not None:
        return NextHop(why=_describe_barred(cascade, step.arm, step, joules or 0.0))
    return NextHop(step.arm, _reason_to_continue(cascade, last))


def choose_hop(hops: Sequence[LiveAttempt]) -> LiveAttempt:
    """Choose the hop whose answer is the turn's.

    In a stopped turn this is the running hop if it has any text. Without any answer it is the last
    hop.
    """
    last = hops[-1]
    if last.stopped and has_output(last.end):
        return last
    return find_best(hops) or last


def _after_failure(decision: Decision, hops: Sequence[LiveAttempt], last: LiveAttempt) -> NextHop:
    if find_best(hops) is not None:
        return NextHop()
    fallback = _find_fallback(decision, hops) if last.failed == "load" else None
    if fallback is not None or decision.cascade is None:
        return fallback or NextHop()
    arm = advance(decision.cascade, hops, None, lambda _arm: None).arm
    return NextHop(arm, "" if arm is None else f"{last.arm.name} failed")


def _find_fallback(decision: Decision, hops: Sequence[LiveAttempt]) -> NextHop | None:
    """Find the arm that follows a model that could not answer; None if all were asked.

    The other places of the model come first, then the models that its backend names for this case,
    then the policy's arm, which is for any model.
    """
    last = hops[-1]
    model, policy = last.arm.model, decision.fallbacks.load_failed
    verb = "answer" if last.fallbacks else "be loaded"
    steps = [
        NextHop(replace(last.arm, model=place), f"{model} cannot answer, {place} can")
        for place in decision.fallbacks.places.get(last.arm.name, ())
    ]
    named = [arm for hop in reversed(hops) for arm in hop.fallbacks]
    steps += [NextHop(arm, f"{model} could not answer") for arm in named]
    steps += [] if policy is None else [NextHop(policy, f"{model} could not {verb}")]
    asked = {(hop.arm.name, hop.arm.model) for hop in hops}
    return next((s for s in steps if s.arm and (s.arm.name, s.arm.model) not in asked), None)


def _sure_text(hop: LiveAttempt) -> str:
    """Format ``82 % sure``, ``82 % confident (uncalibrated)``, or what is missing."""
    if not hop.answered:
        return "without an answer"
    if hop.end.status == "truncated":
        return "cut off"
    if hop.probability is not None:
        return f"{percent_text(hop.probability)} sure"
    if hop.end.confidence is not None:
        return f"{percent_text(hop.end.confidence)} confident (uncalibrated)"
    return "without a confidence"


def describe_hop(decision: Decision, hop: LiveAttempt, step: NextHop) -> str:
    """Describe the result of a hop: how sure it is, what is required, and what follows."""
    if hop.failure is not None:
        return f"failed: {hop.failure.what.splitlines()[0]}"
    if hop.stopped:
        return "stopped"
    words, cascade = [_sure_text(hop)], decision.cascade
    agreement = None
    if cascade is not None and hop.together is not None:
        agreement = cascade.find_agreement(hop.arm.name)
    if agreement is not None:
        text = _describe_agreement(agreement, hop)
        required = f"{percent_text(agreement.accept_at)} required"
        words = [text, *words, required] if hop.together == "agreed" else [text or words[0]]
    elif cascade is not None:
        words.append(f"{percent_text(cascade.accept_at)} required")
    if step.arm is None:
        words += [step.why] if step.why else []
    elif step.arm.name == hop.arm.name:
        words.append("asked again for the letter only")
    else:
        words.append(f"continuing with {step.arm.name}")
    return ", ".join(words)


def _describe_agreement(step: Agreement, attempt: ArmAttempt) -> str:
    """Describe what became of a step: ``agrees with quick``, ``differs from quick``."""
    others = " and ".join(name for name in step.arms if name != attempt.arm.name)
    if attempt.together == "agreed":
        return f"agrees with {others}" if others else "all its votes agree"
    if attempt.together == "apart":
        if attempt.key is None:
            return "without an answer to compare"
        return f"differs from {others}" if others else "its votes differ"
    return ""


def _reason_to_continue(cascade: Cascade, last: LiveAttempt) -> str:
    """Describe why the arm after a hop is asked."""
    step = cascade.find_agreement(last.arm.name)
    if step is None or last.together is None:
        return f"{last.arm.name} was {_sure_text(last)}"
    if last.together == "open":
        return f"to see whether it agrees with {last.arm.name}"
    if last.together == "agreed":
        return f"{' and '.join(step.arms)} agree, but are only {_sure_text(last)}"
    if len(step.arms) == 1:
        return f"the votes of {last.arm.name} differ"
    return f"{' and '.join(step.arms)} do not agree"


def describe_hops(decision: Decision, hops: Sequence[LiveAttempt], chosen: LiveAttempt) -> str:
    """Describe the hops of a cascade or of a turn with several; empty for a plain turn."""
    if decision.cascade is None and len(hops) == 1:
        return ""
    parts = [f"{hop.arm.name} {hop.why}" for hop in hops]
    if chosen is not hops[-1]:
        parts.append(f"the answer of {chosen.arm.name} is used")
    return "; ".join(parts)


def _describe_barred(cascade: Cascade, arm: Arm, step: CascadeStep, spent: float) -> str:
    """Describe the limit that keeps a cascade from its next arm."""
    if step.barred == "hops":
        most = count_text(cascade.max_hops, "hop")
        return f"{arm.name} skipped: the cascade is limited to {most}"
    assert cascade.max_joules is not None
    limit = energy_text(cascade.max_joules)
    if step.predicted is None:
        return f"{arm.name} skipped: the cascade's {limit} are spent"
    estimate = energy_text(step.predicted, kind="estimate").removesuffix(" (estimate)")
    left = energy_text(cascade.max_joules - spent)
    return f"{arm.name} skipped: it would cost {estimate}, but only {left} of {limit} is left"
