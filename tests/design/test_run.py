"""What is priced of a design beyond the questions that a run asks."""

from __future__ import annotations

import json
from pathlib import Path

from etui.bench.plan import RunRequest, make_plan
from etui.config.config import Config
from etui.design.plan import _widen
from etui.models.catalogue import load_catalogue


def write(path: Path, *answers: object) -> None:
    rows = [{"question": f"What is {at} + 2?", "answer": text} for at, text in enumerate(answers)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def test_the_whole_shows_the_examples_that_a_run_shows(tmp_path: Path, config: Config) -> None:
    """A raw format leaves out examples without a solution."""
    write(tmp_path / "sums.jsonl", 2, 3, 4)
    write(tmp_path / "sums_dev.jsonl", 2, "1 and 2 are 3. #### 3")
    ask = RunRequest(str(tmp_path / "sums.jsonl"), format="gsm8k", shots=1, limit=2)
    plan = make_plan(ask, config, load_catalogue(config))
    whole = _widen(plan)
    assert whole is not None
    assert whole.questions == 3
    assert whole.examples == plan.examples
    assert [example.solution for example in whole.examples["sums"]] != [""]
