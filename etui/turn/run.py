"""Run one turn: the flow of a query that chat, ask, serve and bench share.

However a turn ends (done, stopped, an error, a crash of the engine, the front end exiting), its
interval is closed, its energy read and the turn saved.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from etui.arm import Arm
from etui.backends.base import AnswerRequest, AnswerSoFar, Cancel
from etui.chat import Query
from etui.energy.types import EnergyOf, Phase, sum_known
from etui.errors import EngineFailed, EtuiError, ModelUnavailable
from etui.events import Event, Finished, Loaded, PictureEncoded, Prefilled, Status, Unloaded
from etui.reasoning.decoding import BUDGET
from etui.routing.decision import Decision, TurnBudget
from etui.text import utc_now
from etui.turn.accounting import (
    compute_spans,
    energy_of_legs,
    energy_over,
    machine_of,
    settle_meters,
)
from etui.turn.attempt import (
    AnswerAccumulator,
    LiveAttempt,
    find_key,
    gave_answer,
    has_output,
)
from etui.turn.build_record import (
    Ended,
    build_load_record,
    build_open_record,
    build_turn_record,
    build_unload_record,
)
from etui.turn.cascade import (
    NextHop,
    choose_hop,
    describe_hop,
    draw_until_one_differs,
    find_best,
    is_accepted,
    next_step,
    settle,
)
from etui.turn.events import Decided, HopEnded, HopStarted, TurnFinished
from etui.turn.interfaces import Machine, Origin, ResolvedModel
from etui.units import energy_text, seconds_text, tokens_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etui.routing.decision import PredictedAgreement, Predictor, RawConfidence
    from etui.turn.events import TurnEvent
    from etui.turn.record import TurnRecord

_CHECK_EVERY_NS = 100_000_000
"""Interval between two checks of the joules; checking tokens and seconds costs nothing."""

_REMOTE_CHECK_EVERY_NS = 1_000_000_000
"""The same for the meter of another machine, which is asked over the network."""


class Turn:
    """One query, from its decision to its record; :meth:`run` answers it.

    Without a predictor no joules are predicted, and a cascade uses raw confidences. ``ended`` is
    the turn once it has ended; None before, and if it never began.
    """

    def __init__(
        self,
        query: Query,
        decision: Decision,
        machine: Machine,
        predictor: Predictor | None = None,
        cancel: Cancel | None = None,
        origin: Origin | None = None,
    ) -> None:
        self._query = query
        self._decision = decision
        self.machine = machine
        self._predictor = predictor
        self._cancel = Cancel() if cancel is None else cancel
        self._origin = Origin() if origin is None else origin
        self.ended: Ended | None = None
        self._created_at = utc_now()
        self._attempts: list[LiveAttempt] = []
        self._predicted: list[float | None] = []
        self._over = False
        self._fault: str | None = None
        self._begin(decision.arm)

    def run(self) -> Generator[TurnEvent, None, None]:
        """Answer the query and save the turn.

        Yields:
            ``Decided``, the engine's events, ``TurnFinished``. If several arms answer, the events
            of each are between its ``HopStarted`` and its ``HopEnded``, and the text of an attempt
            that is not ``taken`` has to be replaced; the record has the text of the answer.

        Raises:
            EtuiError: The error that ended the answer, after the turn was saved. If the model is
                missing, it is raised before any energy is spent, and the turn is not saved.
        """
        try:
            yield from self.answer()
        except BaseException:
            if self.ended is not None:
                save_turn(self.ended, self.machine)
            raise
        assert self.ended is not None
        yield TurnFinished(save_turn(self.ended, self.machine))
        if self.failure is not None:
            raise self.failure

    @property
    def failure(self) -> EtuiError | None:
        """The error that ended it without an answer; None if there is none."""
        return None if find_best(self._attempts) is not None else self._attempts[-1].failure

    def limit_joules(self, joules: float) -> None:
        """Let the turn cost at most this, besides its own budget; before it is answered."""
        budget = self._decision.budget or TurnBudget()
        most = joules if budget.joules is None else min(joules, budget.joules)
        self._decision = replace(self._decision, budget=replace(budget, joules=most))

    def answer(self) -> Generator[TurnEvent, None, None]:
        """Answer the query without saving it: :attr:`ended` is then what :func:`save_turn` saves.

        The events are those of :meth:`run`, without ``TurnFinished``. EtuiError if the model is
        missing: no energy was spent, and ``ended`` is None.
        """
        open_turns = self.machine.open_turns if self._origin.is_logged else None
        if open_turns is not None:
            open_turns.begin(self._build_open(), self._build_open)
        try:
            yield Decided(self._decision)
            step = NextHop(self._decision.arm)
            while (arm := step.arm) is not None:
                number = len(self._attempts) + 1
                several = number > 1 or self._decision.cascade is not None
                if several:
                    yield HopStarted(number, arm.name, arm.model, arm.reasoning, step.why)
                yield from self._answer(arm)
                step = self._decide_next()
                if several or step.arm is not None:
                    yield self._build_hop_ended(number)
        except BaseException as error:
            # Ctrl-C, a closed generator, a bug in the engine: close the turn before re-raising.
            self._abort(error)
            self.ended = self._end()
            raise
        last = self._attempts[-1]
        if last.failed == "load" and len(self._attempts) == 1 and self._resolved is None:
            assert last.failure is not None
            if open_turns is not None:
                open_turns.forget(self._origin.turn_id)
            raise last.failure
        self.ended = self._end()

    def _begin(self, arm: Arm) -> None:
        """Note that an arm is asked, so that an interruption from here on closes its attempt."""
        self._asked = self._arm = arm  # the second has the sampling that its model asks for
        self._seen: AnswerAccumulator | None = AnswerAccumulator(self.machine.clock_ns())
        self._resolved: ResolvedModel | None = None
        self._meter = self.machine.meter
        self._budget: str | None = None

    def _answer(self, arm: Arm) -> Iterator[Event]:
        clock_ns, cancel = self.machine.clock_ns, self._cancel
        arm = draw_until_one_differs(self._decision.cascade, arm)
        budget = _BudgetMonitor(self._decision.budget, self._spent_so_far(), arm)
        overflow = self._decision.fallbacks.context_overflow
        self._begin(replace(budget.limit_arm(), context_overflow=overflow))
        seen = self._seen
        assert seen is not None
        failure: EtuiError | None = None
        try:
            model = self._resolved = self.machine.resolve(self._asked)
            self._arm = model.arm or self._asked
            own = model.spec.own
            self._query = self._query.answered_by(None if own is None else own.system)
            if model.meter is not None:
                self._meter = model.meter
                budget.check_every_ns = _REMOTE_CHECK_EVERY_NS
            predictor = self._predictor
            expected = None if predictor is None else predictor.joules(self._arm, self._query)
            self._predicted.append(None if expected is None else expected.answer)  # without a load
            cancel.begin_answer()
            if cancel.cancelled():  # an end without tokens, in an interval of no length
                who = "the client left" if self._origin.client is not None else "stopped"
                end = AnswerSoFar(clock_ns())
                why = f"{who} before the answer began"
                seen.finished = end.build_end(end.started_ns, "stopped", why)
                yield seen.finished
            else:
                self._meter.mark(clock_ns(), "prefill")
                answerer = model.backend or self.machine.engine()
                for event in answerer.answer(self._build_request(model), cancel):
                    seen.add(event)
                    for mark in find_marks(event):
                        self._meter.mark(*mark)
                    if self._budget is None:
                        self._budget = budget.find_spent(seen, clock_ns(), self._meter.energy)
                        if self._budget is not None:
                            cancel.end_thinking()
                    yield event
            if seen.finished is None:
                raise EngineFailed("the engine ended the answer without a final event", "ask again")
        except EtuiError as error:
            failure = error
        self._close(seen, "error", failure.what if failure else "", failure)

    def _build_request(self, model: ResolvedModel) -> AnswerRequest:
        query = self._query
        return AnswerRequest(
            model.spec,
            model.path,
            query.messages(),
            self._arm,
            query.chat_id,
            model.price,
            model.draft,
            query.options,
            query.owner,
            self._origin.turn_id if self._origin.is_logged else "",
            query.pictures,
        )

    def _close(
        self, seen: AnswerAccumulator, status: Status, why: str, failure: EtuiError | None = None
    ) -> None:
        """Add the attempt that has ended, and judge it along with the others of its step."""
        arm = self._arm
        end = seen.build_finished(max(self.machine.clock_ns(), seen.started_ns), status, why)
        if seen.finished is None:
            self._meter.mark(end.end_ns, "idle")
        if (failure is not None or self._fault is not None) and end.status != "error":
            end = replace(end, status="error", why=why)
        if self._budget is not None:
            end = replace(end, why=end.why.replace(BUDGET, self._budget, 1))
        spec = self._resolved.spec if self._resolved is not None else None
        fallbacks = self._resolved.fallbacks if self._resolved is not None else ()
        at_load = not seen.began and isinstance(failure, ModelUnavailable | EngineFailed)
        key, probability = self._judge(arm, end)
        attempt = LiveAttempt(
            arm=arm,
            model=spec.name if spec else arm.model,
            sha256=spec.sha256 if spec else None,
            end=end,
            seen=seen,
            meter=self._meter,
            usable=failure is None and end.status != "stopped" and has_output(end),
            answered=gave_answer(self._query.text, arm, end),
            failure=failure,
            failed=None if failure is None else "load" if at_load else "answer",
            confidence=end.confidence,
            margin=end.margin,
            fallbacks=tuple(replace(self._asked, model=name) for name in fallbacks),
            key=key,
            probability=probability,
            is_local=self._resolved is not None and self._resolved.backend is None,
            price=self._resolved.price if self._resolved is not None else None,
        )
        self._attempts.append(attempt)
        spans = compute_spans([each.leg for each in self._attempts])[-1]
        energy = energy_over(spans.work, self._meter.energy)
        attempt = replace(attempt, joules=energy.joules, kind=energy.kind and str(energy.kind))
        self._attempts[-1] = replace(attempt, accepted=is_accepted(self._decision, attempt))
        self._attempts = settle(self._decision.cascade, self._attempts, self._predict_agreement)
        self._seen = None

    def _judge(self, arm: Arm, end: Finished) -> tuple[str | None, float | None]:
        """Judge an answer of a cascade by itself: what it is compared by, how likely it is right.

        The fit is for an arm's usual answers, and not for one that was asked again for its letter.
        """
        cascade = self._decision.cascade
        if cascade is None:
            return None, None
        key = probability = None
        if cascade.find_agreement(arm.name) is not None:
            key = find_key(self._query.text, arm, end)
        again = any(attempt.arm.name == arm.name for attempt in self._attempts)
        if self._predictor is not None and end.confidence is not None and not again:
            probability = self._predictor.calibrated(arm, end.confidence, end.margin)
        return key, probability

    def _decide_next(self) -> NextHop:
        """Decide what follows the last attempt, and say of it what became of it."""
        last = self._attempts[-1]
        if self._cancel.cancelled() and not last.stopped and not last.accepted:
            self._attempts[-1] = last = last.stop("stopped before the next arm")
        joules = self._joules_with_loads()
        spent = _find_spent_budget(self._decision.budget, self._spent_so_far())
        step = next_step(
            self._query.text, self._decision, self._attempts, joules, spent, self._predict_total
        )
        self._attempts[-1] = replace(last, why=describe_hop(self._decision, last, step))
        self._over = step.arm is None
        return step

    def _build_hop_ended(self, number: int) -> HopEnded:
        last = self._attempts[-1]
        return HopEnded(
            number=number,
            arm=last.arm.name,
            model=last.model,
            confidence=last.confidence,
            probability=last.probability,
            accepted=last.accepted,
            joules=last.joules,
            why=last.why,
            taken=self._over and choose_hop(self._attempts) is last,
            kind=last.kind,
        )

    def _abort(self, cause: BaseException) -> None:
        """Close the interrupted turn, after ``cause``: the user, the front end, or a bug."""
        intended = isinstance(cause, GeneratorExit | KeyboardInterrupt | SystemExit)
        why = "the turn was interrupted"
        if not intended:
            why = self._fault = f"{type(cause).__name__}: {cause}"
        if self._seen is not None:
            self._close(self._seen, "stopped" if intended else "error", why)
        elif not self._over and intended:
            self._attempts[-1] = self._attempts[-1].stop(why)

    def _end(self) -> Ended:
        """Close the turn."""
        status, predicted = self._find_status(), self._decision.predicted_joules
        error = self._fault
        if error is None and status == "error":
            error = self._attempts[-1].end.why
        return Ended(
            self._query,
            self._decision,
            self._origin,
            self._created_at,
            self._attempts,
            status,
            error,
            predicted if self._predictor is None else sum_known(self._predicted),
            {**self.machine.settings, **self._origin.settings},
            read_settings=dict if self._resolved is None else self._resolved.read_settings,
        )

    def _build_open(self) -> TurnRecord:
        """Build the record as it is now; called from another thread."""
        seen, meter, attempts = self._seen, self._meter, tuple(self._attempts)
        legs = [attempt.leg for attempt in attempts]
        spent = [(each.joules, each.kind) for each in attempts]
        # Before anything is computed, a model may be loading, whose joules belong to no turn.
        if seen is not None and seen.began and all(each.seen is not seen for each in attempts):
            now_ns = max(self.machine.clock_ns(), seen.started_ns)
            legs.append(seen.build_leg(seen.build_finished(now_ns, "stopped", ""), meter))
            energy = energy_over(compute_spans(legs)[-1].work, meter.energy)
            spent.append((energy.joules, energy.kind))
        return build_open_record(
            self._query,
            replace(self._decision, arm=self._arm),
            self._origin,
            self._created_at,
            [leg.end for leg in legs],
            spent,
            self.machine.settings,
        )

    def _predict_total(self, arm: Arm) -> float | None:
        """Predict the joules of an arm, its load included unless the model is in memory."""
        expected = self._predictor.joules(arm, self._query) if self._predictor else None
        if expected is None:
            return None
        loaded = any(attempt.model == arm.model for attempt in self._attempts)
        return replace(expected, load=0.0).total if loaded else expected.total

    def _predict_agreement(
        self, arms: Sequence[Arm], raw: Sequence[RawConfidence]
    ) -> PredictedAgreement | None:
        return None if self._predictor is None else self._predictor.agreement(arms, raw)

    def _spent_so_far(self) -> _SpentBefore:
        if not self._attempts:
            return _SpentBefore()
        spans = compute_spans([attempt.leg for attempt in self._attempts])
        return _SpentBefore(
            sum_known([attempt.joules for attempt in self._attempts]),
            sum(attempt.end.output_tokens for attempt in self._attempts),
            sum(each.seconds for each in spans),
        )

    def _joules_with_loads(self) -> float | None:
        legs = [attempt.leg for attempt in self._attempts]
        work = energy_of_legs(legs, compute_spans(legs), self.machine.meter.energy).joules
        loads = [
            machine_of(attempt.meter).energy(cut.start_ns, cut.end_ns).joules
            for attempt, leg in zip(self._attempts[1:], legs[1:], strict=True)
            for cut in leg.excluded
        ]
        return sum_known([work, *loads])

    def _find_status(self) -> Status:
        last = self._attempts[-1]
        if self._fault is not None or (last.failure and find_best(self._attempts) is None):
            return "error"
        return "stopped" if last.stopped else choose_hop(self._attempts).end.status


def save_turn(ended: Ended, machine: Machine) -> TurnRecord:
    """Build the record of a turn that has ended, and save it with its loads and unloads."""
    save, turn_id = machine.save, ended.origin.turn_id
    settle_meters([attempt.leg for attempt in ended.attempts])
    if ended.tools is not None:
        machine.meter.settle(max(each.end_ns for each in ended.tools.calls))
    ended = replace(ended, settings={**ended.settings, **ended.read_settings()})
    record = build_turn_record(ended, machine.meter)
    for attempt in ended.attempts:
        energy_of, load = machine_of(attempt.meter).energy, attempt.seen.load
        for unloaded in attempt.seen.unloads:
            save(build_unload_record(unloaded, energy_of, turn_id))
        if load is not None:
            save(build_load_record(load, attempt.sha256, energy_of, turn_id))
    save(record)
    return record


def find_marks(event: Event) -> tuple[tuple[int, Phase], ...]:
    """Return the times at which an event says that the power stepped (ns), and what began there.

    A load, an unload and the encoding of a picture begin and end, the work of an answer begins
    after them, decode begins with the first token, and after the last token the machine rests.
    """
    match event:
        case Loaded() | Unloaded() | PictureEncoded():
            return (event.start_ns, ""), (event.end_ns, "prefill")
        case Prefilled():
            return ((event.end_ns, "decode"),)
        case Finished():
            return ((event.end_ns, "idle"),)
        case _:
            return ()


@dataclass(frozen=True, slots=True)
class _SpentBefore:
    """Spending of the attempts before the running one; joules are None if unmeasured."""

    joules: float | None = 0.0
    tokens: int = 0
    seconds: float = 0.0


class _BudgetMonitor:
    """Budget check of one attempt; ``max_joules`` of its arm applies to this one only.

    ``check_every_ns`` is the least time between two questions to the meter.
    """

    def __init__(self, budget: TurnBudget | None, before: _SpentBefore, arm: Arm) -> None:
        self._budget = budget or TurnBudget()
        self._before = before
        self._arm = arm
        self._next_check_ns = 0
        self.check_every_ns = _CHECK_EVERY_NS
        joules = self._budget.joules
        self._left = None if joules is None else joules - (before.joules or 0.0)

    def limit_arm(self) -> Arm:
        """Return the arm with ``max_joules`` limited to what the turn has left."""
        left, own = self._left, self._arm.max_joules
        if left is None or (own is not None and own <= left):
            return self._arm
        return replace(self._arm, max_joules=max(left, 0.0))

    def find_spent(self, seen: AnswerAccumulator, now_ns: int, energy_of: EnergyOf) -> str | None:
        """Return the name of a budget that is spent by now; None if none is."""
        tokens = self._before.tokens + seen.thinking_tokens + seen.answer_tokens
        seconds = self._before.seconds + max(0, now_ns - seen.started_ns) / 1e9
        spent = _find_spent_budget(self._budget, _SpentBefore(None, tokens, seconds))
        if spent is not None or now_ns < self._next_check_ns or now_ns <= seen.started_ns:
            return spent
        left, own = self._left, self._arm.max_joules
        if left is None and own is None:
            return None
        self._next_check_ns = now_ns + self.check_every_ns
        joules = energy_of(seen.started_ns, now_ns).joules
        if joules is None:
            return None
        if left is not None and joules >= left:
            return f"the turn's budget of {energy_text(self._budget.joules)}"
        if own is not None and joules >= own:
            return f"the energy budget of {energy_text(own)} of arm {self._arm.name}"
        return None


def _find_spent_budget(budget: TurnBudget | None, spent: _SpentBefore) -> str | None:
    """Return the name of the turn's budget that is spent; None if none is."""
    if budget is None:
        return None
    amount = None
    if budget.tokens is not None and spent.tokens >= budget.tokens:
        amount = tokens_text(budget.tokens)
    elif budget.seconds is not None and spent.seconds >= budget.seconds:
        amount = seconds_text(budget.seconds)
    elif budget.joules is not None and spent.joules is not None and spent.joules >= budget.joules:
        amount = energy_text(budget.joules)
    return None if amount is None else f"the turn's budget of {amount}"
