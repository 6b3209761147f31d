"""The page that says where the numbers of an answer come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from etui.tui.chat._dialogs import DetailsModal
from etui.tui.chat.progress import hop_line
from etui.turn.facts import NO_BASELINE, list_facts
from etui.turn.record import HopRecord, TurnRecord
from tests.tui.fakes import House, turn_record
from tests.tui.screen import running


def facts(record: TurnRecord) -> dict[str, str]:
    return dict(list_facts(record))


def with_energy(**changes: Any) -> TurnRecord:
    record = turn_record(1)
    return replace(record, energy=replace(record.energy, **changes))


def test_each_number_names_its_source() -> None:
    shown = facts(turn_record(1))
    assert (
        shown["energy"] == "12.5 ± 0.5 J (counter), 0.500 J/tok, idle included · a hardware counter"
    )
    assert shown["net"] == "10.0 J, 0.400 J/tok, without the 5.00 W of idling"
    assert shown["power"] == "25.0 W mean, 30.0 W peak in 0.50 s"
    assert shown["first token"] == "after 0.10 s"
    assert shown["etui's part"] == "all: no other program is in it"
    assert shown["speed"] == "60 tok/s"
    assert shown["arm"] == "quick (direct: answers at once)"
    assert shown["chosen by"] == "balanced: no rule matched, so its default arm"
    assert [line.split() for line in shown["phases"].split("\n")] == [
        ["read", "2.50", "J", "0.10", "s", "12", "tok"],
        ["write", "10.0", "J", "0.40", "s", "25", "tok"],
    ]


def test_an_estimate_says_what_it_counts() -> None:
    shown = facts(
        with_energy(
            kind="estimate", net_joules=None, shared=True, own_joules=3.0,
            channels={"estimate:cpu": 12.5}, unmeasured=("package:0",),
        )
    )  # fmt: skip
    assert "no meter" in shown["energy"]
    assert shown["energy"].count("estimate") == 1
    assert shown["net"] == NO_BASELINE
    assert shown["etui's part"] == "≈3.0 J, the rest is idle power and other programs on the CPU"
    assert shown["sensors"] == "CPU package: not readable"
    assert not any("(estimate)" in text for text in shown.values())


def test_tokens_that_were_computed_again_say_why() -> None:
    why = "from a checkpoint: this model keeps a window of 512 tokens"
    settings = {"recomputed_tokens": 212, "recomputed_why": why}
    assert facts(replace(turn_record(1), settings=settings))["recomputed"] == f"212 tok {why}"
    assert "recomputed" not in facts(turn_record(1))


def test_nothing_measured_shows_no_joules() -> None:
    shown = facts(with_energy(joules=None, phases={}))
    assert shown["energy"].startswith("unmeasured")
    assert "net" not in shown
    assert "etui's part" not in shown
    assert " 0 J" not in " ".join(shown.values())


def test_the_thinking_is_a_phase_of_its_own() -> None:
    record = with_energy(thinking_joules=4.0)
    record = replace(record, tokens=replace(record.tokens, thinking=10))
    rows = [line.split() for line in facts(record)["phases"].split("\n")]
    assert rows[1] == ["think", "4.00", "J", "10", "tok"]
    assert rows[2][:4] == ["write", "6.00", "J", "0.40"]


def test_the_forecast_stands_beside_what_it_took() -> None:
    record = replace(turn_record(1), predicted_joules=79.0, predicted_accuracy=0.62)
    assert facts(record)["forecast"] == "≈79 J · it took 12.5 J, 0.16× · right with 62 %"
    assert "forecast" not in facts(turn_record(1))


def test_each_hop_of_a_cascade_is_a_line() -> None:
    record = turn_record(1)
    hop = HopRecord(
        "quick", "tiny[1]", None, "direct", "Lyon", "complete", 0.4, None, 0.41, False, False,
        record.tokens, 2.5, None, 0.0, 0.2, "41 % sure",
    )  # fmt: skip
    last = replace(hop, arm="think", taken=True, joules=10.0, why="90 % sure")
    shown = facts(replace(record, hops=(hop, last)))
    assert shown["hop 1"].startswith("quick (direct) on tiny[1]; 41 % sure; ")
    assert shown["hop 1"].endswith("; 2.50 J")
    assert hop_line(replace(hop, kind="estimate")).endswith(" · 41 % sure · ≈2.5 J")
    assert shown["hop 2"].startswith("✓ think (direct) on tiny[1]; 90 % sure; ")


async def test_i_opens_the_page_for_any_turn_and_closes_it(house: House) -> None:
    async with running(house) as term:
        await term.answer("First?")
        await term.press("shift+tab")
        for width, height in ((120, 36), (80, 24), (40, 10)):
            await term.pilot.resize_terminal(width, height)
            await term.until(lambda w=width: ("i details" in term.drawn) is (w > 60))
            assert term.turns[0].query_one(".energy").size.height <= 2
            await term.press("i")
            await term.at(DetailsModal)
            await term.sees("Where the numbers come from")
            page = term.app.screen.query_one(".facts")
            if height >= 24:
                assert page.max_scroll_y == 0, "one page"
            else:
                await term.until(lambda page=page: page.size.height >= 8)
                assert page.size.width >= 36
            await term.press("i")
            await term.until(lambda: not isinstance(term.app.screen, DetailsModal))


def test_what_is_not_at_a_glance_is_here() -> None:
    record = turn_record(1, why="rest: no rule matched · tiny answers instead")
    record = replace(record, predicted_joules=445.0, trace={"notices": ["the hour is spent"]})
    shown = facts(record)
    assert "tiny answers instead" in shown["chosen by"]
    assert shown["forecast"].startswith("≈44")
    assert shown["forecast"].endswith(" · it took 12.5 J, 0.028×")
    assert shown["notice"] == "the hour is spent"
