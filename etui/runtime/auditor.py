"""Answer a drawn share of the turns by another arm as well, while nothing else runs.

An audit begins some seconds after the last turn has ended, and ends within one batch when the next
question comes: a load that has begun is finished first. Nothing of it reaches a chat. The turns
that wait for their audit are kept in memory only.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from etui.backends.base import Cancel
from etui.chat import OutputOptions
from etui.energy.types import sum_known
from etui.errors import EtuiError
from etui.log.records import AuditRecord
from etui.multiple_choice import parse_options
from etui.reasoning.extraction import extract
from etui.routing.decision import TurnBudget
from etui.turn.interfaces import Origin
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.chat import Query
    from etui.routing.policy import AuditPlan, Policy
    from etui.runtime._between_turns import BetweenTurns, CallLater
    from etui.runtime.decide import Choice
    from etui.runtime.runtime import Runtime
    from etui.turn.record import LoadRecord, UnloadRecord

_SEED = "etui audit"

MOST_WORDS = 12
"""Words of a free answer up to which another wording counts as another answer."""

_NUMBER = (OutputOptions(), OutputOptions(number=True))
"""Forms of an answer that can be compared; tools, schemas and several answers cannot."""


def is_drawn(turn_id: str, share: float) -> bool:
    """Return whether a turn belongs to an audited share, in [0, 1], by a hash of its id.

    A turn that is drawn at one share is at every larger one.
    """
    digest = hashlib.sha256(f"{_SEED}:{turn_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def can_audit(query: Query, record: TurnRecord, plan: AuditPlan) -> bool:
    """Return whether a turn is one to audit: drawn, answered whole, and not by the audit arm."""
    asked = {record.arm, *(hop.arm for hop in record.hops)}
    return (
        record.status == "complete"
        and bool(record.answer.strip())
        and not record.ended
        and not record.tool_calls
        and plan.arm not in asked
        and query.options in _NUMBER
        and query.last is None
        and is_drawn(record.turn_id, plan.share)
    )


def compare_answers(query: Query, first: str, second: str) -> tuple[bool | None, str]:
    """Return whether two whole answers agree, by the keys that votes are counted by.

    Options are compared by their letter, numbers with their unit, dates, yes or no, and short
    facts without the words of the question. Longer texts are the same only word for word;
    otherwise it is unknown whether they say the same: None, and why.
    """
    options = parse_options(query.text)
    number = query.options.number
    one, other = (extract(text, query.text, options, number=number).key for text in (first, second))
    if one is None or other is None:
        return None, "an answer has nothing to compare"
    most = max(len(one.split()), len(other.split()))
    if one != other and not options and not number and most > MOST_WORDS:
        return None, "the answers are too long to compare"
    return one == other, ""


_log = logging.getLogger("etui.audit")

QUIET_SECONDS = 10.0
"""How long nothing must have run before an audit begins: most next questions come sooner."""

MOST_WAITING = 20
"""Turns that wait for their audit at most; a newer one takes the place of the oldest."""

MOST_TRIES = 3
"""How often an audit that a question has ended is begun again."""

LEAVE_SECONDS = 10.0

MOST_WAIT_SECONDS = 900.0
"""How often an audit that waits for a cheap or clean time looks whether it has come."""

USUAL_SECONDS = 60.0
"""Length of the time that is looked for."""


@dataclass(frozen=True, slots=True)
class _Job:
    query: Query
    record: TurnRecord
    tries: int = 0


class Auditor:
    """Runs the audits of a front end; safe to use from several threads.

    ``busy`` of ``between`` is held during an audit. ``on_audited`` is called with the start and the
    end of each, in nanoseconds.
    """

    def __init__(
        self,
        runtime: Runtime[Any],
        between: BetweenTurns,
        call_later: CallLater,
        on_audited: Callable[[int, int], object],
        clock_ns: Callable[[], int],
    ) -> None:
        self._runtime = runtime
        self._between = between
        self._call_later = call_later
        self._on_audited = on_audited
        self._clock_ns = clock_ns
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque(maxlen=MOST_WAITING)
        self._resting = False
        self._pauses = 0
        self._closed = False
        self._cancel = Cancel()
        self._running = False

    @property
    def running(self) -> bool:
        """Whether an audit runs now."""
        return self._running

    def offer(self, query: Query, record: TurnRecord) -> None:
        """Note a turn that has ended; it is audited later if its policy has it drawn."""
        with suppress(EtuiError):  # a policy that cannot be read any more audits nothing
            plan = self._runtime.load_policy(record.policy).audit if record.policy else None
            if plan is not None and can_audit(query, record, plan):
                with self._changed:
                    self._jobs.append(_Job(query, record))

    def rest(self) -> None:
        """Note that nothing runs any more: audits may begin after a while."""
        with self._changed:
            self._resting = not self._closed
            self._pauses += 1
            pause = self._pauses
            if not self._resting or not self._jobs:
                return
        self._call_later(QUIET_SECONDS, lambda: self._work(pause))

    def interrupt(self) -> None:
        """End a running audit at once and begin none, because there is something to do."""
        with self._changed:
            self._resting = False
            running, cancel = self._running, self._cancel
        if running:
            cancel.cancel()

    def close(self) -> None:
        """End a running audit, and wait until it is saved; none begins any more."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
        self.interrupt()
        with self._changed:
            self._changed.wait_for(lambda: not self._running, LEAVE_SECONDS)

    def _work(self, pause: int) -> None:
        """Run the audits that wait, unless another pause has begun since."""
        with self._changed:
            if pause != self._pauses:
                return
        goes_on = True
        while goes_on:
            with self._changed:
                job = self._jobs[0] if self._jobs else None
            seconds = 0.0 if job is None else self._find_wait(job.record.policy or "")
            if seconds > 0:
                self._call_later(min(seconds, MOST_WAIT_SECONDS), lambda: self._work(pause))
                return
            goes_on = self._work_on_next()

    def _find_wait(self, policy: str) -> float:
        """Return the seconds until the time that a policy wants its audits to begin at.

        0 where no price is known: an audit is rather made than lost with the process.
        """
        with suppress(EtuiError):
            plan = self._runtime.load_policy(policy).audit
            if plan is None or plan.when is None:
                return 0.0
            from etui.energy.tariff import find_window  # not needed for most policies
            from etui.energy.tariff_files import read_tariff

            tariff, now_s = read_tariff(self._runtime.config), time.time()
            known_s = None if tariff is None else tariff.known_until(plan.when, now_s)
            if tariff is not None and known_s is not None:
                until_s = min(known_s, now_s + 86_400)
                window = find_window(tariff.rate, plan.when, USUAL_SECONDS, now_s, until_s)
                return 0.0 if window is None else window.start_s - now_s
        return 0.0

    def _work_on_next(self) -> bool:
        """Run the next audit; return whether another one may follow."""
        busy = self._between.busy
        if not busy.acquire(blocking=False):
            return False  # the end of what runs now calls ``rest`` again
        try:
            with self._changed:
                if not self._resting or not self._jobs:
                    return False
                job = self._jobs.popleft()
                self._cancel = Cancel()
                self._running = True
            try:
                self._audit(job)
            except Exception:  # noqa: BLE001  logged: a fault of an audit ends no front end
                _log.exception("the audit of turn %s failed", job.record.turn_id)
            finally:
                with self._changed:
                    self._running = False
                    self._changed.notify_all()
        finally:
            busy.release()
        return True

    def _audit(self, job: _Job) -> None:
        try:
            policy = self._runtime.load_policy(job.record.policy or "")
            plan = policy.audit
            if plan is None or not can_audit(job.query, job.record, plan):
                return  # the policy was edited since
            left = self._find_joules_left(plan)
            choice = self._choose(policy, plan, job.query, left) if left > 0 else None
        except EtuiError as error:  # no model, no log, a policy that has become invalid
            _log.info("turn %s is not audited: %s", job.record.turn_id, error)
            return
        if choice is None:
            _log.info("turn %s is not audited: the joules of the day", job.record.turn_id)
            return
        if self._cancel.cancelled():  # a question came meanwhile: no load may begin
            self._wait_again(job)
            return
        found, load_joules = self._answer(replace(job.query, chat_id=None, parent_id=None), choice)
        if found is None:
            return
        self._save(job, found, load_joules, policy)
        if found.status == "stopped" and job.tries + 1 < MOST_TRIES:
            self._wait_again(replace(job, tries=job.tries + 1))

    def _wait_again(self, job: _Job) -> None:
        with self._changed:
            if not self._closed and len(self._jobs) < MOST_WAITING:
                self._jobs.append(job)

    def _find_joules_left(self, plan: AuditPlan) -> float:
        """Return what audits may still spend today; nothing once one of them was unmeasured."""
        from etui.log.labels import sum_audits_since
        from etui.log.queries import LogReader

        self._runtime.writer.flush()
        midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        with LogReader(self._runtime.config) as log:
            spent = sum_audits_since(log, midnight)
        return 0.0 if spent.unmeasured_turns else plan.joules_per_day - spent.joules

    def _choose(self, policy: Policy, plan: AuditPlan, query: Query, left: float) -> Choice | None:
        """Choose the audit arm, with what is left of the day as its budget.

        A model of another machine is used only where the policy names it.
        """
        from etui.log.labels import find_largest_load
        from etui.log.queries import LogReader
        from etui.runtime.decide import collect_knowledge, decide_query

        runtime = self._runtime
        runtime.reload_catalogue()
        unstated = {place.model for place in policy.arms[plan.arm].places if not place.stated}
        available = runtime.find_available()

        def may_answer(model: str) -> bool:
            return available(model) and not (model in unstated and runtime.is_remote(model))

        knowledge = collect_knowledge(
            policy, runtime, resident=self._between.resident, available=may_answer
        )
        choice = decide_query(query, policy, knowledge=knowledge, arm=plan.arm)
        model = choice.decision.arm.model
        predicted = knowledge.predictor.joules(choice.decision.arm, query)
        # A budget bounds only the answer, and nothing can end a load. An earlier load of the model
        # says what the next one takes; before its first one it is the reserve of the policy.
        if model not in self._between.residents() and not runtime.is_remote(model):
            with LogReader(runtime.config) as log:
                largest = find_largest_load(log, model)
            left -= plan.reserve_joules if largest is None else largest
        if left <= 0 or (predicted is not None and predicted.answer > left):
            return None
        usual = choice.decision.budget or TurnBudget()
        most = left if usual.joules is None else min(left, usual.joules)
        decision = replace(choice.decision, budget=replace(usual, joules=most))
        return replace(choice, decision=decision)

    def _answer(self, query: Query, choice: Choice) -> tuple[TurnRecord | None, float | None]:
        """Answer the query; return the record, which is no turn of the log, and joules of loads."""
        saved: list[TurnRecord | LoadRecord | UnloadRecord] = []
        between = self._between
        start_ns = self._clock_ns()
        between.end_idle()
        between.begin_turns()
        try:
            origin = Origin(is_logged=False)
            turn = self._runtime.turn(query, choice, self._cancel, origin, save=saved.append)
            with suppress(EtuiError), closing(turn.run()) as events:
                for event in events:
                    between.watch(event)
            records = [each for each in saved if isinstance(each, TurnRecord)]
            if records:
                between.note_record(records[-1])
        finally:
            between.end_turns()
            self._on_audited(start_ns, self._clock_ns())
        loads = [each.joules for each in saved if not isinstance(each, TurnRecord)]
        return next(iter(records), None), sum_known([0.0, *loads])

    def _save(
        self, job: _Job, found: TurnRecord, load_joules: float | None, policy: Policy
    ) -> None:
        from etui.log.queries import LogReader

        taken = (hop for hop in job.record.hops if hop.taken)
        audited = next(taken, job.record)  # of a cascade, the hop that gave the answer
        agrees, why = compare_answers(job.query, job.record.answer, found.answer)
        whole = found.status == "complete"
        record = AuditRecord(
            audit_id=found.turn_id,
            turn_id=job.record.turn_id,
            created_at=found.created_at,
            policy=policy.name,
            arm=found.arm,
            model=found.model,
            model_sha256=found.model_sha256,
            audited_arm=audited.arm,
            audited_model=audited.model,
            status=found.status,
            answer=found.answer,
            agrees=agrees if whole else None,
            why=why if whole else found.status,
            tokens_output=found.tokens.output,
            seconds=found.seconds.total,
            joules=found.energy.joules,
            uncertainty=found.energy.uncertainty,
            kind=found.energy.kind,
            load_joules=load_joules,
        )
        with LogReader(self._runtime.config) as log:
            is_logged = log.find_turn(job.record.turn_id) is not None
        if is_logged:  # its chat may have been deleted meanwhile
            self._runtime.writer.save_audit(record)
