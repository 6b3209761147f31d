"""The progress of a sweep in a terminal and as JSON lines, and the question for a power limit."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import pytest

from etui.cli.output import open_watch
from etui.cli.sweep import ask_for_limit, check_terminal, format_request
from etui.energy.power_limits.limit import CapRequest
from etui.errors import Stopped, UsageError
from etui.measure.progress import Progress

REQUEST = CapRequest("gpu:1", "GPU 0", 200.0, 250.0, "sudo nvidia-smi -pl 200")


def test_json_lines_are_those_with_fields(capsys):
    with open_watch(jsonl=True, texts=False) as watch:
        watch(Progress("race · block 1", 0.5, 14))
        watch(Progress("race · block 2", 1, 14, "block", {"block": 1, "joules": None}))
        watch(Progress("a note", fields={"text": "a note"}))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"event": "block", "block": 1, "joules": None},
        {"event": "note", "text": "a note"},
    ]


def test_without_a_terminal_lines_are_few(capsys):
    with open_watch(jsonl=False) as watch:
        watch(Progress("begins", event="begun", fields={"sweep": "x"}))
        for done in range(5):
            watch(Progress("race", done, 14, "block", {"block": done}))
        watch(Progress("done", 14, 14, "block", {"block": 14}))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["begins", "100 % · done"]


def test_the_question_for_a_limit_names_device_watts_and_command():
    assert format_request(REQUEST) == (
        "set the power limit of GPU 0 to 200 W (now 250 W): sudo nvidia-smi -pl 200"
    )
    again = format_request(replace(REQUEST, problem="the limit of GPU 0 is 250 W, not 200 W"))
    assert again.startswith("the limit of GPU 0 is 250 W, not 200 W; set the power limit")


def test_a_limit_is_not_asked_for_without_a_terminal():
    with pytest.raises(UsageError, match="needs a terminal"):
        check_terminal(jsonl=False)


def test_a_program_is_asked_by_a_line_and_answers_with_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    ask_for_limit(REQUEST, jsonl=True)
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["watts"], line["device"]) == ("ask_cap", 200.0, "GPU 0")
    with pytest.raises(Stopped, match="input ended"):
        ask_for_limit(REQUEST, jsonl=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_user_is_asked_on_stderr(monkeypatch, capsys):
    errors = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    monkeypatch.setattr(sys, "stderr", errors)
    ask_for_limit(REQUEST, jsonl=False)
    assert "GPU 0 to 200 W" in errors.getvalue()
    assert "press Enter" in errors.getvalue()
    assert capsys.readouterr().out == ""
