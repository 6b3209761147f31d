"""One turn on the screen: question, route, thinking, answer, energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.markup import escape
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Collapsible, Static

from etui import units
from etui.energy.types import Energy
from etui.routing.decision import Decision
from etui.text import SEPARATOR, sanitize, shorten
from etui.tui._work import notice_text
from etui.tui.chat._batches import ShortFences, TextBatch
from etui.tui.chat._conversation import Asking
from etui.tui.chat.progress import (
    TurnProgress,
    finished_thinking_title,
    full_why,
    hop_line,
    next_hop_why,
    notices_text,
    progress_line,
)
from etui.tui.power.feed import Stage
from etui.tui.widgets.lines import HINT_FROM, BlankBox, FactLine, HintedLine
from etui.turn.events import Decided, HopEnded, HopStarted, RoundStarted, TurnFinished
from etui.turn.record import ToolCallRecord, TurnRecord
from etui.turn.text import can_continue, price_facts, round_line

if TYPE_CHECKING:
    from textual.widgets.markdown import MarkdownStream

    from etui.tui.chat._markdown import AnswerMarkdown, CodeBlock

MOST_QUESTION_CHARACTERS = 4_000
MOST_QUESTION_LINES = 40
MOST_LIVE_THINKING_CHARACTERS = 1_500

TurnAction = Literal[
    "smaller", "larger", "edit", "copy", "code", "details", "continue", "withdraw", "good", "bad",
    "compare", "prompt", "before", "after",
]  # fmt: skip


def _build_line(content: str, name: str) -> Static:
    """Build a line of literal text, hidden while it is empty."""
    static = Static(content, markup=False, classes=name)
    static.display = bool(content)
    return static


def _build_markdown() -> AnswerMarkdown:
    """Build the widget of an answer; its parser takes a tenth of the time to the first paint."""
    from etui.tui.chat._markdown import AnswerMarkdown

    return AnswerMarkdown()


class TurnView(BlankBox, Vertical, can_focus=True):
    """A turn: question, why-line, thinking, answer, and one row of what it cost."""

    FOCUS_ON_CLICK = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.stop", "Back", id="turn.back"),
        Binding("c", "request('copy')", "Copy", id="turn.copy"),
        Binding("y", "request('code')", "Copy code", id="turn.code"),
        Binding("i", "request('details')", "Details", id="turn.details"),
        Binding("m", "request('continue')", "Continue", id="turn.continue"),
        Binding("e", "request('edit')", "Edit", id="turn.edit"),
        Binding("s", "request('compare')", "Compare two", id="turn.compare"),
        Binding("p", "request('prompt')", "Save as prompt", id="turn.prompt", show=False),
        Binding("v", "request('good')", "Good", id="turn.good", show=False),
        Binding("x", "request('bad')", "Bad", id="turn.bad", show=False),
        Binding("minus", "request('smaller')", "Smaller model", id="turn.smaller", key_display="-"),
        Binding("plus,equals_sign", "request('larger')", "Larger model", id="turn.larger",
                key_display="+"),
        Binding("t", "toggle_thinking", "Thinking", id="turn.thought"),
        Binding("less_than_sign", "branch(-1)", "Branch before", id="turn.branch_before",
                key_display="<", show=False),
        Binding("greater_than_sign", "branch(1)", "Branch after", id="turn.branch_after",
                key_display=">", show=False),
        Binding("delete", "request('withdraw')", "Withdraw", id="turn.withdraw", show=False),
        Binding("delete", "request('withdraw')", "Withdraw", id="turn.withdraw", key_display="del"),
        Binding("up", "app.focus_previous", "Earlier", id="turn.up", show=False),
        Binding("down", "app.focus_next", "Later", id="turn.down", show=False),
    ]  # fmt: skip

    HELP = "## Answer"

    @dataclass
    class ActionRequested(Message):
        """An action on this turn was requested."""

        view: TurnView
        action: TurnAction

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self.record: TurnRecord | None = None
        self.good: bool | None = None
        self.ended = False
        shown, left_out = shorten(
            sanitize(asking.shown), MOST_QUESTION_CHARACTERS, MOST_QUESTION_LINES
        )
        more = f"\n… and {units.count_text(left_out, 'character')} more" if left_out else ""
        self._asked = f"{shown}{more}"
        self._question = _build_line(f"❯ {self._asked}", "question")
        self._withdraw = _build_line("", "withdraw")
        self.queued = False
        self._marks: tuple[str, ...] = ()
        self._why = FactLine(classes="why")
        self._thinking_body = Static("", markup=False, classes="thought-text")
        self._thinking_box = Collapsible(self._thinking_body, title="thinking", collapsed=False)
        self._thinking_box.display = False
        self._answer = _build_markdown()
        self._answer.display = False
        self._status = HintedLine(classes="status")
        self._energy = HintedLine(classes="energy", one_row=True)
        self._error = _build_line("", "error")
        self._stream: MarkdownStream | None = None
        self._fences = ShortFences()
        self._thinking = ""
        self._written = ""
        self._thinking_tokens = 0
        self._thinking_folded = False
        self._copied_blocks = 0
        self._decision: Decision | None = None
        self._calls: list[Collapsible] = []
        answer = self._thinking_box, self._answer, self._status, self._error, self._energy
        super().__init__(self._withdraw, self._question, self._why, *answer)

    @classmethod
    def from_record(cls, record: TurnRecord) -> TurnView:
        view = cls(Asking.from_record(record))
        view.record = record
        view.ended = True
        return view

    async def on_mount(self) -> None:
        if self.record is not None:
            self._shorten_why(self.record.trace.get("notices"))
            if (tools := self.record.tools) is not None:
                for call in tools.calls:
                    await self.add_call(call, tools.kind)
            for hop in self.record.hops:
                if not hop.taken and hop.round is None:
                    await self._fold(hop.answer, hop_line(hop))
            await self._show_record(self.record)
            if self.record.error:
                self.show_error(self.record.error)

    def on_resize(self, event: events.Resize) -> None:
        """Leave a waiting question its width on a narrow terminal; the footer has the key too."""
        self._show_withdraw()

    def show_progress(self, progress: TurnProgress, now_ns: int, energy: Energy | None) -> None:
        if self.queued:
            self._show_place("")
        hint = "" if progress.stage in (Stage.QUEUED, Stage.DONE) else "esc stop"
        self._status.show(progress_line(progress, now_ns, energy), hint)

    def show_queued(self, place: int) -> None:
        """Show that the question waits, and how many answers come before its own, from 1."""
        self._show_place(f"queued ({units.place_text(place)}): ")

    def _show_place(self, place: str) -> None:
        self.queued = bool(place)
        self.set_class(self.queued, "-queued")
        self._question.update(f"❯ {place}{self._asked}")
        self._show_withdraw()
        self.refresh_bindings()

    def _show_withdraw(self) -> None:
        has_room = self.size.width >= HINT_FROM
        _show(self._withdraw, "del withdraw" if self.queued and has_room else "")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to withdraw a question that waits, and nothing else before it is asked."""
        if action == "request":
            return (parameters == ("withdraw",)) == self.queued
        return super().check_action(action, parameters)

    def show_route(self, fact: Decided | HopStarted) -> None:
        """Show why this model answers, or that another arm answers after the previous one."""
        if isinstance(fact, Decided):
            self._decision = fact.decision
            why = full_why(fact.decision)
        elif fact.number == 1:
            return  # the decision says it
        else:
            why = next_hop_why(fact)
        self._why.remove_class("-short")
        self._why.show(why)

    def _shorten_why(self, notices: object) -> None:
        """Leave what the user must know about the choice, once there is an answer to read."""
        self._why.add_class("-short")
        self._why.show(notices_text(notices))

    async def end_hop(self, hop: HopEnded) -> None:
        """Fold away an answer that is not taken, dimmed, to make room for the next."""
        if not hop.taken:
            await self._fold(await self._take_text(), hop_line(hop))

    async def begin_round(self, event: RoundStarted) -> None:
        await self._insert(Static(round_line(event), markup=False, classes="round"))

    async def add_call(self, call: ToolCallRecord, kind: str | None = None) -> None:
        from etui.tui.chat._dialogs import fold_call

        if text := await self._take_text():
            await self._fold(text, "before the call")

        self._calls.append(fold_call(call, kind))
        await self._insert(self._calls[-1])

    async def _take_text(self) -> str:
        """Remove the text of a hop or a round from the screen, and return it."""
        await self.close_stream()
        text = "\n\n".join(t for t in (self._thinking.strip(), self._written.strip()) if t)
        self._thinking = self._written = ""
        self._thinking_tokens = 0
        self._thinking_folded = False
        self._thinking_box.collapsed = False
        self._thinking_box.display = self._answer.display = False
        self._thinking_body.update("")
        await self._answer.update("")
        return text

    async def _fold(self, text: str, title: str) -> None:
        shown, _ = shorten(sanitize(text), MOST_QUESTION_CHARACTERS, MOST_QUESTION_LINES)
        body = Static(shown or "no text", markup=False, classes="thought-text")
        await self._insert(Collapsible(body, title=escape(sanitize(title)), classes="hop"))

    async def _insert(self, widget: Widget) -> None:
        await self.mount(widget, before=self._thinking_box)

    async def write(self, batch: TextBatch) -> None:
        if self._decision is not None and not self._why.has_class("-short"):
            self._shorten_why(self._decision.notices)
        if batch.thinking:
            self._thinking += batch.thinking
            self._thinking_tokens += batch.thinking_tokens
            self._thinking_box.display = True
            self._thinking_body.update(sanitize(_tail(self._thinking)).strip())
            tokens = units.tokens_text(self._thinking_tokens)
            self._thinking_box.title = f"thinking{SEPARATOR}{tokens}"
        if batch.answer:
            self._fold_thinking()
            if self._stream is None:
                self._answer.display = True
                self._answer.add_class("-streaming")
                self._fences = ShortFences()
                self._stream = type(self._answer).get_stream(self._answer)
            self._written += batch.answer
            await self._stream.write(self._fences.feed(sanitize(batch.answer)))

    async def finish(self, finished: TurnFinished) -> None:
        self.record = finished.record
        self._status.show("")
        await self.query(".round").remove()
        await self.close_stream()
        if self._decision is not None:
            self._shorten_why(self._decision.notices)
        if (tools := finished.record.tools) is not None:
            from etui.tui.chat._dialogs import call_title

            for box, call in zip(self._calls, tools.calls, strict=False):
                box.title = call_title(call, tools.kind)  # with its joules
        await self._show_record(finished.record)

    def show_marks(
        self, *, replaced: bool, place: tuple[int, int] | None, good: bool | None, costs: str
    ) -> None:
        """Show the notes; ``place`` is its number among its branches, and their count."""
        self.good = good
        self.set_class(replaced, "-replaced")
        branch = "" if place is None else f"< {place[0]}/{place[1]} >"
        grade = "" if good is None else f"you said {'good' if good else 'bad'}"
        self._marks = tuple(mark for mark in (branch, grade, costs) if mark)
        self._show_price()

    def _show_price(self) -> None:
        """Show one row: what the answer cost, and after its end the notes on it."""
        if (record := self.record) is None:
            return
        joules, *facts = price_facts(record)
        ending = [facts.pop(0)] if facts[0].startswith("■") or facts[0].startswith("✗") else []
        goes_on = "m continue  " if can_continue(record) else ""
        line = SEPARATOR.join([joules, *ending, *self._marks, *facts])
        self._energy.show(sanitize(line), f"{goes_on}i details")

    async def _show_record(self, record: TurnRecord) -> None:
        self._answer.display = bool(record.answer.strip())
        if record.answer.strip():
            self._answer.remove_class("-streaming")
            # Streamed tables and reference links differ from parsed ones: parse the whole once.
            await self._answer.update(sanitize(record.answer))
        if record.thinking.strip():
            self._thinking_box.display = True
            self._thinking_body.update(sanitize(record.thinking).strip())
            self._thinking_box.title = finished_thinking_title(record)
            self._fold_thinking()
        self._show_price()

    def next_code(self) -> tuple[int, int, CodeBlock] | None:
        """Return the next block of code with its number, from 1, and their count; None for none."""
        source = self.record.answer if self.record is not None else self._written
        from etui.tui.chat._markdown import find_code_blocks

        blocks = find_code_blocks(source)
        if not blocks:
            return None
        at = self._copied_blocks % len(blocks)
        self._copied_blocks = at + 1
        return at + 1, len(blocks), blocks[at]

    async def close_stream(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()

    def show_error(self, what: str, fix: str = "") -> None:
        self.add_class("-failed")
        _show(self._error, f"✗ {notice_text(what, fix)}")

    def action_toggle_thinking(self) -> None:
        self._thinking_folded = True
        self._thinking_box.collapsed = not self._thinking_box.collapsed

    def action_request(self, action: TurnAction) -> None:
        self.post_message(self.ActionRequested(self, action))

    def action_branch(self, step: int) -> None:
        if any(mark.startswith("<") for mark in self._marks):
            self.action_request("before" if step < 0 else "after")

    def on_click(self, event: events.Click) -> None:
        """Focus the turn on a click on its question; elsewhere a click selects text."""
        if event.widget is self._withdraw:
            self.action_request("withdraw")
        elif event.widget is self._question:
            self.focus()

    def _fold_thinking(self) -> None:
        """Fold the thinking once, when the answer begins; afterwards only the user folds it."""
        if not self._thinking_folded:
            self._thinking_folded = True
            self._thinking_box.collapsed = True


def _tail(thinking: str) -> str:
    """Return the end of running thinking: a long text is expensive to lay out per batch."""
    if len(thinking) <= MOST_LIVE_THINKING_CHARACTERS:
        return thinking
    return f"… {thinking[-MOST_LIVE_THINKING_CHARACTERS:]}"


def _show(static: Static, content: str) -> None:
    if str(static.content) != content:
        static.update(content)
    static.display = bool(content)
