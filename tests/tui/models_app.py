"""The models screen, and scripts that answer in place of etui's commands."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psutil
import pytest
from textual.widgets import DataTable, Static

from etui.tui import jobs
from etui.tui.modals import ConfirmModal
from etui.tui.models.screen import ModelsScreen
from tests.tui.fakes import DEADLINE_SECONDS, MODEL, House
from tests.tui.screen import Terminal, running


@asynccontextmanager
async def at_models(house: House, size: tuple[int, int] = (120, 36)) -> AsyncIterator[Terminal]:
    """The app at its models."""
    async with running(house, size) as term:
        await term.press("f6")
        screen = await term.at(ModelsScreen)
        await term.until(lambda: screen.query_one(DataTable).row_count)
        yield term


def put_damaged_file(house: House) -> House:
    """The starter's file is there, damaged; the fakes do not read it."""
    house.config.models_dir.mkdir(parents=True, exist_ok=True)
    (house.config.models_dir / f"{MODEL}.gguf").write_bytes(b"GGUF and no more")
    return house


def shown(term: Terminal) -> str:
    """All texts of the screen."""
    return "\n".join(str(static.content) for static in term.app.screen.query(Static))


def dialog(term: Terminal) -> str:
    """The text of the open question; empty without one."""
    return " ".join(shown(term).split()) if isinstance(term.app.screen, ConfirmModal) else ""


async def confirmed(term: Terminal, key: str) -> None:
    """Press a key that asks, and say yes."""
    await term.press(key)
    await term.at(ConfirmModal)
    await term.press("y")


def answer_by(monkeypatch: pytest.MonkeyPatch, script: str, skipped: int) -> list[tuple[str, ...]]:
    """Let a script answer in place of etui; returns its arguments, but for the first ones."""
    asked: list[tuple[str, ...]] = []

    def command(*arguments: str) -> list[str]:
        asked.append(arguments[skipped:])
        return [sys.executable, "-c", script, *arguments[skipped:]]

    monkeypatch.setattr(jobs, "command", command)
    return asked


@contextmanager
def no_process_left() -> Any:
    """Fail if a process that is started in the block outlives it."""
    before = set(psutil.Process().children())
    started: set[psutil.Process] = set()
    note: Callable[[], None] = lambda: started.update(set(psutil.Process().children()) - before)  # noqa: E731
    yield note
    note()
    _gone, alive = psutil.wait_procs(started, timeout=DEADLINE_SECONDS)
    assert alive == []
