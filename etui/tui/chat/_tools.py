"""Tools in the chat: the list of them, the question before a call, and a call that has ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.markup import escape
from textual.widgets import Collapsible, Static

from etui.text import count_cells, format_table, one_line, sanitize, shorten
from etui.tui.modals import BoxModal
from etui.turn.text import call_line

if TYPE_CHECKING:
    from etui.tools.toolbox import Consent, Tool, Toolbox
    from etui.turn.record import ToolCallRecord

_MOST_CHARACTERS = 4_000
_MOST_LINES = 60


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
        super().__init__(f"Run {tool.name}?", f"a tool of {whose}: {tool.description[:200]}")
        self._arguments = arguments

    def compose_box(self) -> ComposeResult:
        with VerticalScroll(classes="details"):
            yield Static(format_arguments(self._arguments), markup=False)
        keys = "y run · c in this chat · a always · n no · v never"
        yield Static(keys, markup=False, classes="help")

    def action_answer(self, said: Consent) -> None:
        self.dismiss(said)


class ToolsModal(BoxModal[bool]):
    """What the model may call; its result is whether it may, from the next question on."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "turn", "On or off", id="tools.turn"),
        Binding("escape,q,enter", "leave", "Close", id="tools.leave", key_display="esc"),
    ]

    def __init__(self, box: Toolbox, tools: tuple[Tool, ...], *, on: bool) -> None:
        state = "may call them" if on else "does not see them"
        super().__init__("Tools", f"The model {state}; t turns them {'off' if on else 'on'}.")
        self._on = on
        rows = [(tool.name, box.permission(tool.name), tool.description[:80]) for tool in tools]
        lines = format_table(rows, measure=count_cells)
        for name, listing in box.listings.items():
            for kind in ("prompts", "resources"):
                found = ", ".join(one_line(each["name"]) for each in getattr(listing, kind))
                lines += [f"{kind} of {name}: {found}"] if found else []
        lines += [f"✗ {name}: {problem}" for name, problem in box.problems.items()]
        self._lines = sanitize("\n".join(lines))

    def compose_box(self) -> ComposeResult:
        with VerticalScroll(classes="details"):
            yield Static(self._lines, markup=False)

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
