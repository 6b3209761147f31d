"""The policies screen alone, and a hand on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual import on
from textual.app import App
from textual.message import Message
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import OptionList, Static, TextArea

from etui.config.config import Config, shipped_dir
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path
from etui.runtime.routes import Route
from etui.tui.commands import RouteRequested, Unsaved
from etui.tui.modals import ConfirmModal, TextModal
from etui.tui.policies._panes import AnalysisPane, EditingPane
from etui.tui.policies.screen import PoliciesScreen
from etui.tui.start import EtuiApp
from tests.tui.fakes import until

OWN = """\
# kept as it is typed
version: 1
description: Few joules.
models: {small: [smollm2-135m]}
arms:
  quick: {model: small, reasoning: direct}   # the one that answers
  careful: {model: small, reasoning: cot}
signals:
  long: {tokens: {at_least: 250}}
rules:
  - name: long-questions
    priority: 100
    when: long
    use: careful
  - name: everything-else
    use: quick
probes:
  - {query: "Why?", arm: quick}
"""


def keep(config: Config, name: str, text: str) -> Path:
    """A policy of the user's."""
    config.policies_dir.mkdir(exist_ok=True)
    path = config.policies_dir / f"{name}.yaml"
    path.write_bytes(text.encode("utf-8"))
    return path


def shipped(name: str) -> str:
    return (shipped_dir() / "policies" / f"{name}.yaml").read_text(encoding="utf-8")


def put_models(config: Config, *names: str) -> None:
    """Files where models would be: nothing here opens them."""
    catalogue = load_catalogue(config)
    for name in names:
        path = model_path(catalogue.get(name), config)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


class PoliciesApp(App[None]):
    """Nothing but the screen, and the wishes it sends up."""

    CSS_PATH = EtuiApp.CSS_PATH
    HORIZONTAL_BREAKPOINTS = EtuiApp.HORIZONTAL_BREAKPOINTS
    VERTICAL_BREAKPOINTS = EtuiApp.VERTICAL_BREAKPOINTS

    def __init__(self, config: Config, policy: str = "balanced", model: str | None = None) -> None:
        super().__init__()
        self.route = Route(policy, model)
        self.policies = PoliciesScreen(config, lambda: self.route)
        self.wishes: list[Message] = []
        self.pilot: Pilot[None]

    def on_mount(self) -> None:
        self.push_screen(self.policies)

    async def until(self, predicate: Callable[[], object]) -> None:
        await until(self.pilot, predicate)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def says(self, verdict: str) -> None:
        """Wait for a verdict of the check."""
        await self.until(lambda: verdict in self.verdict)

    async def notes(self, words: str) -> None:
        """Wait for a notice."""
        await self.until(lambda: words in self.told())

    async def modal(self, kind: type[Screen[Any]], inside: type[Widget]) -> None:
        """Wait for a window over the screen, and what is typed into, which has the focus then."""
        await self.until(lambda: isinstance(self.screen, kind) and isinstance(self.focused, inside))
        if kind is TextModal:  # its text is selected after it has the focus
            await self.until(lambda: self.screen.query_one(TextArea).selected_text)

    async def asked(self, what: str, answer: str) -> None:
        """Wait for a yes-or-no question that says ``what``, and answer it."""
        await self.until(lambda: isinstance(self.screen, ConfirmModal) and what in self.drawn())
        await self.press(answer)
        await self.until(lambda: self.screen is self.policies)

    async def edit(self, name: str, text: str) -> None:
        """Open a policy from the list, and wait for the focus on its text."""
        self.policies._policy_list.put_cursor(name)
        await self.press("enter")
        await self.until(lambda: self.pane.text == text and self.pane.editor.has_focus)

    @on(RouteRequested)
    @on(Unsaved)
    def keep_wish(self, wish: Message) -> None:
        self.wishes.append(wish)

    @property
    def pane(self) -> EditingPane:
        return self.policies.query_one(EditingPane)

    @property
    def verdict(self) -> str:
        return str(self.policies.query_one(".verdict", Static).content)

    @property
    def answer(self) -> str:
        """What the last inquiry came to, however it is broken into lines."""
        pane = self.policies.query_one(AnalysisPane)
        return " ".join(f"{pane._title.content}\n{pane._body.content}".split())

    def type_over(self, old: str, new: str) -> None:
        """Put another text in place of the first that is found."""
        before = self.pane.text.index(old)
        lines = self.pane.text[:before].split("\n")
        start = (len(lines) - 1, len(lines[-1]))
        self.pane.editor.replace(new, start, (start[0], start[1] + len(old)))

    def shelf_lines(self) -> list[str]:
        """The policies of the list, each on one line."""
        shelf = self.policies.query_one("#shelf", OptionList)
        return [" ".join(str(option.prompt).split("\n")).strip() for option in shelf.options]

    def problem_lines(self) -> list[str]:
        problems = self.policies.query_one("#problems", OptionList)
        return [str(option.prompt) for option in problems.options] if problems.display else []

    def drawn(self) -> str:
        """What stands on the terminal, line by line."""
        return "\n".join(strip.text for strip in self.screen._compositor.render_strips())

    def told(self) -> str:
        return "\n".join(notification.message for notification in self._notifications)


@asynccontextmanager
async def editing(
    config: Config,
    text: str | None = OWN,
    policy: str = "mine",
    size: tuple[int, int] = (140, 40),
) -> AsyncIterator[PoliciesApp]:
    """The screen with a policy open and checked; ``mine`` has the text, unless that is None."""
    if text is not None:
        keep(config, "mine", text)
    app = PoliciesApp(config, policy)
    async with app.run_test(size=size) as app.pilot:
        await app.until(lambda: "valid" in app.verdict or "error" in app.verdict)
        yield app
