"""Signals that end the work of a command and keep what is done."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from threading import Event

import pytest

from etui.cli.common import stop_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _in_a_terminal() -> Iterator[None]:
    """The signals as a terminal's programs have them; ``nohup`` and CI may ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


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


def test_with_nothing_to_cancel_the_first_signal_interrupts() -> None:
    stopped = Event()
    with stop_signals(stopped), pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)
    assert not stopped.is_set()


def test_without_an_event_a_signal_is_ctrl_c() -> None:
    with stop_signals(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGTERM)


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
