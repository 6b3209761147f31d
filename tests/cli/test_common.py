"""JSON on standard output, output files, and signals that end a command and keep its work."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etui.cli.common import format_json, stop_signals, write_output
from etui.errors import EtuiError
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
def test_a_document_has_the_bytes_of_the_standard_library(document: object) -> None:
    expected = escape_json(json.dumps(document, indent=2, ensure_ascii=False))
    assert format_json(document) == expected


def test_an_output_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.txt"
    write_output(path, "one\n", "choose another", make_folder=True)
    assert path.read_text() == "one\n"
    with pytest.raises(UnicodeEncodeError):
        write_output(path, "\ud800", "choose another")
    write_output(path, "\ud800", "choose another", errors="replace")
    assert path.read_text() == "?"
    with pytest.raises(EtuiError, match=r"cannot write .*no/out") as refused:
        write_output(tmp_path / "no" / "out", "one", "choose another")
    assert refused.value.fix == "choose another"


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def in_a_terminal() -> Iterator[None]:
    """The signals as a terminal's programs have them; ``nohup`` and CI may ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("in_a_terminal")
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_cancels_and_the_second_interrupts(number: int) -> None:
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
def test_with_nothing_to_cancel_the_first_signal_interrupts() -> None:
    stopped = Event()
    with stop_signals(stopped), pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)
    assert not stopped.is_set()


@pytest.mark.usefixtures("in_a_terminal")
def test_without_an_event_a_signal_is_ctrl_c() -> None:
    with stop_signals(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)


@pytest.mark.usefixtures("in_a_terminal")
def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_signals(Event()):
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_closed_terminal_does_not_stop_what_nohup_started() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
