"""The prompt by itself: sending, breaking lines, history, pasting."""

from __future__ import annotations

from typing import Any

import pytest
from textual import events
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from etui.prompts.attachments import Attachment, join
from etui.tui.chat._conversation import Asking
from etui.tui.chat._prompt import Prompt
from tests.tui.fakes import until


class PromptApp(App[None]):
    """Nothing but a prompt, which grows with its text."""

    CSS = "Prompt { height: auto; max-height: 10; }"

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def compose(self) -> ComposeResult:
        yield Prompt()

    def on_prompt_sent(self, sent: Prompt.Sent) -> None:
        self.sent.append(join(sent.draft.text, sent.draft.pastes))


async def send(pilot: Pilot[Any], text: str) -> None:
    pilot.app.query_one(Prompt).text = text
    await pilot.press("enter")


async def test_enter_sends_and_empties_the_prompt() -> None:
    app = PromptApp()
    async with app.run_test() as pilot:
        await pilot.press("h", "i", "enter")
        await until(pilot, lambda: app.sent == ["hi"])
        assert app.query_one(Prompt).text == ""


async def test_keys_that_come_at_once_keep_their_order() -> None:
    app = PromptApp()
    async with app.run_test() as pilot:
        for key, character in (("h", "h"), ("i", "i"), ("enter", "\r"), ("x", "x")):
            app.post_message(events.Key(key, character))
        await until(pilot, lambda: app.query_one(Prompt).text == "x")
        assert app.sent == ["hi"]


async def test_blank_is_not_a_question() -> None:
    app = PromptApp()
    async with app.run_test() as pilot:
        await pilot.press("space", "enter", "h", "i", "enter")
        await until(pilot, lambda: app.sent == ["hi"])


async def test_shift_enter_and_ctrl_j_break_the_line() -> None:
    app = PromptApp()
    async with app.run_test() as pilot:
        await pilot.press("a", "shift+enter", "b", "ctrl+j", "c")
        await until(pilot, lambda: app.query_one(Prompt).text == "a\nb\nc")
        await until(pilot, lambda: app.query_one(Prompt).size.height == 3)
        await pilot.press("enter")
        await until(pilot, lambda: app.sent == ["a\nb\nc"])


async def test_up_and_down_walk_through_earlier_questions_and_keep_the_draft() -> None:
    app = PromptApp()
    async with app.run_test() as pilot:
        prompt = app.query_one(Prompt)
        await send(pilot, "first")
        await send(pilot, "second\nline")
        await pilot.press("d", "up")
        await until(pilot, lambda: prompt.text == "second\nline")
        await pilot.press("up")
        assert prompt.text == "second\nline", "the cursor moves up within the question first"
        await pilot.press("up")
        await until(pilot, lambda: prompt.text == "first")
        await pilot.press("up")
        assert prompt.text == "first"
        await pilot.press("down", "down", "down")
        await until(pilot, lambda: prompt.text == "d")


async def test_a_paste_keeps_its_lines_and_loses_its_control_characters() -> None:
    app = PromptApp()
    async with app.run_test() as pilot:
        prompt = app.query_one(Prompt)
        prompt.post_message(events.Paste("\x1b[31mred\r\ntwo"))
        await until(pilot, lambda: prompt.text == "␛[31mred\ntwo")
        assert app.sent == []


@pytest.mark.parametrize("line_end", ["\r", "\r\n", "\n"])
async def test_a_paste_is_sent_with_line_feeds_whatever_ends_its_lines(line_end: str) -> None:
    app = PromptApp()
    async with app.run_test() as pilot:
        prompt = app.query_one(Prompt)
        prompt.post_message(events.Paste(f"one{line_end}two{line_end}{line_end}three"))
        await until(pilot, lambda: prompt.text == "one\ntwo\n\nthree")
        await pilot.press("enter")
        await until(pilot, lambda: app.sent == ["one\ntwo\n\nthree"])


async def test_a_question_put_back_comes_before_the_draft() -> None:
    app = PromptApp()
    async with app.run_test():
        prompt = app.query_one(Prompt)
        prompt.text = "draft"
        prompt.put_back(Asking("question"))
        assert prompt.text == "question\ndraft"


async def test_the_prompt_grows_only_so_far() -> None:
    app = PromptApp()
    async with app.run_test(size=(80, 24)) as pilot:
        prompt = app.query_one(Prompt)
        prompt.text = "\n".join("line" for _ in range(40))
        await until(pilot, lambda: prompt.size.height == 10)


async def test_a_paste_of_a_megabyte_stands_as_a_marker_and_is_sent_whole() -> None:
    app = PromptApp()
    pasted = "a line of text\r" * 70_000
    block = Attachment("1", pasted.replace("\r", "\n"), pasted=True).block()
    async with app.run_test() as pilot:
        prompt = app.query_one(Prompt)
        await pilot.press(*"sum up ")
        prompt.post_message(events.Paste(pasted))
        marker = "sum up [paste 1: 70,000 lines, ≈262k tokens]"
        await until(pilot, lambda: prompt.text == marker)
        await pilot.press("enter")
        await until(pilot, lambda: app.sent)
        assert app.sent == [f"sum up [paste 1]\n\n{block}"]
        await pilot.press("up", "enter")
        await until(pilot, lambda: len(app.sent) == 2)
        assert app.sent[1] == app.sent[0], "the marker stands for it in the history as well"


@pytest.mark.parametrize("lines", [31, 40])
async def test_a_paste_of_many_lines_is_a_marker_and_a_short_one_is_text(lines: int) -> None:
    app = PromptApp()
    async with app.run_test() as pilot:
        prompt = app.query_one(Prompt)
        prompt.post_message(events.Paste("x\r" * 10))
        await until(pilot, lambda: prompt.text == "x\n" * 10)
        prompt.post_message(events.Paste("y\r" * lines))
        await until(pilot, lambda: f"[paste 1: {lines} lines, ≈" in prompt.text)


async def test_a_question_with_a_paste_comes_back_from_the_log_as_it_stood() -> None:
    app = PromptApp()
    sent = join("what is [paste 1]", [Attachment("1", "x\n" * 50, pasted=True)])
    async with app.run_test() as pilot:
        prompt = app.query_one(Prompt)
        prompt.remember([sent])
        await pilot.press("up")
        await until(pilot, lambda: "[paste 1: 50 lines, ≈25 tokens]" in prompt.text)
        await pilot.press("enter")
        await until(pilot, lambda: app.sent == [sent])


async def test_two_slashes_send_a_question_that_begins_with_one() -> None:
    app = PromptApp()
    async with app.run_test() as pilot:
        await pilot.press(*"//etc", "enter")
        await until(pilot, lambda: app.sent == ["/etc"])
        await pilot.press("slash", "x", "enter")
        await pilot.pause()
        assert app.query_one(Prompt).text == "/x"
        assert app.sent == ["/etc"]


async def test_a_text_that_only_looks_like_a_marker_is_sent_as_it_is() -> None:
    app = PromptApp()
    async with app.run_test() as pilot:
        await send(pilot, "[paste 1: 30,000 characters]")
        await until(pilot, lambda: app.sent == ["[paste 1: 30,000 characters]"])
