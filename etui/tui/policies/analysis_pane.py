"""Analyses of the edited policy: explain a question, replay the log, compare with a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.timer import Timer
from textual.widgets import Input, Static

from etui.tui.policies import tasks
from etui.tui.policies.messages import (
    About,
    Compared,
    Explained,
    Fact,
    PolicyNews,
    PolicyTaskFailed,
    Replayed,
    Subject,
)
from etui.tui.policies.text import compared_lines, explained_lines, failed_lines, replay_lines

_EXPLAIN_AFTER_SECONDS = 0.2
"""Delay from the last key to the decision about the typed question."""

_NARROWEST = 20

_INTRODUCTION = """\
Type a question to see which arm would answer it under the policy as it is now. A replay shows which
questions of the log would move to another arm, and their joules, before you save."""

_TITLES: dict[About, str] = {
    "": "",
    "explain": "which arm would answer",
    "replay": "replay of the log",
    "compare": "differences",
}


class AnalysisPane(Vertical):
    """A field for a question, and below it the result of the last analysis.

    Args:
        subject: Returns the text as it is now; None while no policy is open.
    """

    def __init__(self, subject: Callable[[], Subject | None]) -> None:
        super().__init__(id="inquiries")
        self._subject = subject
        self._explain_timer: Timer | None = None
        self._about: About = ""
        self._lines: Callable[[int], Sequence[str]] = partial(wrap, _INTRODUCTION)
        self.question = Input(placeholder="type a question to explain", id="question", compact=True)
        self.answer = VerticalScroll(id="answer", can_focus=True)
        self._title = Static("", markup=False, classes="title")
        self._body = Static("", markup=False)

    def compose(self) -> ComposeResult:
        """Build the field and the scrolling result."""
        yield self.question
        with self.answer:
            yield self._title
            yield self._body

    @property
    def text(self) -> str:
        """The result of the last analysis."""
        return f"{self._title.content}\n{self._body.content}"

    def explain(self) -> None:
        """Show which arm would answer the typed question."""
        if question := self.question.value.strip():
            self._start("explain", partial(tasks.explain, question))

    def replay(self) -> None:
        """Replay the questions of the log."""
        self._show("replay", lambda _width: ("…",))
        self._start("replay", tasks.replay)

    def compare(self, other: Path, other_name: str) -> None:
        """Show the differences from a file."""
        self._start("compare", lambda subject: tasks.compare(subject, other, other_name))

    def text_changed(self) -> None:
        """Explain the question again: another text may decide differently."""
        if self._about == "explain":
            self.explain()

    def on_resize(self) -> None:
        """Wrap the result at the new width."""
        self.call_after_refresh(self._write)  # the answer has its new width only then

    def on_input_changed(self) -> None:
        """Explain the question shortly after the last key."""
        if self._explain_timer is not None:
            self._explain_timer.stop()
        self._explain_timer = self.set_timer(_EXPLAIN_AFTER_SECONDS, self.explain)

    def on_input_submitted(self) -> None:
        """Explain the question at once."""
        self.explain()

    def on_policy_news(self, news: PolicyNews) -> None:
        """Show the result of an analysis, unless the question has changed since."""
        match news.fact:
            case Explained(query=query, document=document) if query == self.question.value.strip():
                self._show("explain", partial(explained_lines, document))
            case Replayed() as replayed:
                self._show("replay", partial(replay_lines, replayed))
            case Compared() as compared:
                self._show("compare", partial(compared_lines, compared))
            case PolicyTaskFailed(what=what, fix=fix, about=about):
                self._show(about, partial(failed_lines, what, fix))
        news.stop()

    def _start(self, about: About, task: Callable[[Subject], Fact]) -> None:
        if (subject := self._subject()) is not None:
            self._run(about, task, subject)

    @work(thread=True, exclusive=True, group="policy-inquiry", exit_on_error=False)
    def _run(self, about: About, task: Callable[[Subject], Fact], subject: Subject) -> None:
        self.post_message(PolicyNews(tasks.run_task(lambda: task(subject), about)))

    def _show(self, about: About, lines: Callable[[int], Sequence[str]]) -> None:
        """Show a result: ``lines`` formats it for a width in cells."""
        if about != self._about:
            self.answer.scroll_home(animate=False)
        self._about, self._lines = about, lines
        self._title.update(_TITLES[about])
        self._write()

    def _write(self) -> None:
        width = max(_NARROWEST, self._body.size.width)
        self._body.update("\n".join(self._lines(width)))
