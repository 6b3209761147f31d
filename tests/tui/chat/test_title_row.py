"""The first row: chat, route and model, context and budget, whatever the width."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from etui.runtime.routes import Route
from etui.tui.chat._title_row import TitleFacts, TitleRow, title_line
from tests.tui.fakes import MODEL, House
from tests.tui.screen import running

FACTS = TitleFacts(
    "Python chat", Route("balanced"), "qwen2.5-coder-1.5b", 1200, 8200,
    "hour ██░░░░░░ 19 % of 20.0 kJ", "hour 19 %",
)  # fmt: skip


def test_a_wide_row_has_everything() -> None:
    line = title_line(FACTS, 118)
    assert line.startswith("Python chat · policy balanced → qwen2.5-coder-1.5b [F7] ")
    assert line.endswith("context 15 % of 8.2k tok    hour ██░░░░░░ 19 % of 20.0 kJ")


def test_a_narrow_row_keeps_the_route_to_the_last() -> None:
    assert title_line(FACTS, 78).startswith("Python chat · balanced → ")
    assert title_line(FACTS, 78).endswith("context 15 %    hour 19 %")
    long = replace(FACTS, chat="A chat whose name is a whole question that somebody asked")
    assert title_line(long, 78).startswith("A chat whose nam… · balanced → qwen2.5-coder-1.5b ")
    assert title_line(long, 78).endswith("context 15 %    hour 19 %")
    assert title_line(FACTS, 42) == "Python… · balanced → 1.5b" + " " * 5 + "context 15 %"
    assert title_line(FACTS, 36) == "Python chat · balanced → 1.5b" + " " * 7
    assert title_line(FACTS, 15) == "balanced → 1.5b"


def test_what_is_unknown_is_left_out() -> None:
    line = title_line(TitleFacts(route=Route("frugal")), 60)
    assert line.split("  ")[0] == "new chat · policy frugal [F7]"
    assert "ctx" not in line
    assert "ctx" not in title_line(replace(FACTS, context_limit=None), 118)


def test_a_pinned_model_and_arm_are_named() -> None:
    assert "big-7b (pinned)" in title_line(TitleFacts(route=Route("frugal", model="big-7b")), 60)
    arm = replace(FACTS, route=Route("frugal", arm="think"))
    assert "frugal ▸ think (pinned) → qwen2.5-coder-1.5b [F7]" in title_line(arm, 130)


@given(st.integers(31, 200), st.text(max_size=90), st.sampled_from(["", "hour 19 %"]))
def test_no_name_of_a_chat_hides_what_is_pinned(width: int, chat: str, budget: str) -> None:
    for route, shown in (
        (Route("frugal", arm="think"), "frugal ▸ think (pinned)"),
        (Route("frugal", model="qwen2.5-coder-1.5b"), "1.5b (pinned)"),
    ):
        facts = replace(FACTS, chat=chat, route=route, budget=budget, short_budget=budget)
        assert shown in title_line(facts, width)


@given(st.integers(1, 200), st.text(max_size=50), st.text("abc-1.5b[]", max_size=30))
def test_the_row_fills_its_width(width: int, chat: str, model: str) -> None:
    line = title_line(replace(FACTS, chat=chat, model=model), width)
    assert cell_len(line) == width
    assert "\n" not in line


async def test_the_row_follows_the_chat(house: House) -> None:
    house.shelf.on_offer = tuple(
        replace(model, context_tokens=8192) for model in house.shelf.on_offer
    )
    async with running(house) as term:
        title = term.app.screen.query_one(TitleRow)
        await term.until(lambda: f"new chat · policy balanced → {MODEL}" in str(title.content))
        await term.answer("What is the capital of France?")
        await term.until(lambda: "What is the capital" in str(title.content))
        await term.until(lambda: "context 0.2 %" in str(title.content))
        await term.press("ctrl+n")
        await term.until(lambda: "new chat" in str(title.content))
        assert "ctx" not in str(title.content)
