"""Formulas, code frames and code blocks of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.content import Content

import etui.tui.start
from etui.tui.chat._batches import LIVE_LINES, TextBatch
from etui.tui.chat._conversation import Asking
from etui.tui.chat._markdown import (
    AnswerMarkdown,
    CodeBlock,
    CodeFence,
    build_markdown_parser,
    find_code_blocks,
    frame_title,
    write_formula,
)
from etui.tui.chat._turn_view import TurnView
from tests.tui.fakes import until
from tests.tui.screen import drawn


class Shown(App[None]):
    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield AnswerMarkdown()

    async def on_mount(self) -> None:
        await self.query_one(AnswerMarkdown).update(self._text)


async def screen_of(text: str, width: int, expected: str) -> str:
    app: Any = Shown(text)
    async with app.run_test(size=(width, 24)) as pilot:
        await until(pilot, lambda: expected in drawn(app))
        return drawn(app)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (r"so \[ a_1 * b * c \] holds", "so a₁ * b * c holds"),
        (r"and \(x_1*y*z\), done", "and x₁*y*z, done"),
        ("\\[\nx\n= y\n- z\n\\]", "x = y - z"),
        ("text\n\\[ \\frac{a}{b} \\]\nmore", "a/b"),
        ("$$\nE = mc^2\n$$\nis known", "E = mc²"),
        (r"inline $$\alpha$$ and $\beta_1$, too", "inline α and β₁, too"),
        ("it costs $5_000 and $6_000 here", "it costs $5_000 and $6_000 here"),
        ("from $HOME_DIR to ${x}_1", "from $HOME_DIR to ${x}_1"),
        (r"a lone \[ stays", r"a lone \[ stays"),
        (r"\(\unknown{x} * y * z\) stays", r"\(\unknown{x} * y * z\) stays"),
        (r"a \* star", "a * star"),
    ],
)
async def test_a_simple_formula_is_unicode_and_others_stay(source: str, shown: str) -> None:
    await screen_of(source, 60, shown)


@pytest.mark.parametrize("code", [r"`\[ x`", r"`\(x^2\)`", "`$x^2$`"])
def test_code_has_no_formulas(code: str) -> None:
    (paragraph,) = [t for t in build_markdown_parser().parse(code) if t.type == "inline"]
    (child,) = paragraph.children or ()
    assert (child.type, child.content) == ("code_inline", code.strip("`"))
    (fence,) = build_markdown_parser().parse(f"```\n{code}\n```")
    assert fence.content == f"{code}\n"


@pytest.mark.parametrize(
    ("formula", "shown"),
    [
        (r"x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}", "x = (-b ± √(b² - 4ac))/(2a)"),
        (r"\sum_{i=1}^{n} x_i^2 \leq \infty", "∑ᵢ₌₁ⁿ xᵢ² ≤ ∞"),
        (r"\left( \frac{1}{2} \right)^{n+1} \cdot \alpha_{ij}", "(1/2)ⁿ⁺¹ · αᵢⱼ"),
        (r"\frac{1}{2}x + \frac{1}{ab}", "(1/2)x + 1/(ab)"),
        (r"\frac ab\frac cd", "(a/b)(c/d)"),
        (r"F = G\frac{m_1 m_2}{r^2}", "F = G((m₁ m₂)/r²)"),
        (r"\frac{\text{distance}}{\text{time}} \approx 5\%", "distance/time ≈ 5%"),
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "a = b\nc = d"),
        (r"\lim_{x \to 0} \log_2 x", "lim_(x → 0) log₂ x"),
        (r"e^{-x^2/2} + 90^\circ + \sqrt[3]{8}", "e^(-x²/2) + 90° + ∛8"),
        (r"\mathbb{R}^n \to \hat{y} \neq 0", "ℝⁿ → y\u0302 ≠ 0"),
        (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", None),
        (r"\hat{xy}", None),
        ("a_{", None),
        ("x}", None),
        ("a\x02b", None),
        ("{" * 40 + "}" * 40, None),
    ],
)
def test_formulas_are_written_in_unicode(formula: str, shown: str | None) -> None:
    assert write_formula(formula) == shown


PARTS = [*r"\{}^_&~ .,'()[]1x2y+-=!$"]
PARTS += [r"\frac", r"\sqrt", r"\left", r"\text", r"\alpha", r"\\", r"\begin{aligned}"]
PARTS += [r"\nope", r"\hat", r"\{", r"\_"]


@given(st.lists(st.sampled_from(PARTS), max_size=30))
def test_no_formula_ends_the_answer_or_keeps_a_sign_of_its_own(parts: list[str]) -> None:
    shown = write_formula("".join(parts))
    assert shown is None or not set(shown) & set("\x02\x03\v")


@given(st.text(alphabet="\\[]()ab \n*_`-=>1.$^", max_size=60))
def test_any_text_can_be_parsed(text: str) -> None:
    assert build_markdown_parser().parse(text) is not None


async def test_code_has_a_frame_and_its_long_lines_are_not_cut() -> None:
    code = "```python title=a.py\nx = '" + "word " * 20 + "END'\n```"
    text = await screen_of(code, 50, "END'")
    top = next(line for line in text.split("\n") if "╭" in line)
    assert "╭─ python ──" in top
    assert top.rstrip().endswith("── y copy ─╮")


async def test_code_is_highlighted_once_and_again_for_another_theme(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    highlighted: list[str] = []
    highlight = CodeFence.highlight

    def count(code: str, *rest: Any, **more: Any) -> Content:
        highlighted.append(code)
        return highlight(code, *rest, **more)

    monkeypatch.setattr(CodeFence, "highlight", staticmethod(count))
    app: Any = Shown("```python\na = 1\n```\n\n```python +\nb = 2\n```")
    async with app.run_test(size=(40, 12)) as pilot:
        await until(pilot, lambda: "b = 2" in drawn(app))
        assert highlighted == ["a = 1", "b = 2"]
        app.theme = "textual-light"
        await until(pilot, lambda: len(highlighted) == 4)


@given(st.text(alphabet="abc+#", max_size=30), st.integers(0, 80))
def test_a_title_fits_its_frame(language: str, width: int) -> None:
    title = frame_title(language, width)
    assert title == language or cell_len(title) == width - 6


def test_code_blocks_are_found_in_order_with_their_language() -> None:
    text = "a\n```py x=1\nif 1:\n    y\n```\n\n- b\n  ~~~\n  z\n  ~~~\n\n```\n\n```\n\n```c\nopen"
    assert find_code_blocks(text) == (
        CodeBlock("py", "if 1:\n    y"),
        CodeBlock("", "z"),
        CodeBlock("c", "open"),
    )


class Streaming(App[None]):
    CSS_PATH = Path(etui.tui.start.__file__).with_name("etui.tcss")

    def compose(self) -> ComposeResult:
        yield TurnView(Asking("Code?"))


@pytest.mark.parametrize("lines", [1, LIVE_LINES - 1, LIVE_LINES, 2 * LIVE_LINES + 3])
async def test_code_that_streams_has_one_closed_frame(lines: int) -> None:
    app: Any = Streaming()
    code = [f"a = {number}" for number in range(lines)]
    async with app.run_test(size=(40, 3 * LIVE_LINES)) as pilot:
        view = app.query_one(TurnView)
        for piece in ("```python\n", *(f"{line}\n" for line in code[:-1]), code[-1]):
            await view.write(TextBatch("", piece, 0, 1))
        await until(pilot, lambda: frame_of(drawn(app)) == code)
        await view.write(TextBatch("", "\n```\n\nAnd after it.", 0, 1))
        await until(pilot, lambda: "And after it." in drawn(app))
        await until(pilot, lambda: frame_of(drawn(app)) == code)
        await view.close_stream()


def frame_of(text: str) -> list[str] | None:
    """The lines in the one frame on a screen; None if it is open, or not the only one."""
    rows = [row.strip() for row in text.split("\n")]
    tops = [at for at, row in enumerate(rows) if row.startswith("╭")]
    ends = [at for at, row in enumerate(rows) if row.startswith("╰")]
    if len(tops) != 1 or len(ends) != 1:
        return None
    return [row.strip("│ ") for row in rows[tops[0] + 1 : ends[0]]]
