"""The policies screen alone, and a hand on it."""

from __future__ import annotations

from pathlib import Path

from textual.app import App
from textual.widgets import OptionList, Static

from etui.config.config import Config, shipped_dir
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path
from etui.runtime.routes import Route
from etui.tui.commands import AppAction, AppRequest
from etui.tui.policies._analysis_pane import AnalysisPane
from etui.tui.policies._editing_pane import EditingPane
from etui.tui.policies.screen import PoliciesScreen
from etui.tui.start import EtuiApp

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
        self.wishes: list[AppAction] = []

    def on_mount(self) -> None:
        self.push_screen(self.policies)

    def on_app_request(self, asked: AppRequest) -> None:
        self.wishes.append(asked.action)

    @property
    def pane(self) -> EditingPane:
        return self.policies.query_one(EditingPane)

    @property
    def verdict(self) -> str:
        return str(self.policies.query_one(".verdict", Static).content)

    @property
    def answer(self) -> str:
        """What the last inquiry came to, however it is broken into lines."""
        return " ".join(self.policies.query_one(AnalysisPane).text.split())

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
