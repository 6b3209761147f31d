"""Start of the app, and its errors once the terminal is restored."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.css.stylesheet import Stylesheet
from textual.events import Event, Key, Paste
from textual.screen import Screen
from textual.widgets import TextArea

from etui.config.config import Config, edit_settings, make_home
from etui.errors import EtuiError
from etui.log.records import ChatRecord
from etui.runtime.routes import Route, with_route
from etui.text import sanitize
from etui.tui._key_order import KeyHandled, KeyOrder
from etui.tui._work import faults_shown, in_thread, notify_error, start
from etui.tui.ascii import TerminalApp, copy_by_tools, leave_on_hangup, leave_on_terminate
from etui.tui.chat.screen import ChatScreen
from etui.tui.commands import (
    ChatRequested,
    Command,
    CopyRequested,
    EtuiCommands,
    RouteRequested,
    SettingChosen,
    Unsaved,
    build_commands,
    route_commands,
)
from etui.tui.modals import ConfirmModal
from etui.tui.pacing import MOST_MIDDLE_COLLECTIONS
from etui.tui.power.feed import PowerFeed
from etui.tui.services import OpenServices, Services

if TYPE_CHECKING:
    from etui.tui.jobs import JobList
    from etui.tui.server_screen import ServerScreen

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


class CachedStylesheet(Stylesheet):
    """Keeps what is parsed as long as the theme's variables stay the same.

    Textual sets the variables and parses all sources again for each screen that is opened, twice
    for the first one, although only a theme changes them.
    """

    def __init__(self, *, variables: dict[str, str]) -> None:
        super().__init__(variables=variables)
        self._known = dict(variables)

    def set_variables(self, variables: dict[str, str]) -> None:
        """Set CSS variables; the same ones again change nothing."""
        if variables != self._known:
            self._known = dict(variables)
            super().set_variables(variables)

    def reparse(self) -> None:
        """Parse what is not parsed with these variables yet."""
        self.parse()


AGAIN_SECONDS = 4.0  # How long after one Ctrl+C a second one leaves the app
Interrupt = Literal["stop", "ask", "quit"]


def choose_interrupt(now: float, armed_at: float | None, *, answering: bool) -> Interrupt:
    """Choose what a Ctrl+C does that has nothing to copy."""
    if armed_at is not None and 0 <= now - armed_at <= AGAIN_SECONDS:
        return "quit"
    return "stop" if answering else "ask"


LEAVE_SECONDS = 5.0  # Longest wait on exit for the running answer to be stopped and saved
NOTICE_SECONDS = 12.0  # How long a notice of the start is shown


class EtuiApp(TerminalApp):
    """App in which local language models answer and every answer shows its energy in joules."""

    TITLE = "etui"
    DEFAULT_MODE = "chat"
    PAUSE_GC_ON_SCROLL = True
    COMMANDS = {EtuiCommands}  # noqa: RUF012
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 as Textual has it
    VERTICAL_BREAKPOINTS = [(0, "-low"), (16, "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "toggle_help", "Help", id="app.help", priority=True),
        Binding("ctrl+q", "quit", "Quit", id="app.quit", priority=True),
        Binding("ctrl+p", "command_palette", "Menu", id="app.commands", priority=True),
        Binding("f7", "route", "Model", id="app.route"),
        *MODE_BINDINGS,
        # Where nothing of the screen is open that Esc would close.
        Binding("escape", "switch_mode('chat')", "Chat", id="app.back", show=False),
        Binding("ctrl+c", "copy_or_quit", "Copy, stop, quit", id="app.copy_or_quit", show=False,
                priority=True),
        # No priority: in a text that is edited it undoes. The prompt binds it once more.
        Binding("ctrl+z", "suspend_process", "Suspend", id="app.suspend", show=False),
    ]  # fmt: skip

    def __init__(
        self,
        config: Config,
        route: Route,
        open_backend: OpenServices,
        notices: Sequence[str] = (),
        chat: ChatRecord | None = None,
    ) -> None:
        super().__init__(config)
        self.stylesheet = CachedStylesheet(variables=self.get_css_variables())
        if config.theme in self.available_themes:
            self._begin_with_theme(config.theme)
        self._route = route
        self._open_backend = open_backend
        self._notices = notices
        self._to_open = chat
        self.backend: Services | None = None
        self._unsaved = Unsaved("")
        self._interrupted_at: float | None = None
        self._settings_lock = asyncio.Lock()
        self._keys = KeyOrder(self, super().on_event)
        self._server: ServerScreen | None = None
        self._route_shown: Callable[[], object] = lambda: None  # By the screen of policies
        self.power = PowerFeed()
        self._chat = ChatScreen(config, route, self.power)
        for mode in _DESCRIPTIONS:
            self.add_mode(mode, partial(self._make_screen, mode))

    def _make_screen(self, mode: str) -> Screen[None]:
        match mode:
            case "history":
                from etui.tui.history.screen import HistoryScreen

                return HistoryScreen(self._config)
            case "policies":
                from etui.tui.policies.screen import PoliciesScreen

                policies = PoliciesScreen(self._config, lambda: self._route)
                self._route_shown = policies.show_use
                return policies
            case "runs":
                from etui.tui.runs.screen import RunsScreen

                return RunsScreen(self._config, lambda: self.backend, self._app_jobs)
            case "models":
                from etui.tui.models.screen import ModelsScreen

                return ModelsScreen(self._config, lambda: self.backend, self._app_jobs)
            case "power":
                from etui.tui.power.screen import PowerScreen

                return PowerScreen(self._config, self.power)
        return self._chat

    @cached_property
    def _app_jobs(self) -> JobList:
        from etui.tui.jobs import JobList

        return JobList()

    def _begin_with_theme(self, name: str) -> None:
        """Take a theme before the first paint; a later change parses all styles a second time."""
        self.set_reactive(App.theme, name)
        dark = self.current_theme.dark
        for kind, holds in (("dark-mode", dark), ("light-mode", not dark), (f"theme-{name}", True)):
            self.set_class(holds, f"-{kind}", update=False)
        self._refresh_truecolor_filter(self.ansi_theme)
        self.stylesheet.set_variables(self.get_css_variables())

    def on_mount(self) -> None:
        # After `fg` the terminal is empty, and Textual draws only what has changed.
        self.app_resume_signal.subscribe(self, lambda _: self.refresh(layout=True))
        self.set_keymap(dict(self._config.keymap))
        if self._config.keymap:
            self._check_keys()
        if self._config.theme not in self.available_themes:
            notify_error(
                self,
                f"unknown theme {self._config.theme!r}",
                f"set `theme` in {self._config.config_file} to a theme of the command palette",
            )
        for line in self._notices:
            self._say(line)
        self.theme_changed_signal.subscribe(
            self, lambda theme: self.post_message(SettingChosen("theme", theme.name))
        )
        leave_on_terminate(lambda: self.call_later(self._leave_at_once))
        self._open()

    def _say_soon(self, line: str) -> None:
        self.call_later(self._say, line)

    def _say(self, line: str) -> None:
        self.notify(sanitize(line), timeout=NOTICE_SECONDS, markup=False)

    @work(group="open", exit_on_error=False)
    async def _open(self) -> None:
        with faults_shown(self):
            open_services = partial(self._open_backend, self._config)
            self._use_services(await in_thread(open_services, "quit, and run `etui doctor`"))

    @work(group="settings", exit_on_error=False)
    async def on_setting_chosen(self, chosen: SettingChosen) -> None:
        """Write a setting to config.yaml; of several, the last one is written last."""
        from etui.yaml.edit import set_value

        key, value = chosen.key, chosen.value

        def write() -> None:
            edit_settings(self._config, lambda text: set_value(text, key, value), f"{key}: {value}")

        async with self._settings_lock:
            with faults_shown(self):
                await in_thread(write, f"write `{key}: {value}` there yourself")

    @work(group="keys", exit_on_error=False)
    async def _check_keys(self) -> None:
        from etui.tui.help import find_keymap_faults

        # It imports every screen.
        for what, fix in await in_thread(lambda: list(find_keymap_faults(self._config))):
            notify_error(self, what, fix)

    def _use_services(self, backend: Services) -> None:
        """Attach the services to the chat, after the first-run screen if no model is on disk."""
        gc.freeze()  # the objects made so far stay: later collections need not scan them
        often, middle, _ = gc.get_threshold()
        gc.set_threshold(often, middle, MOST_MIDDLE_COLLECTIONS)  # the chat collects between keys
        self.backend = backend
        backend.report_log(self._say_soon)
        if any(model.on_disk for model in backend.shelf.models()):
            self._chat.attach(backend, self._to_open)
        else:
            from etui.tui.models.first_run import FirstRunScreen

            guide = FirstRunScreen(backend, self._config)
            self.push_screen(guide, lambda _result: self._chat.attach(backend, self._to_open))

    async def on_unmount(self) -> None:
        if self.backend is not None:
            try:
                await asyncio.to_thread(self.backend.runner.close)
            except EtuiError as error:
                self.fault = self.fault or error

    def commands(self) -> Iterator[Command]:
        for mode, description in _DESCRIPTIONS.items():
            yield Command(f"screen: {mode}", description, partial(self.switch_mode, mode))
        yield from build_commands(
            ("route: choose …", "Policy, arm or model, with what each costs", self.action_route),
            ("help", "Keys of this screen, and the words on it", self.action_toggle_help),
            ("theme: choose …", "Other colours", self.action_change_theme),
            ("screenshot", "Save this screen as an SVG picture", self.action_screenshot_soon),
            ("quit", "Stop the running answer, save it and leave", self.action_quit),
        )
        if self._driver is not None and self._driver.can_suspend:
            yield Command("suspend", "Back to the shell; fg returns", self.action_suspend_process)
        if self._server is not None and self._server.runs:
            yield Command("server: stop", "Stop answering other programs", self._server.stop)
        else:
            yield Command(
                "server: start",
                "Answer OpenAI clients on this machine; questions here are refused meanwhile",
                partial(self._open_server, start=True),
            )
        yield Command("server: status", "Its address, requests and joules", self._open_server)
        if self.backend is not None:
            yield from route_commands(self.backend, self._route, self._take_route)

    def _take_route(self, route: Route) -> None:
        self._route = route
        self._chat.take_route(route)
        self._route_shown()
        self.notify(sanitize(f"next questions: {route.description}"), markup=False)

    def action_screenshot_soon(self) -> None:
        """Save a picture of the screen, once the palette is closed."""
        self.set_timer(0.1, self.deliver_screenshot)

    def action_route(self) -> None:
        from etui.tui.route_screen import RouteScreen

        if self.backend is None:
            self.notify("models are not open yet", severity="warning")
            return
        self.push_screen(
            RouteScreen(self._route, self.backend.list_routes),
            lambda route: self._take_route(route) if route is not None else None,
        )

    def _open_server(self, *, start: bool = False) -> None:
        from etui.tui.server_screen import ServerScreen

        if self._server is None:
            self._server = ServerScreen(self._config, lambda: self.backend)
            self.install_screen(self._server, "server")
        if start:
            self._server.start()
        shown = [mode for mode, stack in self._screen_stacks.items() if self._server in stack]
        if shown:
            self.switch_mode(shown[0])
        else:
            self.push_screen(self._server)

    def on_route_requested(self, request: RouteRequested) -> None:
        if request.restored:
            self._route = request.route
        else:
            self._take_route(request.route)

    def on_chat_requested(self, request: ChatRequested) -> None:
        self.switch_mode("chat")
        self._chat.open_chat(request.chat, request.turn_id)

    def on_copy_requested(self, request: CopyRequested) -> None:
        self.copy_to_clipboard(request.text, request.what)

    def copy_to_clipboard(self, text: str, what: str = "the selection") -> None:
        """Copy by the terminal and by tools, and say so; widgets call it for what is selected."""
        super().copy_to_clipboard(text)
        start(self, partial(self._copy_by_tools, what, text), "copy", exclusive=True)

    async def _copy_by_tools(self, what: str, text: str) -> None:
        self.notify(sanitize(await copy_by_tools(self, what, text)), markup=False)

    async def on_event(self, event: Event) -> None:
        """Handle an event; keys in the order in which they were pressed."""
        if isinstance(event, Key | Paste) and not event.is_forwarded:
            await self._keys.take(event)
        else:
            await super().on_event(event)

    async def on_key_handled(self, handled: KeyHandled) -> None:
        await self._keys.note(handled)

    def on_unsaved(self, unsaved: Unsaved) -> None:
        self._unsaved = unsaved

    async def action_quit(self) -> None:
        """Stop the running answer, save it and exit; ask first if typed text would be lost."""
        if self._unsaved.what:
            question = f"{self._unsaved.what} has unsaved changes. Leave anyway?"
            self.push_screen(ConfirmModal(question), lambda yes: self._leave() if yes else None)
        else:
            self._leave()

    def save_and_close(self) -> None:
        """Save typed text and the running answer without prompting; safe from any thread."""
        self._unsaved.keep()
        if self.backend is not None:
            self.backend.runner.close()
        if os.path.exists(self._config.power_limits_file):
            from etui.energy.power_limits.hold import release_own

            release_own(self._config)

    def _leave_at_once(self) -> None:
        self._unsaved.keep()
        self._leave()

    def _leave(self) -> None:
        self.set_timer(LEAVE_SECONDS, self.exit)
        self._chat.queue.leave()

    async def action_copy_or_quit(self) -> None:
        """Copy the selected text; without one stop the answer, and leave at the second press."""
        focused = self.focused
        typed = focused.selected_text if isinstance(focused, TextArea) else ""
        if selected := typed or self.screen.get_selected_text():
            self.copy_to_clipboard(selected)
            return
        now = time.monotonic()
        action = choose_interrupt(now, self._interrupted_at, answering=self._chat.queue.busy)
        self._interrupted_at = now
        match action:
            case "quit":
                await self.action_quit()
            case "stop":
                self._chat.queue.stop()
                self.notify("answer stopped · Ctrl+C again quits", timeout=AGAIN_SECONDS)
            case "ask":
                self.notify("Ctrl+C again quits", timeout=AGAIN_SECONDS)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to suspend only where a shell can bring the app back: not in a browser."""
        if action == "suspend_process":
            return self._driver is not None and self._driver.can_suspend
        return super().check_action(action, parameters)


def run_app(
    config: Config,
    *,
    policy: str | None = None,
    model: str | None = None,
    notices: Sequence[str] = (),
    chat: ChatRecord | None = None,
) -> int:
    """Open a new chat, or an earlier one, and run until the user leaves.

    EtuiError if etui's folders cannot be written to, or the app failed.
    """
    make_home(config)
    route = Route(policy or config.policy, model or config.model)
    if chat is not None and (policy or model):
        chat = with_route(chat, route)
    app = EtuiApp(config, route, _open_services, notices, chat)
    leave_on_hangup(app.save_and_close)
    app.run()
    app.raise_fault("app", "start etui again; `etui --debug` shows the traceback")
    return app.return_code or 0


def _open_services(config: Config) -> Services:
    from etui.tui.open_services import open_services  # meter and log: 50 ms after the first paint

    services = open_services(config)
    import_module("etui.tui.chat._markdown")  # here, and not when the first answer begins
    return services
