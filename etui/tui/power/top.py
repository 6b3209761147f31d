"""``etui power top``: the power screen without the chat, with the meter and nothing else."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from etui.config.config import Config
from etui.tui.ascii import choose_driver, leave_on_hangup, leave_on_terminate
from etui.tui.pacing import SAMPLE_SECONDS
from etui.tui.power.feed import PowerFeed
from etui.tui.power.screen import PowerScreen
from etui.tui.services import PowerMeter
from etui.tui.themes import THEMES

_VITALS_NS = 1_000_000_000


class PowerTopApp(App[None]):
    """The power screen alone.

    Args:
        meter: The meter; the caller closes it.
        interval_seconds: Time between two redraws.
    """

    TITLE = "etui power"
    CSS_PATH = Path(__file__).parents[1] / "etui.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "toggle_help", "Help", id="top.help", priority=True),
        Binding("q", "quit", "Quit", id="top.quit"),
        Binding("ctrl+q,ctrl+c", "quit", "Quit", id="top.leave", show=False, priority=True),
    ]

    def __init__(self, config: Config, meter: PowerMeter, interval_seconds: float = 1.0) -> None:
        super().__init__(driver_class=choose_driver(config.ascii))
        self._config = config
        self._meter = meter
        self._feed = PowerFeed()
        self._vitals_ns = -_VITALS_NS
        self.fault: BaseException | None = None
        self._screen = PowerScreen(
            config, self._feed, interval_seconds=interval_seconds, letters=False
        )

    def on_mount(self) -> None:
        """Apply keymap and theme, show the screen, and start to read the meter."""
        self.set_keymap(dict(self._config.keymap))
        for theme in THEMES:
            self.register_theme(theme)
        if self._config.theme in self.available_themes:
            self.theme = self._config.theme
        leave_on_terminate(self.exit)
        with suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self.exit)
        self._read()
        self.push_screen(self._screen)
        self.set_interval(SAMPLE_SECONDS, self._read)

    def run_until_left(self) -> None:
        """Show the screen until the user leaves; :attr:`fault` is what ended it, if that."""
        leave_on_hangup(lambda: None)
        self.run()

    def action_toggle_help(self) -> None:
        from etui.tui.help import HelpScreen, list_key_groups

        if isinstance(self.screen, HelpScreen):
            self.screen.action_leave()
        else:
            self.push_screen(HelpScreen(list_key_groups(self.screen)))

    def _fatal_error(self) -> None:
        # Replaces Textual's traceback: the command reports it after the terminal is restored.
        self.fault = self.fault or sys.exc_info()[1]
        self._close_messages_no_wait()

    def _read(self) -> None:
        now_ns = time.monotonic_ns()
        self._feed.add(now_ns, self._meter.latest())
        if now_ns - self._vitals_ns >= _VITALS_NS:
            self._vitals_ns = now_ns
            self._feed.vitals = self._meter.vitals()
