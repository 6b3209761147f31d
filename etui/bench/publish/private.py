"""Keep what is private out of a public folder: places, names of people and hosts, serial numbers.

What a configuration is known to hold is replaced or left out. All texts are then searched again, as
a user can write anything into a policy or the name of a model.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample
from etui.energy.scopes import family

_GPU_SCOPES = frozenset({"gpu", "module"})
_SERIAL = re.compile(
    r"\b(?:GPU|MIG)-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){0,3}(?:-[0-9a-fA-F]{1,12})?\b"
)
_HOME = re.compile(
    r"(?<![\w.-])(?:/home/|/Users/|[A-Za-z]:\\+Users\\+)[^/\\\s\"',;:]+|/root/[^\s\"',;:]*"
)

_COMMON_WORDS = frozenset(
    {
        *("root", "user", "users", "admin", "administrator", "ubuntu", "debian", "fedora", "arch"),
        *(
            "localhost",
            "host",
            "home",
            "test",
            "tests",
            "guest",
            "runner",
            "build",
            "etui",
            "bench",
        ),
        *("model", "models", "desktop", "laptop", "server", "work", "default", "linux", "docker"),
    }
)
"""Names of users and hosts that say nothing about a person and occur in texts."""

_SHORTEST_WORD = 4


@dataclass(frozen=True, slots=True)
class PrivateData:
    """What must not be in a public folder."""

    places: tuple[str, ...]  # Absolute paths of this user's folders
    words: tuple[str, ...]  # Names of this user and of this machine


def find_private_data(folders: Iterable[Path] = ()) -> PrivateData:
    """Collect the places and names of this user and this machine.

    Args:
        folders: Further places: of etui's data, of the models, of the run.
    """
    places = {str(place) for folder in (Path.home(), *folders) for place in _forms_of(folder)}
    hosts = {socket.gethostname(), platform.node()}
    names = {*hosts, *(host.partition(".")[0] for host in hosts), _user_name()}
    words = {
        name for name in names if len(name) >= _SHORTEST_WORD and name.lower() not in _COMMON_WORDS
    }
    return PrivateData(
        tuple(sorted(place for place in places if place != os.sep)),
        tuple(sorted(words)),
    )


def redact_config(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as JSON values, without places, backends and serial numbers."""
    document = redact_backends(config.to_json() | {"data_path": None})
    return redact_serials(document, number_gpus(config))  # type: ignore[no-any-return]


def redact_backends(value: Any) -> Any:
    """Replace the names that the user gave to remote backends, in a document of plain JSON values.

    The names of models on them are left out.
    """
    if isinstance(value, Mapping):
        return {
            key: "remote" if key == "backend" and item else redact_backends(item)
            for key, item in value.items()
            if key != "remote_name"
        }
    return [redact_backends(item) for item in value] if isinstance(value, list | tuple) else value


def redact_sample(sample: Sample) -> dict[str, Any]:
    """Return an answer as JSON values, without generated text and error message."""
    return sample.to_json() | {"text": "", "error": None}


def number_gpus(config: RunConfig) -> dict[str, str]:
    """Give the GPUs of each machine numbers: ``gpu:GPU-1a2b`` -> ``gpu:0``."""
    found: dict[str, str] = {}
    energies = [machine.energy for machine in config.machines or ()] or [config.energy]
    for energy in (*energies, config.energy):
        scopes = [*_keys(energy.get("channels")), *_items(energy.get("unmeasured"))]
        counts: dict[str, int] = {}
        for scope in dict.fromkeys(scopes):
            word = family(scope)
            if word in _GPU_SCOPES:
                found.setdefault(scope, f"{word}:{counts.get(word, 0)}")
                counts[word] = counts.get(word, 0) + 1
    return found


def redact_serials(value: Any, numbers: Mapping[str, str]) -> Any:
    """Replace serial numbers of GPUs in all texts of a document, keys included.

    Args:
        value: Plain JSON values.
        numbers: Scope of a GPU -> what replaces it; other serial numbers become ``GPU``.
    """
    if isinstance(value, Mapping):
        return {
            redact_serials(key, numbers): redact_serials(item, numbers)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_serials(item, numbers) for item in value]
    if not isinstance(value, str):
        return value
    for scope in sorted(numbers, key=len, reverse=True):
        value = value.replace(scope, numbers[scope])
    return _SERIAL.sub("GPU", value)


def find_leaks(
    texts: Mapping[str, str], private: PrivateData, allowed: Collection[str] = ()
) -> list[str]:
    """Find private data in texts.

    Args:
        private: What must not occur.
        allowed: Words that may occur.

    Returns:
        One sentence for each kind of private data in each file.
    """
    return [
        f"{name} contains {what}: {_shorten(found)}"
        for name, text in texts.items()
        for what, found in _find_in(text, private, {word.lower() for word in allowed})
    ]


def _find_in(
    text: str, private: PrivateData, allowed: Collection[str]
) -> Iterator[tuple[str, str]]:
    plain = text.replace("\\\\", "\\").replace("\\/", "/")
    for place in private.places:
        if re.search(rf"{re.escape(place)}(?![\w-])", plain) and place.lower() not in allowed:
            yield "a folder of this machine", place
    for word in private.words:
        pattern = rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])"
        if word.lower() not in allowed and re.search(pattern, plain, re.IGNORECASE):
            yield "the name of this user or this machine", word
    for what, form in (("a home folder", _HOME), ("the serial number of a GPU", _SERIAL)):
        found = next((m[0] for m in form.finditer(plain) if m[0].lower() not in allowed), None)
        if found is not None:
            yield what, found


def _forms_of(folder: Path) -> set[Path]:
    try:
        return {folder.absolute(), folder.resolve()}
    except (OSError, RuntimeError):
        return {folder.absolute()}


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""  # a container without an entry for its user


def _keys(value: object) -> list[str]:
    return [str(key) for key in value] if isinstance(value, Mapping) else []


def _items(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
