"""F7: one list of policies, arms and models, with what each costs, to filter and to take."""

from __future__ import annotations

import pytest
from textual.widgets import Input

from etui.runtime.routes import Route, RouteChoice
from etui.tui.route_screen import (
    HELP_LINE,
    NO_MODEL,
    RouteScreen,
    filter_choices,
    format_choices,
    note_for,
)
from tests.tui.fakes import MODEL, House
from tests.tui.screen import Terminal, running

CHOICES = (
    RouteChoice("policy", "balanced", Route("balanced"), True, 0.4, "Medium for most"),
    RouteChoice("policy", "frugal", Route("frugal"), True, None, "Small first"),
    RouteChoice("arm", "quick", Route("balanced", arm="quick"), True, 0.4, f"{MODEL}, direct"),
    RouteChoice("arm", "think", Route("balanced", arm="think"), False, None, "qwen3-4b, cot"),
    RouteChoice("model", MODEL, Route("balanced", MODEL), True, 0.4, "98 MB"),
    RouteChoice("model", "qwen3-8b", Route("balanced", "qwen3-8b"), False, None, "5 GB"),
)


async def open_list(term: Terminal) -> None:
    await term.press("f7")
    await term.at(RouteScreen)
    await term.sees("qwen3-4b")


async def test_what_is_chosen_in_the_list_answers_the_next_question(house: House) -> None:
    async with running(house) as term:
        await term.press("f7")
        await term.sees("no model on this machine: F6 pulls one")
        assert term.app.screen.query_one(".box").size.height < 10
        await term.press("escape")
        house.routes = CHOICES
        await open_list(term)
        (line,) = (row for row in term.drawn.split("\n") if "●" in row)
        assert "balanced" in line
        await term.press("down", "enter")
        await term.told("next questions: policy frugal")
        await open_list(term)
        assert "from ≈0.40 J/token" in term.drawn
        assert "not on disk: F6 pulls it" in term.drawn
        await term.press(*"8b")
        await term.until(lambda: "qwen3-4b" not in term.drawn)
        await term.press("enter")
        await term.sees("qwen3-8b is not on disk: F6 pulls it")
        await term.press("f6")
        await term.until(lambda: term.app.current_mode == "models")
        await term.press("f2")
        await open_list(term)
        assert isinstance(term.app.screen, RouteScreen)
        await term.press("escape")
        await term.until(lambda: not isinstance(term.app.screen, RouteScreen))
        assert term.app._route == Route("frugal")
        await open_list(term)
        await term.press(*"quick")
        await term.until(lambda: "qwen3-8b" not in term.drawn)
        await term.press("enter")
        await term.told("next questions: arm quick of balanced")
        await term.until(lambda: not isinstance(term.app.screen, RouteScreen))
        await term.answer("Who answers?")
        assert house.runner.asked[0][1] == Route("balanced", arm="quick")


def test_the_line_below_the_list_says_what_is_true() -> None:
    assert note_for((), ()) == NO_MODEL
    assert note_for(CHOICES, ()) == "nothing contains these words"
    assert note_for(CHOICES, CHOICES) == HELP_LINE
    absent = [choice for choice in CHOICES if not choice.here]
    assert note_for(absent, absent) == NO_MODEL


async def test_the_list_fits_the_smallest_terminal(house: House) -> None:
    house.routes = CHOICES
    async with running(house, (40, 10)) as term:
        await term.press("f7")
        await term.sees("balanced", "frugal", "What answers next")
        assert term.app.screen.query_one(".box").outer_size.height == 9, "all but the footer"
        assert term.app.screen.query_one(Input).has_focus


async def test_a_policy_that_was_added_on_disk_is_in_the_palette(house: House) -> None:
    async with running(house) as term:
        assert "policy: mine" not in {command.title for command in term.app.commands()}
        house.config.policies_dir.mkdir(parents=True)
        (house.config.policies_dir / "mine.yaml").write_text("version: 1\n", encoding="utf-8")
        assert "policy: mine" in {command.title for command in term.app.commands()}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", [choice.name for choice in CHOICES]),
        ("ARM", ["quick", "think"]),
        ("model 98", [MODEL]),
        ("nothing", []),
        ("smollm", [MODEL, "quick"]),  # the name of a model before a text that has it
    ],
)
def test_every_word_has_to_be_there(words: str, names: list[str]) -> None:
    assert [choice.name for choice in filter_choices(CHOICES, words)] == names


def test_names_from_files_are_made_safe() -> None:
    evil = RouteChoice("policy", "a\x1b[31m", Route("a"), True, None, "\x07")
    assert all("\x1b" not in row and "\x07" not in row for row in format_choices([evil], Route("")))
