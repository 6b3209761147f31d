"""The signals of a policy for one question, without a decision."""

from __future__ import annotations

from etui.chat import Query
from etui.routing.policy import Policy
from etui.routing.signals import HostState, Situation
from etui.routing.similarity import EarlierQuestions
from etui.routing.text_measures import TextFacts


def see_signals(
    query: Query,
    policy: Policy,
    *,
    host: HostState | None = None,
    neighbours: EarlierQuestions | None = None,
) -> Situation:
    """Name -> signal; each is looked at when it is read."""
    return Situation(policy.signals, TextFacts(query), host or HostState(), neighbours)
