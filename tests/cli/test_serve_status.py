"""The status line of ``etui serve``: what it says, when it is drawn, and what ends it."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.cli.serve import StatusLine
from etui.codec import from_document
from etui.runtime.serve_facts import ServeFacts, build_facts, format_books, format_facts
from etui.runtime.turn_request import EnergyBooks, PoolStatus

BOOKS = EnergyBooks(
    total=500.0, turns=150.0, loads=30.0, idle=320.0, uncertainty=10.0, kind="counter"
)
UNMEASURED = EnergyBooks(None, None, None, None)
STATUS = PoolStatus(
    running=0,
    queued=0,
    parallel=2,
    queue_limit=32,
    finished=35,
    failed=1,
    cancelled=1,
    residents=("smollm2-135m",),
    loading=None,
    watts=118.2,
    books=BOOKS,
)
URL = "http://127.0.0.1:8420/v1"


def drawn(*statuses, is_tty=True, jsonl=False, columns=200):
    stream = io.StringIO()
    line = StatusLine(stream, is_tty, address=URL, jsonl=jsonl, columns=lambda: columns)
    for status in statuses:
        line.show(build_facts(status, URL))
    return stream.getvalue()


def test_the_line_has_watts_requests_joules_and_the_address():
    text = format_facts(build_facts(replace(STATUS, running=2, queued=1, watts=118.2), URL))
    assert text == (
        "118 W · 2 running · 1 queued · 37 done · 1 failed · 3.846 ± 0.077 J/request · 64 % idle · "
        + URL
    )


def test_an_estimate_says_so_and_what_is_not_measured_is_no_zero():
    guess = build_facts(replace(STATUS, books=replace(BOOKS, kind="estimate")))
    assert "≈120 W (estimate)" in format_facts(guess)
    assert "≈4.1 J/request (estimate)" in format_facts(guess)
    nothing = build_facts(replace(STATUS, watts=None, books=UNMEASURED))
    assert format_facts(nothing) == "unmeasured · idle · 37 done · 1 failed · unmeasured"
    assert nothing.joules_per_request is None
    assert nothing.idle_share is None
    assert format_books(nothing) == "37 requests · unmeasured"


def test_before_the_first_request_there_are_no_joules_of_one():
    fresh = replace(
        STATUS, running=1, finished=0, failed=0, cancelled=0, books=replace(BOOKS, turns=0.0)
    )
    assert build_facts(fresh).joules_per_request is None
    assert "J/request" not in format_facts(build_facts(fresh))


def test_the_end_says_whose_the_joules_were():
    assert format_books(build_facts(STATUS)) == (
        "37 requests · 150 J (counter) · loads 30.0 J (counter) · idle 320 J (counter) · "
        "in all 500 ± 10 J (counter)"
    )


def test_a_terminal_line_is_redrawn_in_place_and_only_for_news():
    calm = replace(STATUS, watts=118.9)
    text = drawn(STATUS, calm, replace(STATUS, running=1), calm)
    assert text.count("\r\x1b[K") == 3
    assert "\n" not in text


def test_a_new_power_is_news_and_its_noise_is_not():
    assert drawn(STATUS, replace(STATUS, watts=121.0)).count("\r") == 1
    assert drawn(STATUS, replace(STATUS, watts=130.0)).count("\r") == 2
    assert drawn(STATUS, replace(STATUS, watts=None)).count("\r") == 2
    assert drawn(replace(STATUS, watts=None), replace(STATUS, watts=None)).count("\r") == 1


def test_a_slow_drift_of_the_power_is_shown_in_the_end():
    drift = [replace(STATUS, watts=100.0 + step) for step in range(10)]
    assert drawn(*drift).count("\r") == 3


def test_a_narrow_terminal_gets_one_line():
    line = drawn(STATUS, columns=20).removeprefix("\r\x1b[K")
    assert len(line) == 19


def test_the_name_of_a_model_sends_no_control_characters():
    text = drawn(replace(STATUS, loading="a\x1b]0;b"), is_tty=False)
    assert "\x1b" not in text


def test_without_a_terminal_there_is_a_line_per_change_of_phase():
    text = drawn(
        STATUS,
        replace(STATUS, watts=300.0),
        replace(STATUS, loading="smollm2-135m"),
        replace(STATUS, running=1),
        replace(STATUS, running=2),
        STATUS,
        replace(STATUS, accepting=False),
        is_tty=False,
    )
    phases = [line.partition(":")[0] for line in text.splitlines()]
    assert phases == ["idle", "loading smollm2-135m", "answering", "idle", "shutting down"]
    assert "\r" not in text


def test_json_lines_are_read_back_as_the_same_facts():
    [line] = drawn(STATUS, STATUS, jsonl=True).splitlines()
    document = json.loads(line)
    assert document["event"] == "status"
    assert document["url"] == URL
    assert from_document(ServeFacts, document, extra="ignore") == build_facts(STATUS, URL)


def stopping_after(statuses, stop):
    """Return a pool's status; the last but one stops the line."""
    left = list(statuses)

    def status():
        if len(left) <= 2:
            stop.set()
        return left.pop(0) if len(left) > 1 else left[0]

    return status


def test_the_line_ends_with_the_server():
    stream, stop = io.StringIO(), Event()
    end = replace(STATUS, accepting=False)
    line = StatusLine(stream, True, columns=lambda: 200)
    line.run(stopping_after([STATUS, end], stop), stop)
    assert stream.getvalue().endswith("\r\x1b[K" + format_books(build_facts(end)) + "\n")


def test_the_last_json_line_is_the_end():
    stream, stop = io.StringIO(), Event()
    line = StatusLine(stream, False, jsonl=True)
    line.run(stopping_after([STATUS, STATUS], stop), stop)
    assert [json.loads(text)["event"] for text in stream.getvalue().splitlines()] == [
        "status",
        "end",
    ]


def test_quiet_writes_nothing_and_asks_nothing():
    stream = io.StringIO()

    def status():
        raise AssertionError("the pool was asked")

    StatusLine(stream, True, quiet=True).run(status, Event())
    assert stream.getvalue() == ""


def test_a_closed_stream_ends_the_line_and_not_the_server():
    stream = io.StringIO()
    stream.close()
    StatusLine(stream, True).run(lambda: STATUS, Event())


joules = st.none() | st.floats(0, 1e9, allow_nan=False)


@given(
    turns=joules,
    idle=joules,
    total=joules,
    width=joules,
    ended=st.integers(0, 10**6),
    running=st.integers(0, 64),
)
def test_any_books_give_finite_facts(turns, idle, total, width, ended, running):
    books = EnergyBooks(total=total, turns=turns, loads=None, idle=idle, uncertainty=width)
    facts = build_facts(
        replace(STATUS, finished=ended, failed=0, cancelled=0, running=running, books=books)
    )
    numbers = (facts.joules_per_request, facts.idle_share)
    assert all(number is None or math.isfinite(number) for number in numbers)
    assert facts.idle_share is None or 0 <= facts.idle_share <= 1
    assert (facts.joules_per_request is None) == (turns is None or ended == 0)
    assert format_facts(facts)


@pytest.mark.parametrize("is_tty", [True, False])
def test_every_character_of_the_line_is_printable(is_tty):
    text = drawn(STATUS, is_tty=is_tty).replace("\r\x1b[K", "").replace("\n", "")
    assert text.isprintable()
