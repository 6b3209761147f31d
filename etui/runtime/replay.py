"""Replay the log of this machine under another policy, or under what a fit has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from etui.errors import EtuiError
from etui.learning.log_replay import TurnReplay, build_turns_document, count_moves, replay_turns
from etui.routing.policy import Policy, drop_places

if TYPE_CHECKING:
    from etui.chat import Query
    from etui.log.filters import TurnFilter
    from etui.routing.decision import Decision
    from etui.runtime.runtime import Runtime


def replay_log(
    policy: Policy,
    runtime: Runtime[Any],
    newest: int | None = None,
    report: Callable[[int, int], None] | None = None,
    turn_filter: TurnFilter | None = None,
) -> list[TurnReplay]:
    """Decide the turns of the log again under a policy, which need not be saved.

    The state of the machine at the time is not known. Earlier questions are not used: a question
    would find itself among those in the log.

    Args:
        newest: Number of newest turns to replay; None replays all.
        report: Called now and then with the number of turns replayed and the number of all.
        turn_filter: The turns to replay, in place of the newest ones.

    Raises:
        EtuiError: The log cannot be read, or the fitted file of the policy is damaged.
    """
    from etui.log.filters import TurnFilter
    from etui.log.queries import LogReader
    from etui.runtime.decide import collect_knowledge, decide_query
    from etui.runtime.model_resolution import models_on_disk

    policy = drop_places(policy)
    # Each model is looked up once: an arm may name a dozen, and that takes longer than deciding.
    is_on_disk = models_on_disk(runtime.config, runtime.catalogue)
    models = {model for plan in policy.arms.values() for model in plan.models}
    on_disk = frozenset(filter(is_on_disk, models))
    knowledge = collect_knowledge(policy, runtime, available=on_disk.__contains__)
    knowledge = replace(knowledge, earlier=None)

    def decide(query: Query) -> Decision:
        return decide_query(query, policy, runtime, knowledge=knowledge).decision

    with LogReader(runtime.config) as log:
        if turn_filter is None and newest is not None and log.count_turns() > newest:
            (last,) = log.list_turns(limit=1, offset=newest - 1)
            turn_filter = TurnFilter(since=datetime.fromisoformat(last.created_at))
        turns = log.questions(turn_filter, report=report)
        return replay_turns(turns, decide, knowledge.predictor)


NEWEST_TURNS = 200
"""Turns before a fit that are compared at most."""


@dataclass(frozen=True, slots=True)
class Move:
    """How many turns another arm would answer now."""

    before: str
    after: str
    turns: int


@dataclass(frozen=True, slots=True)
class FitChange:
    """What changed for the newest turns that a policy decided before its last fit.

    Attributes:
        joules_before, joules_after: Their sums in joules, without loads; None without any.
        accuracy_before, accuracy_after: Their means; None without any.
    """

    policy: str
    fitted_at: str
    turns: int  # Number of turns that were compared
    undecided: int  # Turns for which the policy finds no arm now, because a model is missing
    moves: tuple[Move, ...]  # Where turns would go now, most first
    compared_joules: int  # Turns with a prediction of joules for both
    joules_before: float | None
    joules_after: float | None
    compared_accuracy: int  # Turns with a predicted accuracy for both
    accuracy_before: float | None
    accuracy_after: float | None

    @property
    def moved(self) -> int:
        """How many turns another arm would answer now."""
        return sum(move.turns for move in self.moves)


def compare_with_fit(
    name: str, runtime: Runtime[Any], newest: int = NEWEST_TURNS
) -> FitChange | None:
    """Decide the turns again that a policy decided before its last fit.

    Args:
        newest: How many of the newest of those turns are compared.

    Returns:
        The comparison; None without a fit that contains labels of the log, without a turn before
        it, or if the policy cannot be read any more.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    from etui.learning.predictor import load_accuracy
    from etui.log.filters import TurnFilter
    from etui.log.labels import read_named_arms
    from etui.log.queries import LogReader

    try:
        policy = runtime.load_policy(name)
        heads = load_accuracy(policy, runtime.config)
    except EtuiError:  # the policy was deleted, or its fit is damaged
        return None
    if heads is None or "log" not in heads.model.provenance.source:
        return None
    fitted_at = heads.model.provenance.fitted_at
    before = TurnFilter(policy=name, until=datetime.fromisoformat(fitted_at))
    with LogReader(runtime.config) as log:
        count = log.count_turns(before)
        if not count:
            return None
        (first,) = log.list_turns(before, limit=1, offset=min(count, newest) - 1)
        since = replace(before, since=datetime.fromisoformat(first.created_at))
        named = read_named_arms(log, [turn.turn_id for turn in log.questions(since)])
    replayed = replay_log(policy, runtime, turn_filter=since)
    return summarise_change(
        name, fitted_at, [turn for turn in replayed if turn.turn_id not in named]
    )


def summarise_change(
    policy: str, fitted_at: str, replayed: Sequence[TurnReplay]
) -> FitChange | None:
    """Sum up a replay of the turns before a fit; None without a turn."""
    if not replayed:
        return None
    document = build_turns_document(policy, list(replayed))
    joules, accuracy = document["joules"], document["accuracy"]
    return FitChange(
        policy=policy,
        fitted_at=fitted_at,
        turns=len(replayed),
        undecided=document["undecided"],
        moves=tuple(Move(*move) for move in count_moves(replayed, itemgetter(0))),
        compared_joules=joules["predicted_turns"],
        joules_before=joules["predicted_before"],
        joules_after=joules["predicted_after"],
        compared_accuracy=accuracy["predicted_turns"],
        accuracy_before=accuracy["predicted_before"],
        accuracy_after=accuracy["predicted_after"],
    )
