"""The one line of narrow terminals: the joules never leave it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from etui.tui.power.energy_text import StatusFacts, short_model, status_line

FACTS = StatusFacts(
    "≈42 J", "0.66 J/tok", "18 W", tuple([9.0, 18.0] * 12), 18.0, "qwen2.5-coder-1.5b", "19 %"
)


def test_the_line_of_80_columns_has_everything() -> None:
    line = status_line(FACTS, 78)
    assert line.startswith("≈42 J · 0.66 J/tok · 18 W ⣼")
    assert line.endswith(" · qwen2.5-coder-1.5b · 19 %")
    assert status_line(FACTS, 52).endswith(" · 1.5b · 19 %")


def test_the_model_is_cut_before_it_is_left_out() -> None:
    facts = StatusFacts("≈42 J", "", "18 W", (), 18.0, "a-model-with-a-long-name")
    assert status_line(facts, 36) == "≈42 J · 18 W · a-model-with-a-long-…"


@given(st.integers(0, 100), st.text("abc1.5b-大", max_size=40))
def test_the_joules_stay_whatever_the_width(width: int, model: str) -> None:
    facts = StatusFacts("≈42 J", "0.66 J/tok", "18 W", (1.0,) * 24, 18.0, model, "19 %")
    line = status_line(facts, width)
    assert cell_len(line) <= width
    assert line.startswith("≈42 J"[:width].rstrip())


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("qwen2.5-coder-1.5b", "1.5b"),
        ("smollm2-135m", "135m"),
        ("qwen3-4b-instruct", "4b-instruct"),
        ("llama", "llama"),
        ("phi-4", "phi-4"),
        ("", ""),
    ],
)
def test_a_model_is_known_by_its_size(name: str, short: str) -> None:
    assert short_model(name) == short
