"""Markdown of an answer: framed code that wraps, simple formulas as Unicode, HTML as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html.entities import html5
from typing import TypeVar
from unicodedata import category

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from rich.cells import cell_len
from textual import events
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Markdown
from textual.widgets._markdown import (
    MarkdownBlock,
    MarkdownBullet,
    MarkdownBulletList,
    MarkdownFence,
    MarkdownList,
    MarkdownListItem,
    MarkdownOrderedList,
    MarkdownParagraph,
)

from etui.text import sanitize
from etui.tui.chat._batches import CONTINUED
from etui.tui.widgets.lines import BlankBox

W = TypeVar("W", bound=Widget)


class GrowingBulletList(MarkdownBulletList):
    """A list with bullets that keeps the items before its last one when it grows."""

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        if not _takes(self, block):
            await super()._update_from_block(block)
            return
        await _grow_list(self, block, 0)


class GrowingOrderedList(MarkdownOrderedList):
    """A list with numbers that keeps the items before its last one when it grows."""

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        if not _takes(self, block):
            await super()._update_from_block(block)
            return
        first = _items(block)[0].bullet
        await _grow_list(self, block, int(first) if first.isdecimal() else 1)


async def _grow_list(block: MarkdownList, newer: MarkdownBlock, number: int) -> None:
    """Write the last item of a list again, and mount those after it."""
    block._copy_context(newer)
    rows, items = _rows(block), _items(newer)
    last = len(rows) - 1
    column = list(items[last]._blocks)
    if number:  # the list is composed from its last item on, which it would number as its first
        items[last].bullet = str(number + last)
    newer._blocks = list(items[last:])
    made, *new = [row for row in newer.compose() if isinstance(row, Horizontal)]
    await _grow_item(_only(rows[last].children, Vertical), column)
    _align(rows, made)
    if new:
        await block.mount_all(new)


def _rows(block: MarkdownBlock) -> list[Horizontal]:
    return list(block.query_children(Horizontal))


def _only(widgets: Iterable[Widget], kind: type[W]) -> W:
    (found,) = (widget for widget in widgets if isinstance(widget, kind))
    return found


def _items(block: MarkdownBlock) -> list[MarkdownListItem]:
    return [item for item in block._blocks if isinstance(item, MarkdownListItem)]


def _takes(block: Widget, newer: MarkdownBlock) -> bool:
    """Return whether a block can take the content of a newer version of it."""
    if type(block) is not type(newer):
        return False
    if isinstance(block, MarkdownList):
        return 0 < len(_rows(block)) <= len(_items(newer))
    return isinstance(block, MarkdownParagraph | MarkdownFence)


async def _grow_item(column: Vertical, blocks: Sequence[MarkdownBlock]) -> None:
    """Give an item the blocks of a newer version of it, of which only the last ones differ."""
    before = [child for child in column.children if isinstance(child, MarkdownBlock)]
    kept = max(0, len(before) - 1)
    if before:
        if len(blocks) > kept and _takes(before[-1], blocks[kept]):
            await before[-1]._update_from_block(blocks[kept])
            kept += 1
        else:
            await before[-1].remove()
    if new := blocks[kept:]:
        await column.mount_all(new)


def _align(rows: Sequence[Horizontal], made: Horizontal) -> None:
    """Set the numbers of a list as far to the right as those of its newer version."""
    bullets = [_only(row.children, MarkdownBullet) for row in rows]
    width = len(_only(made._pending_children, MarkdownBullet).symbol)
    if len(bullets[-1].symbol) == width:
        return
    for bullet in bullets:
        bullet.symbol = bullet.symbol.lstrip().rjust(width)
        bullet.refresh(layout=True)


COPY_HINT = "y copy"
_FRAME_CELLS = 6
"""Cells of the upper border that a title cannot have: two corners and the spaces beside them."""

_MATH = {"\\[": "\\]", "\\(": "\\)", "$$": "$$"}
_MATH_ENDS = frozenset(("\\]", "\\)"))
_DOLLARS = re.compile(r"\$(?! )([^$\n]*[\\^_][^$\n]*)(?<! )\$(?!\d)")
"""A formula between single dollars, as Pandoc reads it; one without a sign of LaTeX is money."""


def build_markdown_parser() -> MarkdownIt:
    r"""Build a parser that shows raw HTML as text, and formulas (``\[ a_1 \]``) as Unicode."""
    parser = MarkdownIt("gfm-like", {"html": False})
    parser.inline.ruler.before("escape", "formula", _read_formula)
    parser.block.ruler.before(
        "fence", "formula_block", _read_formula_block, {"alt": ["paragraph", "blockquote", "list"]}
    )
    return parser


def _read_formula(state: StateInline, silent: bool) -> bool:
    """Read a formula: as Unicode if it is simple, else as it was written; a lone sign stays too."""
    sign = state.src[state.pos : state.pos + 2]
    shown = None
    if sign in _MATH:
        end = state.src.find(_MATH[sign], state.pos + 2, state.posMax)
        if end < 0 and sign == "$$":
            return False
        stop = end + 2 if end >= 0 else state.pos + 2
        shown = write_formula(state.src[state.pos + 2 : end]) if end >= 0 else None
    elif sign in _MATH_ENDS:
        stop = state.pos + 2
    elif found := _DOLLARS.match(state.src, state.pos, state.posMax):
        stop, shown = found.end(), write_formula(found[1])
    else:
        return False
    if not silent:
        state.pending += shown or state.src[state.pos : stop]
    state.pos = stop
    return True


def _read_formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    r"""Read ``\[`` to ``\]`` as one paragraph: a line of it may look like a list or a heading."""
    sign = _line(state, start)[:2]
    if state.is_code_block(start) or sign not in ("\\[", "$$"):
        return False
    close = _MATH[sign]
    last = next(
        (line for line in range(start, end) if close in _line(state, line)[2 * (line == start) :]),
        None,
    )
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
    """Format the upper border of a frame: ``python ──────── y copy``, or less if it is narrow."""
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


_OWN = {  # Names that HTML does not have, or has for another sign
    "cdot": "·", "star": "⋆", "circ": "∘", "infty": "∞", "partial": "∂", "exists": "∃", "neg": "¬",
    "lnot": "¬", "ldots": "…", "dots": "…", "cdots": "⋯", "to": "→", "implies": "⟹", "land": "∧",
    "lor": "∨", "emptyset": "∅", "bmod": " mod ", "degree": "°", "lvert": "|", "rvert": "|",
    "ast": "*", "propto": "∝", "times": "×", "hbar": "ℏ", "varnothing": "∅", "epsilon": "ε",
    "neq": "≠", "iint": "∬", "lVert": "‖", "rVert": "‖",
}  # fmt: skip
_FUNCTIONS = frozenset(
    """sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lim max min sup
    inf det dim ker deg gcd arg argmax argmin Pr mod""".split()  # noqa: SIM905
)
_DOUBLE = dict(zip("RNZQCPEHF", "ℝℕℤℚℂℙ𝔼ℍ𝔽", strict=True))
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "overline": "\u0305", "vec": "\u20d7",
            "tilde": "\u0303", "dot": "\u0307", "ddot": "\u0308"}  # fmt: skip
_ROOTS = {"": "√", "2": "√", "3": "∛", "4": "∜"}
_RAISED = dict(zip("0123456789+-−=()abcdefghijklmnoprstuvwxyzT∘′*",
                   "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀ°′*", strict=True))  # fmt: skip
_LOWERED = dict(zip("0123456789+-−=()aehijklmnoprstuvxβγρφχ",
                    "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ", strict=True))  # fmt: skip

# While a formula is read, 1 and 2 are around a fraction, 3 ends a line, 4 and 5 are ^ and _ of a
# script without signs of its own, and 6, 7 and 14 are { } _ that are shown.
_SHOWN = str.maketrans("\4\5\6\7\16", "^_{}_")
_LINES = re.compile(r"\\(?:begin|end)\{(?:aligned|align|gather|gathered|equation|split)\*?\}|\\\\")
_DROPPED = re.compile(
    r"\\(?:(?:left|right)\b\.?|(?:[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])|!)"
)
_SPACES = re.compile(r"\\[,;:> ]|\\q?quad(?![A-Za-z])|[~&\n]")
_NAME = re.compile(r"\\([A-Za-z]+)")
_STRUCTURES = re.compile(
    r"[dtc]?frac|sqrt|text(?:bf|it|rm)?|mathrm|mbox|operatorname|math(?:bf|it|sf|cal|bb)|boxed|"
    rf"boldsymbol|{'|'.join(_ACCENTS)}"
)
_ARGUMENT = r"\s*(?:\{([^{}_^\\]*)\}|(\x01[^\x01\x02]*\x02|[^\s{}_^\\\x01\x02]))"
_COMMAND = re.compile(rf"\\(?!frac|sqrt)([a-z]+){_ARGUMENT}")
_FRAC = re.compile(rf"\\frac{_ARGUMENT}{_ARGUMENT}")
_ROOT = re.compile(rf"\\sqrt(?:\s*\[(\w)\])?{_ARGUMENT}")
_SCRIPT = re.compile(rf"([_^]){_ARGUMENT}")
_GROUP = re.compile(r"(?<![\w}\]^])\{([^{}_^\\]*)\}|^\{([^{}_^\\]*)\}")
_FRACTION = re.compile("([\\w)\\]\2] *)?\1([^\1\2]*)\2(?=( *[\\w(√∛∜\4²³¹⁰-ⁿ\1])?)")
_ATOM = re.compile(r"\d+(?:[.,]\d+)?|[d∂]? ?\w[⁰ⁱ⁴-⁹ⁿ₀-₉ᵢⱼ²³¹]*|[^\W\d_]{4,}|\([^()]*\)")
_TIDY = re.compile(r"([(\[⟨⌊⌈]) | ([)\]⟩⌋⌉,;])|(?<=[a-z]) (?=[_^₀-ₜ⁰-ⁿ²³¹])")
_MOST_CHARACTERS = 2_000


@lru_cache(maxsize=512)
def write_formula(formula: str) -> str | None:
    r"""Write simple LaTeX as Unicode: ``(1/2) xᵢ²`` for ``\frac{1}{2} x_i^2``; None for other.

    A wrong formula is worse than one that is hard to read. (pylatexenc drops the braces of
    ``x^{n+1}`` and of fractions.)
    """
    if len(formula) > _MOST_CHARACTERS or not formula.replace("\n", " ").isprintable():
        return None
    text = _SPACES.sub(" ", _DROPPED.sub("", _LINES.sub("\3", formula))).replace("'", "′")
    for sign, kept in (("{", "\6"), ("}", "\7"), ("_", "\16"), ("%", "%"), ("$", "$"), ("#", "#")):
        text = text.replace(f"\\{sign}", kept)
    try:
        text = _NAME.sub(_write_name, text)
        before = ""
        while text != before:
            before = text
            text = _COMMAND.sub(_write_command, text)
            text = _FRAC.sub(lambda found: f"\1{_atom(found, 1)}/{_atom(found, 3)}\2", text)
            text = _ROOT.sub(lambda found: _ROOTS[found[1] or ""] + _atom(found, 2), text)
            text = _SCRIPT.sub(_write_script, text)
            if text == before:
                text = _GROUP.sub(r"\1\2", text)
    except KeyError:
        return None
    if re.search(r"[\\{}^_]", text):
        return None
    while "\1" in text:
        text = _FRACTION.sub(_write_fraction, text, count=1)
    lines = (re.sub(r" +", " ", line).strip() for line in text.translate(_SHOWN).split("\3"))
    return _TIDY.sub(r"\1\2", "\n".join(line for line in lines if line)) or None


def _write_name(found: re.Match[str]) -> str:
    """Write a symbol; leave a command with an argument, and refuse an unknown name."""
    name = found[1]
    if _STRUCTURES.fullmatch(name):
        return "\\frac" if name.endswith("frac") else f"\\{name}"
    if name in _FUNCTIONS:
        return f" {name} "
    sign = _OWN.get(name) or html5[f"{name};"]
    is_operator = category(sign[0]) in ("Sm", "So") and sign not in "∑∏∫∬∮∞∂∇∀∃¬∅∠√ℏ°"
    return f" {sign} " if is_operator or sign == "·" else sign


def _write_command(found: re.Match[str]) -> str:
    name, inside = found[1], _inside(found, 2)
    if name == "mathbb":
        return _DOUBLE[inside.strip()]
    if name in _ACCENTS and len(inside.strip()) != 1:
        raise KeyError(name)
    return inside.strip() + _ACCENTS[name] if name in _ACCENTS else inside


def _write_script(found: re.Match[str]) -> str:
    """Write an index or a power in small signs, or else in parentheses."""
    table, inside = _RAISED if found[1] == "^" else _LOWERED, _inside(found, 2).strip()
    small = [table.get(each, "") for each in inside.replace(" ", "")]
    if small and all(small):
        return "".join(small)
    whole = len(inside) == 1 or re.fullmatch(r"\([^()]*\)", inside)
    return ("\4" if found[1] == "^" else "\5") + (inside if whole else f"({inside})")


def _write_fraction(found: re.Match[str]) -> str:
    """Write a fraction, in parentheses where what is beside it could be taken as a part."""
    alone = not found[1] and not found[3]
    return f"{found[1] or ''}{found[2]}" if alone else f"{found[1] or ''}({found[2]})"


def _atom(found: re.Match[str], group: int) -> str:
    """Return a part of a fraction or a root, in parentheses unless it is one number or word."""
    text = _inside(found, group).strip()
    return text if _ATOM.fullmatch(text) else f"({text})"


def _inside(found: re.Match[str], group: int) -> str:
    return found[group] if found[group] is not None else found[group + 1]
