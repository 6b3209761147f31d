"""The style of figures, and how they are saved: equal numbers give equal files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

OPEN_AXES = {"axes.spines.top": False, "axes.spines.right": False}
"""Settings of axes without a frame."""

_REPRODUCIBLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "etui",
}
_DATES = {"svg": "Date", "pdf": "CreationDate"}


@contextmanager
def figure_style(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw and save figures of matplotlib in etui's style; the global settings come back after.

    Args:
        settings: Entries of ``rcParams`` beyond those that every figure has.
    """
    import matplotlib

    with matplotlib.rc_context({**_REPRODUCIBLE, **(settings or {})}):
        yield


def save_figure(figure: Any, target: Any, form: str, **options: Any) -> None:
    """Save a figure without a date, so that equal figures give equal files.

    Args:
        figure: A ``matplotlib.figure.Figure``, drawn inside ``figure_style``.
        target: A path or an open file.
        form: ``svg``, ``pdf`` or ``png``.
        options: More arguments of ``Figure.savefig``.

    Raises:
        OSError: The target cannot be written.
    """
    metadata = {_DATES[form]: None} if form in _DATES else None
    figure.savefig(target, format=form, metadata=metadata, **options)
