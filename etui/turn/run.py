"""Run one turn: the flow of a query that chat, ask and all other front ends share.

``run_turn`` yields events, and the record of the turn as the last one. However the turn ends (done,
stopped, an error, a crash of the engine, the front end exiting), its interval is closed, its energy
read and the turn saved.

``writer=Unlogged()`` saves nothing, as in a bench run, which writes its own files. Without an
``outlook`` no joules are predicted and a cascade uses raw confidences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from etui.chat import Query
from etui.errors import EtuiError
from etui.routing.decision import Decision
from etui.turn.events import Decided, TurnFinished
from etui.turn.execution import TurnExecution
from etui.turn.ports import Meter, Serve, Served, Writer

if TYPE_CHECKING:
    from pathlib import Path

    from etui.arm import Arm, TokenCost
    from etui.backends.base import Answerer
    from etui.models.spec import ModelSpec
    from etui.routing.prediction import Predictor
    from etui.turn.events import TurnEvent
    from etui.turn.record import Attribution, ClientRecord


def serve_one_model(spec: ModelSpec, path: Path, price: TokenCost | None = None) -> Serve:
    """Create a ``serve`` for turns whose arms all use one model."""

    def serve(arm: Arm) -> Served:
        return Served(spec, path, price)

    return serve


def run_turn(
    query: Query,
    decision: Decision,
    *,
    serve: Serve,
    answerer: Answerer,
    meter: Meter,
    writer: Writer,
    outlook: Predictor | None = None,
    settings: Mapping[str, Any] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    turn_id: str | None = None,
    client: ClientRecord | None = None,
    attribution: Callable[[], Attribution | None] | None = None,
) -> Generator[TurnEvent, None, None]:
    """Answer one query and save the turn.

    Args:
        decision: The arm that answers, or the cascade, its budget and its fallbacks.
        serve: Finds the model of an arm; called once per hop.
        meter: Returns the energy of intervals of this machine; a hop whose model has a meter of its
            own (``Served.meter``) is measured by that one.
        outlook: Predicts joules and calibrates confidences; None disables both.
        settings: Further settings needed to repeat the turn (versions, threads).
        cancelled: Returns whether the user has stopped the turn, so that no further hop starts.
        turn_id: Id of the turn; None makes one.
        client: The request of a client that asked for it; None for other front ends.
        attribution: Returns how its joules were separated from those of others, once they are
            final; None asks the meter, or else the turn was alone.

    Yields:
        ``Decided``, the engine's events, ``TurnFinished``. If several arms answer, the events of
        each are between its ``HopStarted`` and its ``HopEnded``, and the text of a hop that is not
        ``taken`` has to be replaced; the record has the text of the answer.

    Raises:
        EtuiError: The error that ended the answer, after the turn was saved. If the model is
            missing, the error is raised before any energy is spent, and the turn is not saved.
    """
    execution = TurnExecution(
        query, decision, serve, answerer, meter, outlook, cancelled, clock_ns,
        turn_id=turn_id, client=client, attribution=attribution,
    )  # fmt: skip
    try:
        yield Decided(decision)
        yield from execution.run()
    except BaseException as error:
        # Ctrl-C, a closed generator, a bug in the engine: save the turn before re-raising.
        with suppress(EtuiError):
            answerer.cancel()
        execution.abort(error)
        execution.save(writer, settings or {})
        raise
    if execution.unserved is not None:
        raise execution.unserved
    record = execution.save(writer, settings or {})
    yield TurnFinished(record)
    if execution.failure is not None:
        raise execution.failure
