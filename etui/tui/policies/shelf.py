"""The list of policies with its filter, and a look at the folder from time to time."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input

from etui.config.config import Config
from etui.tui.policies.lists import PolicyList
from etui.tui.policies.tasks import list_files

_LOOK_SECONDS = 2.0
"""How often the folder of policies is looked at while the screen is shown."""


class PolicyShelf(Vertical):
    """The policies; a filter above them is shown while it is used."""

    class FilesChanged(Message):
        """A policy file came, went or changed since the policies were read."""

    def __init__(self, config: Config) -> None:
        super().__init__(id="policy-list")
        self._config = config
        self._seen_files: frozenset[tuple[str, int]] = frozenset()
        self._filter = Input(placeholder="filter", id="filter", compact=True)
        self._filter.display = False
        self.policies = PolicyList()

    def compose(self) -> ComposeResult:
        """Build the filter and the list."""
        yield self._filter
        yield self.policies

    def on_mount(self) -> None:
        """Begin to look at the folder."""
        self.set_interval(_LOOK_SECONDS, self._look)

    @property
    def is_filtered(self) -> bool:
        """Whether the filter is shown."""
        return self._filter.display

    def note_files(self) -> None:
        """Take the files as they are now as read."""
        self._seen_files = list_files(self._config)

    def open_filter(self) -> None:
        """Type words that a policy must have."""
        self._filter.display = True
        self._filter.focus()

    def close_filter(self) -> None:
        """Show all policies again."""
        self._filter.value = ""
        self._filter.display = False

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Filter while the user types."""
        changed.stop()
        self.policies.filter(changed.value)

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        """Move from the filter to the list."""
        submitted.stop()
        self.policies.focus()

    def _look(self) -> None:
        if self.screen.is_current and list_files(self._config) != self._seen_files:
            self.post_message(self.FilesChanged())
