"""MMLU where it is at hand, and small suites that are not it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mmlu() -> Path:
    """The folder of the original files, from ETUI_MMLU."""
    named = os.environ.get("ETUI_MMLU")
    if not named:
        pytest.skip("ETUI_MMLU names no folder of MMLU's files")
    return Path(named)


@pytest.fixture
def questions_csv(tmp_path: Path) -> Path:
    """Six questions of two subjects, and two worked examples of each beside them."""
    rows = [f"What is {n}+{n}?,{2 * n},1{n},2{n},3{n},A,adding" for n in range(3, 6)]
    rows += [f"What is {n}-1?,9{n},{n - 1},8{n},7{n},B,taking" for n in range(3, 6)]
    shown = [
        f"What is {n}+0?,5{n},6{n},7{n},{n},D,{s}" for s in ("adding", "taking") for n in (1, 2)
    ]
    path = tmp_path / "sums.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "sums_dev.csv").write_text("\n".join(shown) + "\n", encoding="utf-8")
    return path
