"""run_turn on shared batches, on several machines, and for clients of a server."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from benchmarks.attribution import CurveMeter
from etui.arm import Arm
from etui.chat import Message, OutputOptions, Query
from etui.energy.types import Energy
from etui.errors import EngineFailed, ModelUnavailable
from etui.events import Answer, Loaded, ToolCall
from etui.routing.decision import Decision, TurnBudget
from etui.turn.accounting import power_curve
from etui.turn.interfaces import Meter, ResolvedModel
from etui.turn.record import Attribution, ClientRecord, TurnRecord
from etui.turn.shared_meter import BatchLedger
from tests.turn.play import run_turn
from tests.turn.scripted import EVENTS, Meter10W, Saved, Scripted, finished, turn
from tests.turn.sharing import (
    COST,
    Client,
    S,
    any_curve,
    batch,
    ledger_of,
    meter_of,
    total,
    watts,
)
from tests.turn.stage import LARGE, QUICK, THINK, Known, Part, Stage, decided, play

CLIENT = ClientRecord("/v1/chat/completions", "laptop", "req-1", 0.25)


def at(seconds: float) -> int:
    return round(seconds * S)


def shared_ledger() -> BatchLedger:
    """Two requests: 1 from 1 s to 4 s, 2 from 2 s to 5 s; loads and pauses around them."""
    return ledger_of(
        batch(1, 2, (1, 6, 0)),
        batch(2, 3, (1, 0, 1), (2, 6, 0)),
        batch(3, 4, (1, 0, 1), (2, 0, 1)),
        batch(4, 5, (2, 0, 1)),
    )


def record_of(saved: Saved) -> TurnRecord:
    (record,) = saved.turns
    return record


def test_two_turns_and_the_idle_time_around_them_are_the_whole_machine() -> None:
    machine, ledger = CurveMeter(any_curve()), shared_ledger()
    first = record_of(Client(1, at(1), at(2), at(4)).play(meter_of(machine, ledger, 1)))
    # The second joined a moment after the batch before it had ended, and left a moment later.
    late = Client(2, at(2) + 400, at(3) + 300, at(5) + 900)
    second = record_of(late.play(meter_of(machine, ledger, 2)))
    idle = machine.energy(0, at(1)).joules, machine.energy(at(5), at(8)).joules
    whole = machine.energy(0, at(8)).joules
    parts = total([first.energy.joules, second.energy.joules, *idle])
    assert parts == pytest.approx(whole, rel=1e-12)
    for record in (first, second):
        phases = record.energy.phases
        assert total([phases["prefill"], phases["decode"]]) == pytest.approx(
            record.energy.joules, rel=1e-12
        )
        assert math.fsum(record.energy.channels.values()) == pytest.approx(record.energy.joules)
        assert len(record.power_watts) > 0
        assert record.to_json()["energy"]["attribution"]["method"] == "shapley"
    found = second.energy.attribution
    assert found is not None
    assert (found.batches, found.mean_requests) == (3, pytest.approx(5 / 3))
    assert found.share == pytest.approx((second.energy.joules or 0.0) / (found.batch_joules or 1.0))


def test_a_failed_turn_pays_for_its_span_of_the_crash() -> None:
    machine, ledger = watts((10, 100.0)), shared_ledger()
    ledger.add(batch(5, 7, (2, 0, 0), (3, 0, 0)))  # a crash
    client = Client(2, at(2), at(3), at(5), EngineFailed("gone"), clock_ns=at(7))
    record = record_of(client.play(meter_of(machine, ledger, 2)))
    before = record_of(Client(2, at(2), at(3), at(5)).play(meter_of(machine, shared_ledger(), 2)))
    assert record.status == "error"
    assert record.energy.joules == pytest.approx((before.energy.joules or 0.0) + 100)


def test_a_turn_that_left_in_a_batch_pays_its_part_of_all_of_it() -> None:
    machine, ledger = watts((10, 100.0)), shared_ledger()
    whole = record_of(Client(1, at(1), at(2), at(4)).play(meter_of(machine, ledger, 1)))
    left = record_of(Client(1, at(1), at(2), at(3.2)).play(meter_of(machine, ledger, 1)))
    assert left.energy.joules == pytest.approx(whole.energy.joules)
    assert machine.settled_ns[-1] == at(4)


def test_a_load_before_shared_batches_costs_what_the_machine_drew() -> None:
    machine, ledger = watts((10, 100.0)), ledger_of(batch(3, 4, (1, 6, 0)), batch(4, 5, (1, 0, 3)))
    client = Client(1, at(3), at(4), at(5))
    events = [Loaded("m", at(1), at(3), 0, 1000), *client.events()]
    saved = Saved()
    list(turn(Scripted(events), meter_of(machine, ledger, 1), saved))
    (load,) = saved.loads
    assert load.joules == pytest.approx(200)
    assert record_of(saved).energy.phases["load"] == pytest.approx(200)
    assert record_of(saved).energy.joules == pytest.approx(200)


def test_an_id_a_client_and_the_form_of_the_answer_reach_where_they_belong() -> None:
    client = Client(1, at(1), at(2), at(4))
    options = OutputOptions(stop=("END",), top_logprobs=2)
    query = Query("2+2?", options=options, owner="laptop", last=Message("assistant", "It is"))
    record = record_of(client.play(Meter10W(), query=query, turn_id="fixed-id", client=CLIENT))
    (request,) = client.requests
    assert (request.options, request.owner) == (options, "laptop")
    assert request.messages[-1] == Message("assistant", "It is")
    assert (record.turn_id, record.client) == ("fixed-id", CLIENT)
    assert record.to_json()["client"] == {
        "endpoint": "/v1/chat/completions",
        "key": "laptop",
        "request_id": "req-1",
        "queue_seconds": 0.25,
    }


def test_a_turn_of_another_front_end_was_alone_and_has_no_client() -> None:
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished()]), saved=saved))
    document = record_of(saved).to_json()
    assert document["energy"]["attribution"] == {
        "method": "exclusive",
        "share": 1.0,
        "batch_joules": pytest.approx(50),
        "spread": 0.0,
        "batches": None,
        "mean_requests": 1.0,
    }
    assert not {"client", "tool_calls"} & set(document)


def test_the_attribution_of_an_unmeasured_turn_has_no_joules() -> None:
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished()]), Meter10W(joules_known=False), saved))
    assert record_of(saved).energy.attribution == Attribution("exclusive", 1.0, None, None)


CALLS = [
    ToolCall(at(12), 0, "call_1", "weather", ""),
    ToolCall(at(12), 0, "call_1", "", '{"city": '),
    ToolCall(at(13), 1, "call_2", "time", "{"),
    ToolCall(at(13), 0, "call_1", "", '"Köln"}'),
]


def test_an_interrupted_turn_keeps_the_tool_calls_so_far() -> None:
    saved = Saved()
    running = turn(Scripted([*EVENTS[:2], *CALLS, Answer(at(14), "", 1)]), saved=saved)
    for event in running:
        if isinstance(event, Answer):
            break
    running.close()
    record = record_of(saved)
    assert record.status == "stopped"
    called = [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Köln"}'},
        },
        {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{"}},
    ]
    assert json.loads(record.tool_calls) == called
    assert record.to_json()["tool_calls"] == called


def test_a_tool_call_without_text_is_an_answer() -> None:
    calls = json.dumps([{"id": "c", "type": "function", "function": {"name": "f"}}])
    saved = Saved()
    decision = decided(QUICK, LARGE, no_answer="keep")
    done = finished(answer="", tool_calls=calls, confidence=0.9, margin=None)
    list(turn(Scripted([*EVENTS[:2], done]), saved=saved, decision=decision))
    record = record_of(saved)
    assert (record.arm, record.status, len(record.hops)) == ("quick", "complete", 1)
    assert record.hops[0].accepted
    assert record.tool_calls == calls


# Hops on different machines


@dataclass
class Elsewhere(Meter10W):
    """A machine of 100 W that counts how often it is asked, and when."""

    flags: tuple[str, ...] = ()
    known: bool = True
    asked: list[tuple[int, int]] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    marked: list[int] = field(default_factory=list)

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        self.asked.append((start_ns, end_ns))
        energy = Meter10W(self.known).energy(start_ns, end_ns)
        if energy.joules is None:
            return energy
        channels = tuple(
            replace(part, id="desk/gpu:0", joules=10 * part.joules) for part in energy.channels
        )
        return replace(
            energy,
            joules=10 * energy.joules,
            mean_watts=100.0,
            idle_watts=40.0,
            uncertainty=3.0,
            channels=channels,
            flags=self.flags,
        )

    def mark(self, t_ns: int, phase: str = "") -> None:
        self.marked.append(t_ns)


@dataclass
class TwoMachines(Stage):
    """The model ``big`` is served by another machine."""

    remote: Meter = field(default_factory=Elsewhere)

    def serve(self, arm: Arm) -> ResolvedModel:
        served = super().serve(arm)
        return replace(served, meter=self.remote, path=None) if arm.model == "big" else served


def play_two(remote: Meter, meter: Meter | None = None, **parts: Part):
    stage = TwoMachines({"quick": Part(confidence=0.2), "large": Part(confidence=0.9), **parts})
    stage.remote = remote
    return play(stage, decided(QUICK, LARGE), meter=meter)


def test_each_hop_is_measured_by_the_machine_that_answered_it() -> None:
    here, remote = Meter10W(), Elsewhere()
    played = play_two(remote, here)
    record = played.record
    assert played.error is None
    quick, large = record.hops
    # 3 s here; 0.5 s for the next arm and 3 s there.
    assert (quick.joules, large.joules) == (pytest.approx(30), pytest.approx(350))
    assert record.energy.joules == pytest.approx(380)
    assert record.energy.phases == pytest.approx({"load": 0, "prefill": 160, "decode": 220})
    assert record.energy.uncertainty == pytest.approx(0.5 + 3.0)
    assert record.energy.net_joules == pytest.approx(380 - 4 * 3 - 40 * 3.5)
    assert record.energy.channels == pytest.approx({"gpu:0": 30, "desk/gpu:0": 350})
    assert record.energy.attribution == Attribution("exclusive", 1.0, record.energy.joules, 0.0)
    assert set(record.power_watts) == {10.0, 100.0}
    end_ns = record.energy.end_ns
    assert (here.settled, remote.settled) == ([end_ns - at(3.5)], [end_ns])
    assert remote.marked


def test_a_hop_elsewhere_that_others_shared_has_no_known_part() -> None:
    record = play_two(Elsewhere(flags=("shared",))).record
    assert record.energy.joules == pytest.approx(380)
    assert record.energy.shared
    assert record.energy.attribution == Attribution("none", None, None, None)


def test_a_hop_elsewhere_that_is_unmeasured_makes_the_turn_unmeasured() -> None:
    record = play_two(Elsewhere(known=False)).record
    assert record.energy.joules is None
    assert [hop.joules for hop in record.hops] == [pytest.approx(30), None]
    assert record.energy.attribution is not None
    assert record.energy.attribution.method == "none"


def test_a_load_elsewhere_counts_there() -> None:
    played = play_two(Elsewhere(), large=Part(load=2.0, confidence=0.9))
    (load,) = played.saved.loads
    assert load.joules == pytest.approx(200)
    assert played.record.energy.joules == pytest.approx(380)


def test_a_shared_hop_and_one_elsewhere_sum_up() -> None:
    machine = watts((200, 100.0))
    start = 100.5  # the clock of the stage, and half a second for the first arm
    ledger = ledger_of(
        batch(start - 1, start, (5, 0, 1)),
        batch(start, start + 3, (1, 1, 0), (5, 0, 1)),
        batch(start + 3, start + 9, (5, 0, 1)),
    )
    record = play_two(Elsewhere(), meter_of(machine, ledger, 1)).record
    assert [hop.joules for hop in record.hops] == [pytest.approx(150), pytest.approx(350)]
    found = record.energy.attribution
    assert found is not None
    assert found.method == "shapley"
    assert found.batch_joules == pytest.approx(300 + 350)
    assert found.share == pytest.approx(500 / 650)


def test_two_hops_between_which_others_go_on_pay_only_for_their_batches() -> None:
    machine = watts((200, 100.0))
    # The stage begins at 100 s and takes half a second to find each model.
    mine = [(100.5, 101.5, 1, 1, 0), (101.5, 103.5, 1, 0, 4)]
    more = [(104.0, 105.0, 2, 1, 0), (105.0, 107.0, 2, 0, 4)]
    ledger = ledger_of(
        *(batch(start, end, (n, p, d), (9, 0, 1)) for start, end, n, p, d in mine),
        batch(103.5, 104.0, (9, 0, 1)),
        *(batch(start, end, (n, p, d), (9, 0, 1)) for start, end, n, p, d in more),
    )
    stage = Stage({"quick": Part(confidence=0.2), "think": Part(confidence=0.9)})
    meter = meter_of(machine, ledger, 1, 2)
    record = play(stage, decided(QUICK, THINK), meter=meter).record
    other = meter_of(machine, ledger, 9).energy(at(100), at(108)).joules
    assert total([record.energy.joules, other]) == pytest.approx(650)
    assert total([hop.joules for hop in record.hops]) == pytest.approx(record.energy.joules)
    # One token beside one is a half; four of five tokens are 2.75 of 4 J.
    assert record.energy.joules == pytest.approx(2 * (50 + 200 * 2.75 / 4))
    assert record.energy.attribution is not None
    assert record.energy.attribution.batch_joules == pytest.approx(600)


def test_the_budget_asks_another_machine_at_most_once_a_second() -> None:
    def asked(remote: Elsewhere | None) -> int:
        stage = TwoMachines({"large": Part(decode=10.0, tokens=100)})
        meter = Elsewhere() if remote is None else remote
        stage.remote = meter if remote is not None else None
        running: list[int] = []
        play(
            stage,
            decided(LARGE, budget=TurnBudget(joules=5000.0)),
            meter=meter,
            seen=lambda event: running.append(len(meter.asked)),
        )
        return running[-2]  # before the record

    assert asked(Elsewhere()) <= 13
    assert asked(None) >= 50


def test_a_budget_is_spent_by_what_the_other_machine_takes() -> None:
    stage = TwoMachines({"large": Part(decode=10.0, tokens=100)})
    played = play(stage, decided(LARGE, budget=TurnBudget(joules=350.0)))
    assert stage.hurried == 1
    assert played.record.status == "budget"
    # Within one second, and so 100 J, of the limit.
    assert 350 <= (played.record.energy.joules or 0.0) <= 460


def test_a_cascade_counts_the_loads_of_both_machines_against_its_limit() -> None:
    stage = TwoMachines(
        {
            "quick": Part(confidence=0.2),
            "think": Part(confidence=0.2),
            "large": Part(load=2.0, confidence=0.2),
        }
    )
    decision = decided(QUICK, LARGE, THINK, max_joules=575.0)
    played = play(stage, decision, predictor=Known({"large": 1.0, "think": 10.0}))
    # 30 J here, 200 J of load and 350 J elsewhere.
    assert [hop.arm for hop in played.record.hops] == ["quick", "large"]
    assert "575" in played.record.hops[-1].why
    decision = decided(QUICK, LARGE, THINK, max_joules=595.0)
    played = play(stage, decision, predictor=Known({"large": 1.0, "think": 10.0}))
    assert [hop.arm for hop in played.record.hops] == ["quick", "large", "think"]


def test_a_machine_that_cannot_be_reached_falls_back_to_this_one() -> None:
    failure = ModelUnavailable("desk does not answer")
    stage = TwoMachines({"large": Part(failure=failure), "quick": Part()})
    played = play(stage, decided(LARGE, load_failed=QUICK))
    assert played.record.arm == "quick"
    assert played.record.status == "complete"


def test_the_curve_of_a_turn_sums_to_its_joules() -> None:
    machine, ledger = CurveMeter(any_curve()), shared_ledger()
    meter = meter_of(machine, ledger, 2)
    curve = power_curve(at(2), at(5), meter)
    joules = math.fsum(each or 0.0 for each in curve) * 3 / len(curve)
    assert joules == pytest.approx(meter.energy(at(2), at(5)).joules, rel=0.01)


def test_a_generator_that_is_closed_asks_only_for_its_own_batches() -> None:
    machine, ledger = watts((10, 100.0)), shared_ledger()
    client, saved = Client(1, at(1), at(2), at(4), clock_ns=at(4)), Saved()
    running: Iterator = run_turn(
        Query("2+2?"),
        Decision(QUICK, None, None, ""),
        serve=Stage({}).serve,
        answerer=client,
        meter=meter_of(machine, ledger, 1, cost=COST),
        writer=saved,
        clock_ns=lambda: at(4),
    )
    for event in running:
        if isinstance(event, Answer):
            break
    running.close()
    assert client.cancelled == 1
    expected = 100 + 100 * 1.25 / (1.25 + 3.75) + 50
    assert record_of(saved).energy.joules == pytest.approx(expected)
