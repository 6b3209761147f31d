"""Turns of many clients: their order, the queue, and how each of them can end."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from etui.arm import VOTE_TEMPERATURE, Arm
from etui.backends.base import Cancel
from etui.chat import Query
from etui.config.backend_spec import BackendSpec
from etui.config.config import Config
from etui.errors import EngineFailed, EtuiError, InvalidFile, QueueFull, Stopped, UsageError
from etui.events import Answer, Loaded, Prefilled, Unloaded
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.spec import STARTER
from etui.routing.signals import HostState
from etui.runtime._between_turns import HOST_SECONDS
from etui.runtime.overrides import Overrides
from etui.runtime.turn_pool import REFRESH_SECONDS
from etui.runtime.turn_request import PooledTurn, TurnFailed, TurnRequest
from etui.turn.events import Decided, TurnFinished
from tests.backends.remote.stub import STALL, Script, running_stub
from tests.runtime.pool.pool_stage import LIMIT_SECONDS, WATTS, Heard, Stage


@pytest.fixture
def stage(here: Config) -> Iterator[Stage]:
    with closing(Stage(here)) as stage:
        yield stage


NOT_BEGUN = "the client left before the answer began"


def test_a_turn_is_decided_answered_and_saved_under_the_id_it_had_from_the_start(
    stage: Stage,
) -> None:
    heard, turn = stage.submit(key="editor", request_id="req-1")
    record = heard.record
    kinds = [type(event) for event in heard.events]
    assert kinds == [Decided, Loaded, Prefilled, Answer, *kinds[4:-1], TurnFinished]
    assert record.turn_id == turn.turn_id
    assert record.status == "complete"
    client = record.client
    assert client is not None
    assert (client.endpoint, client.key, client.request_id, client.queue_seconds) == (
        "/v1/chat/completions",
        "editor",
        "req-1",
        0.0,
    )
    assert record.energy.attribution is not None
    assert record.energy.attribution.method == "exclusive"
    assert record.energy.joules == pytest.approx(WATTS, rel=0.05)
    stage.runtime.writer.flush()
    assert stage.pool.find_turn(turn.turn_id) == stage.saved()[turn.turn_id]
    assert stage.pool.find_turn("last") is None
    assert stage.pool.find_turn(turn.turn_id[:6]) is None


def test_turns_run_one_after_another_in_the_order_of_their_arrival(stage: Stage) -> None:
    stage.host.gate = False
    turns = [stage.submit(f"question {number}")[0] for number in range(5)]
    stage.host.wait_until(lambda: stage.host.running == 1)
    status = stage.pool.status()
    assert (status.running, status.queued, status.parallel) == (1, 4, 1)
    stage.advance(7)
    stage.host.open_gate()
    waits = [heard.record.client for heard in turns]
    assert stage.host.asked == [f"question {number}" for number in range(5)]
    assert stage.host.most == 1
    seconds = [wait.queue_seconds for wait in waits if wait is not None]
    assert seconds == sorted(seconds)
    assert seconds[0] == 0
    assert seconds[1] >= 7
    assert stage.pool.status().finished == 5


def test_several_run_at_a_time_if_they_may(here: Config) -> None:
    with closing(Stage(here, parallel=3)) as stage:
        stage.host.gate = False
        turns = [stage.submit(f"question {number}")[0] for number in range(5)]
        stage.host.wait_until(lambda: stage.host.running == 3)
        assert stage.pool.status().queued == 2
        stage.host.open_gate()
        records = [heard.record for heard in turns]
        assert stage.host.most == 3
        methods = {r.energy.attribution.method for r in records if r.energy.attribution}
        assert methods <= {"exclusive", "shapley", "tokens"}
        assert stage.pool.status().finished == 5


def test_a_full_queue_refuses_and_says_when_to_come_again(here: Config) -> None:
    with closing(Stage(here, queue_limit=1)) as stage:
        stage.host.gate = False
        first = stage.submit("first")[0]
        stage.host.wait_until(lambda: stage.host.running == 1)
        second = stage.submit("second")[0]
        with pytest.raises(QueueFull, match="1 request wait") as caught:
            stage.submit("third")
        assert caught.value.retry_seconds >= 1
        stage.advance(20)
        stage.host.open_gate()
        assert [first.record.status, second.record.status] == ["complete"] * 2
        assert stage.host.asked == ["first", "second"]
    with closing(Stage(here, queue_limit=0)) as stage:  # only what can begin is accepted
        stage.host.gate = False
        heard, _ = stage.submit()
        with pytest.raises(QueueFull):
            stage.submit()
        stage.host.open_gate()
        assert heard.record.status == "complete"


def test_no_key_can_shut_out_another_one(here: Config) -> None:
    with closing(Stage(here, queue_limit=3)) as stage:
        stage.host.gate = False
        many = [stage.submit(f"a{n}", key="a")[0] for n in range(4)]
        stage.host.wait_until(lambda: stage.host.running == 1)
        few = [stage.submit("b0", key="b")[0], stage.submit("c0", key="c")[0]]
        for key in ("a", "b", "c"):
            with pytest.raises(QueueFull, match="5 requests wait"):
                stage.submit("refused", key=key)
        stage.host.open_gate()
        assert [heard.record.status for heard in (*many, *few)] == ["complete"] * 6
        assert stage.host.asked == ["a0", "b0", "c0", "a1", "a2", "a3"]


def test_a_turn_cancelled_in_the_queue_is_saved_as_stopped_and_spent_nothing(stage: Stage) -> None:
    stage.host.gate = False
    running, _ = stage.submit("running")
    stage.host.wait_until(lambda: STARTER in stage.host.loaded)
    heard, turn = stage.submit("left")
    stage.advance(2)
    turn.cancel()
    turn.cancel()
    record = heard.record  # while the other one still runs
    assert stage.pool.status().queued == 0
    assert not running.ended.is_set()
    assert (record.status, record.settings["ended"]) == ("stopped", NOT_BEGUN)
    assert (record.tokens.prompt, record.tokens.output, record.seconds.total) == (0, 0, 0)
    assert record.energy.joules == 0
    assert record.client is not None
    assert record.client.queue_seconds == pytest.approx(2, abs=0.1)
    stage.host.open_gate()
    assert running.record.status == "complete"
    assert stage.host.asked == ["running"]
    assert turn.turn_id in stage.saved()
    assert (stage.pool.status().cancelled, stage.pool.status().finished) == (1, 1)


def test_a_turn_on_another_machine_is_cancelled_there_and_loads_nothing_here(
    here: Config,
) -> None:
    with running_stub() as stub:
        stub.scripts["/v1/chat/completions"] = [Script([STALL])]
        here.models_file.write_text("models: {far: {backend: desk}}")
        desk = {"desk": BackendSpec("desk", stub.url)}
        with closing(Stage(replace(here, backends=desk))) as stage:
            heard, turn = stage.submit(overrides=Overrides(model="far"))
            assert stub.began.wait(LIMIT_SECONDS)
            status = stage.pool.status()
            assert (status.running, status.loading) == (1, None)
            turn.cancel()
            assert heard.record.status == "stopped"
            assert stub.left.wait(LIMIT_SECONDS)
            assert stage.host.asked == []


@pytest.mark.parametrize("closing_", [False, True])
@pytest.mark.parametrize("loading", [True, False])
def test_a_running_turn_that_is_cancelled_ends_with_what_it_has(
    stage: Stage, loading: bool, closing_: bool
) -> None:
    stage.host.load_gate = not loading
    stage.host.gate = False
    heard, turn = stage.submit()
    stage.host.wait_until(lambda: stage.host.running == 1)
    if loading:
        assert stage.pool.status().loading == STARTER
    else:
        stage.host.wait_until(lambda: STARTER in stage.host.loaded)
    threads = [each for each in threading.enumerate() if each.name.startswith("etui-turn")]
    assert threads
    assert all(each.daemon for each in threads), "it does not keep the process alive"
    if closing_:
        stage.pool.close(0)  # it does not end within the grace time
    else:
        turn.cancel()
    assert heard.record.status == "stopped"
    assert stage.pool.status().loading is None
    assert stage.saved()[turn.turn_id].status == "stopped"
    stage.host.open_gate()
    assert closing_ or stage.ask().status == "complete"  # the next one is not cancelled


def test_a_turn_that_hears_no_cancel_ends_with_the_process_and_is_saved(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.host.gate, stage.host.deaf = False, True
    heard, turn = stage.submit()
    stage.host.wait_until(lambda: STARTER in stage.host.loaded)
    monkeypatch.setattr("etui.runtime.turn_pool.STOP_SECONDS", 0.01)
    closer = threading.Thread(target=stage.pool.close, args=(0,))
    closer.start()
    stage.host.wait_until(lambda: stage.host.closed == 1)
    heard.wait()
    closer.join(LIMIT_SECONDS)
    assert not closer.is_alive()
    assert turn.turn_id in stage.saved()


def test_a_turn_cancelled_before_its_answer_begins_asks_the_engine_for_nothing(
    stage: Stage,
) -> None:
    """A client that leaves while its turn is decided: the cancel comes with the first event."""
    turns: list[object] = []
    submitted: list[PooledTurn] = []

    def cancel_at_once(event: object) -> None:
        turns.append(event)
        if isinstance(event, Decided):
            ready.wait(LIMIT_SECONDS)
            submitted[0].cancel()
        if isinstance(event, TurnFinished):
            ended.set()

    ready, ended = threading.Event(), threading.Event()
    submitted.append(stage.submit_to(cancel_at_once))
    ready.set()
    assert ended.wait(LIMIT_SECONDS)
    last = turns[-1]
    assert isinstance(last, TurnFinished)
    assert (last.record.status, last.record.settings["ended"]) == ("stopped", NOT_BEGUN)
    assert stage.host.asked == []


def test_a_cancel_is_passed_on_even_if_it_comes_before_the_answer_listens() -> None:
    """An answer that has not begun yet cannot hear of it."""
    cancel, heard = Cancel(), []
    cancel.cancel()
    cancel.listen(lambda: heard.append("cancel"), lambda: heard.append("spent"))
    assert heard == ["cancel"]
    cancel.end_thinking()
    assert heard == ["cancel", "spent"]
    cancel.begin_answer()
    assert (cancel.cancelled(), cancel.spent()) == (True, False)


def test_a_listener_that_fails_cancels_its_turn_which_is_saved(stage: Stage) -> None:
    stage.host.gate = False
    heard, turn = stage.submit(fails_at=Answer)
    following, _ = stage.submit("next")
    stage.host.wait_until(lambda: len(stage.host.asked) == 2)
    stage.host.open_gate()
    assert following.record.status == "complete"
    assert stage.saved()[turn.turn_id].status == "stopped"
    assert isinstance(heard.events[-1], Answer)  # nothing after it
    assert stage.pool.status().cancelled == 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (EngineFailed("the engine is gone", "ask again"), "the engine is gone"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError"),
    ],
)
def test_an_error_is_the_last_event_after_the_record_and_ends_no_other_turn(
    stage: Stage, fault: Exception, says: str
) -> None:
    stage.host.fault = fault
    heard, turn = stage.submit()
    assert isinstance(heard.error, EtuiError)
    assert says in str(heard.error)
    assert isinstance(heard.events[-1], TurnFailed)
    assert isinstance(heard.events[-2], TurnFinished) or not isinstance(fault, EtuiError)
    assert stage.saved()[turn.turn_id].status == "error"
    stage.host.fault = None
    assert stage.ask().status == "complete"
    assert _count_ends(stage) == (1, 1, 0)


def test_deciding_runs_nothing(stage: Stage) -> None:
    def decide(overrides: Overrides, effort: str | None = None) -> Arm:
        return stage.pool.decide(TurnRequest(Query("2+2?"), overrides, effort=effort)).decision.arm

    arm = decide(Overrides(model=STARTER), "high")
    assert (arm.model, arm.reasoning) == (STARTER, "cot")
    # A temperature of 0 does not make votes alike.
    options = {"temperature": 0.0, "top_p": 0.5, "lenient": True}
    arm = decide(Overrides(model=STARTER, reasoning="vote", **options))
    assert (arm.sampling.temperature, arm.sampling.top_p) == (VOTE_TEMPERATURE, 0.5)
    assert arm.sampling_from.top_p == "option"
    assert stage.host.asked == []
    assert stage.saved() == {}


def test_a_request_without_a_decision_is_reported_and_not_saved(stage: Stage) -> None:
    heard, turn = stage.submit(overrides=Overrides(model="no-such-model"))
    assert isinstance(heard.error, UsageError)
    assert turn.turn_id not in stage.saved()
    assert stage.pool.status().failed == 1


def test_closing_ends_waiting_turns_at_once_and_saves_every_turn(here: Config) -> None:
    stage = Stage(here)
    stage.host.gate = False
    running, first = stage.submit("running")
    stage.host.wait_until(lambda: stage.host.running == 1)
    waiting, second = stage.submit("waiting")
    closer = threading.Thread(target=stage.pool.close, args=(LIMIT_SECONDS,))
    closer.start()
    assert waiting.record.status == "stopped"
    with pytest.raises(Stopped, match="shutting down"):
        stage.submit("late")
    assert not stage.pool.status().accepting
    stage.host.open_gate()
    closer.join(LIMIT_SECONDS)
    assert not closer.is_alive()
    assert running.record.status == "complete"
    assert set(stage.saved()) == {first.turn_id, second.turn_id}
    stage.pool.close(0)  # a second time does nothing
    stage.runtime.close()


def test_idle_time_begins_when_the_last_turn_ends(here: Config) -> None:
    with closing(Stage(here, parallel=2)) as stage:
        stage.host.gate = False
        assert stage.tracker.since_ns is not None
        first, turn = stage.submit("first")
        second, _ = stage.submit("second")
        stage.host.wait_until(lambda: stage.host.running == 2)
        assert stage.tracker.since_ns is None
        turn.cancel()
        first.wait()
        assert stage.tracker.since_ns is None
        stage.host.open_gate()
        second.wait()
        assert stage.wait_idle()
        assert stage.pool.status().residents == (STARTER,)


def test_an_idle_unload_of_the_engine_ends_the_process_and_is_booked(stage: Stage) -> None:
    stage.ask()
    assert stage.wait_idle()
    loads = stage.pool.status().books.loads
    stage.advance(2)
    now = stage.clock()
    assert stage.host.on_unloaded is not None
    stage.host.on_unloaded(Unloaded(STARTER, None, now - 10**9, now, "idle", 1000))
    assert stage.pool.status().residents == ()
    assert stage.host.closed == 1
    after = stage.pool.status().books.loads
    assert loads is not None
    assert after is not None
    assert after - loads == pytest.approx(WATTS, rel=0.05)


@pytest.mark.parametrize("parallel", [1, 2])
def test_the_books_balance(here: Config, parallel: int) -> None:
    with closing(Stage(here, parallel=parallel)) as stage:
        stage.advance(4)
        records = [stage.ask(f"question {number}") for number in range(3)]
        stage.advance(5)
        assert stage.wait_idle()
        books = stage.pool.status().books
        known = [record.energy.joules or 0.0 for record in records]
        assert books.turns == pytest.approx(sum(known), rel=0.01)
        assert books.turns_by_model == {STARTER: books.turns}
        assert books.loads == pytest.approx(WATTS, rel=0.1)  # one second
        assert books.total is not None
        parts = [books.turns, books.loads, books.idle]
        assert books.total == pytest.approx(sum(part or 0.0 for part in parts), abs=1e-9)
        assert books.total == pytest.approx(13 * WATTS, rel=0.05)
        assert books.kind == "counter"
        assert books.uncertainty is not None


def test_a_crash_of_the_engine_is_booked_to_the_turns_that_ran(here: Config) -> None:
    with closing(Stage(here, parallel=2)) as stage:
        stage.ask()
        assert stage.wait_idle()
        stage.host.fault = EngineFailed("the engine is gone", "ask again")
        stage.host.crash_seconds = 3.0
        heard, _ = stage.submit()
        assert isinstance(heard.error, EngineFailed)
        record = heard.record
        assert record.status == "error"
        assert record.energy.joules == pytest.approx(3 * WATTS, rel=0.05)
        assert stage.wait_idle()
        books = stage.pool.status().books
        assert books.turns == pytest.approx(4 * WATTS, rel=0.05)
        stage.host.fault, stage.host.pid = None, 4712
        assert stage.ask().status == "complete"


def test_the_defaults_of_config_yaml_can_be_edited_while_turns_run(stage: Stage) -> None:
    def decide() -> tuple[str | None, str]:
        decision = stage.pool.decide(TurnRequest(Query("hello"), Overrides())).decision
        return decision.policy, decision.arm.model

    assert decide()[0] == "balanced"
    stage.config.config_file.write_text("policy: frugal\n")
    assert decide()[0] == "frugal"
    stage.config.config_file.write_text(f"model: {STARTER}\n")
    assert decide() == (None, STARTER)
    stage.config.config_file.write_text("polcy: frugal\n")
    with pytest.raises(InvalidFile, match=r"config\.yaml:1:1"):
        decide()
    assert stage.ask().status == "complete"  # it names its model


def test_a_policy_that_is_edited_is_seen_by_the_next_turn(stage: Stage) -> None:
    policy = stage.config.policies_dir / "mine.yaml"
    policy.parent.mkdir()
    text = f"version: 1\narms: {{ARM: {{model: {STARTER}}}}}\nrules: [{{name: all, use: ARM}}]\n"
    for arm in ("one", "two"):
        policy.write_text(text.replace("ARM", arm))
        assert stage.ask(overrides=Overrides(policy="mine")).arm == arm


def test_the_machine_is_read_once_a_second_and_its_power_each_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from etui.runtime import host

    reads: list[object] = []

    def read_host(config: Config, **_: object) -> HostState:
        reads.append(config)
        return HostState(battery_percent=float(len(reads)))

    monkeypatch.setattr(host, "read_host", read_host)
    between = stage.pool._between
    states = [between.read_host() for _ in range(3)]
    assert [state.battery_percent for state in states] == [1, 1, 1]
    assert states[0].watts == pytest.approx(WATTS, rel=0.05)
    assert states[0].resident is None
    stage.ask()
    assert stage.wait_idle()
    assert between.read_host().resident == STARTER
    stage.advance(HOST_SECONDS)
    assert between.read_host().battery_percent == len(reads) > 1


def test_facts_of_the_log_are_renewed_once_after_some_turns(stage: Stage) -> None:
    def is_known() -> bool:
        return stage.runtime.find_token_cost(STARTER) is not None

    assert not is_known()
    for number in range(3):
        stage.ask(f"question {number}")
    refreshes = [call for seconds, call in stage.later if seconds == REFRESH_SECONDS]
    assert len(refreshes) == 1
    assert not is_known()  # no request waits for the log
    refreshes[0]()
    assert stage.pool._jobs.wait(LIMIT_SECONDS)
    assert is_known()
    stage.ask()
    assert [seconds for seconds, _ in stage.later].count(REFRESH_SECONDS) == 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parallel", [1, 3])
def test_whatever_is_cancelled_or_fails_each_turn_ends_once_and_is_saved(
    here: Config, parallel: int, seed: int
) -> None:
    rng = random.Random(seed)
    with closing(Stage(here, parallel=parallel, queue_limit=1000)) as stage:
        turns: list[tuple[Heard, PooledTurn]] = []
        for number in range(40):
            listener = {"fails_at": Answer} if rng.random() < 0.1 else {}
            turns.append(stage.submit(f"question {number}", key=rng.choice("ab"), **listener))
            if rng.random() < 0.3:
                rng.choice(turns)[1].cancel()
            if rng.random() < 0.1:
                stage.host.fault = EngineFailed("failed") if stage.host.fault is None else None
        stage.host.fault = None
        stage.wait_for_ends(len(turns))
        assert stage.wait_idle()
        saved = stage.saved()
        assert set(saved) == {turn.turn_id for _, turn in turns}
        statuses = [record.status for record in saved.values()]
        ends = [statuses.count(name) for name in ("complete", "error", "stopped")]
        assert ends == list(_count_ends(stage))
        assert stage.host.most <= parallel
        for heard, _ in turns:
            assert sum(isinstance(event, TurnFinished) for event in heard.events) <= 1
        books = stage.pool.status().books
        joules = sum(record.energy.joules or 0.0 for record in saved.values())
        assert books.turns == pytest.approx(joules, rel=0.02, abs=1)


def _count_ends(stage: Stage) -> tuple[int, int, int]:
    status = stage.pool.status()
    return status.finished, status.failed, status.cancelled


def test_threads_end_with_the_work(stage: Stage) -> None:
    others = threading.enumerate()
    for number in range(5):
        stage.ask(f"question {number}")
    stage.pool.close(LIMIT_SECONDS)
    threads = [each for each in threading.enumerate() if each not in others]
    for thread in threads:
        if thread.name not in ("etui-log", "etui-open"):  # until the log is closed
            thread.join(LIMIT_SECONDS)
            assert not thread.is_alive(), thread.name


def test_a_running_turn_gets_nothing_of_the_pause_before_it(here: Config) -> None:
    with closing(Stage(here)) as stage:
        stage.ask()
        assert stage.wait_idle()
        before = stage.pool.status().books
        stage.advance(100)
        stage.host.gate = False
        heard, _ = stage.submit()
        stage.host.wait_until(lambda: stage.host.running == 1)
        heard.wait_for(Answer)
        stage.advance(2)
        books = stage.pool.status().books
        assert books.turns == pytest.approx((before.turns or 0.0) + 2 * WATTS, rel=0.05)
        assert books.idle == pytest.approx((before.idle or 0.0) + 100 * WATTS, rel=0.05)
        stage.host.open_gate()
        assert heard.record.status == "complete"


def test_a_load_that_runs_is_no_idle_time(here: Config) -> None:
    with closing(Stage(here)) as stage:
        stage.advance(10)
        before = stage.pool.status().books
        stage.host.load_gate = False
        heard, _ = stage.submit()
        stage.host.wait_until(lambda: stage.host.running == 1)
        stage.advance(5)
        held = stage.pool.status().books
        assert held.total == pytest.approx(before.total, rel=0.01)
        assert (held.turns, held.loads) == (0, 0)
        stage.host.open_gate()
        assert heard.record.status == "complete"
        books = stage.pool.status().books
        assert books.loads == pytest.approx(6 * WATTS, rel=0.05)
        assert books.idle == pytest.approx(before.idle, rel=0.01)


def test_an_answer_that_fails_is_booked_to_its_turn(here: Config) -> None:
    with closing(Stage(here)) as stage:
        stage.ask()
        stage.host.fault = EngineFailed("the batch failed", "ask again")
        stage.host.fault_seconds = 3.0
        heard, _ = stage.submit()
        assert isinstance(heard.error, EngineFailed)
        spent = heard.record.energy.joules
        assert spent == pytest.approx(3 * WATTS, rel=0.05)
        stage.wait_for_ends(2)
        assert stage.pool.status().books.turns == pytest.approx(4 * WATTS, rel=0.05)


def test_a_lock_that_has_passed_is_no_failure_of_the_pool(
    here: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def open_writer(config: Config) -> TurnWriter:
        return TurnWriter(config, said.append, busy_seconds=0.01)

    monkeypatch.setattr("tests.runtime.pool.pool_stage.TurnWriter", open_writer)
    stage = Stage(here, parallel=4)
    stage.runtime.writer.ready()
    with closing(sqlite3.connect(here.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        turns = [stage.submit(f"question {number}") for number in range(3)]
        assert {heard.record.status for heard, _ in turns} == {"complete"}
        stage.pool._refresh._run_later()  # as after REFRESH_SECONDS
        assert stage.pool.status().unsaved >= 3
        other.execute("ROLLBACK")
    stage.close()
    assert stage.pool.status().unsaved == 0
    assert {turn.turn_id for _, turn in turns} <= set(stage.saved())
    assert ["locked" in text for text in said] == [True, False]


def test_closing_writes_every_turn_that_a_client_has_seen(here: Config) -> None:
    stage = Stage(here, parallel=8, queue_limit=60)
    turns = [stage.submit(f"question {number}") for number in range(50)]
    for heard, _ in turns:
        heard.wait()
    stage.close()
    with LogReader(here) as log:
        assert {turn.turn_id for _, turn in turns} == {turn.turn_id for turn in log.turns()}
