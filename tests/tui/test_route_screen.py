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
from etui.tui.start import EtuiApp
from tests.tui.fakes import MODEL, House, until
from tests.tui.screen import WIDE, answered, ask, drawn, notices

CHOICES = (
    RouteChoice("policy", "balanced", Route("balanced"), True, 0.4, "Medium for most"),
    RouteChoice("policy", "frugal", Route("frugal"), True, None, "Small first"),
    RouteChoice("arm", "quick", Route("balanced", arm="quick"), True, 0.4, f"{MODEL}, direct"),
    RouteChoice("arm", "think", Route("balanced", arm="think"), False, None, "qwen3-4b, cot"),
    RouteChoice("model", MODEL, Route("balanced", MODEL), True, 0.4, "98 MB"),
    RouteChoice("model", "qwen3-8b", Route("balanced", "qwen3-8b"), False, None, "5 GB"),
)


async def open_list(pilot: object, house: House, app: EtuiApp) -> None:
    house.routes = CHOICES
    await until(pilot, lambda: app.backend is not None)  # type: ignore[arg-type]
    await pilot.press("f7")  # type: ignore[attr-defined]
    await until(pilot, lambda: isinstance(app.screen, RouteScreen) and "think" in drawn(app))  # type: ignore[arg-type]


async def test_an_arm_is_found_by_its_name_and_answers_the_next_question(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, house, app)
        page = drawn(app)
        assert "from ≈0.40 J/token" in page
        assert "not on this machine" in page
        await pilot.press(*"quick")
        await until(pilot, lambda: "qwen3-8b" not in drawn(app))
        await pilot.press("enter")
        await until(pilot, lambda: not isinstance(app.screen, RouteScreen))
        assert "next questions: arm quick of balanced" in notices(app)
        await ask(pilot, "Who answers?")
        await answered(pilot, house, 1)
        assert house.runner.asked[0][1] == Route("balanced", arm="quick")


async def test_the_route_in_use_is_selected_first_and_arrows_move(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, house, app)
        (line,) = (row for row in drawn(app).split("\n") if "●" in row)
        assert "balanced" in line
        await pilot.press("down", "enter")
        await until(pilot, lambda: not isinstance(app.screen, RouteScreen))
        assert "next questions: policy frugal" in notices(app)


async def test_a_model_that_is_not_here_is_not_taken(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await open_list(pilot, house, app)
        await pilot.press(*"8b")
        await until(pilot, lambda: "think" not in drawn(app))
        await pilot.press("enter")
        await until(pilot, lambda: "F6 can pull it" in drawn(app))
        assert isinstance(app.screen, RouteScreen)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, RouteScreen))
        assert app._route == Route("balanced")


async def test_an_empty_list_says_why_and_takes_no_more_room_than_that(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        house.routes = ()
        await until(pilot, lambda: app.backend is not None)
        await pilot.press("f7")
        await until(pilot, lambda: "no model on this machine: F6 pulls one" in drawn(app))
        assert app.screen.query_one(".box").size.height < 10


def test_the_line_below_the_list_says_what_is_true() -> None:
    assert note_for((), ()) == NO_MODEL
    assert note_for(CHOICES, ()) == "nothing contains these words"
    assert note_for(CHOICES, CHOICES) == HELP_LINE
    absent = [choice for choice in CHOICES if not choice.here]
    assert note_for(absent, absent) == NO_MODEL


async def test_the_list_fits_the_smallest_terminal(house: House) -> None:
    app = house.app()
    async with app.run_test(size=(40, 10)) as pilot:
        house.routes = CHOICES
        await until(pilot, lambda: app.backend is not None)
        await pilot.press("f7")
        await until(pilot, lambda: "balanced" in drawn(app) and "frugal" in drawn(app))
        assert "What answers next (predicted J/token)" in drawn(app)
        assert app.screen.query_one(".box").outer_size.height == 9, "all but the footer"
        assert app.screen.query_one(Input).has_focus


async def test_a_policy_that_was_added_on_disk_is_in_the_palette(house: House) -> None:
    app = house.app()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: app.backend is not None)
        assert "policy: mine" not in {command.title for command in app.commands()}
        house.config.policies_dir.mkdir(parents=True)
        (house.config.policies_dir / "mine.yaml").write_text("version: 1\n", encoding="utf-8")
        assert "policy: mine" in {command.title for command in app.commands()}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", [choice.name for choice in CHOICES]),
        ("ARM", ["quick", "think"]),
        ("model 98", [MODEL]),
        ("nothing", []),
    ],
)
def test_every_word_has_to_be_there(words: str, names: list[str]) -> None:
    assert [choice.name for choice in filter_choices(CHOICES, words)] == names


def test_names_from_files_are_made_safe() -> None:
    evil = RouteChoice("policy", "a\x1b[31m", Route("a"), True, None, "\x07")
    assert all("\x1b" not in row and "\x07" not in row for row in format_choices([evil], Route("")))
