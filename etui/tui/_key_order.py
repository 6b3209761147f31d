"""Keep the order of keys that arrive together, as over a slow link.

Textual gives every key to the widget with the focus at once, and runs a binding only after its key
has bubbled from there to the app. Of F7, a word and Enter in one packet, the prompt would get the
word and send it before the list of F7 opens. So a key waits here while an earlier one, that is not
a character for a text, is on its way. A message behind each key shows when it has been handled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from textual.app import App
from textual.events import Event, Key, Paste
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, TextArea

_MOST_SECONDS = 1.0  # A widget that was removed meanwhile may not pass the message on


@dataclass
class KeyHandled(Message):
    """Everything before this message has been handled by a widget and all that it is in."""

    number: int
    target: Widget  # The widget that the key was passed to
    screen: Widget  # Its screen
    laps: int  # How often it still goes the same way, for messages that the key has caused


class KeyOrder:
    """Passes the keys of an app on in their order, to ``pass_on``: Textual's own handling."""

    def __init__(self, app: App[Any], pass_on: Callable[[Event], Awaitable[None]]) -> None:
        self._app = app
        self._pass_on = pass_on
        self._waiting: deque[Key | Paste] = deque()
        self._under_way: dict[int, bool] = {}
        """Number of each key that is not handled yet -> whether it is text for a widget."""
        self._count = 0
        self._timer: Timer | None = None

    async def take(self, event: Key | Paste) -> None:
        self._waiting.append(event)
        await self._release()

    async def note(self, handled: KeyHandled) -> None:
        """Pass on what waited for this key; a screen that it opened has to be ready first."""
        if (is_text := self._under_way.pop(handled.number, None)) is None:
            return
        if handled.laps:
            self._follow(handled.target, handled.screen, handled.laps - 1, is_text=is_text)
        elif (screen := self._app.screen) is not handled.screen:
            self._follow(screen, screen, 0, is_text=False)
        await self._release()

    async def _release(self) -> None:
        while self._waiting:
            event, target, screen = self._waiting[0], self._app.focused, self._app.screen
            is_text = isinstance(target, Input | TextArea) and (
                isinstance(event, Paste) or event.is_printable
            )
            if self._under_way and not (is_text and all(self._under_way.values())):
                break
            self._waiting.popleft()
            await self._pass_on(event)
            self._follow(target or screen, screen, 0 if is_text else 1, is_text=is_text)
        if self._timer is not None:
            self._timer.stop()
        self._timer = self._app.set_timer(_MOST_SECONDS, self._give_up) if self._waiting else None

    def _follow(self, target: Widget, screen: Widget, laps: int, *, is_text: bool) -> None:
        self._count += 1
        if target.post_message(KeyHandled(self._count, target, screen, laps)):
            self._under_way[self._count] = is_text

    async def _give_up(self) -> None:
        self._under_way.clear()
        await self._release()
