"""The style of figures, and their saving: equal numbers give equal files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

OPEN_AXES = {"axes.spines.top": False, "axes.spines.right": False}
"""Settings of axes without a frame."""

_REPRODUCIBLE = {
    "svg.fonttype": "none",  # keeps text as text
    "svg.hashsalt": "etui",
}
_DATES = {"svg": "Date", "pdf": "CreationDate"}


@contextmanager
def figure_style(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw and save matplotlib figures in etui's style; restore the global settings afterwards.

    Args:
        settings: Entries of ``rcParams`` in addition to those of every figure.
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
        options: Further arguments of ``Figure.savefig``.

    Raises:
        OSError: The target cannot be written.
    """
    metadata = {_DATES[form]: None} if form in _DATES else None
    figure.savefig(target, format=form, metadata=metadata, **options)
