from __future__ import annotations

from dataclasses import replace

import pytest

from etui.sweep.config import Goal, Setting, SweepConfig
from etui.sweep.run import asks_for_the_same, list_changes
from tests.sweep.values import CONFIG, DESIGN, ONE

OTHER = Setting((("threads", 3), ("kv_type", "f16")))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (replace(CONFIG, model_sha256="ff"), "the model file was ab and is now ff"),
        (replace(CONFIG, model_sha256=None), "the model file was ab and is now null"),
        (replace(CONFIG, workload_sha256="x"), "the texts of the workload was cd and is now x"),
        (replace(CONFIG, suite_sha256="q"), "the questions of the suite was null and is now q"),
        (replace(CONFIG, channels=("gpu:2",)), 'channels was ["gpu:1"] and is now ["gpu:2"]'),
        (
            replace(CONFIG, provenance={"machine": "other", "etui": "0"}),
            "the machine was a machine and is now other",
        ),
        (
            replace(CONFIG, provenance={"machine": "a machine", "etui": "9"}),
            "the version of etui was 0 and is now 9",
        ),
        (
            replace(CONFIG, design=replace(DESIGN, settings=(OTHER, ONE))),
            f"the baseline was {ONE.key} and is now {OTHER.key}",
        ),
        (
            replace(CONFIG, design=replace(DESIGN, settings=(ONE, OTHER))),
            "the settings of the same axes are others now",
        ),
    ],
)
def test_a_change_is_named(now: SweepConfig, said: str) -> None:
    (change,) = list_changes(CONFIG, now)
    assert said in change


def test_each_setting_in_use_that_changed_is_named() -> None:
    before = replace(CONFIG, provenance={"in_use": {"threads": 1, "kv_type": "f16"}})
    now = replace(CONFIG, provenance={"in_use": {"threads": 2, "kv_type": "f16", "split": "row"}})
    assert list_changes(before, now) == (
        "threads of the settings in use was 1 and is now 2",
        "split of the settings in use was null and is now row",
    )


def test_time_name_and_load_are_no_conditions() -> None:
    now = replace(CONFIG, id="x", created="later", provenance={**CONFIG.provenance, "threads": 7})
    assert list_changes(CONFIG, now) == ()


def test_the_machine_is_no_part_of_what_is_asked_for() -> None:
    found = replace(CONFIG, id="x", model_sha256="ff", channels=(), provenance={})
    assert asks_for_the_same(CONFIG, found)
    for other in (
        replace(CONFIG, model="n"),
        replace(CONFIG, output_tokens=1),
        replace(CONFIG, questions=3),
        replace(CONFIG, design=replace(DESIGN, goal=Goal("time"))),
        replace(CONFIG, design=replace(DESIGN, seed=1)),
    ):
        assert not asks_for_the_same(CONFIG, other)
