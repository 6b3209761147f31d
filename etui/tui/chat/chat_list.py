"""The list of chats: search, resume, rename, export and delete them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError
from etui.log.records import ChatRecord
from etui.text.sanitize import sanitize, shorten
from etui.text.timestamps import local_time
from etui.tui.chat.export import ExportFormat, export_chat
from etui.tui.modals import ConfirmModal, TextModal
from etui.tui.notices import notice_text, notify_error
from etui.tui.services import ChatLog
from etui.tui.widgets.key_footer import KeyFooter

if TYPE_CHECKING:
    from etui.log.queries import ChatSummary

_NAME_CHARACTERS = 44


@dataclass(frozen=True, slots=True)
class ChatsLeft:
    """Result of the list of chats.

    Attributes:
        resume: The chat to resume, if any.
        deleted: Ids of the deleted chats.
        renamed: Chats with their new names.
    """

    resume: ChatRecord | None = None
    deleted: frozenset[str] = frozenset()
    renamed: tuple[ChatRecord, ...] = ()


class ChatsScreen(ModalScreen[ChatsLeft]):
    """All chats in the log, most recently used first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Close", id="chats.close"),
        Binding("f2", "rename", "Rename", id="chats.rename"),
        Binding("f3", "export('markdown')", "Markdown", id="chats.markdown"),
        Binding("f4", "export('json')", "JSON", id="chats.json"),
        Binding("f8", "delete", "Delete", id="chats.delete"),
        Binding("down", "app.focus_next", "List", id="chats.list", show=False),
    ]

    HELP = """\
## Chats

Type to search names, questions and answers; Enter resumes the selected chat. F2 renames it, F3 and
F4 write it to a file, F8 deletes it with its turns.
"""

    def __init__(self, config: Config, log: ChatLog) -> None:
        super().__init__()
        self._config = config
        self._log = log
        self._left = ChatsLeft()
        self._shown: Sequence[ChatSummary] = ()
        self._search = Input(placeholder="search names, questions and answers", compact=True)
        self._list = OptionList(markup=False)
        self._note = Static("reading the log …", markup=False, classes="help")

    def compose(self) -> ComposeResult:
        """Lay out the search field, the list and the line below it."""
        with Vertical(classes="box -tall"):
            yield Static("Chats", markup=False, classes="title")
            yield self._search
            yield self._list
            yield self._note
        yield KeyFooter()

    def on_mount(self) -> None:
        """Read the chats from the log."""
        self._load_chats()

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Search while the user types."""
        if self.is_mounted:
            self._load_chats()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        """Resume the selected chat on Enter in the search field."""
        self.action_resume()

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        """Resume the chat on Enter or a click in the list."""
        self.action_resume()

    def action_leave(self) -> None:
        """Close the list and return to the current chat."""
        self.dismiss(self._left)

    def action_resume(self) -> None:
        """Resume the selected chat."""
        if (selected := self._selected()) is not None:
            self.dismiss(replace(self._left, resume=selected.chat))

    @work(exclusive=True, group="look")
    async def _load_chats(self) -> None:
        try:
            self._shown = await asyncio.to_thread(self._log.chats, self._search.value)
        except EtuiError as error:
            self._show_error(error)
            return
        at = self._list.highlighted
        self._list.clear_options()
        self._list.add_options([Option(row) for row in _rows(self._shown)])
        if self._shown:
            self._list.highlighted = min(at or 0, len(self._shown) - 1)
        self._note.update(self._count_line())

    @work(exclusive=True, group="change")
    async def action_rename(self) -> None:
        """Rename the selected chat."""
        if (selected := self._selected()) is None:
            return
        name = await self.app.push_screen_wait(
            TextModal("Name of the chat", selected.chat.name, "Enter saves the name", one_line=True)
        )
        if not name or name == selected.chat.name:
            return
        renamed = replace(selected.chat, name=name)
        try:
            await asyncio.to_thread(self._log.save, renamed)
        except EtuiError as error:
            self._show_error(error)
        self._left = replace(self._left, renamed=(*self._left.renamed, renamed))
        self._load_chats()

    @work(exclusive=True, group="change")
    async def action_delete(self) -> None:
        """Delete the selected chat after asking."""
        if (selected := self._selected()) is None:
            return
        turns = units.count_text(selected.total.turns if selected.total else 0, "turn")
        question = f"Delete the chat {_name(selected)!r} and its {turns}?"
        if not await self.app.push_screen_wait(ConfirmModal(question)):
            return
        try:
            await asyncio.to_thread(self._log.delete, selected.chat.chat_id)
        except EtuiError as error:
            self._show_error(error)
            return
        deleted = self._left.deleted | {selected.chat.chat_id}
        self._left = replace(self._left, deleted=deleted)
        self._load_chats()

    @work(exclusive=True, group="change")
    async def action_export(self, form: ExportFormat) -> None:
        """Write the selected chat to a file."""
        if (selected := self._selected()) is None:
            return
        try:
            turns = await asyncio.to_thread(self._log.turns, selected.chat.chat_id)
            path = await asyncio.to_thread(export_chat, self._config, selected.chat, turns, form)
        except EtuiError as error:
            self._show_error(error)
        else:
            self.notify(sanitize(f"written to {path}"), markup=False)

    def _selected(self) -> ChatSummary | None:
        at = self._list.highlighted
        return self._shown[at] if at is not None and at < len(self._shown) else None

    def _count_line(self) -> str:
        if not self._shown:
            return "no chat contains these words" if self._search.value.strip() else "no chats yet"
        return f"{units.count_text(len(self._shown), 'chat')} · ↑ ↓ select · Enter resumes"

    def _show_error(self, error: EtuiError) -> None:
        self._note.update(notice_text(error.what, error.fix))
        notify_error(self, error.what, error.fix)


def _row(chat: ChatSummary) -> tuple[str, str, str, str]:
    """Format when a chat was last used, its turns, its joules and its name."""
    total = chat.total
    turns = units.count_text(total.turns if total else 0, "turn")
    if total is None:
        joules = "–"
    elif total.joules is not None:
        joules = units.energy_text(total.joules)
    else:
        joules = units.energy_text(total.estimated_joules, None, units.ESTIMATE)
    return local_time(chat.last_at)[:16], turns, joules, _name(chat)


def _rows(chats: Sequence[ChatSummary]) -> list[str]:
    """Format one line per chat, with right-aligned numbers."""
    rows = [_row(chat) for chat in chats]
    turns, joules = (max((len(row[i]) for row in rows), default=0) for i in (1, 2))
    return [f"{r[0]}  {r[1]:>{turns}}  {r[2]:>{joules}}  {r[3]}" for r in rows]


def _name(chat: ChatSummary) -> str:
    words = " ".join(sanitize(chat.chat.name).split()) or chat.chat.chat_id
    kept, left_out = shorten(words, _NAME_CHARACTERS, 1)
    return f"{kept}…" if left_out else kept
