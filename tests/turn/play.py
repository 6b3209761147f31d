"""Play turns on fakes: an answerer with ``answer``, ``cancel`` and ``hurry``, and no runtime."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from etui.arm import Arm, TokenCost
from etui.backends.base import AnswerRequest, Cancel
from etui.chat import Query
from etui.events import Event
from etui.models.spec import ModelSpec
from etui.routing.decision import Decision
from etui.turn.events import TurnEvent
from etui.turn.interfaces import Machine, Meter, Origin, Resolve, ResolvedModel
from etui.turn.record import ClientRecord
from etui.turn.run import Turn


class Told:
    """Tells a fake answerer what a backend hears of the token of its turn."""

    def __init__(self, fake: Any) -> None:
        self.fake = fake

    def answer(self, request: AnswerRequest, cancel: Cancel | None = None) -> Iterator[Event]:
        assert cancel is not None
        cancel.listen(self.fake.cancel, self.fake.hurry)
        events = self.fake.answer(request)
        ended = False
        try:
            yield from events
            ended = True
        except GeneratorExit:
            self.fake.cancel()
            raise
        finally:
            cancel.listen()
        assert ended


def run_turn(
    query: Query,
    decision: Decision,
    *,
    serve: Resolve,
    answerer: Any,
    meter: Meter,
    writer: Any,
    predictor: Any = None,
    settings: Mapping[str, Any] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    clock_ns: Callable[[], int] | None = None,
    turn_id: str | None = None,
    client: ClientRecord | None = None,
) -> Generator[TurnEvent, None, None]:
    """Run a turn; it is cancelled once ``cancelled`` is true after one of its events."""
    clock = {} if clock_ns is None else {"clock_ns": clock_ns}
    engine = Told(answerer) if hasattr(answerer, "hurry") else answerer
    machine = Machine(serve, lambda: engine, meter, writer.save, settings or {}, **clock)
    cancel = Cancel()
    known = {} if turn_id is None else {"turn_id": turn_id}
    turn = Turn(query, decision, machine, predictor, cancel, Origin(client=client, **known)).run()
    try:
        for event in turn:
            if cancelled() and not cancel.cancelled():
                cancel.cancel()
            yield event
    finally:
        turn.close()


def serve_one_model(spec: ModelSpec, path: Path, price: TokenCost | None = None) -> Resolve:
    """Create a ``serve`` for turns whose arms all use one model."""

    def serve(arm: Arm) -> ResolvedModel:
        return ResolvedModel(spec, path, price)

    return serve
