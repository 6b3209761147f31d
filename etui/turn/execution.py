"""Execute a turn: hop after hop, each within its budgets, until an answer is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from etui.arm import Arm
from etui.backends.base import Answerer, AnswerRequest
from etui.chat import Query
from etui.errors import EngineFailed, EtuiError
from etui.events import Event, Finished, Status
from etui.reasoning.control import BUDGET
from etui.routing.decision import Decision
from etui.text.timestamps import utc_now
from etui.turn.accumulator import AnswerAccumulator
from etui.turn.agreement import draw_until_one_differs
from etui.turn.budget import (
    REMOTE_CHECK_EVERY_NS,
    BudgetMonitor,
    SpentBefore,
    find_spent_budget,
)
from etui.turn.build_record import (
    Ended,
    build_leg,
    build_load_record,
    build_turn_record,
    build_unload_record,
)
from etui.turn.cascade import (
    Spent,
    choose_hop,
    failed_at_load,
    find_best,
    is_accepted,
    next_step,
    settle_hops,
)
from etui.turn.events import HopEnded, HopStarted
from etui.turn.hop import AskConstrained, Hop, Stop, find_key, gave_answer
from etui.turn.hop_meters import machine_of, measure_leg_by, settle_meters
from etui.turn.hop_text import describe_hop
from etui.turn.intervals import (
    Leg,
    compute_spans,
    energy_of_legs,
    energy_over,
    find_marks,
    sum_of_known,
)
from etui.turn.ports import Meter, Serve, Served, Writer
from etui.turn.record import Attribution, ClientRecord, TurnRecord

if TYPE_CHECKING:
    from etui.energy.types import Energy
    from etui.routing.prediction import PredictedAgreement, Predictor, RawConfidence


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
