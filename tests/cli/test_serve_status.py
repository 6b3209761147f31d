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
from etui.runtime.turn_request import (
    EnergyBooks,
    PoolStatus,
    ServeFacts,
    build_facts,
    format_books,
    format_facts,
)

BOOKS = EnergyBooks(
    total=500.0, turns=150.0, loads=30.0, idle=320.0, uncertainty=10.0, kind="counter"
)
STATUS = PoolStatus(
    running=0, queued=0, parallel=2, queue_limit=32, finished=35, failed=1, cancelled=1,
    residents=("smollm2-135m",), loading=None, watts=118.2, books=BOOKS,
)  # fmt: skip
UNMEASURED = replace(STATUS, watts=None, books=EnergyBooks(None, None, None, None))
FRESH = replace(
    STATUS, running=1, finished=0, failed=0, cancelled=0, books=replace(BOOKS, turns=0.0)
)
URL = "http://127.0.0.1:8420/v1"


def drawn(*statuses, is_tty=True, jsonl=False, columns=200):
    stream = io.StringIO()
    line = StatusLine(stream, is_tty, address=URL, jsonl=jsonl, columns=lambda: columns)
    for status in statuses:
        line.show(build_facts(status, URL))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            replace(STATUS, running=2, queued=1),
            "118 W · 2 running · 1 queued · 37 done · 1 failed · 3.846 ± 0.077 J/request · "
            f"64 % idle · {URL}",
        ),
        (
            replace(STATUS, books=replace(BOOKS, kind="estimate")),
            "≈120 W (estimate) · idle · 37 done · 1 failed · ≈4.1 J/request (estimate) · "
            f"64 % idle · {URL}",
        ),
        (UNMEASURED, f"unmeasured · idle · 37 done · 1 failed · unmeasured · {URL}"),
        (
            replace(UNMEASURED, unsaved=3),
            f"unmeasured · idle · 37 done · 1 failed · 3 not in the log · unmeasured · {URL}",
        ),
        (FRESH, f"118 W · 1 running · 0 done · 64 % idle · {URL}"),
    ],
)
def test_the_line_has_watts_requests_joules_and_the_address(status, text):
    assert format_facts(build_facts(status, URL)) == text


def test_the_end_says_whose_the_joules_were():
    assert format_books(build_facts(UNMEASURED)) == "37 requests · unmeasured"
    assert format_books(build_facts(STATUS)) == (
        "37 requests · 150 J (counter) · loads 30.0 J (counter) · idle 320 J (counter) · "
        "in all 500 ± 10 J (counter)"
    )


@pytest.mark.parametrize(
    ("changes", "draws"),
    [
        ([{}, {"watts": 118.9}, {"running": 1}, {"watts": 118.9}], 3),
        ([{}, {"watts": 121.0}], 1),
        ([{}, {"watts": 130.0}], 2),
        ([{}, {"watts": None}], 2),
        ([{}, {"unsaved": 1}, {"unsaved": 1}, {}], 3),
        ([{"watts": None}, {"watts": None}], 1),
        ([{"watts": 100.0 + step} for step in range(10)], 3),  # a slow drift
    ],
)
def test_a_terminal_line_is_redrawn_in_place_and_only_for_news(changes, draws):
    text = drawn(*(replace(STATUS, **change) for change in changes))
    assert text.count("\r\x1b[K") == draws
    assert "\n" not in text


def test_a_narrow_terminal_gets_one_line():
    assert len(drawn(STATUS, columns=20).removeprefix("\r\x1b[K")) == 19


def test_without_a_terminal_there_is_a_line_per_change_of_phase():
    changes = [
        *({}, {"watts": 300.0}, {"loading": "smollm2\x1b]0;b"}, {"running": 1}, {"running": 2}),
        *({}, {"accepting": False}),
    ]
    text = drawn(*(replace(STATUS, **change) for change in changes), is_tty=False)
    phases = [line.partition(":")[0] for line in text.splitlines()]
    assert phases == ["idle", "loading smollm2␛]0;b", "answering", "idle", "shutting down"]
    assert "\r" not in text


@pytest.mark.parametrize(("is_tty", "jsonl"), [(True, False), (False, False), (True, True)])
def test_a_notice_is_a_line_of_its_own_even_with_quiet(capsys, is_tty, jsonl):
    stream = io.StringIO()
    StatusLine(stream, is_tty, quiet=True, jsonl=jsonl).say("the log\nis locked\x1b[0m")
    text = stream.getvalue().removeprefix("\r\x1b[K") or capsys.readouterr().err
    assert text == "etui: the log is locked␛[0m\n"


@pytest.mark.parametrize("is_tty", [True, False])
def test_every_character_of_the_line_is_printable(is_tty):
    text = drawn(STATUS, is_tty=is_tty).replace("\r\x1b[K", "").replace("\n", "")
    assert text.isprintable()


def test_json_lines_are_read_back_as_the_same_facts():
    [line] = drawn(STATUS, STATUS, jsonl=True).splitlines()
    document = json.loads(line)
    assert (document["event"], document["url"]) == ("status", URL)
    assert from_document(ServeFacts, document, extra="ignore") == build_facts(STATUS, URL)


@pytest.mark.parametrize("jsonl", [True, False])
def test_the_line_ends_with_the_server(jsonl):
    stream, stop = io.StringIO(), Event()
    end = replace(STATUS, accepting=False)
    left = [STATUS, end]

    def status():
        if len(left) == 2:
            stop.set()
        return left.pop(0) if len(left) > 1 else left[0]

    StatusLine(stream, True, jsonl=jsonl, columns=lambda: 200).run(status, stop)
    if jsonl:
        events = [json.loads(text)["event"] for text in stream.getvalue().splitlines()]
        assert events == ["status", "end"]
    else:
        assert stream.getvalue().endswith("\r\x1b[K" + format_books(build_facts(end)) + "\n")


def test_quiet_writes_nothing_and_a_closed_stream_ends_the_line_and_not_the_server():
    stream = io.StringIO()
    StatusLine(stream, True, quiet=True).run(lambda: pytest.fail("the pool was asked"), Event())
    assert stream.getvalue() == ""
    stream.close()
    StatusLine(stream, True).run(lambda: STATUS, Event())


JOULES = st.none() | st.floats(0, 1e9, allow_nan=False)


@given(JOULES, JOULES, JOULES, JOULES, st.integers(0, 10**6), st.integers(0, 64))
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
