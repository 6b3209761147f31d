"""Markdown of an answer: framed code that wraps, formulas as they were written, HTML as text."""

from __future__ import annotations

from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from rich.cells import cell_len
from textual import events
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownBlock, MarkdownFence

from etui.text import sanitize
from etui.tui.widgets.code_fences import CONTINUED
from etui.tui.widgets.growing_list import GrowingBulletList, GrowingOrderedList
from etui.tui.widgets.settled_layout import BlankBox

COPY_HINT = "y copy"
_FRAME_CELLS = 6
"""Cells of the upper border that a title cannot have: two corners and the spaces beside them."""

_MATH = {"\\[": "\\]", "\\(": "\\)"}
_MATH_ENDS = frozenset(_MATH.values())


def build_markdown_parser() -> MarkdownIt:
    r"""Build a parser that shows raw HTML as text and keeps formulas: ``\[ a_1 * b_1 \]``."""
    parser = MarkdownIt("gfm-like", {"html": False})
    parser.inline.ruler.before("escape", "formula", _read_formula)
    parser.block.ruler.before(
        "fence", "formula_block", _read_formula_block, {"alt": ["paragraph", "blockquote", "list"]}
    )
    return parser


def _read_formula(state: StateInline, silent: bool) -> bool:
    """Keep a formula between brackets or parentheses with backslashes; a lone one stays too."""
    sign = state.src[state.pos : state.pos + 2]
    if sign in _MATH:
        end = state.src.find(_MATH[sign], state.pos + 2, state.posMax)
        stop = end + 2 if end >= 0 else state.pos + 2
    elif sign in _MATH_ENDS:
        stop = state.pos + 2
    else:
        return False
    if not silent:
        state.pending += state.src[state.pos : stop]
    state.pos = stop
    return True


def _read_formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    r"""Read ``\[`` to ``\]`` as one paragraph: a line of it may look like a list or a heading."""
    if state.is_code_block(start) or not _line(state, start).startswith("\\["):
        return False
    last = next((line for line in range(start, end) if "\\]" in _line(state, line)), None)
    if last is None:
        return False
    if silent:
        return True
    state.line = last + 1
    state.push("paragraph_open", "p", 1).map = [start, state.line]
    inline = state.push("inline", "", 0)
    inline.content = state.getLines(start, state.line, state.blkIndent, False).strip()
    inline.map, inline.children = [start, state.line], []
    state.push("paragraph_close", "p", -1)
    return True


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A block of code in an answer, without its fence; the language is empty if none is named."""

    language: str
    code: str


def find_code_blocks(source: str) -> tuple[CodeBlock, ...]:
    """Find the blocks of code of a Markdown text, in order."""
    return tuple(
        CodeBlock(name_language(token.info), token.content.rstrip("\n"))
        for token in build_markdown_parser().parse(source)
        if token.type in ("fence", "code_block") and token.content.strip()
    )


def name_language(info: str) -> str:
    """Return the language in the first line of a fence: ``python`` of ``python title=a.py``."""
    return next((word for word in info.split() if word != CONTINUED), "")


class CodeFence(MarkdownFence):
    """A block of code in a frame with its language; long lines wrap instead of being cut."""

    DEFAULT_CSS = """
    CodeFence {
        border: round $foreground 30%;
        border-title-color: $text-muted;
        background: transparent;
        overflow: hidden;
        padding: 0 1;
        & > Label {
            padding: 0;
            width: 1fr;
        }
    }
    """

    def __init__(self, markdown: Markdown, token: Token, code: str) -> None:
        self._continued = CONTINUED in token.info.split()
        token.info = name_language(token.info)
        super().__init__(markdown, token, code)
        self._highlighted_for = self._colours
        self.set_class(self._continued, "-continued", update=False)  # mounting applies the styles

    def on_mount(self) -> None:
        """Join the frame of the block before, if this one goes on with it."""
        self._join_frame()

    def _join_frame(self) -> None:
        """Take over the lower border of the frame with the first line, and show nothing before."""
        if not self._continued:
            return
        self.display = bool(self.code)
        siblings = list(self.parent.children) if self.parent is not None else []
        at = siblings.index(self) if self in siblings else 0
        if self.code and at > 0 and isinstance(siblings[at - 1], CodeFence):
            siblings[at - 1].add_class("-goes-on")

    @property
    def _colours(self) -> tuple[bool, bool]:
        """What the highlighting depends on."""
        return self.app.native_ansi_color, self.app.current_theme.dark

    def notify_style_update(self) -> None:
        """Highlight again for other colours only, and not twice more while it is mounted."""
        if self._highlighted_for != self._colours:
            self._highlighted_for = self._colours
            super().notify_style_update()
        else:
            super(MarkdownFence, self).notify_style_update()

    @property
    def allow_horizontal_scroll(self) -> bool:
        """Whether the code scrolls sideways: it wraps."""
        return False

    def on_resize(self, event: events.Resize) -> None:
        """Write the language and the hint into the upper border."""
        self._show_title(event.size.width)

    def _copy_context(self, block: MarkdownBlock) -> None:
        super()._copy_context(block)
        self._join_frame()
        self._show_title(self.outer_size.width)

    def _show_title(self, width: int) -> None:
        title = frame_title(sanitize(self.lexer), width)
        if not self._continued and title != self.border_title:
            self.border_title = title.replace("[", r"\[")


def frame_title(language: str, width: int) -> str:
    """Format the upper border of a frame: ``python ──────── y copy``, or less if it is narrow.

    Args:
        language: Name of the language; may be empty.
        width: Cells of the whole frame.
    """
    room = width - _FRAME_CELLS
    left = f"{language} " if language else ""
    dashes = room - cell_len(left) - len(COPY_HINT) - 1
    return f"{left}{'─' * dashes} {COPY_HINT}" if dashes >= 1 else language


class AnswerMarkdown(BlankBox, Markdown):
    """Markdown with code in frames and without links that open."""

    BLOCKS = {  # noqa: RUF012 - Textual declares it without ClassVar
        **Markdown.BLOCKS,
        "fence": CodeFence,
        "code_block": CodeFence,
        "bullet_list_open": GrowingBulletList,
        "ordered_list_open": GrowingOrderedList,
    }

    def __init__(self) -> None:
        super().__init__(parser_factory=build_markdown_parser, open_links=False)
