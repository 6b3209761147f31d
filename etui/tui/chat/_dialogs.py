"""Dialogs over the chat: two answers, the facts of one, the tools, the question before a call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.markup import escape
from textual.screen import ModalScreen
from textual.widgets import Collapsible, Static

from etui import units
from etui.text import (
    SEPARATOR,
    count_cells,
    format_table,
    one_line,
    sanitize,
    shorten,
    title_from_question,
)
from etui.tui.chat._markdown import AnswerMarkdown
from etui.tui.modals import BoxModal, details_box
from etui.tui.widgets.key_footer import KeyFooter
from etui.turn.facts import ID_FACTS, Fact, list_facts
from etui.turn.record import TurnRecord
from etui.turn.text import call_line

if TYPE_CHECKING:
    from etui.tools.toolbox import Consent, Tool, Toolbox
    from etui.turn.record import ToolCallRecord

_MOST_CHARACTERS = 4_000
_MOST_LINES = 60


class AnswerColumn(VerticalScroll):
    """One answer with its costs."""

    def __init__(self) -> None:
        self._answer = AnswerMarkdown()
        self._costs = Static("", markup=False, classes="costs")
        super().__init__(self._costs, self._answer, classes="answer-column")

    async def show(self, record: TurnRecord, place: str) -> None:
        """Show an answer; its place is that among the answers of its question: ``2 of 3``."""
        self.border_title = sanitize(f"{record.arm} › {record.model}").replace("[", r"\[")
        self.border_subtitle = place
        energy = record.energy
        joules = units.spread_energy_text(energy.joules, energy.uncertainty, energy.kind)
        seconds = units.seconds_text(record.seconds.total)
        costs = SEPARATOR.join((joules, seconds, units.tok_text(record.tokens.output)))
        self._costs.update(costs)
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
        Binding("escape,q,s", "dismiss", "Close", id="compare.close", key_display="esc"),
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
        at = self._shown[self._chosen] + by
        if at == self._shown[1 - self._chosen]:
            at += by
        if 0 <= at < len(self._answers):
            self._shown[self._chosen] = at
            await self._show()

    def action_keep(self) -> None:
        self.dismiss(self._answers[self._shown[self._chosen]].turn_id)


def ratio_line(left: TurnRecord, right: TurnRecord) -> str:
    """Compare two answers: ``right: 3.7× the joules, 2.1× the seconds``; may be empty."""
    first, second = left.energy, right.energy
    ratios = []
    if first.joules and second.joules is not None and first.kind == second.kind:
        ratios.append(f"{units.times_text(second.joules / first.joules)} the joules")
    if left.seconds.total:
        ratios.append(f"{units.times_text(right.seconds.total / left.seconds.total)} the seconds")
    return f"right: {', '.join(ratios)}" if ratios else ""


class DetailsModal(BoxModal[None]):
    """Page over the chat with the facts of one answer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,i,q,enter", "dismiss", "Close", id="details.leave", key_display="esc"),
    ]

    def __init__(self, record: TurnRecord, costs: Sequence[Fact] = ()) -> None:
        facts = [
            Vertical(
                Static(name, markup=False, classes="name"),
                Static(sanitize(text), markup=False, classes="text"),
                classes="fact",
            )
            for name, text in list_facts(record, costs=costs)
            if name not in ID_FACTS
        ]
        title, question = "Where the numbers come from", title_from_question(record.query)
        super().__init__(title, question, VerticalScroll(*facts, classes="facts"))


def format_arguments(arguments: str) -> str:
    """Format the arguments of a call, one a line; what is not JSON stays as it is."""
    try:
        text = json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = arguments
    shown, left_out = shorten(sanitize(text), _MOST_CHARACTERS, _MOST_LINES)
    return shown + (f"\n… and {left_out:,} characters more" if left_out else "")


class CallModal(BoxModal["Consent"]):
    """Dialog before a call: its result is what the user says to it, None to refuse it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer('once')", "Run", id="call.once"),
        Binding("c", "answer('chat')", "In this chat", id="call.chat"),
        Binding("a", "answer('always')", "Always", id="call.always"),
        Binding("n,escape,enter", "answer('no')", "No", id="call.no", key_display="n"),
        Binding("v", "answer('never')", "Never", id="call.never"),
    ]

    def __init__(self, tool: Tool, arguments: str) -> None:
        whose = f"the server {tool.server}" if tool.server else "etui itself"
        what = f"a tool of {whose}: {tool.description[:200]}"
        keys = "y run · c in this chat · a always · n no · v never"
        help_line = Static(keys, markup=False, classes="help")
        details = details_box(format_arguments(arguments))
        super().__init__(f"Run {tool.name}?", what, details, help_line)

    def action_answer(self, said: Consent) -> None:
        self.dismiss(said)


class ToolsModal(BoxModal[bool]):
    """What the model may call; its result is whether it may, from the next question on."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "turn", "On or off", id="tools.turn"),
        Binding("escape,q,enter", "dismiss", "Close", id="tools.leave", key_display="esc"),
    ]

    def __init__(self, box: Toolbox, tools: tuple[Tool, ...], *, on: bool) -> None:
        state = "may call them" if on else "does not see them"
        self._on = on
        rows = [(tool.name, box.permission(tool.name), tool.description[:80]) for tool in tools]
        lines = format_table(rows, measure=count_cells)
        for name, listing in box.listings.items():
            for kind in ("prompts", "resources"):
                found = ", ".join(one_line(each["name"]) for each in getattr(listing, kind))
                lines += [f"{kind} of {name}: {found}"] if found else []
        lines += [f"✗ {name}: {problem}" for name, problem in box.problems.items()]
        how = f"The model {state}; t turns them {'off' if on else 'on'}."
        super().__init__("Tools", how, details_box("\n".join(lines)))

    def action_turn(self) -> None:
        self.dismiss(not self._on)


def fold_call(call: ToolCallRecord, kind: str | None) -> Collapsible:
    """Build the widget of a call that has ended: one line, with its result folded away."""
    result, left_out = shorten(sanitize(call.result), _MOST_CHARACTERS, _MOST_LINES)
    more = f"\n… and {left_out:,} characters more" if left_out else ""
    text = f"{format_arguments(call.arguments)}\n\n{result}{more}"
    body = Static(text, markup=False, classes="thought-text")
    return Collapsible(body, title=call_title(call, kind), classes="hop")


def call_title(call: ToolCallRecord, kind: str | None) -> str:
    """Format the line of a call that has ended, as markup."""
    return escape(f"{'✓' if call.status == 'done' else '✗'} {call_line(call, kind)}")
