"""The driver of the app in a tab of ``etui --web``: it leaves when its server has ended."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from textual.drivers.web_driver import WebDriver
from textual.messages import ExitApp

DRIVER = "etui.tui.web_driver:TabDriver"
"""Value of ``TEXTUAL_DRIVER``."""


class TabDriver(WebDriver):
    """Driver that leaves at the end of its input.

    Textual's stays: an app whose server was killed would run for ever.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._write = self._write_if_read  # type: ignore[assignment]

    def run_input_thread(self) -> None:
        """Pass on the input, then leave."""
        super().run_input_thread()
        if not self.exit_event.is_set():
            self._app.post_message(ExitApp())

    def _write_if_read(self, data: bytes) -> None:
        """Write, unless the server has ended: the app still has a turn to save."""
        with suppress(BrokenPipeError):
            os.write(self.fileno, data)
