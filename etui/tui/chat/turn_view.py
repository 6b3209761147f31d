"""Show one turn: question, route, thinking, answer, energy."""

from __future__ import annotations

from typing import ClassVar, Literal

from markdown_it import MarkdownIt
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.markup import escape
from textual.message import Message
from textual.widgets import Collapsible, Markdown, Static
from textual.widgets.markdown import MarkdownStream

from etui import units
from etui.errors import EtuiError
from etui.text.sanitize import sanitize, shorten
from etui.text.tables import SEPARATOR
from etui.tui.chat.conversation import Asking
from etui.tui.chat.messages import TextBatch
from etui.tui.chat.progress import TurnProgress, progress_line, thinking_title, thought_title
from etui.tui.power.phases import Stage
from etui.tui.widgets.code_fences import ShortFences
from etui.tui.widgets.fact_line import FactLine
from etui.turn.events import Decided, HopEnded, HopStarted, TurnFinished
from etui.turn.record import HopRecord, TurnRecord
from etui.turn.text import energy_line, route_parts, why_line

MOST_QUESTION_CHARACTERS = 4_000


MOST_QUESTION_LINES = 40


MOST_LIVE_THOUGHT_CHARACTERS = 1_500


TurnAction = Literal["smaller", "larger", "edit", "copy"]


def _markdown_parser() -> MarkdownIt:
    """Markdown without raw HTML, which would otherwise vanish from the answer."""
    return MarkdownIt("gfm-like", {"html": False})


def _text(content: str, name: str) -> Static:
    """A line of text in which nothing is markup, hidden while it is empty."""
    static = Static(content, markup=False, classes=name)
    static.display = bool(content)
    return static


class TurnView(Vertical, can_focus=True):
    """A turn: question, why-line, thought, answer, energy line."""

    FOCUS_ON_CLICK = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "wish('copy')", "Copy answer", id="turn.copy"),
        Binding("e", "wish('edit')", "Edit", id="turn.edit"),
        Binding("minus", "wish('smaller')", "Ask smaller", id="turn.smaller", key_display="-"),
        Binding("plus,equals_sign", "wish('larger')", "Ask larger", id="turn.larger",
                key_display="+"),
        Binding("t", "toggle_thought", "Thought", id="turn.thought"),
        Binding("up", "app.focus_previous", "Earlier", id="turn.up", show=False),
        Binding("down", "app.focus_next", "Later", id="turn.down", show=False),
    ]  # fmt: skip

    HELP = """\
## Answer

`c` copies the answer, `e` brings the question back to be edited and sent again. `-` and `+` ask
it again with the next smaller or larger arm, and show both costs. The answer that comes last takes
the place of the one before it, and of what followed, in what the model remembers of the chat.
"""

    class Wish(Message):
        """Something is to be done with this turn."""

        def __init__(self, view: TurnView, wish: TurnAction) -> None:
            super().__init__()
            self.view = view
            self.wish = wish

    def __init__(self, asking: Asking) -> None:
        super().__init__()
        self.asking = asking
        self.record: TurnRecord | None = None
        self.ended = False
        shown, left_out = shorten(
            sanitize(asking.text), MOST_QUESTION_CHARACTERS, MOST_QUESTION_LINES
        )
        more = f"\n… and {units.count_text(left_out, 'character')} more" if left_out else ""
        self._question = _text(f"❯ {shown}{more}", "question")
        self._why = FactLine(classes="why")
        self._thought_text = Static("", markup=False, classes="thought-text")
        self._thought = Collapsible(self._thought_text, title="thought", collapsed=False)
        self._thought.display = False
        self._answer = Markdown(parser_factory=_markdown_parser, open_links=False)
        self._answer.display = False
        self._status = FactLine(classes="status")
        self._energy = FactLine(classes="energy")
        self._predicted = FactLine(classes="predicted")
        self._costs = _text("", "costs")
        self._error = _text("", "error")
        self._stream: MarkdownStream | None = None
        self._fences = ShortFences()
        self._thinking = ""
        self._written = ""
        self._thinking_tokens = 0
        self._thought_folded = False

    @classmethod
    def of(cls, record: TurnRecord) -> TurnView:
        """The view of a turn of the log."""
        view = cls(Asking(record.query))
        view.record = record
        view.ended = True
        return view

    def compose(self) -> ComposeResult:
        yield self._question
        yield self._why
        yield self._thought
        yield self._answer
        yield self._status
        yield self._error
        yield self._energy
        yield self._predicted
        yield self._costs

    async def on_mount(self) -> None:
        if self.record is not None:
            self._why.show(logged_why(self.record))
            for hop in self.record.hops:
                if not hop.taken:
                    await self._fold_away(hop, hop.answer)
            await self._show_record(self.record)
            if self.record.error:
                _show(self._error, f"✗ {sanitize(self.record.error)}")

    def show_progress(self, progress: TurnProgress, now_ns: int, joules: str | None) -> None:
        """What the turn is doing now."""
        self._status.show(progress_line(progress, now_ns, joules))
        self.set_class(progress.stage is Stage.QUEUED, "-queued")

    def show_decision(self, decided: Decided) -> None:
        """Why this model answers."""
        notices = [f"! {notice}" for notice in decided.decision.notices]
        self._why.show(sanitize("\n".join([why_line(decided.decision), *notices])))

    def show_hop(self, hop: HopStarted) -> None:
        """Another arm answers after the one before it."""
        way = hop.arm if hop.arm == hop.reasoning else f"{hop.arm} ({hop.reasoning})"
        route = " › ".join(["then", way, hop.model])
        parts = [self._why.facts, SEPARATOR.join(p for p in (route, hop.why) if p)]
        self._why.show(sanitize("\n".join(part for part in parts if part)))

    async def end_hop(self, hop: HopEnded) -> None:
        """An answer that does not stand is folded away, dimmed, and gives way to the next."""
        if hop.taken:
            return
        await self.close_stream()
        text = "\n\n".join(t for t in (self._thinking.strip(), self._written.strip()) if t)
        await self._fold_away(hop, text)
        self._thinking = self._written = ""
        self._thinking_tokens = 0
        self._thought_folded = False
        self._thought.collapsed = False
        self._thought.display = self._answer.display = False
        self._thought_text.update("")
        await self._answer.update("")

    async def _fold_away(self, hop: HopEnded | HopRecord, text: str) -> None:
        shown, _ = shorten(sanitize(text), MOST_QUESTION_CHARACTERS, MOST_QUESTION_LINES)
        body = Static(shown or "no text", markup=False, classes="thought-text")
        title = escape(sanitize(hop_line(hop)))
        await self.mount(Collapsible(body, title=title, classes="hop"), before=self._thought)

    async def write(self, batch: TextBatch) -> None:
        """Take what was decoded since the last batch."""
        if batch.thinking:
            self._thinking += batch.thinking
            self._thinking_tokens += batch.thinking_tokens
            self._thought.display = True
            self._thought_text.update(sanitize(_tail(self._thinking)).strip())
            self._thought.title = thinking_title(self._thinking_tokens)
        if batch.answer:
            self._fold_thought()
            if self._stream is None:
                self._answer.display = True
                self._answer.add_class("-streaming")
                self._fences = ShortFences()
                self._stream = Markdown.get_stream(self._answer)
            self._written += batch.answer
            await self._stream.write(self._fences.feed(sanitize(batch.answer)))

    async def finish(self, finished: TurnFinished) -> None:
        """Show the answer as it went into the log, and what it cost."""
        self.record = finished.record
        self._status.show("")
        await self.close_stream()
        await self._show_record(finished.record)

    def show_costs(self, costs: str) -> None:
        """What it cost beside the answer it took the place of."""
        _show(self._costs, costs)

    def show_replaced(self, replaced: bool) -> None:
        """Whether another answer has taken the place of this one."""
        self.set_class(replaced, "-replaced")

    async def _show_record(self, record: TurnRecord) -> None:
        self._answer.display = bool(record.answer.strip())
        if record.answer.strip():
            self._answer.remove_class("-streaming")
            # Streamed tables and reference links differ from parsed ones: parse the whole once.
            await self._answer.update(sanitize(record.answer))
        elif record.status == "complete":
            self._status.show("the model answered with nothing")
        if record.thinking.strip():
            self._thought.display = True
            self._thought_text.update(sanitize(record.thinking).strip())
            self._thought.title = thought_title(record)
            self._fold_thought()
        self._energy.show(energy_line(record))
        self._predicted.show(predicted_line(record))

    async def close_stream(self) -> None:
        """Write what the stream still holds."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()

    def show_error(self, error: EtuiError) -> None:
        """Say what went wrong and how to mend it."""
        fix = f"\n→ {sanitize(error.fix)}" if error.fix else ""
        _show(self._error, f"✗ {sanitize(error.what)}{fix}")

    def action_toggle_thought(self) -> None:
        """Fold the thought or unfold it."""
        self._thought_folded = True
        self._thought.collapsed = not self._thought.collapsed

    def action_wish(self, wish: TurnAction) -> None:
        """Ask the screen to do something with this turn."""
        self.post_message(self.Wish(self, wish))

    def on_click(self, event: events.Click) -> None:
        """A click on the question chooses the turn; elsewhere it selects text."""
        if event.widget is self._question:
            self.focus()

    def _fold_thought(self) -> None:
        """Fold the thought away once, when the answer begins; then it is the reader's."""
        if not self._thought_folded:
            self._thought_folded = True
            self._thought.collapsed = True


def _tail(thinking: str) -> str:
    """The end of a thought under way: the whole of a long one would be laid out again and again."""
    if len(thinking) <= MOST_LIVE_THOUGHT_CHARACTERS:
        return thinking
    return f"… {thinking[-MOST_LIVE_THOUGHT_CHARACTERS:]}"


def _show(static: Static, content: str) -> None:
    static.update(content)
    static.display = bool(content)


def logged_why(record: TurnRecord) -> str:
    """The why-line of a turn of the log, as it was when the answer came."""
    parts = route_parts(
        record.policy, record.rule, record.arm, record.reasoning, record.model, record.why
    )
    return sanitize(SEPARATOR.join(part for part in parts if part))


def hop_line(hop: HopEnded | HopRecord) -> str:
    """An answer that did not stand: ``not taken: quick › smollm2-135m · 41 % sure · 12 J``."""
    parts = [f"not taken: {hop.arm} › {hop.model}", hop.why]
    if hop.joules is not None:
        parts.append(units.energy_text(hop.joules))
    return SEPARATOR.join(part for part in parts if part)


def predicted_line(record: TurnRecord) -> str:
    """``27 % more joules than predicted``; empty where nothing was predicted or measured."""
    predicted, measured = record.predicted_joules, record.energy.joules
    parts = []
    if predicted and measured is not None:
        share = measured / predicted - 1
        word = "more" if share >= 0 else "fewer"
        parts.append(f"{units.percent_text(abs(share))} {word} joules than predicted")
    if record.predicted_accuracy is not None:
        parts.append(f"expected to be right {units.percent_text(record.predicted_accuracy)}")
    return SEPARATOR.join(parts)
