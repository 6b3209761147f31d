"""The progress of a sweep, as text and as JSON lines, and the question for a power limit."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from etui.cli.sweep_cap import format_request, open_question
from etui.cli.sweep_progress import (
    JsonAudience,
    TextAudience,
    format_begin,
    format_drop,
    format_floor,
    format_progress,
    open_audience,
)
from etui.energy.power_limits.limit import CapRequest
from etui.errors import Stopped, UsageError
from etui.sweep.blocks import BlockPlan
from etui.sweep.race import Drop
from etui.sweep.result import DetectionFloor
from etui.sweep.run import SweepProgress
from tests.sweep.values import CONFIG, ONE, TWO, make_visit

PROGRESS = SweepProgress("race", 6, 8, 9, "threads=2", 240.0, 123.4567)
REQUEST = CapRequest("gpu:1", "GPU 0", 200.0, 250.0, "sudo nvidia-smi -pl 200")


def test_a_line_says_where_the_sweep_is() -> None:
    line = format_progress(PROGRESS, 3, 12)
    assert line.startswith("race · block 7 of at most 14, visit 3 of 12 · about 4 min")
    assert "best threads=2" in line
    assert "9 settings left" in line
    assert "visit" not in format_progress(PROGRESS)
    assert "best" not in format_progress(replace(PROGRESS, best=None))


def test_after_the_last_block_no_block_is_promised() -> None:
    line = format_progress(replace(PROGRESS, step="done", blocks=14, blocks_left=0))
    assert line == "done · 14 blocks measured · 9 settings left · best threads=2"


def test_the_first_line_says_what_was_measured_before() -> None:
    text = format_begin(CONFIG, Path("/x"), PROGRESS)
    assert "m: 2 settings (6 blocks already measured), about 4 min" in text
    assert "/x" in text
    assert "already" not in format_begin(CONFIG, Path("/x"), replace(PROGRESS, blocks=0))


@pytest.mark.parametrize(
    ("floor", "text"),
    [
        (
            DetectionFloor(1.3, 0.62, 0.1, 0.0, 4, 8),
            "differences below 1.3 % of the joules and 0.6 % of the time cannot be shown with "
            "8 blocks",
        ),
        (
            DetectionFloor(None, 0.6, None, 0.0, 4, 8),
            "differences below 0.6 % of the time cannot be shown with 8 blocks",
        ),
        (
            DetectionFloor(101.8, 88.0, 0.1, 0.0, 4, 2),
            "differences below 88 % of the time cannot be shown, and no difference of the joules "
            "can be shown with 2 blocks",
        ),
        (
            DetectionFloor(None, None, None, None, 4, 8),
            "the detection floor is unknown: the baseline was not measured",
        ),
    ],
)
def test_the_detection_floor_as_a_sentence(floor: DetectionFloor, text: str) -> None:
    assert format_floor(floor) == text


def test_a_drop_has_its_block_and_its_reason() -> None:
    text = format_drop(Drop(TWO.key, 5, "12 % more joules"))
    assert text == f"dropped {TWO.key} after block 6: 12 % more joules"


@dataclass
class Shown:
    lines: list[tuple[str, float, float]] = field(default_factory=list)

    def show(self, text: str, done: float, total: float) -> None:
        self.lines.append((text, done, total))


def test_a_visit_moves_the_bar_within_its_block() -> None:
    shown, said = Shown(), []
    audience = TextAudience(shown.show, said.append)
    audience.begin(CONFIG, Path("/x"), PROGRESS)
    plan = BlockPlan(6, "race", ((ONE.key, 0), (ONE.key, 1), (TWO.key, 0), (TWO.key, 1)))
    audience.see_visit(plan, 1, make_visit(ONE))
    audience.see_block(replace(PROGRESS, blocks=7, blocks_left=7))
    audience.see_answers(3, 10)
    assert [(done, total) for _, done, total in shown.lines] == [(6.5, 14), (7, 14), (3, 10)]
    assert "visit 2 of 4" in shown.lines[0][0]
    assert len(said) == 1


def test_json_lines_are_flushed_and_name_the_stage_of_their_block(
    capsys: pytest.CaptureFixture[str],
) -> None:
    audience = JsonAudience()
    audience.begin(CONFIG, Path("/x"), replace(PROGRESS, step="floor"))
    audience.see_block(PROGRESS)
    audience.see_block(replace(PROGRESS, step="confirm", joules=None))
    audience.see_drop(Drop(TWO.key, 5, "why"))
    for done in range(1, 251):
        audience.see_answers(done, 250)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines[:4]] == ["begun", "block", "block", "dropped"]
    assert [line["stage"] for line in lines[1:3]] == ["floor", "race"]
    assert (lines[1]["joules"], lines[2]["joules"]) == (123.457, None)
    answered = [line["done"] for line in lines[4:]]
    assert answered[-1] == 250
    assert len(answered) <= 126


def test_without_a_terminal_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    with open_audience(jsonl=False) as audience:
        audience.begin(CONFIG, Path("/x"), PROGRESS)
        for _ in range(5):
            audience.see_block(PROGRESS)
        audience.see_block(replace(PROGRESS, step="done", blocks=14, blocks_left=0))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 2


def test_the_question_for_a_limit_names_device_watts_and_command() -> None:
    assert format_request(REQUEST) == (
        "set the power limit of GPU 0 to 200 W (now 250 W): sudo nvidia-smi -pl 200"
    )
    again = format_request(replace(REQUEST, problem="the limit of GPU 0 is 250 W, not 200 W"))
    assert again.startswith("the limit of GPU 0 is 250 W, not 200 W; set the power limit")


def test_a_limit_is_not_asked_for_without_a_terminal() -> None:
    with pytest.raises(UsageError, match="needs a terminal"):
        open_question(jsonl=False)


def test_a_program_is_asked_by_a_line_and_answers_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    ask = open_question(jsonl=True)
    ask(REQUEST)
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["watts"], line["device"]) == ("ask_cap", 200.0, "GPU 0")
    with pytest.raises(Stopped, match="input ended"):
        ask(REQUEST)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_user_is_asked_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    monkeypatch.setattr(sys, "stderr", errors)
    open_question(jsonl=False)(REQUEST)
    assert "GPU 0 to 200 W" in errors.getvalue()
    assert "press Enter" in errors.getvalue()
    assert capsys.readouterr().out == ""
