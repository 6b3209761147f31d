"""A list that is appended to token by token looks like one that is built again at each append."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.containers import Horizontal
from textual.widgets import Markdown
from textual.widgets._markdown import MarkdownBullet, MarkdownParagraph

from etui.tui.chat._markdown import AnswerMarkdown
from tests.tui.screen import drawn

LISTS = {
    "bullets": "Some:\n\n- one\n- two **bold** words\n- three\n\nAnd after it.",
    "numbers": "\n".join(f"{n}. item {n}" for n in range(1, 13)),
    "ones": "\n".join("1. again" for _ in range(11)),
    "from seven": "7. seven\n8. eight\n9. nine\n10. ten\n",
    "nested": "- a\n  - b\n  - c\n    1. d\n    2. e\n- f\n\n  more of f\n- g",
    "code": "1. look:\n\n   ```py\n   a = 1\n   b = 2\n   ```\n2. done\n",
    "kinds": "- a\n- b\n\n1. c\n2. d\n\n* e\n",
    "loose": "- a\n\n- b\n\n  c\n\n- d\n",
    "heading": "- a\n- b\n  ===\n- c",
    "quote": "- a\n  > b\n  > c\n- d",
}

PIECES = ("- a", "\n", "  - b", "1. c", "2. d", " e", "\n\n", "x")


class Shown(App[None]):
    def compose(self) -> ComposeResult:
        yield AnswerMarkdown()


class Rebuilt(AnswerMarkdown):
    """An answer whose lists are built again at each append, as Textual does it."""

    BLOCKS = {  # noqa: RUF012
        **AnswerMarkdown.BLOCKS,
        **{name: Markdown.BLOCKS[name] for name in ("bullet_list_open", "ordered_list_open")},
    }


async def check_growth(pieces: Sequence[str]) -> None:
    """Append the pieces to an answer, and compare what is drawn with lists that are rebuilt."""
    app: Any = Shown()
    async with app.run_test(size=(40, 30)) as pilot:
        seen = []
        for kind in (Rebuilt, AnswerMarkdown):
            await app.query(AnswerMarkdown).remove()
            grown = kind()
            await app.mount(grown)
            for piece in pieces:
                await grown.append(piece)
            await pilot.pause()
            await pilot.pause()
            seen.append(drawn(app))
        assert seen[1] == seen[0]


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_that_grows_looks_like_one_that_is_rebuilt(name: str) -> None:
    await check_growth(cut(LISTS[name], 2))


@settings(max_examples=8)
@given(
    st.lists(
        st.sampled_from(["- a", "\n", "  - b", "1. c", "2. d", " e", "\n\n", "x"]), max_size=12
    )
)
async def test_any_list_that_grows_looks_like_one_that_is_rebuilt(pieces: list[str]) -> None:
    await check_growth(pieces)


async def test_items_before_the_last_are_not_built_again() -> None:
    app: Any = Shown()
    async with app.run_test(size=(40, 30)):
        markdown = app.query_one(AnswerMarkdown)
        await markdown.append("- one\n- two\n- thr")
        rows = list(app.query(Horizontal))
        paragraphs = list(app.query(MarkdownParagraph))
        await markdown.append("ee\n- four")
        assert list(app.query(Horizontal))[:3] == rows
        assert list(app.query(MarkdownParagraph))[:3] == paragraphs
        assert len(app.query(Horizontal)) == 4


async def test_the_tenth_item_moves_the_numbers_before_it() -> None:
    app: Any = Shown()
    async with app.run_test(size=(40, 30)):
        markdown = app.query_one(AnswerMarkdown)
        await markdown.append("8. a\n9. b\n")
        await markdown.append("10. c")
        assert [each.symbol for each in app.query(MarkdownBullet)] == ["  8. ", "  9. ", " 10. "]
