"""Replay the log of this machine under another policy, or under what a fit has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from operator import itemgetter
from typing import Any

from etui.chat import Query
from etui.errors import EtuiError
from etui.learning.log_replay import TurnReplay, build_turns_document, count_moves, replay_turns
from etui.learning.predictor import load_accuracy
from etui.log.filters import TurnFilter
from etui.log.labels import read_named_arms
from etui.log.queries import LogReader
from etui.routing.decision import Decision
from etui.routing.policy import Policy, drop_places
from etui.runtime.decide import collect_knowledge, decide_query
from etui.runtime.model_resolution import models_on_disk
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
    policy = drop_places(policy)
    # Each model is looked up once: an arm may name a dozen, and that takes longer than deciding.
    is_on_disk = models_on_disk(runtime.config, runtime.catalogue)
    models = {model for plan in policy.arms.values() for model in plan.models}
    on_disk = frozenset(filter(is_on_disk, models))
    knowledge = collect_knowledge(policy, runtime, available=on_disk.__contains__)
    knowledge = replace(knowledge, earlier=None)

    def decide(query: Query) -> Decision:
        return decide_query(query, policy, knowledge=knowledge).decision

    with LogReader(runtime.config) as log:
        if turn_filter is None and newest is not None and log.count_turns() > newest:
            (last,) = log.list_turns(limit=1, offset=newest - 1)
            turn_filter = TurnFilter(since=datetime.fromisoformat(last.created_at))
        turns = log.questions(turn_filter, report=report)
        return replay_turns(turns, decide, knowledge.predictor)


NEWEST_TURNS = 200
"""Turns before a fit that are compared at most."""


FitChange = dict[str, Any]
"""The document of :func:`compare_with_fit`: what changed for the newest turns that a policy decided
before its last fit. Of the compared turns, joules are sums without loads, accuracies are means;
null without any. ``undecided`` turns find no arm now, because a model is missing."""


def compare_with_fit(name: str, runtime: Runtime[Any]) -> FitChange | None:
    """Decide the turns again that a policy decided before its last fit.

    None without a fit that contains labels of the log, without a turn before it, or if the policy
    cannot be read any more.
    """
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
        (first,) = log.list_turns(before, limit=1, offset=min(count, NEWEST_TURNS) - 1)
        since = replace(before, since=datetime.fromisoformat(first.created_at))
        named = read_named_arms(log, [turn.turn_id for turn in log.questions(since)])
    found = replay_log(policy, runtime, turn_filter=since)
    replayed = [turn for turn in found if turn.turn_id not in named]
    if not replayed:
        return None
    document = build_turns_document(name, replayed)
    joules, accuracy = document["joules"], document["accuracy"]
    moves = count_moves(replayed, itemgetter(0))  # most first
    return {
        "policy": name,
        "fitted_at": fitted_at,
        "turns": len(replayed),
        "undecided": document["undecided"],
        "moves": [dict(zip(("before", "after", "turns"), move, strict=True)) for move in moves],
        "compared_joules": joules["predicted_turns"],
        "joules_before": joules["predicted_before"],
        "joules_after": joules["predicted_after"],
        "compared_accuracy": accuracy["predicted_turns"],
        "accuracy_before": accuracy["predicted_before"],
        "accuracy_after": accuracy["predicted_after"],
    }
