"""Audits of the app: when they run, what they may spend, and how they end for a question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.backends.base import AnswerRequest, Cancel
from etui.chat import Message, OutputOptions, Query
from etui.config.config import Config
from etui.config.schema import TariffEntry
from etui.errors import ModelUnavailable
from etui.events import Event, Loaded, Residence, Unloaded
from etui.log.labels import read_audits
from etui.log.queries import LogReader
from etui.log.records import AuditRecord
from etui.models.spec import STARTER
from etui.routing.policy import AuditPlan, Place
from etui.runtime.auditor import QUIET_SECONDS, can_audit, compare_answers, is_drawn
from etui.runtime.routes import Route
from etui.turn.record import TurnRecord
from tests.runtime.app_stage import SteadyApp, finished
from tests.support.devices import FakeClock

CHOICE = "Which one?\nA) red\nB) blue\nC) green"


@given(st.text(min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_turn_that_is_drawn_at_a_share_is_drawn_at_a_larger_one(
    turn_id: str, one: float, other: float
) -> None:
    small, large = sorted((one, other))
    assert not is_drawn(turn_id, small) or is_drawn(turn_id, large)
    assert is_drawn(turn_id, 1)
    assert not is_drawn(turn_id, 0)


def test_the_share_of_drawn_turns_is_the_one_asked_for() -> None:
    drawn = sum(is_drawn(f"turn{number}", 0.05) for number in range(20_000))
    assert 0.045 < drawn / 20_000 < 0.055


@pytest.mark.parametrize(
    ("question", "one", "other", "agrees"),
    [
        (CHOICE, "B", "The answer is (B).", True),
        (CHOICE, "B", "C) green", False),
        (CHOICE, "B", "I do not know", None),
        ("What is 3*4?", "12", "It is 12.0", True),
        ("What is 3*4?", "12", "13", False),
        ("What is the capital of France?", "Paris", "The capital of France is Paris.", True),
        ("What is the capital of France?", "Paris", "Lyon", False),
        ("Is water wet?", "Yes.", "Yes, it is.", True),
        ("Write a poem", "the sea " * 20, "the sky " * 20, None),
        ("Write a poem", "the sea " * 20, "The sea " * 20, True),
        ("What is 3*4?", "", "12", None),
    ],
)
def test_answers_are_compared_by_what_they_mean(
    question: str, one: str, other: str, agrees: bool | None
) -> None:
    for first, second in ((one, other), (other, one)):
        found, why = compare_answers(Query(question), first, second)
        assert found is agrees
        assert bool(why) == (agrees is None)


def test_only_whole_answers_of_other_arms_are_audited(
    make_turn: Callable[..., TurnRecord],
) -> None:
    plan, query = AuditPlan(1.0, "large", 100.0, 50.0), Query("What is a joule?")
    turn = make_turn(1, arm="quick", status="complete")
    assert can_audit(query, turn, plan)
    assert not can_audit(query, turn, replace(plan, share=0.0))
    assert not can_audit(query, turn, replace(plan, arm="quick"))
    assert not can_audit(query, replace(turn, status="truncated"), plan)
    assert not can_audit(query, replace(turn, answer=" "), plan)
    assert not can_audit(query, replace(turn, tool_calls="[{}]"), plan)
    assert not can_audit(replace(query, options=OutputOptions(json_schema="{}")), turn, plan)
    assert can_audit(replace(query, options=OutputOptions(number=True)), turn, plan)


WATTS = 50.0

POLICY = f"""
version: 1
arms:
  quick: {{model: {STARTER}, max_tokens: 20}}
  large: {{model: {STARTER}, max_tokens: 90}}
  remote: {{model: {STARTER}, max_tokens: 91}}
rules:
  - {{name: all, use: quick}}
audit: AUDIT
"""


class Engine:
    """Answers for a second of the clock; ``large`` waits for a cancel if ``slow`` is set."""

    def __init__(self, clock: FakeClock, advance: Callable[[float], None]) -> None:
        self.clock = clock
        self.advance = advance
        self.asked: list[tuple[int, tuple[Message, ...]]] = []
        self.replies = {20: "Four.", 90: "Four."}
        self.slow = False
        self.loads = False
        self.began = threading.Event()
        self.cancelled = threading.Event()
        self.on_unloaded: Callable[[Unloaded], None] = lambda _event: None
        self.pid: int | None = 4711
        self.long_step = None

    def answer(self, request: AnswerRequest, cancel: Cancel | None = None) -> Iterator[Event]:
        assert cancel is not None
        cancel.listen(self.cancelled.set)
        limit = request.arm.max_tokens
        self.asked.append((limit, request.messages))
        start = self.clock()
        if limit == 90 and self.loads:
            self.advance(2.0)
            yield Loaded(STARTER, start, self.clock(), 0, 98_000_000)
            start = self.clock()
        self.advance(1.0)
        status = "complete"
        if limit == 90 and self.slow:
            self.began.set()
            assert self.cancelled.wait(30)
            status = "stopped"
        yield finished(start, self.clock(), self.replies[limit], status)

    def load(self, spec: object, path: Path, draft: object = None) -> Iterator[Residence]:
        return iter(())

    def unload(self, model: str) -> Iterator[Residence]:
        return iter(())

    def keep_warm(self, model: str, seconds: float | None) -> None: ...

    def close(self) -> None:
        self.pid = None


ASKED, MINE = Query("What is 2+2?"), Route("mine")


class Machine(SteadyApp):
    """A chat on a machine of a constant power."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, WATTS, Engine)
        self.engine: Engine = self.child

    def ask(self, query: Query = ASKED, route: Route = MINE) -> TurnRecord:
        return super().ask(query, route)

    def audits(self) -> list[AuditRecord]:
        found: list[AuditRecord] = self.read(read_audits)
        return found


@pytest.fixture
def open_machine(here: Config) -> Callable[[str], Machine]:
    def open_(audit: str) -> Machine:
        here.policies_dir.mkdir(parents=True, exist_ok=True)
        text = POLICY.replace("AUDIT", audit)
        (here.policies_dir / "mine.yaml").write_text(text, encoding="utf-8")
        return Machine(here)

    return open_


EVERY = "{share: 1, arm: large, joules: {day: 2000}}"


def test_a_turn_is_audited_in_idle_time_with_joules_of_its_own(
    open_machine: Callable[[str], Machine],
) -> None:
    with closing(open_machine(EVERY)) as machine:
        machine.engine.loads = True
        query = Query("What is 2+2?", "Be brief.", (Message("user", "Hi"),), "chat")
        turn = machine.ask(query)
        assert machine.audits() == []
        assert [seconds for seconds, _ in machine.timers] == [QUIET_SECONDS]
        machine.ring()
        (audit,) = machine.audits()
        with LogReader(machine.config) as log:
            assert [found.turn_id for found in log.turns()] == [turn.turn_id]
            assert log.loads() == []
    assert (audit.turn_id, audit.arm, audit.audited_arm) == (turn.turn_id, "large", "quick")
    assert audit.agrees is True
    assert audit.joules == pytest.approx(WATTS, rel=0.2)
    assert audit.load_joules == pytest.approx(2 * WATTS, rel=0.2)
    first, second = (messages for _, messages in machine.engine.asked)
    assert [message.content for message in second] == [message.content for message in first]
    assert second[0].content == "Be brief."


def test_audits_wait_for_the_cheap_hour_of_the_tariff(
    here: Config, open_machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 11, 24, 12, 50, tzinfo=UTC).timestamp()
    monkeypatch.setattr("etui.runtime.auditor.time.time", lambda: now)
    dear, cheap = (
        replace(here, price_per_kwh=0.3, tariff=TariffEntry(zone="UTC", times={"13:00-14:00": at}))
        for at in (1.0, 0.1)
    )
    open_machine("{share: 1, arm: large, joules: {day: 2000}, when: cheap}")
    for config, waits in ((here, []), (dear, []), (cheap, [600.0])):
        with closing(Machine(config)) as machine:
            before = len(machine.audits())
            machine.ask()
            machine.ring()
            assert [seconds for seconds, _ in machine.timers] == waits
            assert len(machine.audits()) - before == (not waits)
    with closing(Machine(cheap)) as machine:
        machine.ask()
        machine.ring()
        now += 600
        machine.ring()
        assert machine.timers == []
        assert len(machine.audits()) == 3


def test_another_answer_differs_and_a_long_one_is_not_compared(
    open_machine: Callable[[str], Machine],
) -> None:
    with closing(open_machine(EVERY)) as machine:
        machine.engine.replies[90] = "Five."
        machine.ask()
        machine.ring()
        machine.engine.replies |= {20: "word " * 40, 90: "another " * 40}
        machine.ask(Query("Write about the sea"))
        machine.ring()
        found = [audit.agrees for audit in machine.audits()]
    assert found == [False, None]


def test_a_question_ends_a_running_audit_and_it_is_tried_again(
    open_machine: Callable[[str], Machine],
) -> None:
    with closing(open_machine(EVERY)) as machine:
        machine.engine.slow = True
        first = machine.ask()
        thread = threading.Thread(target=machine.ring)
        thread.start()
        assert machine.engine.began.wait(30)
        assert not machine.service.is_busy()
        machine.ask(Query("And 2+3?"))
        thread.join(30)
        (stopped,) = machine.audits()
        assert (stopped.turn_id, stopped.status, stopped.agrees) == (
            first.turn_id, "stopped", None,
        )  # fmt: skip
        assert stopped.joules is not None
        machine.engine.slow = False
        machine.ring()
        assert sum(audit.agrees is True for audit in machine.audits()) == 2


def test_a_question_that_comes_before_the_engine_is_asked_ends_the_audit(
    open_machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_machine(EVERY)) as machine:
        auditor = machine.service._auditor
        choose = auditor._choose

        def interrupted(*given: Any) -> Any:
            auditor.interrupt()
            return choose(*given)

        machine.ask()
        monkeypatch.setattr(auditor, "_choose", interrupted)
        asked = len(machine.engine.asked)
        machine.ring()
        assert len(machine.engine.asked) == asked, "no load and no prompt for it"
        assert not machine.audits()
        monkeypatch.undo()
        auditor.rest()
        machine.ring()
        assert [audit.agrees for audit in machine.audits()] == [True]


def test_a_question_that_comes_sooner_is_answered_first(
    open_machine: Callable[[str], Machine],
) -> None:
    with closing(open_machine(EVERY)) as machine:
        machine.ask()
        (early,) = machine.timers
        machine.ask(Query("And 2+3?"))
        early[1]()  # the pause of the first turn is over, and another one has begun
        assert machine.audits() == []
        machine.ring()
        assert len(machine.audits()) == 2


def test_the_joules_of_a_day_bound_all_audits(open_machine: Callable[[str], Machine]) -> None:
    with closing(open_machine("{share: 1, arm: large, joules: {day: 60}}")) as machine:
        for number in range(4):
            machine.ask(Query(f"What is 2+{number}?"))
            machine.ring()
        audits = machine.audits()
    assert 1 <= len(audits) < 4
    assert sum(audit.joules or 0 for audit in audits) < 60 + WATTS


def ask_often(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> list[AuditRecord]:
    """Ask six questions; the model of each audit is loaded for it, which takes 100 J."""
    monkeypatch.setattr(machine.service._auditor._between, "residents", lambda: ())
    machine.engine.loads = True
    for number in range(6):
        machine.ask(Query(f"What is 2+{number}?"))
        machine.ring()
    return machine.audits()


@pytest.mark.parametrize(
    ("joules", "most"),
    [
        ("{day: 250}", 1),  # 150 J for the first; 100 J are no more than the next load takes
        ("{day: 250, reserve: 249}", 1),
        ("{day: 390}", 2),
        ("{day: 850}", 5),
    ],
)
def test_the_load_of_an_audit_is_part_of_the_day(
    open_machine: Callable[[str], Machine],
    monkeypatch: pytest.MonkeyPatch,
    joules: str,
    most: int,
) -> None:
    day = float(joules.removeprefix("{day: ").partition("}")[0].partition(",")[0])
    with closing(open_machine(f"{{share: 1, arm: large, joules: {joules}}}")) as machine:
        audits = ask_often(machine, monkeypatch)
    assert [audit.load_joules for audit in audits] == [pytest.approx(100, rel=0.1)] * most
    assert sum((audit.joules or 0) + (audit.load_joules or 0) for audit in audits) <= day


def test_a_load_that_was_never_measured_needs_the_reserve(
    open_machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_machine("{share: 1, arm: large, joules: {day: 400, reserve: 390}}")) as first:
        first.engine.loads = False
        first.ask()
        first.ring()  # 50 J of an answer without a load
        assert len(first.audits()) == 1
        assert len(ask_often(first, monkeypatch)) == 1, "350 J are left, and 390 J are to be kept"


@pytest.mark.parametrize("audit", ["off", "{share: 1, arm: quick, joules: {day: 2000}}"])
def test_nothing_is_audited_where_it_would_say_nothing(
    open_machine: Callable[[str], Machine], audit: str
) -> None:
    with closing(open_machine(audit)) as machine:
        machine.ask()
        machine.ring()
        assert machine.audits() == []


def test_a_named_model_has_no_policy_and_no_audit(open_machine: Callable[[str], Machine]) -> None:
    with closing(open_machine(EVERY)) as machine:
        machine.engine.replies |= dict.fromkeys(range(1, 5000), "Four.")
        machine.ask(route=Route("mine", STARTER))
        machine.ring()
        assert machine.audits() == []


def test_an_arm_without_a_model_here_audits_nothing(
    here: Config, open_machine: Callable[[str], Machine]
) -> None:
    with closing(open_machine(EVERY)) as machine:
        text = (here.policies_dir / "mine.yaml").read_text(encoding="utf-8")
        text = text.replace(f"large: {{model: {STARTER}", "large: {model: qwen3-8b")
        (here.policies_dir / "mine.yaml").write_text(text, encoding="utf-8")
        machine.ask()
        machine.ring()
        assert machine.audits() == []
        assert machine.ask().answer == "Four."


def test_a_policy_that_was_edited_since_decides(
    open_machine: Callable[[str], Machine], here: Config
) -> None:
    with closing(open_machine(EVERY)) as machine:
        machine.ask()
        file = here.policies_dir / "mine.yaml"
        file.write_text(POLICY.replace("AUDIT", EVERY.replace("large", "quick")), encoding="utf-8")
        asked = len(machine.engine.asked)
        machine.ring()
        assert len(machine.engine.asked) == asked, "quick has answered the turn itself"
        assert not machine.audits()


def test_closing_ends_an_audit(open_machine: Callable[[str], Machine]) -> None:
    machine = open_machine(EVERY)
    machine.engine.slow = True
    machine.ask()
    thread = threading.Thread(target=machine.ring)
    thread.start()
    assert machine.engine.began.wait(30)
    machine.close()
    thread.join(30)
    assert not thread.is_alive()
    with LogReader(machine.config) as log:
        assert [audit.status for audit in read_audits(log)] == ["stopped"]


def test_another_place_of_the_model_is_asked_only_if_the_policy_names_it(
    here: Config, open_machine: Callable[[str], Machine]
) -> None:
    with closing(open_machine(EVERY)) as machine:
        runtime = machine.service._runtime
        record = machine.ask()
        policy = runtime.load_policy("mine")
        plan = policy.arms["large"]
        places = (
            Place("far-away", "absent", "desk", stated=False),
            Place("far-away", "absent", "desk", stated=True),
        )
        asked = []
        for place in places:
            arm = replace(plan.arm, model="far-away")
            moved = replace(plan, models=("far-away",), places=(place,), arm=arm)
            arms = {**policy.arms, "large": moved}
            runtime.load_policy = lambda _name, arms=arms: replace(policy, arms=arms)  # type: ignore[method-assign]
            runtime.find_available = lambda: lambda _model: True  # type: ignore[method-assign]
            runtime.is_remote = lambda model: model == "far-away"  # type: ignore[method-assign]
            assert policy.audit is not None
            try:
                choice = machine.service._auditor._choose(
                    runtime.load_policy("mine"), policy.audit, Query(record.query), 100.0
                )
                asked.append(choice is not None)
            except ModelUnavailable:
                asked.append(False)
    assert asked == [False, True]
