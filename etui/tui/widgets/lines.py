"""Lines of text that change often, with a new layout only when they grow or shrink."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.geometry import Size
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static, TextArea

from etui.text import SEPARATOR

if TYPE_CHECKING:
    _Mixin = Widget
else:  # a style sheet names the first widget among the bases of a class
    _Mixin = object


_OF_THE_SCREENS = frozenset({"f6", "f7"})


class TextBox(TextArea, inherit_bindings=False):
    """TextArea that leaves F6 and F7 to the screens, instead of selecting the line or the text."""

    BINDINGS: ClassVar[list[BindingType]] = [
        binding
        for binding in TextArea.BINDINGS
        if not (isinstance(binding, Binding) and binding.key in _OF_THE_SCREENS)
    ]


class SettledLayout(Screen[None]):
    """A screen whose layout asks for no further one because it gave widgets their new sizes.

    Textual stores the size that a layout has found in ``Widget.virtual_size``, which requests a
    layout whenever it changes: the second one finds what the first one did. Whatever a new size
    does change, such as a scroll bar that is needed now, still requests its own.
    """

    def _refresh_layout(self, size: Size | None = None, scroll: bool = False) -> None:
        found: Any = Widget.virtual_size
        before, found._layout = found._layout, False
        try:
            super()._refresh_layout(size, scroll)
        finally:
            found._layout = before


class BlankBox(_Mixin):
    """Mixin for a container whose lines are all alike: those drawn before stay when it grows."""

    def _size_updated(
        self, size: Size, virtual_size: Size, container_size: Size, layout: bool = True
    ) -> bool:
        if size.width == self._size.width:
            self._size = size  # Textual draws every line of a widget again if this differs
            layout = False  # and if its virtual size does
        return super()._size_updated(size, virtual_size, container_size, layout)


def break_between(text: str, width: int) -> str:
    """Replace separators by line breaks where ``text`` would be wider than ``width``."""
    return "\n".join(_break_line(line, width) for line in text.split("\n"))


def _break_line(text: str, width: int) -> str:
    lines: list[str] = []
    for fact in text.split(SEPARATOR):
        if lines and cell_len(lines[-1] + SEPARATOR + fact) <= width:
            lines[-1] += SEPARATOR + fact
        else:
            lines.append(fact)
    return "\n".join(lines)


def keep_facts(text: str, width: int) -> str:
    """Leave out the facts that no longer fit into one row; the very first one is always kept."""
    kept, *others = text.split(SEPARATOR)
    for fact in others:
        if cell_len(kept + SEPARATOR + fact) <= width:
            kept += SEPARATOR + fact
    return kept


def count_rows(text: str, width: int) -> int:
    """Count the rows that a text takes at a width; longer lines wrap."""
    return sum(max(1, -(-cell_len(line) // max(1, width))) for line in text.split("\n"))


class Line(Static):
    """Literal text, without markup."""

    def __init__(self, text: str = "", *, classes: str) -> None:
        super().__init__(text, markup=False, classes=classes)

    def set_text(self, text: str) -> None:
        before = str(self.content)
        if text != before:
            width = self.content_size.width
            rows = count_rows(text, width)
            self.update(self._style(text), layout=rows != count_rows(before, width))

    def _style(self, text: str) -> str | Content:
        return text


class TitledLines(Line):
    """Lines of which the first is their heading."""

    def _style(self, text: str) -> Content:
        title, _, rest = text.partition("\n")
        return Content.assemble((title, "bold $text-primary"), f"\n{rest}" if rest else "")


class FactLine(Line):
    """Facts with separators, with line breaks only between facts; hidden while empty.

    With ``one_row``, facts that have no room are left out instead.
    """

    def __init__(self, *, classes: str, one_row: bool = False) -> None:
        super().__init__(classes=classes)
        self._fit = keep_facts if one_row else break_between
        self._facts = ""
        self.display = False

    def show(self, facts: str) -> None:
        if facts == self._facts:
            return
        self._facts = facts
        self.display = bool(facts)
        self._lay_out(self.content_size.width)

    def on_resize(self, event: events.Resize) -> None:
        width = self.content_size.width
        self._lay_out(width)
        # A height that was measured for the text of the width before would stay as an empty row.
        if width and self.content_size.height != count_rows(str(self.content), width):
            self.call_after_refresh(self.refresh, layout=True)

    def _lay_out(self, width: int) -> None:
        self.set_text(self._fit(self._facts, width) if width else self._facts)


HINT_FROM = 60
"""Width in cells from which there is room for keys beside the facts; the footer has them too."""


class HintedLine(Horizontal):
    """A line of facts with the keys for them at its right; hidden without facts."""

    def __init__(self, *, classes: str, one_row: bool = False) -> None:
        self.line = FactLine(classes=classes, one_row=one_row)
        self._hint = Line(classes="hint")
        super().__init__(self.line, self._hint, classes=f"hinted {classes}-row")
        self.display = False

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width < HINT_FROM, "-tight")

    def show(self, facts: str, hint: str = "") -> None:
        self.display = bool(facts)
        self.line.show(facts)
        self._hint.set_text(hint)


class Heading(Line):
    """A heading at the left and a fact at the right of one row; the fact goes first."""

    def __init__(self, left: str = "", *, classes: str) -> None:
        super().__init__(left, classes=classes)
        self._sides = (left, "")

    def show(self, left: str, right: str = "") -> None:
        if (left, right) != self._sides:
            self._sides = (left, right)
            self._draw()

    def on_resize(self, event: events.Resize) -> None:
        self._draw()

    def _draw(self) -> None:
        left, right = self._sides
        spare = self.content_size.width - cell_len(left) - cell_len(right)
        self.set_text(left + " " * spare + right if right and spare > 0 else left)
