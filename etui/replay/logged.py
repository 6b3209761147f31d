"""A policy over the questions of this machine's log, one at a time.

The state of the machine and the earlier questions have no part in it: the one is gone, and among
the others a question would find its own answer.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from etui.replay.turns import Again, replay_turns

if TYPE_CHECKING:
    from etui.config import Config
    from etui.log.filters import TurnFilter
    from etui.log.queries import LogReader
    from etui.models import Catalogue
    from etui.routing.policy import Policy


def replay_log(
    policy: Policy, config: Config, catalogue: Catalogue, newest: int | None = None
) -> list[Again]:
    """What the policy, which need not be saved, would do with the turns of the log.

    Args:
        policy: The rules.
        config: Whose log.
        catalogue: The models.
        newest: So many turns, about; None replays every turn.

    Raises:
        EtuiError: The log cannot be read, or what was fitted for the policy is damaged.
    """
    from etui.choice import on_this_machine
    from etui.log.queries import LogReader
    from etui.outlook import outlook_of
    from etui.routing.decide import decide

    outlook = outlook_of(policy, config, catalogue)
    here: Callable[[str], bool] = on_this_machine(config, catalogue)
    with LogReader(config) as log:
        return replay_turns(
            log.turns(_since(log, newest)),
            lambda query: decide(query, policy, available=here, outlook=outlook),
            outlook,
        )


def _since(log: LogReader, newest: int | None) -> TurnFilter | None:
    """From the time of the last of the newest turns on."""
    from etui.log.filters import TurnFilter

    if newest is None or log.count_turns() <= newest:
        return None
    (last,) = log.list_turns(limit=1, offset=newest - 1)
    return TurnFilter(since=datetime.fromisoformat(last.created_at))
