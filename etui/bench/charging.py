"""What each question of a group cost: plain arithmetic over measured intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.energy.sharing import split_by_tokens
from etui.energy.types import Energy


@dataclass(frozen=True, slots=True)
class Shared:
    """What the questions of a subject share: its worked examples, computed once.

    Attributes:
        start_ns, end_ns: When they were computed, monotonic clock.
        tokens: Tokens that took.
        questions: Questions of the run that share them, those answered before an interruption too.
    """

    start_ns: int
    end_ns: int
    tokens: int
    questions: int


@dataclass(frozen=True, slots=True)
class Charge:
    """One question's part.

    Attributes:
        joules: Gross, its part of what is shared included; None unmeasured.
        uncertainty: Half width in joules; None with ``joules``.
        kind: The weaker of the two intervals' kinds.
        seconds: Its part of the time, of the shared part too.
        prefix_tokens: Its part of the shared tokens.
    """

    joules: float | None
    uncertainty: float | None
    kind: str | None
    seconds: float
    prefix_tokens: float


def charges(
    group: Energy, tokens: Sequence[int], shared: Shared | None, shared_energy: Energy | None
) -> list[Charge]:
    """The parts of the questions that were computed together.

    A group is split by the tokens computed for each question. What is shared is charged evenly to
    all questions of the subject, so that the charges of a subject sum to what it took. The
    uncertainty goes with the joules: the parts of one reading err together.

    Args:
        group: Energy of the group's interval.
        tokens: Tokens computed for each question of it.
        shared, shared_energy: What the subject shares; None where nothing is.
    """
    whole = max(1, sum(tokens))
    parts = [count / whole for count in tokens]
    joules = split_by_tokens(group.joules, tokens) if group.joules is not None else None
    even = 1 / shared.questions if shared is not None else 0.0
    found: list[Charge] = []
    for index, part in enumerate(parts):
        own = None if joules is None else joules[index]
        spread = None if group.uncertainty is None else group.uncertainty * part
        if shared is not None and shared_energy is not None:
            own = _plus(own, shared_energy.joules, even)
            spread = _plus(spread, shared_energy.uncertainty, even)
        found.append(
            Charge(
                joules=own,
                uncertainty=spread if own is not None else None,
                kind=_kind(group, shared_energy) if own is not None else None,
                seconds=group.seconds * part + (_seconds(shared) * even if shared else 0.0),
                prefix_tokens=shared.tokens * even if shared is not None else 0.0,
            )
        )
    return found


def _plus(own: float | None, shared: float | None, even: float) -> float | None:
    """Unknown as soon as a part of it is: a sum that lacks one would look like all of it."""
    return None if own is None or shared is None else own + shared * even


def _seconds(shared: Shared) -> float:
    return (shared.end_ns - shared.start_ns) / 1e9


def _kind(group: Energy, shared: Energy | None) -> str | None:
    from etui.energy.scopes import weakest

    kind = weakest(e.kind for e in (group, shared) if e is not None and e.kind is not None)
    return kind.value if kind is not None else None
