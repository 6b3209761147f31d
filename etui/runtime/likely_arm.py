"""Find the arm that the next question is likely to get, to load its model ahead.

It is the arm that the policy's rules chose most often lately, in this chat or else in the log;
without such turns, that of the rules which match every question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etui.chat import Query
from etui.errors import EtuiError, LogUnavailable
from etui.runtime.choose import choose, load_policy_here
from etui.runtime.decide import decide_query
from etui.runtime.overrides import Overrides

if TYPE_CHECKING:
    from etui.arm import Arm
    from etui.config.config import Config
    from etui.routing.signals.host_state import HostState
    from etui.runtime.open import Runtime

LAST_TURNS = 8
"""Turns that count; with more, a change of the questions would show late."""

_GREETING = Query("Hello")


def find_likely_arm(
    overrides: Overrides,
    runtime: Runtime[Any],
    read_host: Callable[[], HostState],
    chat_id: str | None = None,
) -> Arm:
    """Find the arm that the next question is likely to get.

    Args:
        overrides: What the user has chosen; a model or an arm leaves nothing to find.
        chat_id: The chat that goes on; None for none.

    Raises:
        EtuiError: No arm can answer, as :func:`etui.runtime.choose.choose`.
    """
    if overrides.policy and not (overrides.model or overrides.arm):
        for arm in rank_arms(read_recent_arms(runtime.config, overrides.policy, chat_id)):
            with suppress(EtuiError):  # the policy has lost the arm, or the machine its model
                named = Overrides(policy=overrides.policy, arm=arm)
                return choose(_GREETING, named, runtime, within_budgets=False).decision.arm
        with suppress(EtuiError):
            return _find_default_arm(overrides, runtime, read_host)
    return choose(_GREETING, overrides, runtime, read_host, within_budgets=False).decision.arm


def read_recent_arms(config: Config, policy: str, chat_id: str | None) -> list[str]:
    """Read the arms that the rules of a policy chose for the last questions, newest first.

    Args:
        chat_id: Chat whose turns count alone if it has any; None for all chats.

    Returns:
        Names of arms, of a cascade the first; none if the log cannot be read.
    """
    from etui.log.queries import LogReader

    sql = (
        "SELECT coalesce(json_extract(hops, '$[0].arm'), arm) FROM turns "
        "WHERE policy = ? AND rule IS NOT NULL {} ORDER BY created_at DESC LIMIT ?"
    )
    found: list[str] = []
    with suppress(LogUnavailable), LogReader(config) as log:
        if chat_id is not None:
            values = (policy, chat_id, LAST_TURNS)
            found = [row[0] for row in log.select(sql.format("AND chat_id = ?"), values)]
        found = found or [row[0] for row in log.select(sql.format(""), (policy, LAST_TURNS))]
    return found


def rank_arms(recent: Sequence[str]) -> list[str]:
    """Order arms by how often they were chosen; of two alike, the one chosen last comes first."""
    return [arm for arm, _ in Counter(recent).most_common()]


def _find_default_arm(
    overrides: Overrides, runtime: Runtime[Any], read_host: Callable[[], HostState]
) -> Arm:
    """Decide by the rules that match every question."""
    policy = load_policy_here(overrides, runtime)
    always = tuple(rule for rule in policy.rules if rule.when is None)
    choice = decide_query(
        _GREETING, replace(policy, rules=always), runtime, host=read_host(), shadow=False
    )
    return choice.decision.arm
