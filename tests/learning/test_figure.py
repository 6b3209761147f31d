"""The picture of a replay, of two arms and of nine."""

from __future__ import annotations

import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

from etui.cli.policy_replay import replay_lines
from etui.learning.figure import replay_svg
from etui.learning.graded import Graded
from etui.learning.judge import ReplayTable, judge
from etui.text import count_cells

NAMES = (
    "qwen2.5-0.5b",
    "Llama 3.2 1B",
    "gemma-3",
    'phi "mini", $x_1$',
    "mistral",
    "模型七号",
    "<llama> & co",
    "mixtral=8x7b",
    "qwen2.5-72b-instruct-awq-with-a-long-name",
)
COSTS = (0.5, 1, 1, 2, 3, 3, 8, 20, 30)
SVG = "{http://www.w3.org/2000/svg}"


def document(arms: int, count: int = 400):
    draw = np.random.default_rng(3)
    chance = np.linspace(0.35, 0.87, 9)[:arms]
    correct = draw.random((count, arms)) < chance
    table = Graded(NAMES[:arms], ("algebra",) * count, tuple(range(count)), (), correct)
    p = np.clip(chance + draw.normal(0, 0.1, correct.shape), 0, 1)
    return judge(ReplayTable(table, np.tile(COSTS[:arms], (count, 1))), {"made": p})


def texts(svg: str) -> dict[str, tuple[float, float]]:
    """The texts of a drawing and where they begin."""
    found = {}
    for element in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        place = re.search(r"translate\(([\d.]+) ([\d.]+)\)", element.get("transform", ""))
        x, y = place.groups() if place else (element.get("x", "0"), element.get("y", "0"))
        found["".join(element.itertext())] = (float(x), float(y))
    return found


@pytest.mark.parametrize("arms", [2, 4, 9])
def test_every_arm_has_its_label_apart_from_the_others(arms):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = texts(replay_svg(document(arms)))
    names = [name if len(name) < 29 else f"{name[:27]}…" for name in NAMES[:arms]]
    assert {*names, "oracle"} <= set(found)
    places = [found[name] for name in names]
    for at, (x, y) in enumerate(places):
        for other_x, other_y in places[:at]:
            assert abs(y - other_y) > 8 or abs(x - other_x) > 30


def test_costs_that_differ_by_much_have_a_logarithmic_axis():
    nine = set(texts(replay_svg(document(9))))
    assert {"0.5", "5", "20"} <= nine
    assert "0.6" not in nine
    assert "0.6" in texts(replay_svg(document(2)))


def test_the_report_of_nine_arms_is_narrow_and_keeps_its_columns():
    found = document(9)
    lines = list(replay_lines(found))
    errors = found["routers"]["made"]["ece"].values()
    assert any(f"{min(errors):.3f}..{max(errors):.3f}" in line for line in lines)
    table = lines[lines.index("") :]
    assert max(map(len, table[: table.index("", 1)])) < 100
    names = [line for line in lines if " % " in line and "hull" in line]
    assert len({count_cells(line[: line.index(" %")]) for line in names}) == 1
    assert not any("-0.00" in line for line in lines)
