"""Whether a curve still holds here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.curves.measured_under import Conditions, list_differences

THEN = Conditions("CPU A", "llama 1", 4, ("gpu:1",), 300.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machine": "CPU B"}, "another machine (CPU A)"),
        ({"build": "llama 2"}, "another build (llama 1)"),
        ({"threads": 8}, "4 threads, now 8"),
        ({"channels": ("gpu:1", "package:0")}, "other power channels (gpu:1)"),
        ({"power_limit_watts": 200.0}, "power limit 300 W, now 200 W"),
    ],
)
def test_each_change_is_named(change, words):
    assert list_differences(THEN, replace(THEN, **change)) == (words,)


def test_what_is_the_same_or_unknown_is_no_change():
    assert list_differences(THEN, THEN) == ()
    assert list_differences(THEN, replace(THEN, power_limit_watts=301.0)) == ()
    assert list_differences(THEN, replace(THEN, channels=(), power_limit_watts=None)) == ()
