"""One question and its answer on the screen, from queued to paid for."""

from __future__ import annotations

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Collapsible, Markdown, Static
from textual.widgets.markdown import MarkdownStream

from etui import units
from etui.errors import EtuiError
from etui.lines import energy_line, why_line
from etui.log.records import TurnRecord
from etui.tui.fact_line import FactLine
from etui.tui.messages import TextBatch
from etui.tui.progress import Stage, TurnProgress, progress_line, thinking_title
from etui.turn import Decided, TurnFinished
from etui.visible import shortened, visible

MOST_QUESTION_CHARACTERS = 4_000
MOST_QUESTION_LINES = 40


def _markdown_parser() -> MarkdownIt:
    """Markdown without raw HTML, which would otherwise vanish from the answer."""
    return MarkdownIt("gfm-like", {"html": False})


def _text(content: str, name: str) -> Static:
    """A line of text in which nothing is markup, hidden while it is empty."""
    static = Static(content, markup=False, classes=name)
    static.display = bool(content)
    return static


class TurnView(Vertical):
    """A turn: question, why-line, thought, answer, energy line."""

    def __init__(self, question: str) -> None:
        super().__init__()
        shown, left_out = shortened(
            visible(question), MOST_QUESTION_CHARACTERS, MOST_QUESTION_LINES
        )
        more = f"\n… and {units.count_text(left_out, 'character')} more" if left_out else ""
        self.question = question
        self.record: TurnRecord | None = None
        self._question = _text(f"❯ {shown}{more}", "question")
        self._why = _text("", "why")
        self._thought_text = Static("", markup=False, classes="thought-text")
        self._thought = Collapsible(self._thought_text, title="thought", collapsed=False)
        self._thought.display = False
        self._answer = Markdown(parser_factory=_markdown_parser, open_links=False)
        self._answer.display = False
        self._status = FactLine(classes="status")
        self._energy = FactLine(classes="energy")
        self._error = _text("", "error")
        self._stream: MarkdownStream | None = None
        self._thinking = ""
        self._thinking_tokens = 0
        self._thought_folded = False

    def compose(self) -> ComposeResult:
        yield self._question
        yield self._why
        yield self._thought
        yield self._answer
        yield self._status
        yield self._error
        yield self._energy

    def show_progress(self, progress: TurnProgress, now_ns: int, joules: str | None) -> None:
        """What the turn is doing now."""
        self._status.show(progress_line(progress, now_ns, joules))
        self.set_class(progress.stage is Stage.QUEUED, "-queued")

    def show_decision(self, decided: Decided) -> None:
        """Why this model answers."""
        _show(self._why, why_line(decided.decision))

    async def write(self, batch: TextBatch) -> None:
        """Take what was decoded since the last batch."""
        if batch.thinking:
            self._thinking += batch.thinking
            self._thinking_tokens += batch.thinking_tokens
            self._thought.display = True
            self._thought_text.update(visible(self._thinking).strip())
            self._thought.title = thinking_title(self._thinking_tokens)
        if batch.answer:
            self._fold_thought()
            if self._stream is None:
                self._answer.display = True
                self._stream = Markdown.get_stream(self._answer)
            await self._stream.write(visible(batch.answer))

    async def finish(self, finished: TurnFinished) -> None:
        """Show the answer as it went into the log, and what it cost."""
        record = finished.record
        self.record = record
        await self.close_stream()
        self._answer.display = bool(record.answer.strip())
        if record.answer.strip():
            # Streamed tables and reference links differ from parsed ones: parse the whole once.
            await self._answer.update(visible(record.answer))
        elif record.status == "complete":
            self._status.show("the model answered with nothing")
        if record.thinking.strip():
            self._thought.display = True
            self._thought_text.update(visible(record.thinking).strip())
            self._thought.title = thinking_title(
                record.tokens.thinking, record.energy.thinking_joules, record.energy.kind
            )
            self._fold_thought()
        self._energy.show(energy_line(record))

    async def close_stream(self) -> None:
        """Write what the stream still holds."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()

    def show_error(self, error: EtuiError) -> None:
        """Say what went wrong and how to mend it."""
        fix = f"\n→ {visible(error.fix)}" if error.fix else ""
        _show(self._error, f"✗ {visible(error.what)}{fix}")

    def toggle_thought(self) -> None:
        """Fold the thought or unfold it."""
        self._thought_folded = True
        self._thought.collapsed = not self._thought.collapsed

    def _fold_thought(self) -> None:
        """Fold the thought away once, when the answer begins; then it is the reader's."""
        if not self._thought_folded:
            self._thought_folded = True
            self._thought.collapsed = True


def _show(static: Static, content: str) -> None:
    static.update(content)
    static.display = bool(content)
