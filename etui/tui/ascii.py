"""ASCII output for terminals that cannot show Unicode, with every character as wide as before.

The layout stays the same: only the text written to the terminal is translated, so widgets need no
special case.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from textual.app import App

from etui.errors import EtuiError, ExitCode
from etui.text import SEPARATOR

if TYPE_CHECKING:
    from textual.driver import Driver


MOST_OSC52_BYTES = 74_994
"""Longest text that most terminals accept by OSC 52, in bytes: 100,000 once it is encoded."""

_SECONDS = 3.0  # Longest wait for a tool; one that waits for a display would never end


@dataclass(frozen=True, slots=True)
class CopyTool:
    """A program that copies what it reads from standard input."""

    name: str
    command: tuple[str, ...]


_TMUX = CopyTool("tmux", ("tmux", "load-buffer", "-w", "-"))

_LOCAL = (
    ("", CopyTool("pbcopy", ("pbcopy",))),
    ("WAYLAND_DISPLAY", CopyTool("wl-copy", ("wl-copy",))),
    ("DISPLAY", CopyTool("xclip", ("xclip", "-selection", "clipboard", "-in"))),
    ("DISPLAY", CopyTool("xsel", ("xsel", "--clipboard", "--input"))),
)
"""The variable that a display sets, and the tool for it; only macOS has the first."""


def find_copy_tools(
    environ: Mapping[str, str], which: Callable[[str], str | None] = shutil.which
) -> tuple[CopyTool, ...]:
    """Find tmux, if etui runs in it, and the first local clipboard tool that can work here."""
    tools = [_TMUX] if environ.get("TMUX") and which("tmux") else []
    for variable, tool in _LOCAL:
        if (not variable or environ.get(variable)) and which(tool.name):
            return (*tools, tool)
    return tuple(tools)


@dataclass(frozen=True, slots=True)
class Copied:
    """What a tool did; ``problem`` is empty if it copied the text."""

    tool: str
    problem: str = ""


def run_copy_tools(tools: Sequence[CopyTool], text: str) -> list[Copied]:
    """Give the text to each tool; waits for them, so it belongs in a thread."""
    return [Copied(tool.name, _run(tool, text)) for tool in tools]


def _run(tool: CopyTool, text: str) -> str:
    try:
        # xclip and wl-copy stay in the background to serve the text: they get no pipe of ours.
        subprocess.run(
            tool.command,
            input=text.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=True,
            start_new_session=True,
        )
    except subprocess.CalledProcessError as error:
        return f"exit code {error.returncode}"
    except subprocess.TimeoutExpired:
        return f"no answer in {_SECONDS:.0f} s"
    except OSError as error:
        return error.strerror or "cannot be run"
    return ""


def describe_copy(what: str, text: str, copied: Sequence[Copied]) -> str:
    """Say what was copied and how: ``copied the answer · by tmux, xclip and the terminal``.

    Whether the terminal takes a text by OSC 52 cannot be known.
    """
    done = [result.tool for result in copied if not result.problem]
    parts = [f"copied {what}", f"by {', '.join([*done, 'the terminal (OSC 52)'])}"]
    parts += [f"{result.tool} failed: {result.problem}" for result in copied if result.problem]
    if not done and len(text.encode()) > MOST_OSC52_BYTES:
        parts.append("the terminal may refuse a text this long")
    return SEPARATOR.join(parts)


async def copy_by_tools(app: App[Any], what: str, text: str) -> str:
    """Copy a text that the terminal has got by every other way, and say what was done.

    In a browser there is none: the tools would copy on the server's machine.
    """
    tools = () if app.is_web else find_copy_tools(os.environ)
    copied = await asyncio.to_thread(run_copy_tools, tools, text)
    return describe_copy(what, text, copied)


def leave_on_terminate(leave: Callable[[], object]) -> None:
    """Call ``leave`` on SIGTERM, from the running event loop."""
    # Windows has no such handler, and a loop outside the main thread takes none.
    with suppress(NotImplementedError, RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave)


def leave_on_hangup(save: Callable[[], object]) -> None:
    """Call ``save`` on SIGHUP and end the process without drawing again.

    A lost terminal accepts no output, so the event loop may be blocked in a write: a thread saves,
    and the process ends without restoring the screen.
    """

    def end() -> None:
        with suppress(EtuiError):
            save()
        os._exit(ExitCode.PARTIAL)

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda _number, _frame: threading.Thread(target=end).start())


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
