"""The node's side: answers stream while the next is computed, and a stop measures its waste."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

import pytest

from etui.cluster.messages import (
    Answers,
    Facts,
    Failed,
    Note,
    Opened,
    Opening,
    Task,
    Wasted,
    read_message,
    write_request,
)
from etui.cluster.ray_carrier import NodeActor, serve
from etui.energy.types import Energy
from tests.bench import synthetic
from tests.cluster.fake_node import Behaviour, FakeNode

TASK = write_request(Task("a", "s", (0, 1, 2), (1,)))


@pytest.fixture
def engine():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_a_node_says_what_it_is(engine):
    (facts,) = serve(FakeNode(Behaviour()), "describe", "", engine)
    assert isinstance(facts, Facts)


def test_a_node_opens_and_answers(engine):
    worker = FakeNode(Behaviour())
    opening = write_request(Opening(synthetic.config().to_json(), {"small": None}))
    note, opened = serve(worker, "open", opening, engine)
    assert note == Note("loading")
    assert isinstance(opened, Opened)
    answers = list(serve(worker, "answer", TASK, engine))
    assert [sample.row for each in answers for sample in each.samples] == [0, 2]


def test_errors_are_messages(engine):
    failed = Behaviour(answer_error="no room")
    waste, error = serve(FakeNode(failed), "answer", TASK, engine)
    assert isinstance(waste, Wasted)
    assert error == Failed("no room", "", 1)
    (unknown,) = serve(FakeNode(Behaviour()), "dance", "", engine)
    assert (unknown.exit_code, "dance" in unknown.what) == (2, True)
    (broken,) = serve(FakeNode(Behaviour()), "answer", "{}", engine)
    assert broken.what.startswith("internal error")
    opening = write_request(Opening({}, {}))
    (invalid,) = serve(FakeNode(Behaviour()), "open", opening, engine)
    assert isinstance(invalid, Failed)


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
    worker = Gate(Behaviour())
    messages = serve(worker, "answer", TASK, engine)
    first = next(messages)
    assert isinstance(first, Answers)
    assert worker.reached.wait(30)
    worker.stop()
    (waste,) = messages
    assert isinstance(waste, Wasted)
    assert waste.joules is not None
    assert waste.joules > 0
    assert waste.uncertainty is not None


def test_unmeasured_waste_is_unknown(engine):
    worker = Gate(Behaviour())

    class Blind(type(worker.meter)):
        def energy(self, start_ns, end_ns):
            return Energy(start_ns, end_ns, None, None, None, 0.0)

    worker.meter = Blind()
    worker.stop()
    messages = serve(worker, "answer", TASK, engine)
    assert list(messages) == [Wasted(None, None)]


def test_a_stop_is_for_one_request_only():
    actor = NodeActor("tests.cluster.fake_node:open_fake")
    assert actor._worker.behaviour == Behaviour()
    actor.stop(1)  # it may come before the request that it is for
    assert [type(read_message(text)) for text in actor.call(1, "answer", TASK)] == [Wasted]
    actor.stop(1)  # it may come after it, too
    texts = [read_message(text) for text in actor.call(2, "answer", TASK)]
    assert [type(each) for each in texts] == [Answers, Answers]


def test_the_engine_stays_on_one_thread():
    seen = set()

    class Noting(FakeNode):
        def answer(self, task):
            seen.add(threading.get_ident())
            yield from super().answer(task)

    with ThreadPoolExecutor(1) as pool:
        worker = Noting(Behaviour())
        for _ in range(3):
            list(serve(worker, "answer", TASK, pool))
    assert len(seen) == 1
    assert threading.get_ident() not in seen
