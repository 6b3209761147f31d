"""The footer of every screen: whole keys only, the most important first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

HELP_ACTION = "toggle_help"
PINNED_ACTIONS = (HELP_ACTION, "switch_mode('chat')", "switch_mode('power')")
"""Actions of the keys that are shown whatever else has no room, the most important first."""


@dataclass(frozen=True, slots=True)
class KeyLabel:
    """A key with its name in the footer."""

    key: str
    display: str
    description: str  # What it does, in a word or two
    action: str
    enabled: bool = True  # Whether it does something now
    tooltip: str = ""  # Longer explanation; empty for none

    @property
    def cells(self) -> int:
        """Width in columns, with the column that separates it from the next."""
        return cell_len(self.display) + 1 + cell_len(self.description) + 1


def choose_labels(labels: Sequence[KeyLabel], width: int) -> tuple[KeyLabel, ...]:
    """Choose the keys that fit whole into ``width`` columns, in their order.

    The first that does not fit ends the row: no key is shown while a more important one is not.
    The keys of the help, the chat and the power come before all others.
    """
    room = width + 1  # the last key needs no separator
    pinned = sorted(
        (label for label in labels if label.action in PINNED_ACTIONS),
        key=lambda label: PINNED_ACTIONS.index(label.action),
    )
    chosen: list[KeyLabel] = []
    for label in (*pinned, *(label for label in labels if label not in pinned)):
        if label.cells > room:
            break
        room -= label.cells
        chosen.append(label)
    return tuple(label for label in labels if label in chosen)


class KeyFooter(Footer):
    """Textual's footer without cut words: keys that do not fit are left out.

    The keys of the focused widget come first, then those of the screen, then those of the app.
    """

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)
        self._labels: tuple[KeyLabel, ...] = ()

    def compose(self) -> ComposeResult:
        if not self._bindings_ready:
            return
        self._labels = choose_labels(tuple(self._list_labels()), self.size.width)
        for label in self._labels:
            yield FooterKey(
                label.key,
                label.display,
                label.description,
                label.action,
                disabled=not label.enabled,
                tooltip=label.tooltip,
            ).data_bind(compact=Footer.compact)

    def bindings_changed(self, screen: Screen[object]) -> None:
        self._bindings_ready = True
        if screen.app.app_focus and self.is_attached and screen is self.screen:
            self.call_after_refresh(self._show_labels)

    async def on_resize(self, event: events.Resize) -> None:
        await self._show_labels()

    async def _show_labels(self) -> None:
        """Lay the keys out again, unless they are those that are shown."""
        if not self.is_attached or not self.size.width:
            return
        if choose_labels(tuple(self._list_labels()), self.size.width) != self._labels:
            await self.recompose()

    def _list_labels(self) -> Iterator[KeyLabel]:
        here = f"switch_mode('{self.app.current_mode}')"
        seen: set[str] = set()
        for _node, binding, enabled, tooltip in self.screen.active_bindings.values():
            if not binding.show or binding.action in seen or binding.action == here:
                continue
            seen.add(binding.action)
            yield KeyLabel(
                binding.key,
                self.app.get_key_display(binding),
                binding.description,
                binding.action,
                enabled,
                tooltip,
            )
