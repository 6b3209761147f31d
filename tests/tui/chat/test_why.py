"""The line above an answer: the whole reason before it, and only notices after it."""

from __future__ import annotations

from etui.arm import Arm
from etui.routing.decision import Decision, SignalValue
from etui.tui.chat.progress import full_why, next_hop_why, notices_text
from etui.turn.events import HopStarted
from tests.tui.fakes import House
from tests.tui.screen import running

CALC = SignalValue("calc", True, 2, 1)


def decision(why: str, *signals: SignalValue, notices: tuple[str, ...] = ()) -> Decision:
    return Decision(
        Arm("quick", "smollm2-135m"), "balanced", why.partition(":")[0], why, signals,
        notices=notices,
    )  # fmt: skip


def test_only_a_notice_stays_above_an_answer() -> None:
    up = HopStarted(2, "think", "qwen3-4b", "cot", "quick was 41 % sure")
    assert next_hop_why(up) == "then › think (cot) › qwen3-4b · quick was 41 % sure"
    warned = decision("rest: no rule matched", notices=("the hour's 20 kJ are spent\x1b",))
    assert notices_text(warned.notices) == "! the hour's 20 kJ are spent␛"
    assert full_why(warned).splitlines()[1] == "! the hour's 20 kJ are spent␛"
    assert notices_text(["one", "two"]) == "! one; ! two"  # as a record of the log has them
    assert notices_text(None) == notices_text(()) == ""


async def test_the_route_is_there_while_one_waits_and_gone_with_the_answer(house: House) -> None:
    house.runner.load_error = None
    async with running(house) as term:
        await term.answer("First?")
        assert term.text(0, "why") == ""
        house.runner.why, house.runner.signals = "math: calc (2 keywords) · so it thinks", (CALC,)
        await term.answer("Second?")
        assert term.text(1, "why") == ""
        await term.press("shift+tab", "i")
        await term.sees("Where the numbers come from", "calc")
