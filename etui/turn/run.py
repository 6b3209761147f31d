"""Run one turn: the flow of a query that chat, ask and all other front ends share.

``run_turn`` yields events, and the record of the turn as the last one. However the turn ends (done,
stopped, an error, a crash of the engine, the front end exiting), its interval is closed, its energy
read and the turn saved.

``writer=Unlogged()`` saves nothing, as in a bench run, which writes its own files. Without an
``outlook`` no joules are predicted and a cascade uses raw confidences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from etui.arm import Arm
from etui.backends.base import Answerer, AnswerRequest
from etui.chat import Query
from etui.energy.types import EnergyOf
from etui.errors import EngineFailed, EtuiError
from etui.events import Event, Finished, Status
from etui.reasoning.control import BUDGET
from etui.routing.decision import Decision
from etui.routing.limits import TurnBudget
from etui.text import utc_now
from etui.turn.accounting import (
    Leg,
    compute_spans,
    energy_of_legs,
    energy_over,
    find_marks,
    machine_of,
    measure_leg_by,
    settle_meters,
    sum_of_known,
)
from etui.turn.build_record import (
    AnswerAccumulator,
    Ended,
    build_leg,
    build_load_record,
    build_turn_record,
    build_unload_record,
)
from etui.turn.cascade import (
    AskConstrained,
    Hop,
    Spent,
    Stop,
    choose_hop,
    describe_hop,
    draw_until_one_differs,
    failed_at_load,
    find_best,
    find_key,
    gave_answer,
    is_accepted,
    next_step,
    settle_hops,
)
from etui.turn.events import Decided, HopEnded, HopStarted, TurnFinished
from etui.turn.ports import Meter, Serve, Served, Writer
from etui.turn.record import Attribution, ClientRecord, TurnRecord
from etui.units import energy_text, seconds_text, tokens_text

if TYPE_CHECKING:
    from pathlib import Path

    from etui.arm import Arm, TokenCost
    from etui.backends.base import Answerer
    from etui.energy.types import Energy
    from etui.models.spec import ModelSpec
    from etui.routing.prediction import PredictedAgreement, Predictor, RawConfidence
    from etui.turn.events import TurnEvent
    from etui.turn.record import Attribution, ClientRecord


_CHECK_EVERY_NS = 100_000_000
"""Interval between two checks of the joules; checking tokens and seconds costs nothing."""


REMOTE_CHECK_EVERY_NS = 1_000_000_000
"""The same for the meter of another machine, which is asked over the network."""


@dataclass(frozen=True, slots=True)
class SpentBefore:
    """Spending of the hops before the running one; joules are None if unmeasured."""

    joules: float | None = 0.0
    tokens: int = 0
    seconds: float = 0.0


class BudgetMonitor:
    """Budget check of one hop.

    Args:
        budget: Budget of the turn; None is no limit.
        before: Spending of the earlier hops.
        arm: The arm of the hop; its ``max_joules`` applies to this hop only.
        energy_of: Returns the energy of an interval.
    """

    def __init__(
        self, budget: TurnBudget | None, before: SpentBefore, arm: Arm, energy_of: EnergyOf
    ) -> None:
        self._budget = budget or TurnBudget()
        self._before = before
        self._arm = arm
        self._energy_of = energy_of
        self._check_every_ns = _CHECK_EVERY_NS
        self._next_check_ns = 0

    def measure_with(self, energy_of: EnergyOf, check_every_ns: int) -> None:
        """Use another meter for the running hop, and ask it no more often than this."""
        self._energy_of = energy_of
        self._check_every_ns = check_every_ns

    def limit_arm(self) -> Arm:
        """Return the arm with ``max_joules`` limited to what the turn has left."""
        left = self._remaining_joules()
        if left is None or (self._arm.max_joules is not None and self._arm.max_joules <= left):
            return self._arm
        return replace(self._arm, max_joules=max(left, 0.0))

    def find_spent(self, so_far: AnswerAccumulator, now_ns: int) -> str | None:
        """Return the name of a budget that is spent by now; None if none is."""
        tokens = self._before.tokens + so_far.thinking_tokens + so_far.answer_tokens
        if self._budget.tokens is not None and tokens >= self._budget.tokens:
            return turn_budget_text(tokens=self._budget.tokens)
        seconds = self._before.seconds + max(0, now_ns - so_far.started_ns) / 1e9
        if self._budget.seconds is not None and seconds >= self._budget.seconds:
            return turn_budget_text(seconds=self._budget.seconds)
        if now_ns < self._next_check_ns or now_ns <= so_far.started_ns:
            return None
        return self._find_spent_joules(so_far, now_ns)

    def _find_spent_joules(self, so_far: AnswerAccumulator, now_ns: int) -> str | None:
        left, own = self._remaining_joules(), self._arm.max_joules
        if left is None and own is None:
            return None
        self._next_check_ns = now_ns + self._check_every_ns
        joules = self._energy_of(so_far.started_ns, now_ns).joules
        if joules is None:
            return None
        if left is not None and joules >= left:
            return turn_budget_text(joules=self._budget.joules)
        if own is not None and joules >= own:
            return f"the energy budget of {energy_text(own)} of arm {self._arm.name}"
        return None

    def _remaining_joules(self) -> float | None:
        if self._budget.joules is None:
            return None
        return self._budget.joules - (self._before.joules or 0.0)


def find_spent_budget(budget: TurnBudget | None, before: SpentBefore) -> str | None:
    """Return the name of the turn's budget that is spent between two hops; None if none is."""
    if budget is None:
        return None
    checks: tuple[tuple[float | None, float | None, Callable[[], str]], ...] = (
        (budget.tokens, before.tokens, lambda: turn_budget_text(tokens=budget.tokens)),
        (budget.seconds, before.seconds, lambda: turn_budget_text(seconds=budget.seconds)),
        (budget.joules, before.joules, lambda: turn_budget_text(joules=budget.joules)),
    )
    for limit, used, words in checks:
        if limit is not None and used is not None and used >= limit:
            return words()
    return None


def turn_budget_text(
    *, joules: float | None = None, tokens: int | None = None, seconds: float | None = None
) -> str:
    """Name a budget of the turn: ``the turn's budget of 60 s``."""
    if joules is not None:
        amount = energy_text(joules)
    elif tokens is not None:
        amount = tokens_text(tokens)
    else:
        amount = seconds_text(seconds or 0.0)
    return f"the turn's budget of {amount}"


class TurnExecution:
    """One running turn, driven by ``run_turn``.

    Attributes:
        unserved: The error that prevented the only arm from answering, before any energy was spent.
        failure: The error that ended the turn; None if there is an answer.
    """

    def __init__(
        self,
        query: Query,
        decision: Decision,
        serve: Serve,
        answerer: Answerer,
        meter: Meter,
        predictor: Predictor | None,
        cancelled: Callable[[], bool],
        clock_ns: Callable[[], int],
        *,
        turn_id: str | None = None,
        client: ClientRecord | None = None,
        attribution: Callable[[], Attribution | None] | None = None,
    ) -> None:
        self._query = query
        self._decision = decision
        self._serve = serve
        self._answerer = answerer
        self._meter = meter
        self._predictor = predictor
        self._cancelled = cancelled
        self._clock_ns = clock_ns
        self._created_at = utc_now()
        self._turn_id = turn_id or uuid4().hex[:12]
        self._client = client
        self._attribution = attribution
        self._hops: list[Hop] = []
        self._meters: list[Meter] = []
        self._hop_meter = meter
        self._seen: list[AnswerAccumulator] = []
        self._predicted: list[float | None] = []
        self._running: tuple[Arm, AnswerAccumulator] | None = (
            decision.arm,
            AnswerAccumulator(clock_ns()),
        )
        self._served: Served | None = None
        self._asked = decision.arm  # as decided, before its model has chosen the sampling
        self._budget: str | None = None
        self._over = False
        self._fault: str | None = None
        self.unserved: EtuiError | None = None
        self.failure: EtuiError | None = None

    def run(self) -> Iterator[HopStarted | Event | HopEnded]:
        """Run one arm after the other until none follows."""
        step: AskConstrained | Stop = AskConstrained(self._decision.arm, "")
        while isinstance(step, AskConstrained):
            number, arm = len(self._hops) + 1, step.arm
            several = number > 1 or self._decision.cascade is not None
            if several:
                yield HopStarted(number, arm.name, arm.model, arm.reasoning, step.why)
            yield from self._answer(arm)
            step = self._decide_next()
            hop = self._hops[-1]
            hop = self._hops[-1] = replace(hop, why=describe_hop(self._decision, hop, step))
            self._over = isinstance(step, Stop)
            if several or isinstance(step, AskConstrained):
                yield self._build_hop_ended(number, hop)
        last = self._hops[-1]
        if find_best(self._hops) is None:
            self.failure = last.failure
        if last.at_load and len(self._hops) == 1 and self._served is None:
            self.unserved = last.failure

    def abort(self, cause: BaseException) -> None:
        """Close the interrupted turn, after ``cause``: the user, the front end, or a bug."""
        intended = isinstance(cause, GeneratorExit | KeyboardInterrupt | SystemExit)
        why = "the turn was interrupted"
        if not intended:
            why = self._fault = f"{type(cause).__name__}: {cause}"
        if self._running is not None:
            self._close(self._running, "stopped" if intended else "error", why)
        elif not self._over and intended:
            last = self._hops[-1]
            self._hops[-1] = replace(last, end=replace(last.end, status="stopped", why=why))

    def save(self, writer: Writer, settings: Mapping[str, Any]) -> TurnRecord:
        """Build the record of the turn and save it, with its loads and unloads."""
        settle_meters(self._legs(), self._meters)
        ended = Ended(
            turn_id=self._turn_id,
            created_at=self._created_at,
            hops=self._hops,
            so_far=self._seen,
            status=self._status(),
            error=self._error(),
            predicted_joules=self._predicted_joules(),
            settings={**settings, **(self._served.settings if self._served else {})},
            meters=self._meters,
            client=self._client,
            attribution=self._attribution,
        )
        record = build_turn_record(self._query, self._decision, ended, self._meter)
        for hop, seen, meter in zip(self._hops, self._seen, self._meters, strict=True):
            energy_of = machine_of(meter).energy
            for unloaded in seen.unloads:
                writer.save_unload(build_unload_record(unloaded, energy_of, self._turn_id))
            if seen.load is not None:
                load = build_load_record(seen.load, hop.sha256, energy_of, self._turn_id)
                writer.save_load(load)
        writer.save_turn(record)
        return record

    def _answer(self, arm: Arm) -> Iterator[Event]:
        arm = draw_until_one_differs(self._decision.cascade, arm)
        monitor = BudgetMonitor(
            self._decision.budget, self._spent_so_far(), arm, self._meter.energy
        )
        overflow = self._decision.fallbacks.context_overflow
        arm = replace(monitor.limit_arm(), context_overflow=overflow)
        so_far = AnswerAccumulator(self._clock_ns())
        self._running, self._served, self._budget = (arm, so_far), None, None
        self._hop_meter = self._meter
        self._asked = arm
        failure: EtuiError | None = None
        cancel_sent = False
        try:
            served = self._served = self._serve(arm)
            if served.arm is not None:
                arm = served.arm
                self._running = (arm, so_far)
            if served.meter is not None:
                self._hop_meter = served.meter
                monitor.measure_with(served.meter.energy, REMOTE_CHECK_EVERY_NS)
            self._record_prediction(arm)
            self._hop_meter.mark(self._clock_ns())
            for event in self._answerer.answer(self._request(arm, served)):
                so_far.add(event)
                for mark_ns in find_marks(event):
                    self._hop_meter.mark(mark_ns)
                if self._budget is None:
                    self._budget = monitor.find_spent(so_far, self._clock_ns())
                    if self._budget is not None:
                        self._answerer.hurry()
                if not cancel_sent and self._cancelled():
                    self._answerer.cancel()  # again: the first cancel may have come too early
                    cancel_sent = True
                yield event
            if so_far.finished is None:
                raise EngineFailed("the engine ended the answer without a final event", "ask again")
        except EtuiError as error:
            failure = error
        self._close(self._running, "error", failure.what if failure else "", failure)

    def _request(self, arm: Arm, served: Served) -> AnswerRequest:
        query = self._query
        return AnswerRequest(
            served.spec,
            served.path,
            query.messages(),
            arm,
            query.chat_id,
            served.price,
            served.draft,
            query.options,
            query.owner,
            self._turn_id,
        )

    def _record_prediction(self, arm: Arm) -> None:
        """Record the predicted joules of the hop, without its load, like the energy of the turn."""
        expected = self._predictor.joules(arm, self._query) if self._predictor is not None else None
        self._predicted.append(None if expected is None else expected.answer)

    def _close(
        self,
        running: tuple[Arm, AnswerAccumulator],
        status: Status,
        why: str,
        failure: EtuiError | None = None,
    ) -> None:
        arm, so_far = running
        end = so_far.build_finished(max(self._clock_ns(), so_far.started_ns), status, why)
        if so_far.finished is None:
            self._hop_meter.mark(end.end_ns)
        if (failure is not None or self._fault is not None) and end.status != "error":
            end = replace(end, status="error", why=why)
        if self._budget is not None:
            end = replace(end, why=end.why.replace(BUDGET, self._budget, 1))
        began = so_far.load is not None or so_far.prefilled or so_far.prefilling
        spec = self._served.spec if self._served is not None else None
        hop = Hop(
            arm=arm,
            model=spec.name if spec else arm.model,
            sha256=spec.sha256 if spec else None,
            end=end,
            load=so_far.load,
            answered=gave_answer(self._query.text, arm, end),
            key=self._find_key(arm, end),
            probability=self._calibrated(arm, end.confidence, end.margin),
            failure=failure,
            at_load=failure is not None and failed_at_load(failure, began=bool(began)),
            fallbacks=self._build_fallbacks(),
        )
        self._seen.append(so_far)
        self._meters.append(self._hop_meter)
        self._hops.append(hop)
        energy = self._energy_of_last()
        hop = replace(hop, joules=energy.joules, kind=energy.kind and str(energy.kind))
        self._hops[-1] = replace(hop, accepted=is_accepted(self._decision, hop))
        self._hops = settle_hops(self._decision, self._hops, self._predict_agreement)
        self._running = None

    def _build_fallbacks(self) -> tuple[Arm, ...]:
        """Build the arms of the models that answer where the running one cannot."""
        names = self._served.fallbacks if self._served is not None else ()
        return tuple(replace(self._asked, model=name) for name in names)

    def _calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        if self._predictor is None or confidence is None or self._decision.cascade is None:
            return None
        if any(hop.arm.name == arm.name for hop in self._hops):
            return None  # asked again for the letter: the fit is for the arm's usual answers
        return self._predictor.calibrated(arm, confidence, margin)

    def _find_key(self, arm: Arm, end: Finished) -> str | None:
        """Find what the answer is compared by, if its step compares answers."""
        cascade = self._decision.cascade
        if cascade is None or cascade.find_agreement(arm.name) is None:
            return None
        return find_key(self._query.text, arm, end)

    def _predict_agreement(
        self, arms: Sequence[Arm], raw: Sequence[RawConfidence]
    ) -> PredictedAgreement | None:
        return None if self._predictor is None else self._predictor.agreement(arms, raw)

    def _decide_next(self) -> AskConstrained | Stop:
        last = self._hops[-1]
        if self._cancelled() and not last.stopped and not last.accepted:
            why = "stopped before the next arm"
            self._hops[-1] = replace(last, end=replace(last.end, status="stopped", why=why))
        spent = Spent(
            self._joules_with_loads(),
            find_spent_budget(self._decision.budget, self._spent_so_far()),
        )
        return next_step(self._query.text, self._decision, self._hops, spent, self._expected_joules)

    def _expected_joules(self, arm: Arm) -> float | None:
        """Predict the joules of an arm, its load included unless the model is in memory."""
        predicted = (
            self._predictor.joules(arm, self._query) if self._predictor is not None else None
        )
        if predicted is None:
            return None
        loaded = any(hop.model == arm.model for hop in self._hops)
        return replace(predicted, load=0.0).total if loaded else predicted.total

    def _build_hop_ended(self, number: int, hop: Hop) -> HopEnded:
        return HopEnded(
            number=number,
            arm=hop.arm.name,
            model=hop.model,
            confidence=hop.end.confidence,
            probability=hop.probability,
            accepted=hop.accepted,
            joules=hop.joules,
            why=hop.why,
            taken=self._over and choose_hop(self._hops) is hop,
            kind=hop.kind,
        )

    def _spent_so_far(self) -> SpentBefore:
        ends = [hop.end for hop in self._hops]
        joules = sum_of_known([hop.joules for hop in self._hops]) if self._hops else 0.0
        seconds = sum(spans.seconds for spans in compute_spans(self._legs())) if self._hops else 0.0
        return SpentBefore(joules, sum(end.output_tokens for end in ends), seconds)

    def _energy_of_last(self) -> Energy:
        spans = compute_spans(self._legs())[-1]
        return energy_over((*spans.prefill, *spans.decode), self._hop_meter.energy)

    def _joules_with_loads(self) -> float | None:
        legs = self._legs()
        work = energy_of_legs(legs, compute_spans(legs), self._meter.energy).joules
        loads = [
            machine_of(meter).energy(cut.start_ns, cut.end_ns).joules
            for leg, meter in zip(legs[1:], self._meters[1:], strict=True)
            for cut in leg.excluded
        ]
        return sum_of_known([work, *loads])

    def _legs(self) -> list[Leg]:
        return [
            measure_leg_by(build_leg(hop, seen), meter)
            for hop, seen, meter in zip(self._hops, self._seen, self._meters, strict=True)
        ]

    def _predicted_joules(self) -> float | None:
        if self._predictor is None:
            return self._decision.predicted_joules
        return sum_of_known(self._predicted)

    def _status(self) -> Status:
        if self._fault is not None or (find_best(self._hops) is None and self._hops[-1].failure):
            return "error"
        return "stopped" if self._hops[-1].stopped else choose_hop(self._hops).end.status

    def _error(self) -> str | None:
        if self._fault is not None:
            return self._fault
        return self._hops[-1].end.why if self._status() == "error" else None


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
