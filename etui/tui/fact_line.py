"""A line of facts that breaks between them, so that no number is torn from its unit."""

from __future__ import annotations

from rich.cells import cell_len
from textual import events
from textual.widgets import Static

from etui.lines import SEPARATOR


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


class FactLine(Static):
    """Facts with separators between them; nothing in them is markup, and empty is hidden."""

    def __init__(self, *, classes: str) -> None:
        super().__init__("", markup=False, classes=classes)
        self._facts = ""
        self.display = False

    @property
    def facts(self) -> str:
        """What it shows, unbroken."""
        return self._facts

    def show(self, facts: str) -> None:
        """Show these facts from now on."""
        self._facts = facts
        self.display = bool(facts)
        self._lay_out(self.content_size.width)

    def on_resize(self, event: events.Resize) -> None:
        """Break anew for the new width."""
        self._lay_out(self.content_size.width)

    def _lay_out(self, width: int) -> None:
        text = broken_between(self._facts, width) if width else self._facts
        if text != self.content:
            self.update(text)
