"""Keys that arrive together are handled in their order."""

from __future__ import annotations

from textual import events
from textual.widgets import Input

from etui.runtime.routes import Route, RouteChoice
from etui.tui.chat._prompt import Prompt
from tests.tui.chat.test_queue import queueing, waiting
from tests.tui.fakes import House
from tests.tui.screen import Terminal, running


def burst(term: Terminal, *keys: str) -> None:
    """Let keys arrive in one packet."""
    for key in keys:
        term.app.post_message(events.Key(key, key if len(key) == 1 else None))


async def test_keys_behind_one_that_opens_a_list_go_to_the_list(house: House) -> None:
    house.routes = (
        RouteChoice("policy", "balanced", Route("balanced"), True),
        RouteChoice("policy", "frugal", Route("frugal"), True),
    )
    async with running(house) as term:
        burst(term, "f7", *"frugal")
        await term.until(lambda: term.app.screen.query_one(Input).value == "frugal")
        assert term.app._chat.query_one(Prompt).text == ""
        burst(term, "enter", *"hello", "enter")
        await term.until(lambda: house.runner.asked)
        query, route = house.runner.asked[0]
        assert (query.text, route) == ("hello", Route("frugal"))


async def test_keys_behind_a_change_of_the_screen_stay_out_of_the_prompt(house: House) -> None:
    async with running(house) as term:
        burst(term, "a", "f3", "s", "f2", "b")
        await term.until(lambda: isinstance(term.app.focused, Prompt))
        await term.until(lambda: term.prompt.text == "ab")


async def test_a_key_that_depends_on_the_text_comes_after_it(house: House) -> None:
    async with queueing(house, "one", "two") as term:
        burst(term, *"hi", "delete")
        await term.until(lambda: term.prompt.text == "hi")
        await term.press("x")
        await term.until(lambda: term.prompt.text == "hix")
        assert waiting(term) == ["❯ queued (1st): two"], "Del was for the text"


async def test_a_key_whose_widget_is_gone_holds_up_nothing(house: House) -> None:
    async with running(house) as term:
        burst(term, "ctrl+o", "escape", *"hello")
        await term.until(lambda: term.prompt.text == "hello")
