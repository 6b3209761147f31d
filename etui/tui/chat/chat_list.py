"""The list of chats: search, go on with one, name, export, delete."""

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
from textual.widgets import Footer, Input, OptionList, Static
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

if TYPE_CHECKING:
    from etui.log.queries import ChatSummary

_NAME_CHARACTERS = 44


@dataclass(frozen=True, slots=True)
class ChatsLeft:
    """How the list of chats was left.

    Attributes:
        resume: The chat to go on with; None for none.
        deleted: Ids of chats that are gone.
        renamed: Chats with their new names.
    """

    resume: ChatRecord | None = None
    deleted: frozenset[str] = frozenset()
    renamed: tuple[ChatRecord, ...] = ()


class ChatsScreen(ModalScreen[ChatsLeft]):
    """Every chat in the log, the last used first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Close", id="chats.close"),
        Binding("f2", "rename", "Name", id="chats.rename"),
        Binding("f3", "export('markdown')", "Markdown", id="chats.markdown"),
        Binding("f4", "export('json')", "JSON", id="chats.json"),
        Binding("f8", "delete", "Delete", id="chats.delete"),
        Binding("down", "app.focus_next", "List", id="chats.list", show=False),
    ]

    HELP = """\
## Chats

Type to search names, questions and answers; Enter goes on with the chosen chat. F2 names it, F3
and F4 write it to a file, F8 deletes it with its turns.
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
        with Vertical(classes="box -tall"):
            yield Static("Chats", markup=False, classes="title")
            yield self._search
            yield self._list
            yield self._note
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._look()

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Search as one types."""
        if self.is_mounted:
            self._look()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        """Enter in the search goes on with the chat that is chosen."""
        self.action_resume()

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        """Enter or a click in the list goes on with that chat."""
        self.action_resume()

    def action_leave(self) -> None:
        """Back to the chat as it was."""
        self.dismiss(self._left)

    def action_resume(self) -> None:
        """Go on with the chosen chat."""
        if (chosen := self._chosen()) is not None:
            self.dismiss(replace(self._left, resume=chosen.chat))

    @work(exclusive=True, group="look")
    async def _look(self) -> None:
        try:
            self._shown = await asyncio.to_thread(self._log.chats, self._search.value)
        except EtuiError as error:
            self._say_error(error)
            return
        at = self._list.highlighted
        self._list.clear_options()
        self._list.add_options([Option(row) for row in _rows(self._shown)])
        if self._shown:
            self._list.highlighted = min(at or 0, len(self._shown) - 1)
        self._note.update(self._count())

    @work(exclusive=True, group="change")
    async def action_rename(self) -> None:
        """Give the chosen chat another name."""
        if (chosen := self._chosen()) is None:
            return
        name = await self.app.push_screen_wait(
            TextModal("Name of the chat", chosen.chat.name, "Enter takes it", one_line=True)
        )
        if not name or name == chosen.chat.name:
            return
        renamed = replace(chosen.chat, name=name)
        try:
            await asyncio.to_thread(self._log.save, renamed)
        except EtuiError as error:
            self._say_error(error)
        self._left = replace(self._left, renamed=(*self._left.renamed, renamed))
        self._look()

    @work(exclusive=True, group="change")
    async def action_delete(self) -> None:
        """Delete the chosen chat after asking."""
        if (chosen := self._chosen()) is None:
            return
        turns = units.count_text(chosen.total.turns if chosen.total else 0, "turn")
        question = f"Delete the chat {_name(chosen)!r} and its {turns}?"
        if not await self.app.push_screen_wait(ConfirmModal(question)):
            return
        try:
            await asyncio.to_thread(self._log.delete, chosen.chat.chat_id)
        except EtuiError as error:
            self._say_error(error)
            return
        gone = self._left.deleted | {chosen.chat.chat_id}
        self._left = replace(self._left, deleted=gone)
        self._look()

    @work(exclusive=True, group="change")
    async def action_export(self, form: ExportFormat) -> None:
        """Write the chosen chat to a file."""
        if (chosen := self._chosen()) is None:
            return
        try:
            turns = await asyncio.to_thread(self._log.turns, chosen.chat.chat_id)
            path = await asyncio.to_thread(export_chat, self._config, chosen.chat, turns, form)
        except EtuiError as error:
            self._say_error(error)
        else:
            self.notify(sanitize(f"written to {path}"), markup=False)

    def _chosen(self) -> ChatSummary | None:
        at = self._list.highlighted
        return self._shown[at] if at is not None and at < len(self._shown) else None

    def _count(self) -> str:
        if not self._shown:
            return "no chat holds these words" if self._search.value.strip() else "no chat yet"
        return f"{units.count_text(len(self._shown), 'chat')} · ↑ ↓ choose · Enter goes on with it"

    def _say_error(self, error: EtuiError) -> None:
        self._note.update(notice_text(error.what, error.fix))
        notify_error(self, error.what, error.fix)


def _row(chat: ChatSummary) -> tuple[str, str, str, str]:
    """When it was last used, its turns, its joules, its name."""
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
    """One line a chat, its numbers flush right."""
    rows = [_row(chat) for chat in chats]
    turns, joules = (max((len(row[i]) for row in rows), default=0) for i in (1, 2))
    return [f"{r[0]}  {r[1]:>{turns}}  {r[2]:>{joules}}  {r[3]}" for r in rows]


def _name(chat: ChatSummary) -> str:
    words = " ".join(sanitize(chat.chat.name).split()) or chat.chat.chat_id
    kept, left_out = shorten(words, _NAME_CHARACTERS, 1)
    return f"{kept}…" if left_out else kept
