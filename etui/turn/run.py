"""The one flow of a query that chat, ask and every later front end use.

``run_turn`` yields what happens and ends with the record of the turn. Whatever way it ends (done,
stopped, an error, a crash of the engine, the front end going away) the interval is closed, its
energy told and the turn saved.

Without a log, as in a bench run that keeps its own, ``writer=Unlogged()`` saves nothing; without an
outlook no joules are predicted and a cascade goes by raw confidences.
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


def serving_one(spec: ModelSpec, path: Path, price: TokenCost | None = None) -> Serve:
    """A ``serve`` for turns whose arms are all of one model."""

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
) -> Generator[TurnEvent, None, None]:
    """Answer one query and save the turn.

    Between the decision and the record come the engine's events. Where several arms answer, those
    of each lie between its ``HopStarted`` and its ``HopEnded``, and the text of a hop that is not
    ``taken`` is to be replaced; the record holds the text that stands.

    Args:
        query: The question with its chat.
        decision: The arm that answers, or the cascade, its budget and its fallbacks.
        serve: Finds the model of an arm; called once a hop.
        answerer: Where the models run.
        meter: Tells the energy of intervals.
        writer: Takes the record.
        outlook: Predicts joules and calibrates confidences; None knows nothing.
        settings: What else is needed to repeat the turn (versions, threads).
        cancelled: Whether the user has stopped the turn, so that no further hop is begun.
        clock_ns: Monotonic clock, for tests.

    Raises:
        EtuiError: What stopped the answer, after the turn was saved. A model that is not there is
            told before anything was spent, so that turn is not saved.
    """
    course = TurnExecution(query, decision, serve, answerer, meter, outlook, cancelled, clock_ns)
    try:
        yield Decided(decision)
        yield from course.run()
    except BaseException as left:
        # Ctrl-C, a closed generator, a fault in the engine: the turn is saved before it goes on.
        with suppress(EtuiError):
            answerer.cancel()
        course.break_off(left)
        course.save(writer, settings or {})
        raise
    if course.unserved is not None:
        raise course.unserved
    record = course.save(writer, settings or {})
    yield TurnFinished(record)
    if course.failure is not None:
        raise course.failure
