"""Figures of equal numbers are equal files, and no setting outlives them."""

from __future__ import annotations

import io

import matplotlib
import pytest
from matplotlib.figure import Figure

from etui.plots.style import OPEN_AXES, figure_style, save_figure


def drawn(form: str) -> bytes:
    with figure_style({**OPEN_AXES, "font.size": 9}):
        figure = Figure(figsize=(2, 1))
        figure.add_subplot().plot([1, 2], [3, 4], label="line")
        target = io.BytesIO()
        save_figure(figure, target, form)
    return target.getvalue()


@pytest.mark.parametrize("form", ["svg", "pdf", "png"])
def test_equal_figures_are_equal_files(form: str) -> None:
    assert drawn(form) == drawn(form)


def test_settings_end_with_the_figure() -> None:
    before = dict(matplotlib.rcParams)
    drawn("svg")
    assert dict(matplotlib.rcParams) == before
