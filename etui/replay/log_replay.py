"""Replay the turns of the log under another policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from etui.arm import Arm, Reasoning
from etui.chat import Message, Query
from etui.errors import EtuiError
from etui.replay.documents import TurnsDocument

if TYPE_CHECKING:
    from etui.log.filters import TurnFilter
    from etui.log.queries import LogReader
    from etui.routing.decision import Decision
    from etui.routing.policy import Policy
    from etui.routing.prediction import Predictor
    from etui.runtime.open import Runtime
    from etui.turn.record import TurnRecord


_CONFIDENCE = 0.9
"""Of the bound of an accuracy, which only the middle is taken of."""


@dataclass(frozen=True, slots=True)
class Again:
    """One logged turn and what would answer it now.

    Attributes:
        turn_id, query: The turn.
        before, after: (arm, model); ``after`` is None where the policy can come to no arm.
        joules: Measured, with the kind; None where unmeasured.
        kind: How they were measured.
        predicted_before, predicted_after: Predicted for the question now, without any load; None
            where nothing is known of the model.
        why: Why the policy decides so, or why it cannot.
        right_before, right_after: Predicted accuracies, 0..1; None where nothing was fitted.
        cascade: Whether a cascade would answer; ``after`` is its first arm, or ``before`` where
            the turn went up from the same one.
    """

    turn_id: str
    query: str
    before: tuple[str, str]
    after: tuple[str, str] | None
    joules: float | None
    kind: str | None
    predicted_before: float | None
    predicted_after: float | None
    why: str
    right_before: float | None = None
    right_after: float | None = None
    cascade: bool = False

    @property
    def moves(self) -> bool:
        """Whether another arm or model would answer."""
        return self.after is not None and self.after != self.before


def replay_turns(
    turns: Iterable[TurnRecord],
    decide: Callable[[Query], Decision],
    outlook: Predictor,
) -> list[Again]:
    """Every turn again, with the chat as it stood before it.

    Args:
        turns: Oldest first.
        decide: The policy.
        outlook: Predicts joules.
    """
    chats: dict[str, list[Message]] = {}
    found = []
    for turn in turns:
        history = chats.setdefault(turn.chat_id, []) if turn.chat_id is not None else []
        query = Query(turn.query, turn.system, tuple(history), turn.chat_id)
        found.append(_again(turn, query, decide, arm_from_turn(turn), outlook))
        if turn.answer:
            history += [Message("user", turn.query), Message("assistant", turn.answer)]
    return found


def arm_from_turn(turn: TurnRecord) -> Arm:
    """The arm that answered a turn, as far as the log tells it."""
    settings = turn.settings
    ways: dict[str, Reasoning] = {"cot": "cot", "vote": "vote"}
    plain = Arm(turn.arm, turn.model)
    return replace(
        plain,
        reasoning=ways.get(turn.reasoning, "direct"),
        think_tokens=int(settings.get("think_tokens") or 0) or plain.think_tokens,
        max_tokens=int(settings.get("max_tokens") or 0) or plain.max_tokens,
        votes=int(settings.get("votes") or 0) or plain.votes,
    )


def _again(
    turn: TurnRecord,
    query: Query,
    decide: Callable[[Query], Decision],
    before: Arm,
    outlook: Predictor,
) -> Again:
    after: Arm | None = None
    cascade = False
    try:
        decision = decide(query)
        after, why, cascade = decision.arm, decision.why, decision.cascade is not None
        if cascade and turn.hops and (turn.hops[0].arm, turn.hops[0].model) == _named(after):
            after = before  # it would begin as it began, and go up as it went
        elif _named(after) == _named(before):
            after = before  # with the budget that turn was given, else it would seem to change
    except EtuiError as error:
        why = error.what.splitlines()[0]
    return Again(
        turn.turn_id,
        turn.query,
        _named(before),
        None if after is None else _named(after),
        turn.energy.joules,
        turn.energy.kind,
        _joules(outlook, before, query),
        None if after is None else _joules(outlook, after, query),
        why,
        _right(outlook, before, query),
        None if after is None else _right(outlook, after, query),
        cascade,
    )


def _named(arm: Arm) -> tuple[str, str]:
    return arm.name, arm.model


def _joules(outlook: Predictor, arm: Arm, query: Query) -> float | None:
    predicted = outlook.joules(arm, query)
    return None if predicted is None else predicted.prefill + predicted.decode


def _right(outlook: Predictor, arm: Arm, query: Query) -> float | None:
    predicted = outlook.accuracy(arm, query, _CONFIDENCE)
    return None if predicted is None else predicted.p


def turns_document(policy: str, replayed: list[Again]) -> TurnsDocument:
    """The replay as plain JSON values; ``predicted`` holds sums over the turns known on both sides.

    Measured joules are given for all turns that have them. Accuracies are means.
    """
    both = [
        turn
        for turn in replayed
        if turn.predicted_before is not None and turn.predicted_after is not None
    ]
    right = [
        (turn.right_before, turn.right_after)
        for turn in replayed
        if turn.right_before is not None and turn.right_after is not None
    ]
    measured = [turn.joules for turn in replayed if turn.joules is not None]
    moves: dict[tuple[str, str], int] = {}
    for turn in replayed:
        if turn.moves and turn.after is not None:
            way = (" on ".join(turn.before), " on ".join(turn.after))
            moves[way] = moves.get(way, 0) + 1
    return {
        "policy": policy,
        "n": len(replayed),
        "moved": sum(turn.moves for turn in replayed),
        "undecided": sum(turn.after is None for turn in replayed),
        "cascades": sum(turn.cascade for turn in replayed),
        "moves": [
            {"from": source, "to": target, "n": count}
            for (source, target), count in sorted(moves.items(), key=lambda item: -item[1])
        ],
        "joules": {
            "measured": sum(measured) if measured else None,
            "measured_turns": len(measured),
            "kinds": sorted({turn.kind for turn in replayed if turn.kind is not None}),
            "predicted_turns": len(both),
            "predicted_before": sum(turn.predicted_before or 0.0 for turn in both) or None,
            "predicted_after": sum(turn.predicted_after or 0.0 for turn in both) or None,
        },
        "accuracy": {
            "predicted_turns": len(right),
            "predicted_before": sum(one for one, _ in right) / len(right) if right else None,
            "predicted_after": sum(other for _, other in right) / len(right) if right else None,
        },
        "turns": [
            {
                "turn_id": turn.turn_id,
                "before": {"arm": turn.before[0], "model": turn.before[1]},
                "after": None
                if turn.after is None
                else {"arm": turn.after[0], "model": turn.after[1]},
                "moves": turn.moves,
                "joules": turn.joules,
                "kind": turn.kind,
                "predicted_before": turn.predicted_before,
                "predicted_after": turn.predicted_after,
                "right_before": turn.right_before,
                "right_after": turn.right_after,
                "why": turn.why,
            }
            for turn in replayed
        ],
    }


def replay_log(policy: Policy, runtime: Runtime[Any], newest: int | None = None) -> list[Again]:
    """Decide the turns of the log again by a policy, which need not be saved.

    The state of the machine at the time and the earlier questions are unknown to it: a question
    would find itself among those in the log.

    Args:
        policy: The rules.
        runtime: This machine, whose log is read.
        newest: How many turns, counted from the newest; None replays every turn.

    Raises:
        EtuiError: The log cannot be read, or what was fitted for the policy is damaged.
    """
    from etui.log.queries import LogReader

    knowledge = replace(runtime.collect_knowledge(policy), earlier=None)

    def decide(query: Query) -> Decision:
        choice = runtime.decide(query, policy, host=None, knowledge=knowledge, shadow=False)
        return choice.decision

    with LogReader(runtime.config) as log:
        turns = log.turns(_since(log, newest))
        return replay_turns(turns, decide, knowledge.predictor)


def _since(log: LogReader, newest: int | None) -> TurnFilter | None:
    """From the time of the last of the newest turns on."""
    from etui.log.filters import TurnFilter

    if newest is None or log.count_turns() <= newest:
        return None
    (last,) = log.list_turns(limit=1, offset=newest - 1)
    return TurnFilter(since=datetime.fromisoformat(last.created_at))
