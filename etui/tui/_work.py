"""Work in threads, and notices of what goes wrong in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from etui.errors import EtuiError, format_internal_error
from etui.text import sanitize

if TYPE_CHECKING:
    from textual.app import App
    from textual.screen import Screen
    from textual.widget import Widget
    from textual.worker import Worker

T = TypeVar("T")
_ERROR_SECONDS = 12


async def in_thread(job: Callable[[], T], fix: str = "try again, or run `etui doctor`") -> T:
    """Run a job in a thread and return its result.

    Args:
        fix: What to do after a fault that etui does not know.

    Raises:
        EtuiError: Any fault of the job.
    """
    try:
        return await asyncio.to_thread(job)
    except EtuiError:
        raise
    except OSError as error:
        what = f"cannot read or write the file: {error}"
        raise EtuiError(what, "fix the file or its folder") from error
    except Exception as error:
        raise EtuiError(format_internal_error(error), fix) from error


def start(
    node: App[Any] | Widget,
    job: Callable[[], Coroutine[Any, Any, object]],
    group: str,
    *,
    exclusive: bool = False,
) -> None:
    """Run a coroutine beside the screen.

    Args:
        job: Makes it. One that is cancelled before its start would never be awaited.
        exclusive: Whether it ends those of its group.
    """
    _worker: Worker[object] = node.run_worker(
        job, group=group, exclusive=exclusive, exit_on_error=False
    )


@contextmanager
def faults_shown(
    node: App[Any] | Widget, note: Callable[[str], object] = lambda _: None
) -> Iterator[None]:
    """Show an error of the block as a notice, and leave the block."""
    try:
        yield
    except EtuiError as error:
        note(notice_text(error.what, error.fix))
        notify_error(node, error.what, error.fix)


def notice_text(what: str, fix: str = "") -> str:
    """Format an error with its fix on the line below; an empty fix is left out."""
    return sanitize(f"{what}\n→ {fix}" if fix else what)


def notify_error(node: App[Any] | Widget, what: str, fix: str = "") -> None:
    """Show an error as a notice that stays long enough to be read."""
    text = notice_text(what, fix)
    node.notify(text, severity="error", timeout=_ERROR_SECONDS, markup=False)


def warn(node: App[Any] | Widget, what: str, fix: str = "") -> None:
    """Show why a key did nothing."""
    node.notify(notice_text(what, fix), severity="warning", markup=False)


def place_notices(screen: Screen[Any], top: int) -> None:
    """Let notices rise above row ``top`` of a screen, and cover nothing from there on.

    The styles are set only where they change: every change is a layout, after which this is called
    again.
    """
    from textual.widgets._toast import ToastRack

    if top <= 0:
        return  # there is no layout yet
    below = max(1, screen.size.height - top)
    for rack in screen.children:
        # It grows upward, so of more notices than have room the newest are in view.
        if isinstance(rack, ToastRack) and rack.styles.margin.bottom != below:
            rack.styles.margin = (0, 0, below, 0)
