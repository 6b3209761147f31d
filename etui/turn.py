"""The one flow of a query that chat, ask and every later front end use.

``run_turn`` yields what happens and ends with the record of the turn. Whatever way it ends (done,
stopped, an error, a crash of the engine, the front end going away) the interval is closed, its
energy told and the turn saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from etui.account import Interval, account, joules_of_votes
from etui.arm import DecodePrice
from etui.energy.types import Energy
from etui.engine.events import Event, Finished
from etui.errors import EtuiError
from etui.log.records import LoadRecord, TurnRecord, UnloadRecord
from etui.query import Query
from etui.request import AnswerRequest
from etui.residence import load_record, unload_record
from etui.routing.decision import Decision
from etui.so_far import SoFar

if TYPE_CHECKING:
    from etui.models import ModelSpec


_LOOK_EVERY_NS = 100_000_000


class Answerer(Protocol):
    """Answers requests: in this process, or in a child process."""

    def answer(self, request: AnswerRequest) -> Iterator[Event]: ...

    def cancel(self) -> None:
        """End the running answer within one batch; safe from any thread."""

    def hurry(self) -> None:
        """The joules are spent: end the thought and answer; safe from any thread."""


class Meter(Protocol):
    """What a turn needs of the recorder."""

    def energy(self, start_ns: int, end_ns: int) -> Energy: ...

    def settle(self, end_ns: int) -> object: ...


class Writer(Protocol):
    """What a turn needs of the log."""

    def save_turn(self, record: TurnRecord) -> None: ...

    def save_load(self, record: LoadRecord) -> None: ...

    def save_unload(self, record: UnloadRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class Decided:
    """Which arm answers, and why."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """The last event of a turn: what went into the log."""

    record: TurnRecord


TurnEvent = Decided | Event | TurnFinished


@dataclass(slots=True)
class _Purse:
    """What one answer may still spend, looked into ten times a second."""

    limit_joules: float
    meter: Meter
    next_look_ns: int = 0

    def spent(self, start_ns: int, now_ns: int) -> bool:
        if now_ns < self.next_look_ns or now_ns <= start_ns:
            return False
        self.next_look_ns = now_ns + _LOOK_EVERY_NS
        joules = self.meter.energy(start_ns, now_ns).joules
        return joules is not None and joules >= self.limit_joules


def run_turn(
    query: Query,
    decision: Decision,
    *,
    spec: ModelSpec,
    path: Path,
    answerer: Answerer,
    meter: Meter,
    writer: Writer,
    settings: dict[str, Any] | None = None,
    price: DecodePrice | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> Generator[TurnEvent, None, None]:
    """Answer one query and save the turn.

    Args:
        query: The question with its chat.
        decision: The arm that answers; ``spec`` and ``path`` are its model.
        answerer: Where the model runs.
        meter: Tells the energy of intervals.
        writer: Takes the record.
        settings: What else is needed to repeat the turn (versions, threads).
        price: What tokens of the model cost, for thought that is regulated by joules.
        clock_ns: Monotonic clock, for tests.

    Raises:
        EtuiError: What stopped the answer, after the turn was saved.
    """
    created_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    turn_id = uuid4().hex[:12]
    so_far = SoFar(started_ns=clock_ns())
    status, why = "stopped", "the turn was left before its end"
    error: BaseException | None = None
    request = AnswerRequest(spec, path, query.messages(), decision.arm, query.chat_id, price)
    ended = False
    limit_joules = decision.arm.max_joules
    purse = None if limit_joules is None else _Purse(limit_joules, meter)

    def close() -> TurnRecord:
        end = so_far.closed(max(clock_ns(), so_far.started_ns), status, why)
        if error is not None and end.status != "error":
            end = replace(end, status="error", why=why)
        record = _record(turn_id, created_at, query, decision, spec, so_far, end, meter, settings)
        for unloaded in so_far.unloads:
            writer.save_unload(unload_record(unloaded, meter.energy, turn_id))
        if so_far.load is not None:
            writer.save_load(load_record(so_far.load, spec.sha256, meter.energy, turn_id))
        writer.save_turn(record)
        return record

    try:
        yield Decided(decision)
        for event in answerer.answer(request):
            so_far.see(event)
            if purse is not None and purse.spent(so_far.started_ns, clock_ns()):
                answerer.hurry()
                purse = None
            yield event
        ended = True
    except EtuiError as failure:
        status, why, error = "error", failure.what, failure
    except BaseException as left:
        # Ctrl-C, a closed generator, a fault in the engine: the turn is saved before it goes on.
        with suppress(EtuiError):
            answerer.cancel()
        if not isinstance(left, GeneratorExit | KeyboardInterrupt | SystemExit):
            status, why, error = "error", f"{type(left).__name__}: {left}", left
        close()
        raise
    if ended and so_far.finished is None:
        status, why = "error", "the engine ended the answer without saying how"
    record = close()
    yield TurnFinished(record)
    if error is not None:
        raise error


def _record(
    turn_id: str,
    created_at: str,
    query: Query,
    decision: Decision,
    spec: ModelSpec,
    so_far: SoFar,
    end: Finished,
    meter: Meter,
    settings: dict[str, Any] | None,
) -> TurnRecord:
    load = so_far.load
    load_interval = Interval(load.start_ns, load.end_ns) if load else None
    meter.settle(end.end_ns)
    energy, tokens, seconds = account(end, load_interval, meter.energy)
    vote_joules = joules_of_votes(so_far.batches, meter.energy)
    arm = decision.arm
    return TurnRecord(
        turn_id=turn_id,
        created_at=created_at,
        chat_id=query.chat_id,
        query=query.text,
        system=query.system,
        answer=end.answer,
        thinking=end.thinking,
        status=end.status,
        error=end.why if end.status == "error" else None,
        model=spec.name,
        model_sha256=spec.sha256,
        arm=arm.name,
        reasoning=arm.reasoning,
        policy=decision.policy,
        rule=decision.rule,
        why=decision.why,
        tokens=tokens,
        seconds=seconds,
        energy=energy,
        predicted_joules=decision.predicted_joules,
        predicted_accuracy=decision.predicted_accuracy,
        confidence=end.confidence,
        votes=tuple(replace(vote, joules=vote_joules.get(vote.index)) for vote in so_far.votes),
        probes=tuple(so_far.probes),
        settings={
            **(settings or {}),
            "ended": end.why,
            "think_tokens": arm.think_tokens if arm.reasoning != "direct" else 0,
            "max_tokens": arm.max_tokens,
            "margin": end.margin,
            "votes": arm.votes if arm.reasoning == "vote" else 0,
            "style": arm.style,
            "temperature": arm.sampling.temperature,
            "top_p": arm.sampling.top_p,
            "top_k": arm.sampling.top_k,
            "min_p": arm.sampling.min_p,
            "seed": arm.sampling.seed,
            "dropped_messages": so_far.prefilled.dropped_messages if so_far.prefilled else 0,
        },
        trace=decision.trace(),
    )

