"""Error notices with their fix, safe for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etui.text import sanitize

if TYPE_CHECKING:
    from textual.app import App
    from textual.screen import Screen
    from textual.widget import Widget

_ERROR_SECONDS = 12


def notice_text(what: str, fix: str = "") -> str:
    """Format an error with its fix on the line below; an empty fix is left out."""
    return sanitize(f"{what}\n→ {fix}" if fix else what)


def notify_error(node: App[Any] | Widget, what: str, fix: str = "") -> None:
    """Show an error as a notice that stays long enough to be read.

    Args:
        fix: What to do; an empty text is left out.
    """
    text = notice_text(what, fix)
    node.notify(text, severity="error", timeout=_ERROR_SECONDS, markup=False)


def place_notices(screen: Screen[Any], top: int) -> None:
    """Let notices rise above a row of a screen, and cover nothing from there on.

    The styles are set only where they change: every change is a layout, after which this is called
    again.

    Args:
        top: First row that stays free, such as that of the prompt.
    """
    from textual.widgets._toast import ToastRack

    if top <= 0:
        return  # there is no layout yet
    below = max(1, screen.size.height - top)
    for rack in screen.children:
        # It grows upward, so of more notices than have room the newest are in view.
        if isinstance(rack, ToastRack) and rack.styles.margin.bottom != below:
            rack.styles.margin = (0, 0, below, 0)
