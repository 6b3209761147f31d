"""The terminal: ASCII in place of Unicode of the same width, clipboard tools, signals."""

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
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from textual.app import App
from textual.binding import Binding
from textual.screen import SystemModalScreen

from etui.config.config import Config
from etui.errors import EtuiError, ExitCode
from etui.text import SEPARATOR
from etui.tui.themes import THEMES

if TYPE_CHECKING:
    from textual.driver import Driver


MOST_OSC52_BYTES = 74_994
"""Longest text that most terminals accept by OSC 52, in bytes: 100,000 once it is encoded."""

_SECONDS = 3.0  # Longest wait for a tool; one that waits for a display would never end


_COMMANDS = {
    "tmux": ("tmux", "load-buffer", "-w", "-"),
    "pbcopy": ("pbcopy",),
    "wl-copy": ("wl-copy",),
    "xclip": ("xclip", "-selection", "clipboard", "-in"),
    "xsel": ("xsel", "--clipboard", "--input"),
}
_LOCAL = {"pbcopy": "", "wl-copy": "WAYLAND_DISPLAY", "xclip": "DISPLAY", "xsel": "DISPLAY"}
"""Tool -> the variable that its display sets; only macOS has the first."""


def find_copy_tools(
    environ: Mapping[str, str], which: Callable[[str], str | None] = shutil.which
) -> dict[str, tuple[str, ...]]:
    """Find the commands that copy their input: of tmux, if etui runs in it, and a local one."""
    names = ["tmux"] if environ.get("TMUX") and which("tmux") else []
    local = (n for n, needed in _LOCAL.items() if (not needed or environ.get(needed)) and which(n))
    return {name: _COMMANDS[name] for name in (*names, *islice(local, 1))}


def run_copy_tools(tools: Mapping[str, Sequence[str]], text: str) -> dict[str, str]:
    """Give the text to each tool, and wait; return by tool what went wrong, empty for nothing."""
    return {name: _run(command, text) for name, command in tools.items()}


def _run(command: Sequence[str], text: str) -> str:
    try:
        # xclip and wl-copy stay in the background to serve the text: they get no pipe of ours.
        subprocess.run(
            command,
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


def describe_copy(what: str, text: str, problems: Mapping[str, str]) -> str:
    """Say what was copied and how: ``copied the answer · by tmux, xclip and the terminal``.

    Whether the terminal takes a text by OSC 52 cannot be known.
    """
    done = [tool for tool, problem in problems.items() if not problem]
    parts = [f"copied {what}", f"by {', '.join([*done, 'the terminal (OSC 52)'])}"]
    parts += [f"{tool} failed: {problem}" for tool, problem in problems.items() if problem]
    if not done and len(text.encode()) > MOST_OSC52_BYTES:
        parts.append("the terminal may refuse a text this long")
    return SEPARATOR.join(parts)


async def copy_by_tools(app: App[Any], what: str, text: str) -> str:
    """Copy a text that the terminal has got by every other way, and say what was done.

    In a browser there is none: the tools would copy on the server's machine.
    """
    tools = {} if app.is_web else find_copy_tools(os.environ)
    return describe_copy(what, text, await asyncio.to_thread(run_copy_tools, tools, text))


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
    """Return whether the terminal is declared to accept UTF-8, and Python writes it.

    Python itself sets ``LC_CTYPE`` to a UTF-8 one if the locale is C: ``LANG`` comes first then.
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


class TerminalApp(App[None]):
    """An app with etui's styles and help, whose caller reports the fault that ended it."""

    CSS_PATH = Path(__file__).with_name("etui.tcss")

    def __init__(self, config: Config) -> None:
        driver = choose_driver(config.ascii)
        super().__init__(driver_class=driver)
        self._draws_ascii = driver is not None
        self._config = config
        self.fault: BaseException | None = None
        for theme in THEMES:
            self.register_theme(theme)

    def get_key_display(self, binding: Binding) -> str:
        shown = super().get_key_display(binding)
        return name_key(shown) if self._draws_ascii else shown

    def action_toggle_help(self) -> None:
        from etui.tui.help import HelpScreen, list_key_groups

        if isinstance(self.screen, HelpScreen):
            self.screen.dismiss()
        elif not isinstance(self.screen, SystemModalScreen):  # the palette has no keys of etui
            self.push_screen(HelpScreen(list_key_groups(self.screen)))

    def raise_fault(self, where: str, fix: str) -> None:
        """Raise what ended the app, if that was a fault."""
        if isinstance(self.fault, EtuiError):
            raise self.fault
        if self.fault is not None:
            what = f"internal error in the {where}: {type(self.fault).__name__}: {self.fault}"
            raise EtuiError(what, fix) from self.fault

    def _fatal_error(self) -> None:
        # Replaces Textual's traceback, which a restored terminal would not show.
        self.fault = self.fault or sys.exc_info()[1]
        self._close_messages_no_wait()
