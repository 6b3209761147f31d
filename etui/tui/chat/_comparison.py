"""Two answers of one question side by side, to keep one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from etui import units
from etui.text import SEPARATOR, one_line, sanitize
from etui.tui.chat._markdown import AnswerMarkdown
from etui.tui.widgets.key_footer import KeyFooter
from etui.turn.record import TurnRecord


class AnswerColumn(VerticalScroll):
    """One answer with its costs."""

    def __init__(self) -> None:
        super().__init__(classes="answer-column")
        self._answer = AnswerMarkdown()
        self._costs = Static("", markup=False, classes="costs")

    def compose(self) -> ComposeResult:
        yield self._costs
        yield self._answer

    async def show(self, record: TurnRecord, place: str) -> None:
        """Show an answer; its place is that among the answers of its question: ``2 of 3``."""
        self.border_title = sanitize(f"{record.arm} › {record.model}").replace("[", r"\[")
        self.border_subtitle = place
        self._costs.update(costs_line(record))
        await self._answer.update(sanitize(record.answer))
        self.scroll_home(animate=False)


class ComparisonScreen(ModalScreen[str | None]):
    """Two answers; its result is the id of the turn to go on with, None to leave it as it was."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "keep", "Keep this one", id="compare.keep"),
        Binding("left,h", "choose(0)", "Left", id="compare.left", key_display="←"),
        Binding("right,l", "choose(1)", "Right", id="compare.right", key_display="→"),
        Binding("less_than_sign", "step(-1)", "Answer before", id="compare.before",
                key_display="<"),
        Binding("greater_than_sign", "step(1)", "Answer after", id="compare.after",
                key_display=">"),
        Binding("escape,q,s", "leave", "Close", id="compare.close", key_display="esc"),
    ]  # fmt: skip

    HELP = "## Side by side"

    def __init__(self, answers: Sequence[TurnRecord], turn_id: str) -> None:
        super().__init__()
        self._answers = answers
        at = next((i for i, each in enumerate(answers) if each.turn_id == turn_id), 0)
        other = at - 1 if at else 1
        self._shown = [min(at, other), max(at, other)]
        self._columns = (AnswerColumn(), AnswerColumn())
        self._first = self._shown.index(at)
        self._ratio = Static("", markup=False, classes="ratio")

    def compose(self) -> ComposeResult:
        yield Static(f"❯ {one_line(self._answers[0].query)}", markup=False, classes="question")
        with Horizontal():
            yield from self._columns
        yield self._ratio
        yield KeyFooter()

    async def on_mount(self) -> None:
        self._columns[self._first].focus()
        await self._show()

    async def _show(self) -> None:
        for column, at in zip(self._columns, self._shown, strict=True):
            await column.show(self._answers[at], f"{at + 1} of {len(self._answers)}")
        self._ratio.update(ratio_line(*(self._answers[at] for at in self._shown)))

    @property
    def _chosen(self) -> int:
        return 1 if self._columns[1].has_focus else 0

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "step" or len(self._answers) > 2

    def action_choose(self, column: int) -> None:
        self._columns[column].focus()

    async def action_step(self, by: int) -> None:
        """Show another answer in the chosen column, past the one of the other column."""
        at = self._shown[self._chosen] + by
        if at == self._shown[1 - self._chosen]:
            at += by
        if 0 <= at < len(self._answers):
            self._shown[self._chosen] = at
            await self._show()

    def action_keep(self) -> None:
        self.dismiss(self._answers[self._shown[self._chosen]].turn_id)

    def action_leave(self) -> None:
        self.dismiss(None)


def costs_line(record: TurnRecord) -> str:
    """Format what an answer cost, for half a terminal: ``≈11 J ±4 · 0.6 s · 7 tok``."""
    energy = record.energy
    joules = units.spread_energy_text(energy.joules, energy.uncertainty, energy.kind)
    tokens = units.tok_text(record.tokens.output)
    return SEPARATOR.join((joules, units.seconds_text(record.seconds.total), tokens))


def ratio_line(left: TurnRecord, right: TurnRecord) -> str:
    """Compare two answers: ``right: 3.7× the joules, 2.1× the seconds``; may be empty."""
    first, second = left.energy, right.energy
    ratios = []
    if first.joules and second.joules is not None and first.kind == second.kind:
        ratios.append(f"{units.times_text(second.joules / first.joules)} the joules")
    if left.seconds.total:
        ratios.append(f"{units.times_text(right.seconds.total / left.seconds.total)} the seconds")
    return f"right: {', '.join(ratios)}" if ratios else ""
