"""A policy as a contender: it decides for each question, and its cascades run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from etui.bench.turn_arm import TurnArm

if TYPE_CHECKING:
    from etui.answering import InProcess
    from etui.config import Config
    from etui.models import Catalogue
    from etui.query import Query
    from etui.routing.decision import Decision
    from etui.routing.policy import Policy
    from etui.turn_ports import Meter, Serve


def routed(
    policy: Policy,
    config: Config,
    catalogue: Catalogue,
    meter: Meter,
    answerer: InProcess,
    serve: Serve,
    *,
    reuse: bool,
    cancelled: Callable[[], bool],
) -> TurnArm:
    """What answers by a policy.

    The state of the machine is read for each question, as in a chat; budgets of an hour or a day
    are left aside, since they are about what a person wants to spend.
    """
    from etui.choice import on_this_machine
    from etui.host import read_host
    from etui.outlook import OutlookHere
    from etui.routing.decide import decide

    here = on_this_machine(config, catalogue)
    outlook = OutlookHere(config, catalogue)

    def choose(query: Query) -> Decision:
        host = read_host(config)
        return decide(query, policy, available=here, host=host, outlook=outlook)

    return TurnArm(
        choose, serve, answerer, meter, answerer.forget, outlook, reuse=reuse, cancelled=cancelled
    )
