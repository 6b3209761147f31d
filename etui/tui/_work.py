"""Work in threads, and notices of what goes wrong in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
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
_NOTICE_ROWS = 2  # Rows of a short notice


async def in_thread(job: Callable[[], T], fix: str = "try again, or run `etui doctor`") -> T:
    """Run a job in a thread; any fault is an EtuiError, an unknown one with this ``fix``."""
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
    """Run a coroutine, made by ``job``: one cancelled before its start is never awaited."""
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


def choose_gap(height: int, taken: Sequence[tuple[int, int]], first: int = 1) -> tuple[int, int]:
    """Choose rows for notices: the first gap with room for one, or else the largest.

    Returns the first row and their number. ``taken`` has the first row of what is not to be
    covered, and the row after its last.
    """
    gaps, top = [], first
    for start, end in sorted(taken):
        gaps.append((top, start - top))
        top = max(top, end)
    gaps.append((top, height - top))
    roomy = [gap for gap in gaps if gap[1] >= _NOTICE_ROWS]
    row, rows = roomy[0] if roomy else max(gaps, key=lambda gap: gap[1])
    return row, max(1, rows)


def place_notices(screen: Screen[Any], *kept: Widget, first: int = 1) -> None:
    """Show notices at the top right of a screen, the newest first, and cover none of ``kept``.

    Nothing is set that is so already: every change is a layout, after which this is called again.
    """
    from textual.widgets._toast import Toast, ToastRack

    taken = [(each.region.y, each.region.bottom) for each in kept if each.region.height]
    if not screen.size.height:
        return  # there is no layout yet
    row, rows = choose_gap(screen.size.height, taken, first)

    def age(holder: Widget) -> float:
        return -holder.query_one(Toast)._notification.raised_at

    for rack in screen.children:
        if not isinstance(rack, ToastRack):
            continue
        most, holders = rack.styles.max_height, list(rack.children)
        if rack.styles.margin.top != row or most is None or most.value != rows:
            rack.styles.margin, rack.styles.max_height = (row, 0, 0, 0), rows
        if all(holder.children for holder in holders) and holders != sorted(holders, key=age):
            rack.sort_children(key=age)
