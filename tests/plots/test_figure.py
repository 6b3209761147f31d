"""Figures of a folder and of a page: equal numbers, equal files; colours, hover texts, labels."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from etui.plots.figure import ARM_COLOURS, DECODE, PREFILL, Figure, Point

POINTS = [
    Point(1, 30, (0.9, 1.2), (25, 34), ARM_COLOURS[0], 'a "b" $x$', note="<30 %> & more"),
    Point(8, 50, (None, 9), (None, None), ARM_COLOURS[1], "_cheap", filled=False),
    Point(8.2, 51, colour=ARM_COLOURS[2], label="near"),
]


def plane() -> Figure:
    figure = Figure(4.6, 3.2)
    (panel,) = figure.panels
    panel.points(POINTS, "arms")
    panel.log()
    panel.mix([(1, 30), (8, 50)], "mixtures")
    panel.band([1, 2, 8], [1, 2, 3], [4, 5, 6], ARM_COLOURS[3])
    panel.line([1, 2, 8], [30, 31, 40], ARM_COLOURS[3], note="a line")
    panel.guide(y=25, text="chance")
    panel.name_axes("joules", "$accuracy$, %", "title")
    panel.legend()
    return figure


def test_equal_figures_are_equal_files_and_settings_end_with_them(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    files = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        written = plane().save(folder / "accuracy.v1")
        assert [path.name for path in written] == ["accuracy.v1.svg", "accuracy.v1.pdf"]
        files.append([path.read_bytes() for path in written])
    assert files[0] == files[1]
    assert plane().svg("x") == plane().svg("x")
    assert dict(matplotlib.rcParams) == before


def test_a_page_sets_the_colours_and_shows_notes() -> None:
    text = plane().svg('Accuracy of "arms"')
    root = ElementTree.fromstring(text.replace("xlink:href", "href"))
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'Accuracy of "arms"'
    assert "<style" not in text
    for at in range(4):
        assert f"var(--arm-{at}, {ARM_COLOURS[at]})" in text
    assert {each.text for each in root.iter("title")} == {"<30 %> & more", "a line"}
    assert "var(--card, #ffffff)" in text  # inside of a mark that is not filled
    ids = set(re.findall(r' id="([^"]+)"', text))
    assert all(f"#{id_}" in text for id_ in ids)


def test_a_document_is_on_its_own_and_keeps_texts_as_texts() -> None:
    document = plane().document()
    assert document.startswith("<?xml")
    assert "var(--" not in document
    root = ElementTree.fromstring(document)
    texts = {"".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {'a "b" $x$', "_cheap", "near", "chance", "$accuracy$, %", "title", "arms"} <= texts


def test_labels_stay_apart_where_points_are_near() -> None:
    figure = Figure(4, 3)
    (panel,) = figure.panels
    panel.points([Point(1 + at / 100, 1, label=f"point {at}") for at in range(6)])
    figure.document()
    renderer = figure._canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in panel.axes.texts]
    assert len(boxes) == 6
    for at, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:at])


def test_rows_bars_steps_and_spans(tmp_path: Path) -> None:
    figure = Figure(5, 6, rows=2)
    top, bottom = figure.panels
    top.bars(["first", "second"], {"prefill": [1, 2], "decode": [3, 0.5]}, (PREFILL, DECODE))
    top.legend()
    assert [label.get_text() for label in top.axes.get_yticklabels()] == ["first", "second"]
    assert [bar.get_x() for bar in top.axes.patches] == [0, 0, 1, 2]
    low, high = top.axes.get_ylim()
    assert low > high  # the first row is at the top
    bottom.line([0, 1, 2], [5, 7, 7], ARM_COLOURS[0], steps=True)
    bottom.span(0, 1, PREFILL, "prefill")
    assert "<title>prefill</title>" in figure.svg("watts")


@pytest.mark.parametrize(("ends", "many"), [((1, 50), False), ((1, 50_000), True)])
def test_logarithmic_axes_have_few_plain_numbers(ends: tuple[float, float], many: bool) -> None:
    figure = Figure(4, 3)
    (panel,) = figure.panels
    panel.points([Point(ends[0], 1), Point(ends[1], 2)])
    panel.log(many=many)
    texts = set(re.findall(r">([\d,.]+)</text>", figure.document()))
    assert {"1", "10", "1,000"} <= texts if many else {"1", "2", "5", "10"} <= texts
    assert many != ("2" in texts - {"2.0"})
