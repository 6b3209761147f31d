"""Keys of clients, from a file or the environment; only their names are ever written anywhere."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from etui.errors import EtuiError, InvalidFile, Problem, UsageError

KEY_VARIABLE = "ETUI_API_KEY"
"""Environment variable with one key."""

_FIRST = "default"
_LEAST_CHARACTERS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[!-~]+")
_OTHERS = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH
_FIX = "write one `name: key` a line; a key has 16 or more visible ASCII characters"
_ADMIN = "admin"


class ClientKeys(NamedTuple):
    """Keys by their names, and the names of those that see the figures of all keys."""

    keys: dict[str, str]
    admins: frozenset[str] = frozenset()


def read_keys(file: Path | None, environment: Mapping[str, str]) -> ClientKeys:
    """Read the keys of the server from a file, and the key ``default`` from ``ETUI_API_KEY``.

    Raises:
        InvalidFile: A line is not valid.
        UsageError: Other users can read the file, or a key is too short.
        EtuiError: The file cannot be read.
    """
    keys, admins = ClientKeys({}) if file is None else _read_file(file)
    key = environment.get(KEY_VARIABLE, "")
    if key:
        if not _is_key(key):
            raise UsageError(
                f"the key in {KEY_VARIABLE} is not valid",
                f"use {_LEAST_CHARACTERS} or more visible ASCII characters: openssl rand -hex 24",
            )
        if _FIRST in keys:
            raise UsageError(
                f"the key {_FIRST!r} is both in {file} and in {KEY_VARIABLE}",
                f"rename it in the file, or unset {KEY_VARIABLE}",
            )
        keys[_FIRST] = key
    return ClientKeys(keys, admins)


def parse_keys(text: str, file: str) -> ClientKeys:
    """Parse one ``name: key`` a line; a key followed by ``admin`` sees the figures of all keys.

    InvalidFile if a line is not valid; the message does not quote it.
    """
    keys: dict[str, str] = {}
    admins = set()
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, colon, key = (part.strip() for part in entry.partition(":"))
        key, space, option = key.partition(" ")
        key, option = key.strip("\"'"), option.strip()
        if not colon or not _NAME.fullmatch(name):
            problems.append(Problem(file, number, 1, "a line has to be `name: key`"))
        elif name in keys:
            problems.append(Problem(file, number, 1, f"the name {name!r} is used twice"))
        elif not _is_key(key) or (space and option != _ADMIN):
            what = f"the key {name!r} needs {_LEAST_CHARACTERS} or more visible ASCII characters"
            what += ", and nothing but `admin` behind it" if space else ""
            problems.append(Problem(file, number, 1, what))
        elif key in keys.values():
            problems.append(Problem(file, number, 1, f"the key {name!r} is that of another name"))
        else:
            keys[name] = key
            admins |= {name} if option else set()
    if problems:
        raise InvalidFile.of(problems, _FIX)
    if not keys:
        raise InvalidFile.of([Problem(file, 0, 0, "there is no key in it")], _FIX)
    return ClientKeys(keys, frozenset(admins))


def _read_file(file: Path) -> ClientKeys:
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if os.name == "posix" and mode & _OTHERS:
                raise UsageError(
                    f"other users can read the keys in {file}", f"run: chmod 600 {file}"
                )
            text = opened.read().decode("utf-8")
    except OSError as error:
        raise EtuiError(f"cannot read {file}: {error.strerror}", "check --keys") from error
    except UnicodeDecodeError as error:
        raise InvalidFile.of([Problem(str(file), 0, 0, "it is not UTF-8")], _FIX) from error
    return parse_keys(text, str(file))


def _is_key(text: str) -> bool:
    return len(text) >= _LEAST_CHARACTERS and _KEY.fullmatch(text) is not None
