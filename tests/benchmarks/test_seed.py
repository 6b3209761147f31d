"""The folder that is made from a run of the seed design."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.seed import write
from etui.bench.folder import read_run
from etui.design.analysis import analyse
from etui.design.report import write_design_report
from tests.design import synthetic
from tests.design.synthetic import Truth

FEW = {
    "small-direct": Truth(0.4, 10.0, 4),
    "small-cot-64": Truth(0.5, 60.0, 60),
    "large-direct": Truth(0.6, 30.0, 4),
}


def test_a_run_becomes_a_folder_that_says_what_it_found_and_makes_its_report_again(
    tmp_path: Path,
) -> None:
    pytest.importorskip("matplotlib")
    config = synthetic.config(FEW, 2)
    samples = synthetic.samples(config, FEW, stated=0.8)
    run = synthetic.write(tmp_path / "run", config, samples)
    to = tmp_path / "seed"
    write(run, to)
    text = (to / "README.md").read_text(encoding="utf-8")
    found = analyse(config, samples, {}, synthetic.ROLES)
    assert f"**{found.headline}.**" in text
    assert all(f"- {one.text}\n" in text for one in found.statements)
    assert f"{len(found.paired)} questions of MMLU, answered by all 3 arms" in text
    assert "0 % of the questions" in text
    assert not any(sample.text for sample in read_run(to).samples)
    report = (to / "report.md").read_bytes()
    write_design_report(to, to)
    assert (to / "report.md").read_bytes() == report
    write(run, to)  # its own folder is replaced
    (tmp_path / "other").mkdir()
    with pytest.raises(SystemExit, match="no folder of a seed run"):
        write(run, tmp_path / "other")
