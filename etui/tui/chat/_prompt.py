"""The prompt for questions: Enter sends, Shift+Enter and Ctrl+J insert a line break."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from etui import units
from etui.errors import EtuiError, UsageError
from etui.prompts.attachments import (
    Attachment,
    find_mentions,
    find_open_mention,
    read_attachment,
    split,
    write_mention,
)
from etui.prompts.library import SavedPrompt
from etui.routing.text_measures import estimate_tokens
from etui.text import find_nearest, sanitize, unify_line_ends
from etui.tui.chat._conversation import Asking
from etui.tui.commands import Command
from etui.tui.widgets.lines import TextBox

LARGE_PASTE_CHARACTERS = 2_000
LARGE_PASTE_LINES = 30  # A longer paste is attached, and shown in the prompt as a marker
LARGE_TEXT_CHARACTERS = 20_000  # The layout of a longer text would block the keys
_SENT_PASTE = re.compile(r"\[paste (\d+)\]")


@dataclass(frozen=True, slots=True)
class Draft:
    """A question as it is in the prompt."""

    text: str  # The text, with `[paste 1]` for each long paste
    pastes: tuple[Attachment, ...] = ()  # The long pastes that the text has
    kept: Mapping[str, Attachment] = field(default_factory=dict)
    """Files that an earlier question had, by the path as written; used where the file is no longer
    there."""


def is_large(pasted: str) -> bool:
    return len(pasted) > LARGE_PASTE_CHARACTERS or pasted.count("\n") >= LARGE_PASTE_LINES


def write_placeholder(paste: Attachment) -> str:
    """Return the marker of a paste in the prompt: ``[paste 1: 120 lines, ≈1.2k tokens]``."""
    lines = units.count_text(paste.lines, "line")
    tokens = units.short_tokens_text(estimate_tokens(paste.text), exact=False)
    return f"[paste {paste.name}: {lines}, {tokens}]"


def build_draft(
    text: str, placeholders: Mapping[str, Attachment], kept: Mapping[str, Attachment]
) -> Draft:
    pastes = []
    for placeholder, paste in placeholders.items():
        if placeholder in text:
            text = text.replace(placeholder, f"[paste {paste.name}]")
            pastes.append(paste)
    return Draft(text, tuple(pastes), kept)


def restore(question: str, first: int) -> tuple[str, dict[str, Attachment], dict[str, Attachment]]:
    """Take a sent question apart: text for the prompt, pastes by their markers, files by path.

    ``first`` is the number of the next paste.
    """
    text, attachments = split(question)
    files = {each.name: each for each in attachments if not each.pasted}
    pasted = {each.name: each for each in attachments if each.pasted}
    placeholders: dict[str, Attachment] = {}

    def put_in(found: re.Match[str]) -> str:
        paste = pasted.get(found[1])
        if paste is None:
            return found[0]
        numbered = replace(paste, name=str(first + len(placeholders)))
        placeholder = write_placeholder(numbered)
        placeholders[placeholder] = numbered
        return placeholder

    text = _SENT_PASTE.sub(put_in, sanitize(text))
    if len(text) > LARGE_TEXT_CHARACTERS:
        whole = Attachment(str(first + len(placeholders)), text, pasted=True)
        text = write_placeholder(whole)
        placeholders[text] = whole
    return text, placeholders, files


def resolve(
    draft: Draft, read: Callable[[str], Attachment] = read_attachment
) -> tuple[tuple[Attachment, ...], tuple[EtuiError, ...]]:
    """Read the files of a draft: those that are mentioned, then pastes; and what cannot be read.

    A word after an at sign that names no file stays text, unless it can only be meant as a path.
    """
    attachments: dict[str, Attachment] = {}
    problems: list[EtuiError] = []
    for mention in find_mentions(draft.text):
        if mention.path in attachments:
            continue
        try:
            attachments[mention.path] = read(mention.path)
        except UsageError as error:
            if mention.path in draft.kept:
                attachments[mention.path] = draft.kept[mention.path]
            elif (
                mention.is_explicit
                or not error.what.startswith("there is no file")
                or error.fix.startswith("did you mean")
            ):
                problems.append(error)
    return (*attachments.values(), *draft.pastes), tuple(problems)


class FileReader:
    """Reads attached files, and again only after they have changed; use it from one thread."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[tuple[int, int], Attachment]] = {}

    def __call__(self, path: str) -> Attachment:
        state = _read_state(path)
        known = self._read.get(path)
        if state is not None and known is not None and known[0] == state:
            return known[1]
        attachment = read_attachment(path)
        if state is not None:
            self._read = {**dict(list(self._read.items())[-9:]), path: (state, attachment)}
        return attachment


def _read_state(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).expanduser().stat()
    except (OSError, ValueError, RuntimeError):
        return None
    return found.st_mtime_ns, found.st_size


_HELP_CHARACTERS = 60

_MOST_NEAR = 3


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """One line of the list over the prompt: a command, a saved prompt, or a path."""

    title: str  # What is typed, without the slash or the at sign
    help_text: str = ""
    run: Callable[[], Any] | None = None  # Runs a command
    prompt: SavedPrompt | None = None


def is_command(text: str) -> bool:
    """Return whether a text of the prompt is a command; two slashes begin a question with one."""
    return text.startswith("/") and not text.startswith("//")


def build_entries(
    commands: Sequence[Command], prompts: Mapping[str, SavedPrompt]
) -> tuple[MenuEntry, ...]:
    """Build the entries: the saved prompts, then the commands, each sorted by title."""
    own = [
        MenuEntry(prompt.name, f"prompt: {_shorten(prompt.text)}", prompt=prompt)
        for prompt in prompts.values()
    ]
    shown = [MenuEntry(each.title, each.help_text, each.run) for each in commands]
    return (
        *sorted(own, key=lambda entry: entry.title),
        *sorted(shown, key=lambda entry: entry.title.casefold()),
    )


def match_entries(text: str, entries: Sequence[MenuEntry]) -> tuple[MenuEntry, ...]:
    """List the entries that a text matches, the best first.

    A saved prompt also matches with words after its name, which are not a part of it.
    """
    query = text.removeprefix("/").strip()
    if not query:
        return tuple(entries)
    name, _, rest = query.partition(" ")
    named = [entry for entry in entries if entry.prompt is not None and entry.title == name]
    if named and rest.strip():
        return tuple(named)
    scores = [(_score(query.casefold(), entry.title.casefold()), entry) for entry in entries]
    best = sorted((pair for pair in scores if pair[0]), key=lambda pair: -pair[0])
    return tuple(entry for _, entry in best)


def rest_of(text: str) -> str:
    """Return what follows the name of a saved prompt."""
    head, _, rest = text.removeprefix("/").lstrip().partition(" ")
    if "\n" in head:
        _, _, rest = text.partition("\n")
    return rest.strip()


def find_near(text: str, entries: Sequence[MenuEntry]) -> list[str]:
    """Find the titles that are most similar to an unknown command, by any of their words."""
    query = text.removeprefix("/").strip().casefold()[:_HELP_CHARACTERS]
    words: dict[str, str] = {}
    for entry in entries:
        folded = entry.title.casefold()
        for word in (folded, *folded.replace(":", " ").split()):
            words.setdefault(word, entry.title)
    near = find_nearest(query, words, most=_MOST_NEAR)
    near += find_nearest(query.split(" ")[0], words, most=_MOST_NEAR)
    return list(dict.fromkeys(words[word] for word in near))[:_MOST_NEAR]


def _score(query: str, title: str) -> int:
    """Score a title, 0 for none: by its begin, by the begin of a word, by all words in it.

    Letters scattered over a title do not count, as they do in the palette: Enter runs the first
    match, and a typing error must not run a command.
    """
    if title.startswith(query):
        return 3
    if any(word.startswith(query) for word in title.replace(":", " ").split()):
        return 2
    return int(all(word in title for word in query.split()))


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _HELP_CHARACTERS else f"{line[:_HELP_CHARACTERS]}…"


MOST_ROWS = 8


class PromptMenu(OptionList, can_focus=False):
    """A list that is shown over the transcript while it has something to offer.

    It never has the focus: the prompt moves through it with its own keys.
    """

    def __init__(self, pick: Callable[[], object]) -> None:
        super().__init__(markup=False, compact=True)
        self._pick = pick  # Called when an item was clicked
        self._items: tuple[MenuEntry, ...] = ()
        self.display = False

    @property
    def is_open(self) -> bool:
        return self.display and bool(self._items)

    @property
    def chosen(self) -> MenuEntry | None:
        """The highlighted item; None while the list is closed."""
        at = self.highlighted
        if not self.is_open or at is None or at >= len(self._items):
            return None
        return self._items[at]

    def offer(self, items: Sequence[MenuEntry]) -> None:
        """Show these items, the first one highlighted; without any, close the list."""
        if tuple(items) == self._items and self.display == bool(items):
            return
        self._items = tuple(items)
        self.clear_options()
        self.display = bool(items)
        if not items:
            return
        width = max(len(item.title) for item in items)
        self.add_options([Option(_draw_entry(item, min(width, 40))) for item in items])
        self.highlighted = 0
        rows = min(len(items), MOST_ROWS)
        self.styles.height = rows
        self.styles.offset = (1, -rows)

    def close(self) -> None:
        self.offer(())

    def move(self, step: int) -> None:
        if self.is_open:
            self.highlighted = ((self.highlighted or 0) + step) % len(self._items)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._pick()


def _draw_entry(item: MenuEntry, width: int) -> Text:
    line = Text(sanitize(item.title).ljust(width), no_wrap=True, overflow="ellipsis")
    if item.help_text:
        line.append(f"  {sanitize(item.help_text)}", "dim")
    return line


class Prompt(TextBox):
    """Text input for questions, with the earlier ones on Up and Down."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="prompt.send"),
        Binding(
            "shift+enter,ctrl+j",
            "break_line",
            "Newline",
            id="prompt.newline",
            key_display="^j",
            show=False,
        ),
        Binding("tab", "complete", "Complete", id="prompt.complete", show=False),
        Binding("up", "older", "Earlier question", id="prompt.older", show=False),
        Binding("down", "newer", "Later question", id="prompt.newer", show=False),
        Binding("ctrl+z", "app.suspend_process", "Suspend", id="app.suspend", show=False),
    ]

    HELP = "## Question"

    @dataclass
    class Sent(Message):
        """A question to answer."""

        draft: Draft  # The question with what it attaches
        edited: Asking | None = None
        """The question that was edited, or put back; None for a new one."""
        replaces: str | None = None
        """Id of the turn whose question was edited; None if it is not in the log."""

    class CommandEntered(Message):
        """Enter was pressed on a text that begins with a slash; the text stays in the prompt."""

    class Drafted(Message):
        """The text or the cursor has moved."""

    def __init__(self) -> None:
        super().__init__(
            soft_wrap=True,
            show_line_numbers=False,
            highlight_cursor_line=False,
            compact=True,
            placeholder="Ask, or / for commands, @ for a file",
        )
        self.menu = PromptMenu(self.action_send)
        self._own = {b.id for b in self.BINDINGS if isinstance(b, Binding)}
        self._asked: list[str] = []
        self._at = 0
        self._draft = ""
        self._kept = ""
        self._pastes: dict[str, Attachment] = {}
        self._files: dict[str, Attachment] = {}
        self.edited: Asking | None = None
        """The question that is edited, or that was put back with its saved prompt; else None."""
        self.editing: str | None = None
        """Id of the turn whose question is edited; empty if not logged, None without an edit."""

    @property
    def draft(self) -> Draft:
        text = self.text.strip()
        return build_draft(text[text.startswith("//") :], self._pastes, self._files)

    @property
    def before_cursor(self) -> str:
        return self.get_text_range((0, 0), self.cursor_location)

    async def on_key(self, event: events.Key) -> None:
        """Run the prompt's own keys in the order they are typed.

        If the app ran them, a binding could run before or after the characters around it, and a
        fast typist (or a paste without brackets) would send half a question.
        """
        if event.is_printable:
            return
        if self.menu.is_open and event.key in ("up", "down", "escape"):
            event.prevent_default()
            event.stop()
            if event.key == "escape":
                self.menu.close()
            else:
                self.menu.move(-1 if event.key == "up" else 1)
            return
        active = self.screen.active_bindings.get(event.key)
        if active is not None and active.node is self and active.binding.id in self._own:
            event.prevent_default()
            event.stop()
            await self.run_action(active.binding.action)

    def render_line(self, y: int) -> Strip:
        """Draw one line, blank at width 0, where the placeholder cannot be wrapped."""
        if not self.content_size.width:
            return Strip.blank(self.size.width)
        return super().render_line(y)

    def action_send(self) -> None:
        """Send the text, unless it is blank; on a command run it, on a path complete it."""
        text = self.text.strip()
        if not text:
            return
        if is_command(text):
            self.post_message(self.CommandEntered())
            return
        if self.menu.is_open and self._take_path():
            return
        draft = self.draft
        if not draft.text.strip():
            return
        if not self._asked or self._asked[-1] != text:
            self._asked.append(text)
        self._at = len(self._asked)
        self._draft = ""
        replaces, edited = self.editing or None, self.edited
        self.edited = None
        if self.editing is None:
            self.text = ""
        else:
            self.end_edit()
        self.menu.close()
        self.post_message(self.Sent(draft, edited, replaces))

    def action_complete(self) -> None:
        chosen = self.menu.chosen
        if chosen is None:
            self.screen.focus_next()
        elif is_command(self.text):
            self.text = f"/{chosen.title} " if chosen.prompt else f"/{chosen.title}"
            self.move_cursor(self.document.end)
        else:
            self._take_path()

    def _take_path(self) -> bool:
        """Put the highlighted path in place of the typed one; return whether that changes it."""
        chosen, found = self.menu.chosen, find_open_mention(self.before_cursor)
        if chosen is None or found is None:
            return False
        at, typed = found
        path = chosen.title
        if path == typed:
            return False
        mention = write_mention(path)
        if path.endswith("/"):
            mention = mention.removesuffix('"')  # the path goes on
            if not mention.startswith('@"'):
                mention = f"@{path}"
        before = self.before_cursor
        row = before.count("\n", 0, at)
        column = at - (before.rfind("\n", 0, at) + 1)
        inserted = self.replace(mention, (row, column), self.cursor_location)
        self.move_cursor(inserted.end_location)
        return True

    def action_break_line(self) -> None:
        inserted = self.replace("\n", *self.selection)
        self.move_cursor(inserted.end_location)

    def action_older(self) -> None:
        if self.cursor_location[0] > 0:
            self.action_cursor_up()
        elif self._at > 0:
            self._show(self._at - 1)

    def action_newer(self) -> None:
        if self.cursor_location[0] < self.document.line_count - 1:
            self.action_cursor_down()
        elif self._at < len(self._asked):
            self._show(self._at + 1)

    def revise(self, asking: Asking, turn_id: str | None) -> None:
        """Edit an earlier question to replace it; the text typed so far is kept for later."""
        if self.editing is None:
            self._kept = self.text
        self.editing = turn_id or ""
        self.edited = asking
        self.border_title = "editing an earlier question: Enter sends it again, Esc cancels"
        self.text = self._restore(asking.text)
        self.move_cursor(self.document.end)
        self.focus()

    def end_edit(self) -> None:
        self.editing = None
        self.edited = None
        self.border_title = ""
        self.text, self._kept = self._kept, ""
        self.move_cursor(self.document.end)

    def remember(self, questions: Iterable[str]) -> None:
        self._asked.extend(self._restore(question) for question in questions)
        self._at = len(self._asked)

    def put_back(self, asking: Asking) -> None:
        if asking.prompt is not None and not self.text.strip():
            self.edited = asking
        text = self._restore(asking.text)
        self.text = f"{text}\n{self.text}" if self.text.strip() else text
        self.move_cursor(self.document.end)

    def _show(self, at: int) -> None:
        if self._at == len(self._asked):
            self._draft = self.text
        self._at = at
        self.text = self._draft if at == len(self._asked) else self._asked[at]
        self.move_cursor(self.document.end)

    def on_text_area_changed(self) -> None:
        if not self.text and self.editing is None:
            self.edited = None  # a new question: nothing is left of the one put back
        self.post_message(self.Drafted())

    def on_text_area_selection_changed(self) -> None:
        self.post_message(self.Drafted())

    def on_paste(self, event: events.Paste) -> None:
        """Insert a paste with control characters as symbols, so the text shown is the text sent.

        A long one is attached, and a marker takes its place.
        """
        event.prevent_default()
        event.stop()
        text = sanitize(unify_line_ends(event.text))
        if is_large(text):
            paste = Attachment(str(len(self._pastes) + 1), text, pasted=True)
            text = write_placeholder(paste)
            self._pastes[text] = paste
        inserted = self.replace(text, *self.selection)
        self.move_cursor(inserted.end_location)

    def _restore(self, question: str) -> str:
        text, pastes, files = restore(question, len(self._pastes) + 1)
        self._pastes |= pastes
        self._files |= files
        return f"/{text}" if text.startswith("/") else text
