"""The screens other than the chat, each created when it is first shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from etui.config.config import Config
from etui.runtime.routes import Route
from etui.tui.commands import Command
from etui.tui.power.feed import PowerFeed
from etui.tui.services import Services

MODE_BINDINGS: list[BindingType] = [
    Binding("f2", "switch_mode('chat')", "Chat", id="app.chat"),
    Binding("f3", "switch_mode('history')", "History", id="app.history"),
    Binding("f4", "switch_mode('policies')", "Policies", id="app.policies"),
    Binding("f5", "switch_mode('runs')", "Runs", id="app.runs"),
    Binding("f6", "switch_mode('models')", "Models", id="app.models"),
    Binding("f10", "switch_mode('power')", "Power", id="app.power"),
]
"""Keys that switch to the screens."""

_DESCRIPTIONS = {
    "chat": "Ask questions, and see the energy cost of each answer",
    "history": "All turns: sort, search and total them",
    "policies": "Edit policies; explain and replay them before saving",
    "runs": "Bench runs: accuracy against joules",
    "models": "Pull, load and calibrate models; see their energy cost",
    "power": "Every power channel over the last hour; joules by model and day, and money",
}


def build_screens(
    config: Config,
    backend: Callable[[], Services | None],
    route: Callable[[], Route],
    feed: PowerFeed,
) -> dict[str, Callable[[], Screen[None]]]:
    """Map each mode to a function that creates its screen; imports are deferred until then.

    Args:
        backend: Returns the services behind the app, None until they are open.
        route: Returns the route of the next questions.
        feed: Record of the watts of the last hour.
    """

    def history() -> Screen[None]:
        from etui.tui.history.screen import HistoryScreen

        return HistoryScreen(config)

    def policies() -> Screen[None]:
        from etui.tui.policies.screen import PoliciesScreen

        return PoliciesScreen(config, route)

    def runs() -> Screen[None]:
        from etui.bench.folder import runs_dir
        from etui.tui.runs.screen import RunsScreen

        return RunsScreen(runs_dir(config))

    def models() -> Screen[None]:
        from etui.tui.models.screen import ModelsScreen

        return ModelsScreen(config, backend)

    def power() -> Screen[None]:
        from etui.tui.power.screen import PowerScreen

        return PowerScreen(config, feed)

    return {
        "history": history,
        "policies": policies,
        "runs": runs,
        "models": models,
        "power": power,
    }


def screen_commands(app: App[Any]) -> Iterator[Command]:
    """Yield one command per screen."""
    for mode, description in _DESCRIPTIONS.items():

        def switch(mode: str = mode) -> None:
            app.switch_mode(mode)

        yield Command(f"screen: {mode}", description, switch)
