"""Inquiries about a policy that is edited: who would answer, what would move, what differs."""

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

from etui.tui.policies import tasks as policy_desk
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
"""So long after the last key a question is decided."""

_NARROWEST = 20

_NOTHING_YET = """\
Type a question to see who would answer it, by the text as it is. A replay tells which questions
of the log would move, and at what joules, before anything is saved."""

_TITLES: dict[About, str] = {
    "": "",
    "explain": "who would answer",
    "replay": "the log, by the text as it is",
    "compare": "what differs",
}


class AnalysisPane(Vertical):
    """A question to type, and below what the last inquiry came to.

    Args:
        subject: Tells the text as it is now; None while nothing is open.
    """

    def __init__(self, subject: Callable[[], Subject | None]) -> None:
        super().__init__(id="inquiries")
        self._subject = subject
        self._explain_soon: Timer | None = None
        self._about: About = ""
        self._lines: Callable[[int], Sequence[str]] = partial(wrap, _NOTHING_YET)
        self.question = Input(
            placeholder="a question: who would answer it?", id="question", compact=True
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
        """What the last inquiry came to."""
        return f"{self._title.content}\n{self._body.content}"

    def explain(self) -> None:
        """Tell who would answer the question that is typed."""
        if question := self.question.value.strip():
            self._inquire("explain", partial(policy_desk.explain, question))

    def replay(self) -> None:
        """Replay the questions of the log."""
        self._show("replay", lambda _width: ("…",))
        self._inquire("replay", policy_desk.replay)

    def compare(self, other: Path, called: str) -> None:
        """Show what differs from a file."""
        self._inquire("compare", lambda subject: policy_desk.compare(subject, other, called))

    def text_changed(self) -> None:
        """What was explained may be otherwise now."""
        if self._about == "explain":
            self.explain()

    def on_resize(self) -> None:
        self.call_after_refresh(self._write)  # the answer has its new width then

    def on_input_changed(self) -> None:
        if self._explain_soon is not None:
            self._explain_soon.stop()
        self._explain_soon = self.set_timer(_EXPLAIN_AFTER_SECONDS, self.explain)

    def on_input_submitted(self) -> None:
        self.explain()

    def on_policy_news(self, news: PolicyNews) -> None:
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

    def _inquire(self, about: About, ask: Callable[[Subject], Fact]) -> None:
        if (subject := self._subject()) is not None:
            self._find_out(about, ask, subject)

    @work(thread=True, exclusive=True, group="policy-inquiry", exit_on_error=False)
    def _find_out(self, about: About, ask: Callable[[Subject], Fact], subject: Subject) -> None:
        self.post_message(PolicyNews(policy_desk.told(lambda: ask(subject), about)))

    def _show(self, about: About, lines: Callable[[int], Sequence[str]]) -> None:
        """Show an answer: ``lines`` gives it for a width in cells."""
        if about != self._about:
            self.answer.scroll_home(animate=False)
        self._about, self._lines = about, lines
        self._title.update(_TITLES[about])
        self._write()

    def _write(self) -> None:
        width = max(_NARROWEST, self._body.size.width)
        self._body.update("\n".join(self._lines(width)))
