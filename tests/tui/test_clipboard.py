"""Which tools copy a text, and what is said about it."""

from __future__ import annotations

import sys

import pytest

from etui.tui.ascii import describe_copy, find_copy_tools, run_copy_tools
from tests.tui.fakes import House
from tests.tui.screen import running

EVERY = {"tmux", "wl-copy", "xclip", "xsel"}


@pytest.mark.parametrize(
    ("environ", "there", "found"),
    [
        ({}, EVERY, []),
        ({"DISPLAY": ":0"}, EVERY, ["xclip"]),
        ({"DISPLAY": ":0"}, {"xsel"}, ["xsel"]),
        ({"DISPLAY": ":0", "WAYLAND_DISPLAY": "w"}, EVERY, ["wl-copy"]),
        ({"TMUX": "/tmp/t,1,0"}, EVERY, ["tmux"]),
        ({"TMUX": "/tmp/t,1,0", "DISPLAY": ":0"}, EVERY, ["tmux", "xclip"]),
        ({"TMUX": "/tmp/t,1,0"}, set(), []),
        ({}, {"pbcopy"}, ["pbcopy"]),
    ],
)
def test_only_tools_that_can_work_here_are_used(
    environ: dict[str, str], there: set[str], found: list[str]
) -> None:
    tools = find_copy_tools(environ, lambda name: name if name in there else None)
    assert list(tools) == found


def test_the_result_of_each_tool_is_said() -> None:
    tools = {
        "good": (sys.executable, "-c", "import sys; assert sys.stdin.read() == 'é'"),
        "bad": (sys.executable, "-c", "import sys; sys.exit(3)"),
        "absent": ("/nowhere/tool",),
    }
    copied = run_copy_tools(tools, "é")
    assert describe_copy("the answer", "é", copied) == (
        "copied the answer · by good, the terminal (OSC 52) · bad failed: exit code 3 · "
        "absent failed: No such file or directory"
    )


def test_a_text_that_the_terminal_may_refuse_is_said() -> None:
    text = "x" * 80_000
    assert describe_copy("it", text, {}).endswith("the terminal may refuse a text this long")
    assert "refuse" not in describe_copy("it", text, {"xclip": ""})


async def test_what_is_selected_is_copied_by_the_tools_too_and_that_is_said(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    def run(_tools: object, text: str) -> dict[str, str]:
        given.append(text)
        return {"tmux": ""}

    monkeypatch.setattr("etui.tui.ascii.run_copy_tools", run)
    async with running(house) as term:
        await term.answer("What is the capital of France?")
        question = term.turns[0].query_one(".question")
        await term.pilot.mouse_down(question, offset=(4, 0))
        await term.pilot.hover(question, offset=(8, 0))
        await term.pilot.mouse_up(question, offset=(8, 0))
        await term.until(lambda: term.app.screen.get_selected_text())
        selected = term.app.screen.get_selected_text()
        await term.press("ctrl+c")
        await term.told("copied the selection · by tmux, the terminal (OSC 52)")
        assert given == [selected]
        assert term.app.clipboard == selected
        await term.press("shift+tab", "c")
        await term.told("copied the answer · by tmux")
