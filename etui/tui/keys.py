"""Names of all keys, with which ``keymap`` in config.yaml rebinds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from inspect import getmembers, isclass
from pkgutil import walk_packages

from textual.binding import Binding
from textual.dom import DOMNode

from etui.config.config import Config
from etui.text import find_nearest, format_suggestion


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
    for name, near in find_unknown_keys(config.keymap, list_key_names()):
        hint = format_suggestion([near] if near else [], quoted=False)
        fix = hint or "docs/chat.md lists all key names;"
        yield f"unknown key name {name!r}", f"{fix} fix `keymap` in {config.config_file}"


def find_unknown_keys(keymap: Mapping[str, str], names: Iterable[str]) -> list[tuple[str, str]]:
    """List the names in ``keymap`` that no key has, each with the nearest one or an empty text."""
    known = sorted(names)
    return [
        (name, next(iter(find_nearest(name, known)), "")) for name in keymap if name not in known
    ]
