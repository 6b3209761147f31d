"""The comparison of numbers itself: what it notices, and what a redraw accepts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract import numbers
from tests.contract.numbers import check_numbers, find_differences, to_plain, write_json


@dataclass(frozen=True)
class Old:
    joules: float
    parts: tuple[float, ...]
    _cache: int = 0


@dataclass(frozen=True)
class New:
    total_joules: float
    parts: Any
    why: str = ""


def test_classes_do_not_matter_and_fields_do() -> None:
    assert to_plain(Old(1.5, (1, 2.5))) == {"joules": 1.5, "parts": [1, 2.5]}
    assert to_plain({"a": np.array([1.0, np.nan]), 3: {"b"}}) == {"a": [1.0, "nan"], "3": ["b"]}
    assert list(find_differences({"joules": 1.5}, {"total_joules": 1.5})) == [
        ".joules: is missing",
        ".total_joules: is new",
    ]


def test_a_difference_of_one_in_a_hundred_billion_is_noticed() -> None:
    assert list(find_differences([2.5], [2.5 * (1 + 1e-13)])) == []
    assert len(list(find_differences([2.5], [2.5 * (1 + 1e-11)]))) == 1
    assert len(list(find_differences([0, None, True], [None, 0, 1]))) == 3
    assert len(list(find_differences([1, 2], [1]))) == 1


@pytest.mark.parametrize(
    "value", [[], {}, [1.0] * 99, {"a": [{"b": "x" * 99}, 2]}, ["a", "b"] * 60]
)
def test_the_layout_of_the_files_is_json(value: Any) -> None:
    assert json.loads(write_json(value)) == value
    assert max(map(len, write_json([0.1 + 0.2] * 99).splitlines())) <= 112


def test_a_redraw_accepts_new_names_and_refuses_new_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "GOLDEN", tmp_path)
    monkeypatch.setenv("ETUI_REDRAW", "1")
    check_numbers("x", Old(1.5, (2.5, 3.5)))
    check_numbers("x", New(1.5, (2.5,), "because"))
    with pytest.raises(AssertionError, match="1 numbers were not in the golden file"):
        check_numbers("x", New(1.5, (2.5000001,)))
    monkeypatch.delenv("ETUI_REDRAW")
    check_numbers("x", New(1.5, (2.5,), "because"))
    with pytest.raises(AssertionError, match="1 values have changed"):
        check_numbers("x", New(1.5, (2.6,), "because"))
    monkeypatch.setenv("ETUI_REDRAW", "numbers")
    check_numbers("x", New(1.5, (2.6,), "because"))
