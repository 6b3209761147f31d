"""The line that stays above an answer only where it says what the user must know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.arm import Arm
from etui.routing.decision import Decision, SignalValue
from etui.tui.chat._turn_text import full_why, logged_why, next_hop_why, short_why
from etui.turn.events import HopStarted
from tests.tui.fakes import House, turn_record
from tests.tui.screen import running

CALC = SignalValue("calc", True, 2, 1)


def decision(why: str, *signals: SignalValue, notices: tuple[str, ...] = ()) -> Decision:
    return Decision(
        Arm("quick", "smollm2-135m"), "balanced", why.partition(":")[0], why, signals,
        notices=notices,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("why", "shown"),
    [
        ("everything-else: no rule matched", ""),
        ("rest: default arm (no accuracy data yet)", ""),
        ("rest: quick is expected to be the cheapest", ""),
        (
            "rest: default arm (no data yet) · qwen3-4b is not on disk: tiny answers instead",
            "qwen3-4b is not on disk: tiny answers instead",
        ),
        (
            "rest: no rule matched · smollm2-135m stands in for qwen3-4b",  # of an older log
            "smollm2-135m stands in for qwen3-4b",
        ),
        ("rest: no model of arm think is on this machine", None),
        ("math-thinks: calc (2 keywords)", "math-thinks: calc (2 keywords)"),
        ("math-thinks: not calc (0 keywords)", "math-thinks: not calc (0 keywords)"),
        ("math-thinks: calc (2 keywords); quick 90 % sure", "math-thinks: calc (2 keywords)"),
        ("math-thinks: calculus (2 keywords)", ""),
    ],
)
def test_only_what_the_user_must_know_stays(why: str, shown: str | None) -> None:
    expected = why.partition(": ")[2] if shown is None else shown
    assert short_why(decision(why, CALC), None) == expected
    trace = {"signals": [{"name": "calc"}], "notices": []}
    record = replace(turn_record(1), rule=why.partition(":")[0], why=why, trace=trace)
    assert logged_why(record) == expected


def test_a_cascade_that_went_up_and_a_notice_are_said() -> None:
    plain = decision("rest: quick first; think if below 90 % sure")
    up = HopStarted(2, "think", "qwen3-4b", "cot", "quick was 41 % sure")
    assert short_why(plain, up) == "then think › qwen3-4b"
    assert next_hop_why(up) == "then › think (cot) › qwen3-4b · quick was 41 % sure"
    warned = decision("rest: no rule matched", notices=("the hour's 20 kJ are spent\x1b",))
    assert short_why(warned, None) == "! the hour's 20 kJ are spent␛"
    assert full_why(warned).splitlines()[1] == "! the hour's 20 kJ are spent␛"


async def test_the_route_is_there_while_one_waits_and_gone_with_the_answer(house: House) -> None:
    house.runner.load_error = None
    async with running(house) as term:
        await term.answer("First?")
        assert term.text(0, "why") == ""
        house.runner.why, house.runner.signals = "math: calc (2 keywords) · so it thinks", (CALC,)
        await term.answer("Second?")
        await term.until(lambda: term.text(1, "why") == "math: calc (2 keywords)")
        assert term.turns[1].query_one(".why").size.height == 1
