"""ASCII output for terminals that cannot show Unicode, with every character as wide as before.

The layout stays the same: only the text written to the terminal is translated, so widgets need no
special case.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len

if TYPE_CHECKING:
    from textual.driver import Driver

AsciiChoice = Literal["auto", "always", "never"]

_BOXES = {
    "|": "│┃║▏▎▍▌▐▕┆┇┊┋╎╏╷╵╹╻▋▊▉",
    "_": "▁",
    "-": "─━┄┅┈┉╌╍╴╶╸╺═▔‐‑‒–—―",
    "+": "┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┣┫┳┻╋╔╗╚╝╠╣╦╩╬┍┎┑┒┕┖┙┚",
    ".": "▂·…•∙",
    ":": "▃▄░",
    "=": "▅▆▒",
    "#": "▇█▓■▀▗▖▝▘▙▟▛▜",
    ">": "≥❯›→▶▸⇥»",
    "<": "‹←◀◂«⏎↵",
    "^": "▲△↑⇧⌃⭘",
    "v": "▼▽↓",
    "*": "●○◉★✓✔",
    "x": "✗✘×",
    "!": "⚠",
    "'": "‘’",
    '"': "“”„",
    "~": "≈",
    "/": "÷",
    "2": "²",
    "o": "°",
}
_KEYS = {"⏎": "enter", "⇧": "shift+", "↑": "up", "↓": "down", "←": "left", "→": "right"}
_TABLE = {ord(c): ascii_ for ascii_, cs in _BOXES.items() for c in cs}
_TABLE |= {0x2800 + dots: " ..::==##"[dots.bit_count()] for dots in range(256)}
_TABLE |= {code: f"{code - 0x2400 + 64:c}" for code in range(0x2400, 0x2420)}
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def to_ascii(text: str) -> str:
    """Translate ``text`` to ASCII, keeping the width of each character and escape sequences."""
    if text.isascii():
        return text
    text = text.replace(" ± ", "+/-").translate(_TABLE)
    return _NOT_ASCII.sub(lambda found: "?" * cell_len(found[0]), text)


def name_key(shown: str) -> str:
    """Write a key that is shown by a sign in words: ``⇧tab`` as ``shift+tab``."""
    for sign, word in _KEYS.items():
        shown = shown.replace(sign, word)
    return shown


def shows_unicode(environ: Mapping[str, str], encoding: str) -> bool:
    """Return whether the terminal is declared to accept UTF-8.

    Args:
        environ: ``LC_ALL``, else ``LC_CTYPE``, else ``LANG`` names the locale. Python itself sets
            ``LC_CTYPE`` to a UTF-8 one if the locale is C, so ``LANG`` takes precedence over that.
        encoding: Encoding in which Python writes to the terminal.
    """
    if not encoding.lower().replace("-", "").startswith("utf"):
        return False
    coerced = environ.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8")
    names = ["LC_ALL", "LANG"] if coerced else ["LC_ALL", "LC_CTYPE", "LANG"]
    named = next((environ[name] for name in names if environ.get(name)), "")
    if named in ("C", "POSIX"):
        return False
    _language, _, charset = named.partition(".")
    return not charset or charset.lower().replace("-", "").startswith("utf")


def choose_driver(choice: AsciiChoice) -> type[Driver] | None:
    """Choose a driver that writes ASCII if the terminal needs it, or None for Textual's own.

    A browser shows Unicode; its server names the driver in ``TEXTUAL_DRIVER``.
    """
    if "TEXTUAL_DRIVER" in os.environ:
        return None
    encoding = getattr(sys.__stderr__, "encoding", None) or "utf-8"
    if choice == "never" or (choice == "auto" and shows_unicode(os.environ, encoding)):
        return None
    if sys.platform == "win32":
        from textual.drivers.windows_driver import WindowsDriver as Base
    else:
        from textual.drivers.linux_driver import LinuxDriver as Base

    class AsciiDriver(Base):
        """Terminal driver that writes only ASCII."""

        def write(self, data: str) -> None:
            super().write(to_ascii(data))

    return AsciiDriver
