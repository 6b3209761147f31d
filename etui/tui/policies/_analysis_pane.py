"""Analyses of the edited policy: explain a question, replay the log, compare with a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Literal, TypeAlias

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.timer import Timer
from textual.widgets import Input, Static

from etui.errors import EtuiError
from etui.tui._work import in_thread
from etui.tui.policies import _tasks as tasks
from etui.tui.policies._tasks import Subject
from etui.tui.policies._text import compared_lines, explained_lines, failed_lines, replay_lines

About: TypeAlias = Literal["", "explain", "replay", "compare"]
Lines: TypeAlias = Callable[[int], Sequence[str]]  # Formats a result for a width in cells
_EXPLAIN_AFTER_SECONDS = 0.2  # Delay from the last key to the decision about the typed question
_NARROWEST = 20
_GROUP = "policy-analysis"
_INTRODUCTION = """\
Type a question to see which arm (a model with a way to answer: direct; cot, which thinks first;
vote, the most frequent of several answers) would answer it under the text as it is now. A replay
estimates which questions of the history would move to another arm, and their joules. Both work
before you save; Use switches the chat to a policy."""
_TITLES: dict[About, str] = {
    "": "",
    "explain": "which arm would answer",
    "replay": "replay of the log",
    "compare": "differences",
}


class AnalysisPane(Vertical):
    """A field for a question, and below it the result of the last analysis."""

    def __init__(self, subject: Callable[[], Subject | None]) -> None:
        super().__init__(id="inquiries")
        self._subject = subject
        self._explain_timer: Timer | None = None
        self._about: About = ""
        self._lines: Lines = partial(wrap, _INTRODUCTION)
        self.question = Input(
            placeholder="a question: which model would answer?", id="question", compact=True
        )
        self.answer = VerticalScroll(id="answer", can_focus=True)
        self._title = Static("", markup=False, classes="title")
        self._body = Static("", markup=False)

    def compose(self) -> ComposeResult:
        yield self.question
        with self.answer:
            yield self._title
            yield self._body

    @property
    def text(self) -> str:
        return f"{self._title.content}\n{self._body.content}"

    def explain(self) -> None:
        if question := self.question.value.strip():
            self._start(
                "explain",
                lambda subject: partial(explained_lines, tasks.explain(question, subject)),
            )

    def replay(self) -> None:

        def task(subject: Subject) -> Lines:
            document, newest_only = tasks.replay(subject)
            return lambda width: replay_lines(document, newest_only, width)

        self._show("replay", lambda _width: ("…",))
        self._start("replay", task)

    def compare(self, other: Path) -> None:
        self._start(
            "compare", lambda subject: partial(compared_lines, tasks.compare(subject, other))
        )

    def text_changed(self) -> None:
        """Explain the question again: another text may decide differently."""
        if self._about == "explain":
            self.explain()

    def on_resize(self) -> None:
        self.call_after_refresh(self._write)  # the answer has its new width only then

    def on_input_changed(self) -> None:
        if self._explain_timer is not None:
            self._explain_timer.stop()
        if self._about == "explain":  # of a question that is no longer typed
            self.workers.cancel_group(self, _GROUP)
        self._explain_timer = self.set_timer(_EXPLAIN_AFTER_SECONDS, self.explain)

    def on_input_submitted(self) -> None:
        self.explain()

    def _start(self, about: About, task: Callable[[Subject], Lines]) -> None:
        if (subject := self._subject()) is not None:
            self._run(about, task, subject)

    @work(exclusive=True, group=_GROUP, exit_on_error=False)
    async def _run(self, about: About, task: Callable[[Subject], Lines], subject: Subject) -> None:
        try:
            lines = await in_thread(lambda: task(subject))
        except EtuiError as error:
            lines = partial(failed_lines, error.what, error.fix)
        self._show(about, lines)

    def _show(self, about: About, lines: Lines) -> None:
        if about != self._about:
            self.answer.scroll_home(animate=False)
        self._about, self._lines = about, lines
        self._title.update(_TITLES[about])
        self._write()

    def _write(self) -> None:
        width = max(_NARROWEST, self._body.size.width)
        self._body.update("\n".join(self._lines(width)))
