"""JSON on standard output, progress on standard error, output files, and stop signals."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from threading import Event

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etui.cli.models import show_progress
from etui.cli.output import (
    count_progress,
    format_json,
    open_watch,
    stop_signals,
    write_output,
)
from etui.errors import EtuiError
from etui.measure.progress import Progress as Shown
from etui.models.download import Progress
from etui.text import escape_json

texts = st.text(st.characters(exclude_categories=()))
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda parts: st.lists(parts) | st.dictionaries(texts, parts),
)


@given(documents)
@example([1e16, 1e-7, -0.0, 10**30, [], {}, '\x1b\x7f\u2028/\\"ü😀'])
@example({"a": [float("nan"), float("inf"), -float("inf")]})
@example(["\ud800", {"\udfff": {}}])
def test_a_document_has_the_bytes_of_the_standard_library(document):
    expected = escape_json(json.dumps(document, indent=2, ensure_ascii=False))
    assert format_json(document) == expected


def test_an_output_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "out.txt"
    write_output(path, "one\n", "choose another", make_folder=True)
    assert path.read_text() == "one\n"
    with pytest.raises(EtuiError, match="surrogates"):
        write_output(path, "\ud800", "choose another")
    write_output(path, "\ud800", "choose another", errors="replace")
    assert path.read_text() == "?"
    with pytest.raises(EtuiError, match=r"cannot write .*no/out") as refused:
        write_output(tmp_path / "no" / "out", "one", "choose another")
    assert refused.value.fix == "choose another"


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def in_a_terminal():
    """The signals as a terminal's programs have them; ``nohup`` and CI may ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("in_a_terminal")
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_cancels_and_the_second_interrupts(number):
    stopped, calls = Event(), []
    with stop_signals(stopped, lambda: calls.append("one")) as on_stop:
        on_stop(lambda: calls.append("two"))
        send(number)
        assert stopped.is_set()
        assert calls == ["one", "two"]
        with pytest.raises(KeyboardInterrupt):
            send(number)
    assert calls == ["one", "two"]


@pytest.mark.usefixtures("in_a_terminal")
def test_with_nothing_to_cancel_the_first_signal_interrupts():
    stopped = Event()
    with stop_signals(stopped), pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)
    assert not stopped.is_set()


@pytest.mark.usefixtures("in_a_terminal")
def test_without_an_event_a_signal_is_ctrl_c():
    with stop_signals(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)


@pytest.mark.usefixtures("in_a_terminal")
def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_signals(Event()):
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_closed_terminal_does_not_stop_what_nohup_started():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_pull_in_a_pipe_says_its_steps_and_its_end(capsys):
    with show_progress(quiet=False) as show:
        for done in range(100, 1001, 25):
            show(Progress("tiny", "download", "hf a/b", done, 1000))
        show(Progress("tiny", "failed", "hf a/b: no"))
        show(Progress("tiny", "verify", "hf a/b", 0, 1000))
        show(Progress("tiny", "verify", "hf a/b", 500, 1000))
    assert capsys.readouterr().err.splitlines() == [
        "pulling tiny: hf a/b (resuming at 100 B)",
        "100 % · tiny: 1.00 kB of 1.00 kB",
        "tiny: hf a/b: no",
        "checking tiny: hf a/b",
    ]
    with show_progress(quiet=True) as show:
        show(Progress("tiny", "download", "hf a/b", 5, 1000))
        show(Progress("tiny", "failed", "hf a/b: no"))
    assert capsys.readouterr().err == "tiny: hf a/b: no\n"


def test_lines_of_a_long_work_are_few(monkeypatch, capsys):
    seconds = iter(range(0, 60, 4))
    monkeypatch.setattr("etui.cli.output.time.monotonic", lambda: next(seconds))
    with open_watch() as watch:
        for done in range(7):
            watch(Shown(f"step {done}", done, 9))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" · ")[1] for line in lines] == ["step 2", "step 5"]


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self):
        return True


def test_counts_are_a_bar_in_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with count_progress("replaying turns") as show:
        show(500, 1200)
        show(1000, 1200)
        show(1200, 1200)
    assert "replaying turns 1200/1200" in terminal.getvalue()


def test_counts_are_not_shown_where_they_would_disturb(monkeypatch):
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
