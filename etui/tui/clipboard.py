"""Copy text by every way there is: the terminal (OSC 52), tmux, and a local clipboard tool."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textual.app import App

from etui.text import SEPARATOR

MOST_OSC52_BYTES = 74_994
"""Longest text that most terminals accept by OSC 52, in bytes: 100,000 once it is encoded."""

_SECONDS = 3.0
"""Longest wait for a tool; one that waits for a display would never end."""


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
    """Find tmux, if etui runs in it, and the first local clipboard tool that can work here.

    Args:
        environ: ``TMUX``, ``WAYLAND_DISPLAY`` and ``DISPLAY`` say what there is.
    """
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

    Args:
        copied: Results of the tools.
    """
    done = [result.tool for result in copied if not result.problem]
    parts = [f"copied {what}", f"by {', '.join([*done, 'the terminal (OSC 52)'])}"]
    parts += [f"{result.tool} failed: {result.problem}" for result in copied if result.problem]
    if not done and len(text.encode()) > MOST_OSC52_BYTES:
        parts.append("the terminal may refuse a text this long")
    return SEPARATOR.join(parts)


async def copy_text(app: App[Any], what: str, text: str) -> str:
    """Copy a text by every way there is, and say what was done.

    In a browser only the terminal's way is used: the tools would copy on the server's machine.

    Args:
        what: What the text is, as in :func:`describe_copy`.
    """
    app.copy_to_clipboard(text)
    tools = () if app.is_web else find_copy_tools(os.environ)
    copied = await asyncio.to_thread(run_copy_tools, tools, text)
    return describe_copy(what, text, copied)
