"""Commands of a node: their lines, their files, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from etui.cluster.machine_worker import NodeCommand, _find_folder, _read_files
from etui.cluster.messages import Command, Finished, Line
from etui.cluster.open_nodes import NodeDriver, Patience
from etui.errors import EtuiError
from tests.cluster.fake_carrier import FakeCarrier, make_script


def test_a_command_says_its_lines_and_its_exit_code():
    *lines, end = NodeCommand().run(Command(("models", "list", "--json")))
    assert isinstance(end, Finished)
    assert end.exit_code == 0
    assert json.loads("\n".join(line.text for line in lines if isinstance(line, Line)))


def test_the_end_of_a_node_ends_its_command():
    # The command waits for its input for ever; the pipe of a node that was killed is closed.
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "etui.cluster.command_child",
            "power",
            "--seconds",
            "600",
            "--jsonl",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
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
    assert isinstance(found[-1], Finished)
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
