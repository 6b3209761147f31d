"""Lines of text that change often: the screen is laid out anew only where they grow or shrink."""

from __future__ import annotations

from rich.cells import cell_len
from textual import events
from textual.widgets import Static

from etui.text.tables import SEPARATOR


def broken_between(text: str, width: int) -> str:
    """``text`` with line breaks in place of separators where it would be wider than ``width``."""
    return "\n".join(_broken(line, width) for line in text.split("\n"))


def _broken(text: str, width: int) -> str:
    lines: list[str] = []
    for fact in text.split(SEPARATOR):
        if lines and cell_len(lines[-1] + SEPARATOR + fact) <= width:
            lines[-1] += SEPARATOR + fact
        else:
            lines.append(fact)
    return "\n".join(lines)


def rows_of(text: str, width: int) -> int:
    """Rows that a text takes at a width; what is too wide goes on in the next row."""
    return sum(max(1, -(-cell_len(line) // max(1, width))) for line in text.split("\n"))


class Line(Static):
    """Text in which nothing is markup."""

    def __init__(self, text: str = "", *, classes: str) -> None:
        super().__init__(text, markup=False, classes=classes)

    def say(self, text: str) -> None:
        """Show this text from now on."""
        before = str(self.content)
        if text != before:
            width = self.content_size.width
            self.update(text, layout=rows_of(text, width) != rows_of(before, width))


class FactLine(Line):
    """Facts with separators between them, never torn apart; hidden while there are none."""

    def __init__(self, *, classes: str) -> None:
        super().__init__(classes=classes)
        self._facts = ""
        self.display = False

    @property
    def facts(self) -> str:
        """What it shows, unbroken."""
        return self._facts

    def show(self, facts: str) -> None:
        """Show these facts from now on."""
        if facts == self._facts:
            return
        self._facts = facts
        self.display = bool(facts)
        self._lay_out(self.content_size.width)

    def on_resize(self, event: events.Resize) -> None:
        """Break anew for the new width."""
        self._lay_out(self.content_size.width)

    def _lay_out(self, width: int) -> None:
        self.say(broken_between(self._facts, width) if width else self._facts)
