"""Progress on stderr: lines at a distance, and a bar for each step."""

from __future__ import annotations

import io
import sys

import pytest

from etui.cli.models import show_progress
from etui.cli.progress import Lines, count_progress, open_bar
from etui.models.download import Progress


def test_lines_keep_their_distance(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(10.0)
    for at in range(0, 50, 5):
        if lines.is_due(at):
            lines.show(f"at {at}", at, 20.0)
    captured = capsys.readouterr()
    assert captured.err.split("\n") == ["at 10", "at 30", ""]
    assert captured.out == ""


def test_a_step_begins_once() -> None:
    lines = Lines()
    assert [lines.begin(step) for step in ("a", "a", "b", "a")] == [True, False, True, True]


def test_a_pull_in_a_pipe_says_its_steps_and_tenths(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(quiet=False) as show:
        for done in range(0, 1001, 25):
            show(Progress("tiny", "download", "hf a/b", done, 1000))
        show(Progress("tiny", "failed", "hf a/b: no"))
        show(Progress("tiny", "verify", "hf a/b", 0, 1000))
        show(Progress("tiny", "verify", "hf a/b", 500, 1000))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "pulling tiny: hf a/b"
    assert lines[1] == "tiny: 100 B of 1.00 kB (10 %)"
    assert len(lines) == 13
    assert lines[-2:] == ["tiny: hf a/b: no", "checking tiny: hf a/b"]


def test_a_new_step_begins_a_new_bar() -> None:
    from rich.progress import TextColumn

    with open_bar(TextColumn("{task.description}")) as bar:
        bar.show("one", 5, 10, step=1)
        bar.show("one still", 6, 10, step=1)
        (task,) = bar._progress.tasks
        assert (task.description, task.completed) == ("one still", 6)
        bar.show("two", 0, None, step=2)
        (task,) = bar._progress.tasks
        assert (task.description, task.completed, task.total) == ("two", 0, None)


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_counts_are_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with count_progress("replaying turns") as show:
        show(500, 1200)
        show(1000, 1200)
        show(1200, 1200)
    assert "replaying turns" in terminal.getvalue()
    assert "1200/1200" in terminal.getvalue()


def test_counts_are_not_shown_where_they_would_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    with count_progress("exporting turns") as show:
        show(3, 3)  # done before there was anything to wait for
    with count_progress("exporting turns", shown=False) as show:
        show(500, 1200)
    monkeypatch.setattr(sys, "stderr", pipe)
    with count_progress("exporting turns") as show:
        show(500, 1200)
    assert terminal.getvalue() == pipe.getvalue() == ""
