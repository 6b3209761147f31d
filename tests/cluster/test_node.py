"""The node's side: answers stream while the next is computed, and a stop measures its waste."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Event

import pytest

from etui.bench.config import RunConfig
from etui.bench.schedule import Piece
from etui.calibration.grid import Grid
from etui.cluster.host import HostShare
from etui.cluster.messages import (
    Answers,
    Failed,
    Measured,
    Measurement,
    Opening,
    Task,
    Wasted,
)
from etui.cluster.node import NodeActor, _read_files
from etui.cluster.open_nodes import NodeDriver, Patience, read_versions
from etui.energy.tariff import Rate, Tariff
from etui.energy.types import Energy
from etui.errors import EtuiError
from etui.measure.progress import Progress
from tests.bench import synthetic
from tests.cluster.fake_carrier import FakeCarrier, NotingLedger, make_actor, make_script
from tests.cluster.fake_node import OPENER, Behaviour, FakeNode

OPENING = Opening(synthetic.config(), {"small": None})
TASK = Task(Piece("a", "s", (0, 1, 2), 0), (1,), OPENING)


@pytest.fixture
def engine():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def ask(method, request=None, machine=None, **changes):
    actor = make_actor(machine or FakeNode(Behaviour(**changes)))
    if method == "answer":
        assert [type(each) for each in actor.call(0, "open", OPENING)] == [Progress, RunConfig]
    return list(actor.call(1, method, request))


def test_a_node_describes_itself_opens_and_answers():
    assert ask("describe", machine=FakeNode(host="h")) == [{**read_versions(), "host": "h"}]
    note, opened = ask("open", OPENING)
    assert note == Progress("loading")
    assert isinstance(opened, RunConfig)
    answers = ask("answer", TASK)
    assert [sample.row for each in answers for sample in each.samples] == [0, 2]


def test_a_new_process_opens_the_run_before_its_first_answer():
    actor = make_actor(FakeNode(Behaviour()))
    kinds = [[type(each) for each in actor.call(at, "answer", TASK)] for at in (1, 2)]
    assert kinds == [[Progress, RunConfig, Answers, Answers], [Answers, Answers]]


def test_errors_are_messages():
    waste, error = ask("answer", TASK, answer_error="no room")
    assert isinstance(waste, Wasted)
    assert error == Failed("no room", "", 1)
    assert ask("open", OPENING, open_error="no file") == [Failed("no file", "fix it there", 1)]
    (broken,) = ask("answer", None)
    assert broken.what.startswith("internal error")


@dataclass
class Gate(FakeNode):
    """Waits in its second question until it is stopped."""

    reached: Event = field(default_factory=Event)

    def answer(self, task):
        for answered in super().answer(task):
            yield answered
            self.reached.set()
            self.stopped.wait(30)


def test_an_answer_is_sent_before_the_next_is_computed_and_a_stop_measures_the_rest(engine):
    machine = Gate(Behaviour())
    actor = make_actor(machine, engine=engine)
    list(actor.call(1, "open", OPENING))
    messages = actor.call(2, "answer", TASK)
    assert isinstance(next(messages), Answers)
    assert machine.reached.wait(30)
    machine.stop()
    (waste,) = messages
    assert isinstance(waste, Wasted)
    assert waste.joules is not None
    assert waste.joules > 0
    assert waste.uncertainty is not None


def test_unmeasured_waste_is_unknown():
    machine = FakeNode(Behaviour(answer_error="no room"))

    class Blind(type(machine.meter)):
        def energy(self, start_ns, end_ns):
            return Energy(start_ns, end_ns, None, None, None, 0.0)

    machine.meter = Blind()
    assert ask("answer", TASK, machine)[0] == Wasted(None, None)


def test_a_stop_is_for_one_request_only():
    actor = NodeActor(OPENER)
    list(actor.call(0, "open", OPENING))
    actor.stop(1)  # it may come before the request that it is for
    assert [type(each) for each in actor.call(1, "answer", TASK)] == [Wasted]
    actor.stop(1)  # it may come after it, too
    assert [type(each) for each in actor.call(2, "answer", TASK)] == [Answers, Answers]


def test_the_engine_stays_on_one_thread(engine):
    seen = set()

    class Noting(FakeNode):
        def answer(self, task):
            seen.add(threading.get_ident())
            yield from super().answer(task)

    actor = make_actor(Noting(Behaviour()), engine=engine)
    list(actor.call(1, "open", OPENING))
    for number in (2, 3, 4):
        list(actor.call(number, "answer", TASK))
    assert len(seen) == 1
    assert threading.get_ident() not in seen


MEASUREMENT = Measurement("small", Grid(), force=True, fresh=False)


def test_a_node_measures_itself_step_by_step():
    step, done = ask("measure", MEASUREMENT)
    assert (step, done) == (Progress("1 of 2", 1, 2), Measured(True, folder="small"))


def test_a_stop_interrupts_a_measurement_as_ctrl_c_does(engine):
    actor = make_actor(FakeNode(), engine=engine)
    found = []
    for message in actor.call(1, "measure", replace(MEASUREMENT, fresh=True)):  # has no end
        found.append(message)
        actor.stop(1)
    assert found[-1] == Failed("stopped", "", 3)


def test_files_are_sent_as_they_are(tmp_path):
    (tmp_path / "blocks.jsonl").write_bytes(b"\xff\n")
    (tmp_path / ".lock").write_text("")
    (tmp_path / "more").mkdir()
    assert _read_files(tmp_path) == {"blocks.jsonl": b"\xff\n"}


def test_one_node_of_each_host_measures():
    heard, steps = [], []
    scripts = [make_script("a", host="one"), make_script("b", host="one"), make_script("c")]
    carrier = FakeCarrier(scripts)
    nodes = NodeDriver(carrier, heard.append, lambda: False, Patience(), carrier.now)
    found = nodes.measure(MEASUREMENT, lambda *each: steps.append(each))
    assert found == dict.fromkeys(("a", "c"), Measured(True, folder="small"))
    assert steps == [(name, Progress("1 of 2", 1, 2)) for name in ("a", "c")]
    assert "node b is left out: it shares the meter of a, on one host" in heard
    with pytest.raises(EtuiError, match="no node with a CPU"):
        NodeDriver(FakeCarrier([]), heard.append, lambda: False, Patience()).measure(
            MEASUREMENT, print
        )


def test_a_node_that_says_nothing_has_failed():
    carrier = FakeCarrier([make_script("a"), make_script("b")])
    nodes = NodeDriver(carrier, print, lambda: False, Patience(), carrier.now)
    call = carrier.call

    def lose(node, method, request=None):
        call(node, method, request)
        if method == "measure" and node == "id-b":
            carrier.scripts[node].ready = False

    carrier.call = lose
    found = nodes.measure(MEASUREMENT, lambda *each: None)
    assert found["a"].complete
    assert found["b"] == Failed("was silent for 1 h 00 min", "", 1)


def test_a_node_pays_for_its_host_only_while_it_computes():
    noted = []
    machine = FakeNode()
    machine.meter.settle = lambda end_ns: noted.append("settle")
    actor = make_actor(machine)
    list(actor.call(1, "open", OPENING))
    host = HostShare(NotingLedger(noted), 0, 1)
    list(actor.call(2, "answer", replace(TASK, opening=replace(OPENING, host=host))))
    assert noted == ["begin", "end", "settle", "settle"]


def test_a_node_prices_its_answers_by_its_own_tariff():
    tariff = Tariff(Rate(0.36, None, "EUR"))
    answer, _ = ask("answer", TASK, FakeNode(Behaviour(seconds=0.01), tariff=tariff))
    (sample,) = answer.samples
    assert sample.cost.price == pytest.approx(1e-7 * sample.joules)
