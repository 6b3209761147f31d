"""The help of a screen on one page: the keys that work there now, and the words on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from inspect import getmembers, isclass
from pkgutil import walk_packages
from typing import Any, ClassVar, TypeAlias

from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.dom import DOMNode
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from etui.config.config import Config
from etui.text import sanitize, suggest
from etui.tui.modals import PageModal
from etui.tui.widgets.key_footer import KeyFooter


def find_owners() -> Iterator[type[DOMNode]]:
    """Yield every class of the app that defines key bindings."""
    package = import_module("etui.tui")
    for module in walk_packages(package.__path__, "etui.tui."):
        for _name, owner in getmembers(import_module(module.name), isclass):
            if not issubclass(owner, DOMNode) or owner.__module__ != module.name:
                continue
            if vars(owner).get("BINDINGS"):
                yield owner


def list_key_names() -> frozenset[str]:
    """Return the names of all keys that can be rebound."""
    return frozenset(
        binding.id
        for owner in find_owners()
        for binding in vars(owner)["BINDINGS"]
        if isinstance(binding, Binding) and binding.id is not None
    )


def find_keymap_faults(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the error and its fix for each name in the user's keymap that no key has."""
    known = sorted(list_key_names())
    for name in config.keymap:
        if name not in known:
            fix = suggest(name, known, quoted=False) or "docs/chat.md lists all key names;"
            yield f"unknown key name {name!r}", f"{fix} fix `keymap` in {config.config_file}"


WORDS: tuple[tuple[str, str], ...] = (
    ("policy", "file of rules that choose an arm for each question"),
    (
        "arm",
        "a model with a way to answer: direct; cot, which thinks first; vote, the most frequent "
        "of several answers",
    ),
    ("context", "how much of the model's context window this chat fills"),
    ("≈", "estimated without a hardware reading, or predicted"),
    ("±", "half the width of the range that holds the true value"),
    ("J", "joules: watts × seconds; 3.6 kJ are 1 Wh"),
    ("J/tok", "gross joules of an answer, prompt included, per output token, thinking included"),
    ("tok/s", "tokens decoded per second, without the prompt, whose time is the TTFT"),
    ("TTFT", "time to first token: from sending the question to the first word"),
    ("forecast", "joules predicted before the answer, from those measured before"),
    ("load", "reading the model into memory, before its first answer"),
    ("idle", "what the machine draws while it does nothing, with a model in memory or without"),
    ("etui", "in watts: the models and the app, apart from other programs"),
    ("prefill", "read: the model reads the question and the chat so far"),
    ("decode", "think and write: the model writes token by token"),
    ("gross", "everything the hardware drew, idle power included"),
    ("net", "gross less idle power × seconds; idle is measured while nothing answers"),
    ("audit", "answer check: a second answer by a larger model, to see whether the first is right"),
    ("calibrate", "measure the joules of prompts and answers of many lengths"),
    ("sweep", "try settings of a model, and find the one with the fewest joules"),
    ("counter", "read from an energy counter of the hardware"),
    ("integrated", "hardware power readings, added up over time"),
    ("unmeasured", "nothing could be read: never counted as 0"),
)
"""Word -> meaning, in the order in which a reader meets them."""


KeyGroup: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a part of a screen, and its keys as they are shown, each with what it does."""


def list_key_groups(screen: Screen[Any]) -> list[KeyGroup]:
    """List the keys of a screen: those that work now, then those of parts without the focus.

    Only keys with a name are listed: the others are those of any text field or list.
    """
    app = screen.app
    groups: dict[DOMNode, list[Binding]] = {}
    for node, binding, _enabled, _tooltip in screen.active_bindings.values():
        if binding.id is not None:
            groups.setdefault(node, []).append(binding)
    if screen.is_modal:  # over a window, only keys with priority reach the app
        always = [b for b in app._bindings if b[1].priority and b[1].id is not None]
        groups[app] = [binding for _key, binding in always]
    listed = [(name_part(node), groups[node]) for node in groups if node is not app]
    shown = {type(node) for node in groups}
    for widget in screen.query(Widget):
        bindings = [b for _key, b in widget._bindings if b.id is not None]
        if widget.focusable and bindings and type(widget) not in shown:
            shown.add(type(widget))
            listed.append((f"{name_part(widget)} (click or tab to it first)", bindings))
    listed.append((name_part(app), groups.get(app, [])))
    return [(title, pairs) for title, keys in listed if (pairs := _pair_keys(app, keys))]


def name_part(node: DOMNode) -> str:
    """Name a part of a screen by the heading of its help, and the app ``Everywhere``."""
    if isinstance(node, App):
        return "Everywhere"
    heading = (node.HELP or "").strip().split("\n", 1)[0].removeprefix("## ")
    name = type(node).__name__
    return heading or (name.removesuffix("Screen") if name.endswith("Screen") else "This window")


def format_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """Format words with their meanings, the meanings in one column."""
    wide = max([8, *(cell_len(word) for word, _meaning in pairs)])
    return "\n".join(
        f"  {word}{' ' * (wide - cell_len(word))}  {meaning}" for word, meaning in pairs
    )


class HelpScreen(PageModal):
    """One page: the keys of the screen below, and the words on it."""

    AUTO_FOCUS = "#help-page"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", "Close", id="help.close", key_display="esc"),
        Binding("j", "move(1)", "Down", id="help.down"),
        Binding("k", "move(-1)", "Up", id="help.up"),
        Binding("g", "jump(-1)", "Top", id="help.top", show=False),
        Binding("G", "jump(1)", "End", id="help.end", show=False),
    ]

    def __init__(self, groups: Sequence[KeyGroup]) -> None:
        super().__init__("help-page")
        self._groups = groups

    def compose(self) -> ComposeResult:
        with self.page, Horizontal(classes="columns"):
            with Vertical(classes="keys"):
                for title, keys in self._groups:
                    yield Static(sanitize(title), markup=False, classes="title")
                    yield Static(sanitize(format_pairs(keys)), markup=False, classes="group")
            with Vertical(classes="words"):
                yield Static("Words", markup=False, classes="title")
                for word, meaning in WORDS:
                    with Horizontal(classes="word"):
                        yield Static(word, markup=False, classes="name")
                        yield Static(meaning, markup=False, classes="meaning")
        yield KeyFooter()


def _pair_keys(app: App[Any], bindings: Iterable[Binding]) -> tuple[tuple[str, str], ...]:
    """Join the keys of each action, with what it does; those of the footer come first."""
    keys: dict[tuple[str, str], list[str]] = {}
    for binding in sorted(bindings, key=lambda binding: not binding.show):
        if not binding.description:
            continue
        shown = app.get_key_display(binding)
        what = binding.tooltip or binding.description
        displays = keys.setdefault((binding.action, what), [])
        if shown not in displays:
            displays.append(shown)
    return tuple((" ".join(shown), description) for (_, description), shown in keys.items())
