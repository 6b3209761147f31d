"""The list over the prompt: commands after ``/``, paths after ``@``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from etui.prompts.library import SavedPrompt
from etui.text import find_nearest, sanitize
from etui.tui.commands import Command

_HELP_CHARACTERS = 60

_MOST_NEAR = 3


@dataclass(frozen=True, slots=True)
class SlashEntry:
    """One entry after the slash."""

    title: str  # What is typed, without the slash
    help_text: str
    run: Callable[[], Any] | None = None  # Runs a command; None for a saved prompt
    prompt: SavedPrompt | None = None  # The saved prompt; None for a command


def is_command(text: str) -> bool:
    """Return whether a text of the prompt is a command; two slashes begin a question with one."""
    return text.startswith("/") and not text.startswith("//")


def unescape(text: str) -> str:
    """Return the question of a text: the first of two slashes at its begin is left out."""
    return text[1:] if text.startswith("//") else text


def build_entries(
    commands: Sequence[Command], prompts: Mapping[str, SavedPrompt]
) -> tuple[SlashEntry, ...]:
    """Build the entries: the saved prompts, then the commands, each sorted by title."""
    own = [
        SlashEntry(prompt.name, f"prompt: {_shorten(prompt.text)}", prompt=prompt)
        for prompt in prompts.values()
    ]
    shown = [SlashEntry(each.title, each.help_text, each.run) for each in commands]
    return (
        *sorted(own, key=lambda entry: entry.title),
        *sorted(shown, key=lambda entry: entry.title.casefold()),
    )


def match_entries(text: str, entries: Sequence[SlashEntry]) -> tuple[SlashEntry, ...]:
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


def find_near(text: str, entries: Sequence[SlashEntry]) -> list[str]:
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


@dataclass(frozen=True, slots=True)
class MenuItem:
    """One line of the list."""

    title: str
    help_text: str  # What it does; empty for none
    value: Any  # What the prompt gets if it is chosen


class PromptMenu(OptionList, can_focus=False):
    """A list that is shown over the transcript while it has something to offer.

    It never has the focus: the prompt moves through it with its own keys.
    """

    class Picked(Message):
        """An item was clicked."""

    def __init__(self) -> None:
        super().__init__(markup=False, compact=True)
        self._items: tuple[MenuItem, ...] = ()
        self.display = False

    @property
    def is_open(self) -> bool:
        """Whether it is shown."""
        return self.display and bool(self._items)

    @property
    def chosen(self) -> MenuItem | None:
        """The highlighted item; None while the list is closed."""
        at = self.highlighted
        if not self.is_open or at is None or at >= len(self._items):
            return None
        return self._items[at]

    def offer(self, items: Sequence[MenuItem]) -> None:
        """Show these items, the first one highlighted; without any, close the list."""
        if tuple(items) == self._items and self.display == bool(items):
            return
        self._items = tuple(items)
        self.clear_options()
        self.display = bool(items)
        if not items:
            return
        width = max(len(item.title) for item in items)
        self.add_options([Option(_draw(item, min(width, 40))) for item in items])
        self.highlighted = 0
        rows = min(len(items), MOST_ROWS)
        self.styles.height = rows
        self.styles.offset = (1, -rows)

    def close(self) -> None:
        """Hide the list."""
        self.offer(())

    def move(self, step: int) -> None:
        """Highlight the next (1) or the previous (-1) item, around the ends."""
        if self.is_open:
            self.highlighted = ((self.highlighted or 0) + step) % len(self._items)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(self.Picked())


def _draw(item: MenuItem, width: int) -> Text:
    line = Text(sanitize(item.title).ljust(width), no_wrap=True, overflow="ellipsis")
    if item.help_text:
        line.append(f"  {sanitize(item.help_text)}", "dim")
    return line
