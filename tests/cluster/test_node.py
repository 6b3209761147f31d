"""The node's side: answers stream while the next is computed, and a stop measures its waste."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

import pytest

from etui.bench.schedule import Piece
from etui.cluster.messages import (
    Answers,
    Command,
    Failed,
    Line,
    NodeResult,
    Note,
    Opened,
    Opening,
    Task,
    Wasted,
)
from etui.cluster.node import NodeActor, NodeCommand, _find_folder, _read_files
from etui.cluster.open_nodes import NodeDriver, Patience, read_versions
from etui.energy.types import Energy
from etui.errors import EtuiError
from tests.bench import synthetic
from tests.cluster.fake_carrier import FakeCarrier, make_actor, make_script
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
        assert [type(each) for each in actor.call(0, "open", OPENING)] == [Note, Opened]
    return list(actor.call(1, method, request))


def test_a_node_describes_itself_opens_and_answers():
    assert ask("describe", machine=FakeNode(host="h")) == [{**read_versions(), "host": "h"}]
    note, opened = ask("open", OPENING)
    assert note == Note("loading")
    assert isinstance(opened, Opened)
    answers = ask("answer", TASK)
    assert [sample.row for each in answers for sample in each.samples] == [0, 2]


def test_a_new_process_opens_the_run_before_its_first_answer():
    actor = make_actor(FakeNode(Behaviour()))
    kinds = [[type(each) for each in actor.call(at, "answer", TASK)] for at in (1, 2)]
    assert kinds == [[Note, Opened, Answers, Answers], [Answers, Answers]]


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


def test_a_command_says_its_lines_and_its_exit_code():
    *lines, end = NodeCommand().run(Command(("models", "list", "--json")))
    assert isinstance(end, NodeResult)
    assert end.exit_code == 0
    assert json.loads("\n".join(line.text for line in lines if isinstance(line, Line)))


def test_the_end_of_a_node_ends_its_command():
    # The command waits for its input for ever; the pipe of a node that was killed is closed.
    words = ("etui.cluster.command_child", "power", "--seconds", "600", "--jsonl")
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.stdout.readline()
        process.stdin.close()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_command_is_interrupted():
    command = NodeCommand()
    command.stop()  # nothing runs
    found = []
    for message in command.run(Command(("power", "--seconds", "600", "--jsonl"))):
        found.append(message)
        if len(found) == 1:
            command.stop()
    assert isinstance(found[-1], NodeResult)
    assert len(found) > 1


def test_the_folder_of_a_command_is_in_its_first_line(tmp_path):
    line = json.dumps({"event": "begun", "folder": str(tmp_path)})
    assert _find_folder(line) == tmp_path
    for other in ("", "[]", "{", '{"event": "begun"}', '{"event": "block", "folder": "x"}'):
        assert _find_folder(other) is None


def test_files_are_sent_as_they_are(tmp_path):
    (tmp_path / "blocks.jsonl").write_bytes(b"\xff\n")
    (tmp_path / ".lock").write_text("")
    (tmp_path / "more").mkdir()
    found = _read_files(tmp_path)
    assert {name: text.encode("utf-8", "surrogateescape") for name, text in found.items()} == {
        "blocks.jsonl": b"\xff\n"
    }


def test_a_node_that_fails_runs_no_further_command():
    heard = []
    carrier = FakeCarrier([make_script("a")])
    nodes = NodeDriver(carrier, heard.append, lambda: False, Patience(), carrier.now)
    commands = [Command(("nonsense",)), Command(("models", "list", "--json"))]
    found = nodes.run(commands, lambda machine, line: heard.append(line))
    assert found["a"].exit_code == 2
    assert "nonsense" in found["a"].errors
    assert heard == ["starting 1 node: a"]
    with pytest.raises(EtuiError, match="no node with a CPU"):
        NodeDriver(FakeCarrier([]), heard.append, lambda: False, Patience()).run(commands)
