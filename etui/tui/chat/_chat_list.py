"""The list of chats: search, resume, rename, export and delete them, and choose a branch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import work
from textual.binding import Binding, BindingType
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from etui import units
from etui.atomic import write_text
from etui.chat import OutputOptions, Query
from etui.config.config import Config
from etui.errors import EtuiError, writing
from etui.events import Answer
from etui.log.export import build_chat_document, format_chat
from etui.log.records import ChatRecord
from etui.runtime.provenance import read_weights
from etui.runtime.routes import Route
from etui.text import (
    format_table,
    local_time,
    sanitize,
    shorten,
    title_from_answer,
    title_from_question,
)
from etui.tui._work import faults_shown, in_thread, warn
from etui.tui.modals import BoxModal, ask_line, confirm
from etui.tui.widgets.tables import RowList
from etui.turn.chat_tree import tree_of
from etui.turn.events import TurnFinished
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.log.chat_queries import ChatSummary
    from etui.runtime.service import TurnService
    from etui.tui.open_services import LoggedChats


ExportFormat = Literal["markdown", "json"]
_TITLE_CHARACTERS = 60
_TITLE_BYTES = 120  # A file name may have 255 bytes, on some encrypted disks 143
_ID_CHARACTERS = 6

_ENDINGS: dict[ExportFormat, str] = {"markdown": "md", "json": "json"}


def export_chat(
    config: Config, chat: ChatRecord, turns: Sequence[TurnRecord], form: ExportFormat
) -> Path:
    """Write a chat into ``ETUI_HOME/exports``, replacing its earlier file of the same title."""
    if form == "markdown":
        text = format_chat(chat, turns)
    else:
        document = build_chat_document(chat, turns, read_weights(config))
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    path = config.home / "exports" / f"{build_file_name(chat)}.{_ENDINGS[form]}"
    with writing(path, "free space on that disk, or make the folder writable"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A lone surrogate cannot be encoded, and must not prevent the export of the chat.
        write_text(path, text, errors="replace", private=True)
    return path


def build_file_name(chat: ChatRecord) -> str:
    """Build the name of a chat's file from its title, and the begin of its id to keep it unique.

    Only letters, digits and dashes are left of the title, so that it is a name on every disk.
    """
    words = re.findall(r"[^\W_]+", chat.name[:_TITLE_CHARACTERS])
    kept = "-".join(words).lower().encode()[:_TITLE_BYTES].decode(errors="ignore").strip("-")
    short = re.sub(r"[^A-Za-z0-9-]", "", chat.chat_id.removeprefix("chat-"))[:_ID_CHARACTERS]
    return f"{kept or 'chat'}-{short}"


_READ_CHARACTERS = 600

_MOST_ANSWER_CHARACTERS = 90
"""A longer answer is no title, and is stopped: each further token costs joules."""

_INSTRUCTION = "Write a title of two to six words for this conversation. Only the title."


def name_chat(runner: TurnService, turns: Sequence[TurnRecord], policy: str) -> tuple[str, str]:
    """Ask the smallest model for a title; return it and ``named by smollm2-135m for ≈2.1 J``.

    Waits for a running answer. EtuiError: no model, nothing to name, or the model found no title.
    """
    model = runner.small_model()
    if model is None:
        raise EtuiError("no model is on this machine", "pull one on the models screen (F6)")
    if not turns:
        raise EtuiError("the chat has no turn yet", "ask something first")
    query = Query(build_title_question(turns), options=OutputOptions(stop=("\n",)))
    shown, record = 0, None
    for event in runner.run(query, Route(policy, model=model), names=turns[0].chat_id):
        if isinstance(event, Answer):
            shown += len(event.text)
            if shown > _MOST_ANSWER_CHARACTERS:
                runner.cancel()
        elif isinstance(event, TurnFinished):
            record = event.record
    title = title_from_answer(record.answer) if record is not None else ""
    if record is None or not title:
        raise EtuiError(f"{model} found no title", "name the chat yourself with r")
    energy = record.energy
    joules = units.marked(units.energy_text(energy.joules, energy.uncertainty, energy.kind))
    load = energy.phases.get("load")
    loading = f", and {units.energy_text(load)} to load it" if load else ""
    return title, f"named by {record.model} for {joules}{loading}"


def build_title_question(turns: Sequence[TurnRecord]) -> str:
    """Build the question for a title, from the begin of the first turn with an answer."""
    first = next((turn for turn in turns if turn.answer.strip()), turns[0])
    question, answer = first.query[:_READ_CHARACTERS], first.answer[:_READ_CHARACTERS]
    return f"User: {question}\n\nAssistant: {answer}\n\n{_INSTRUCTION}"


def branch_rows(records: Sequence[TurnRecord], head: str | None) -> list[tuple[str, str]]:
    """List the last turn and a row for each branch in the order of the tree, if there are several.

    A row is ``├ ● What is Rust? · 3 turns``, with ``●`` at the current one.
    """
    tree = tree_of(records)
    by_id = {record.turn_id: record for record in records}
    leaves = sorted(
        tree.leaves(), key=lambda leaf: [tree.place(each).index for each in tree.path(leaf)]
    )
    rows = []
    for leaf in leaves if len(leaves) > 1 else ():
        path = tree.path(leaf)
        forks = [each for each in path if len(tree.place(each).siblings) > 1]
        question = title_from_question(by_id[forks[-1]].query) or leaf
        line, mark = "└" if leaf == leaves[-1] else "├", "●" if leaf == tree.leaf(head) else "○"
        indent, count = "  " * (len(forks) - 1), units.count_text(len(path), "turn")
        rows.append((leaf, sanitize(f"  {line} {indent}{mark} {question} · {count}")))
    return rows


_NAME_CHARACTERS = 60
_NARROW_COLUMNS = 60


@dataclass(frozen=True, slots=True)
class ChatsLeft:
    """Result of the list of chats."""

    resume: ChatRecord | None = None
    deleted: frozenset[str] = frozenset()
    renamed: tuple[ChatRecord, ...] = ()
    branch: str | None = None
    """Id of a turn of the chat to resume, whose branch is shown; None for the current one."""


class ChatList(RowList):
    """The chats; its keys are letters, which the search takes as text."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "screen.rename", "Rename", id="chats.rename"),
        Binding("d,delete", "screen.delete", "Delete", id="chats.delete", key_display="d"),
        Binding("e", "screen.export('markdown')", "Save as Markdown", id="chats.markdown"),
        Binding("E", "screen.export('json')", "Save as JSON", id="chats.json"),
        Binding("t", "screen.name", "Let a model name it", id="chats.name"),
    ]

    HELP = "## Selected chat"


class ChatsScreen(BoxModal[ChatsLeft]):
    """All chats in the log, most recently used first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Close", id="chats.close"),
        Binding("slash", "search", "Search", id="chats.search", key_display="/"),
        Binding("right,l", "unfold(True)", "Branches", id="chats.unfold", show=False),
        Binding("left,h", "unfold(False)", "Fold", id="chats.fold", show=False),
        Binding("down", "app.focus_next", "List", id="chats.list", show=False),
    ]

    HELP = "## Chats"

    def __init__(self, config: Config, log: LoggedChats, runner: TurnService) -> None:
        self._search = Input(placeholder="/ searches names and texts", compact=True)
        self._head = Static("", markup=False, classes="title")
        self._list = ChatList(markup=False)
        self._note = Static("reading the log …", markup=False, classes="help")
        super().__init__("Chats", "", self._search, self._head, self._list, self._note)
        self._config = config
        self._log = log
        self._runner = runner
        self._left = ChatsLeft()
        self._shown: Sequence[ChatSummary] = ()
        self._lines: list[tuple[ChatSummary, str | None]] = []  # Chat, and last turn of a branch
        self._branches: dict[str, list[tuple[str, str]]] = {}

    def on_mount(self) -> None:
        self._list.focus()
        self._load_chats()

    def on_resize(self) -> None:
        self._show_lines()

    def on_input_changed(self, changed: Input.Changed) -> None:
        if self.is_mounted:
            self._load_chats()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        self.action_resume()

    def on_option_list_option_selected(self, selected: OptionList.OptionSelected) -> None:
        self.action_resume()

    def action_leave(self) -> None:
        """Return from the search to the list, or close the list."""
        if self._search.has_focus and self._shown:
            self._list.focus()
        else:
            self.dismiss(self._left)

    def action_search(self) -> None:
        self._search.focus()

    def action_resume(self) -> None:
        if (selected := self._selected()) is not None:
            branch = self._lines[self._list.highlighted or 0][1]
            self.dismiss(replace(self._left, resume=selected.chat, branch=branch))

    @work(exclusive=True, group="change")
    async def action_unfold(self, shown: bool) -> None:
        if (selected := self._selected()) is None:
            return
        chat = selected.chat
        if not shown:
            self._branches.pop(chat.chat_id, None)
        elif selected.branches > 1:
            with self._faults_shown():
                turns = await in_thread(lambda: self._log.turns(chat.chat_id))
                self._branches[chat.chat_id] = branch_rows(turns, chat.head)
        self._show_lines()
        at = next((i for i, each in enumerate(self._lines) if each[0] is selected), None)
        self._list.highlighted = at

    @work(exclusive=True, group="look")
    async def _load_chats(self) -> None:
        words = self._search.value
        with self._faults_shown():
            self._shown = await in_thread(lambda: self._log.chats(words))
            self._show_lines()
            self._note.update(self._count_line())

    def _show_lines(self) -> None:
        at = self._list.highlighted
        width = self._list.scrollable_content_region.width or self.size.width
        self._lines, texts = [], list[str]()
        head, *lines = format_rows(self._shown, width)
        self._head.update(head)
        for chat, text in zip(self._shown, lines, strict=True):
            rows = self._branches.get(chat.chat.chat_id, ())
            self._lines += [(chat, None), *((chat, leaf) for leaf, _ in rows)]
            texts += [text, *(row for _, row in rows)]
        self._list.clear_options()
        self._list.add_options([Option(text) for text in texts])
        if texts:
            self._list.highlighted = min(at or 0, len(texts) - 1)

    @work(exclusive=True, group="change")
    async def action_rename(self) -> None:
        if (selected := self._selected()) is None:
            return
        name = await ask_line(self, "Name of the chat", selected.chat.name, "Enter saves the name")
        if name and name != selected.chat.name:
            await self._rename(selected.chat, name)

    async def _rename(self, chat: ChatRecord, name: str) -> None:
        renamed = replace(chat, name=name)
        with self._faults_shown():
            await in_thread(lambda: self._log.save(renamed))
            self._left = replace(self._left, renamed=(*self._left.renamed, renamed))
            self._load_chats()

    @work(exclusive=True, group="change")
    async def action_name(self) -> None:
        """Let the smallest model name the selected chat, and say what that cost."""
        if (selected := self._selected()) is None:
            return
        if not self._config.name_chats:
            fix = "F2 types a name; `name_chats: true` in config.yaml lets the smallest model do it"
            warn(self, "a title by a model costs joules, so it is off", fix)
            return
        self._note.update("naming the chat …")
        with self._faults_shown():
            turns = await in_thread(lambda: self._log.turns(selected.chat.chat_id))
            policy = self._config.policy
            title, cost = await in_thread(lambda: name_chat(self._runner, turns, policy))
            await self._rename(selected.chat, title)
            self.notify(sanitize(f"{title} · {cost}"), markup=False)

    @work(exclusive=True, group="change")
    async def action_delete(self) -> None:
        if (selected := self._selected()) is None:
            return
        turns = units.count_text(selected.total.turns if selected.total else 0, "turn")
        question = f"Delete the chat {_name(selected)!r} and its {turns}?"
        if not await confirm(self, question):
            return
        with self._faults_shown():
            await in_thread(lambda: self._log.delete(selected.chat.chat_id))
            deleted = self._left.deleted | {selected.chat.chat_id}
            self._left = replace(self._left, deleted=deleted)
            self._load_chats()

    @work(exclusive=True, group="change")
    async def action_export(self, form: ExportFormat) -> None:
        if (selected := self._selected()) is None:
            return
        with self._faults_shown():
            turns = await in_thread(lambda: self._log.turns(selected.chat.chat_id))
            path = await in_thread(lambda: export_chat(self._config, selected.chat, turns, form))
            self.notify(sanitize(f"written to {path}"), markup=False)

    def _selected(self) -> ChatSummary | None:
        at = self._list.highlighted
        return self._lines[at][0] if at is not None and at < len(self._lines) else None

    def _count_line(self) -> str:
        if not self._shown:
            return "no chat contains these words" if self._search.value.strip() else "no chats yet"
        return f"{units.count_text(len(self._shown), 'chat')} · ↑ ↓ select · Enter resumes"

    def _faults_shown(self) -> AbstractContextManager[None]:
        return faults_shown(self, self._note.update)


def _row(chat: ChatSummary) -> tuple[str, str, str, str]:
    total = chat.total
    turns = f"{total.turns if total else 0:,}"
    if total is None:
        joules = "–"
    elif total.joules is not None:
        joules = units.energy_text(total.joules)
    else:
        joules = units.about_joules(total.estimated_joules)
    return local_time(chat.last_at)[:16], turns, joules, _name(chat)


def format_rows(chats: Sequence[ChatSummary], width: int) -> list[str]:
    """Format a heading and one line per chat; a narrow one has joules and name."""
    rows, first = [_row(chat) for chat in chats], 0 if width >= _NARROW_COLUMNS else 2
    header = ("LAST USED", "TURNS", "JOULES", "NAME")[first:]
    return format_table([row[first:] for row in rows], header=header, align="<>><"[first:])


def _name(chat: ChatSummary) -> str:
    words = " ".join(sanitize(chat.chat.name).split()) or chat.chat.chat_id
    kept, left_out = shorten(words, _NAME_CHARACTERS, 1)
    name = f"{kept}…" if left_out else kept
    return f"{name}  ▸ {chat.branches} branches" if chat.branches > 1 else name
