"""``etui bench merge`` on folders as runs leave them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from etui.bench.config import BenchPart, list_part
from etui.bench.folder import read_run
from tests.bench import synthetic

PLAN = synthetic.config(
    ("direct", "think"),
    per_subject=1,
    machine={"name": "A processor, 8 CPUs, Linux x86_64", "memory_bytes": 8 << 30},
)


@pytest.fixture
def halves(tmp_path):
    answers = synthetic.samples(PLAN)
    folders = []
    for index in range(2):
        part = BenchPart(index, 2)
        asked = list_part(PLAN.drawn, "subjects", None, PLAN.seed, part)
        config = replace(PLAN, run_id=f"20260101-half-{index}", part=part)
        inside = [s for s in answers if s.subject in asked]
        folders.append(str(synthetic.write(tmp_path / f"half-{index}", config, inside)))
    return folders


def test_two_halves_become_a_run(etui, halves, tmp_path):
    out = tmp_path / "whole"
    done = etui("bench", "merge", *halves, "--out", str(out), "--json")
    summary = json.loads(done.stdout)
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["complete"] is True
    assert list(summary["arms"]["direct"]["machines"]) == ["m1", "m2"]
    recorded = read_run(out)
    assert recorded.edited == ()
    assert len(recorded.samples) == 2 * PLAN.questions
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.json", "samples.jsonl", "summary.json", "report.html", "report.md"}
    again = etui("bench", "merge", str(out), halves[1], "-q")
    assert (again.stdout.count("m1 ("), again.stderr) == (2, "")
    resumed = etui("bench", "--resume", str(out), code=2)
    assert "was merged from 20260101-half-0, 20260101-half-1" in resumed.stderr
    for command in (["compare", str(out)], ["report", str(out)]):
        etui("bench", *command)


def refused(etui, *args):
    done = etui("bench", "merge", *args, code=None)
    assert done.returncode != 0
    assert done.stdout == ""
    return f"{done.returncode} {done.stderr}"


def test_bad_input_has_a_message_and_writes_nothing(etui, etui_home, halves, tmp_path):
    one, two = halves
    other = synthetic.write(tmp_path / "cloze", replace(PLAN, run_id="c", format="cloze"), [])
    said = refused(etui, one, str(other))
    assert said.startswith("2 ")
    assert f'format: {one} has "letters", {other} has "cloze"' in said
    assert "the same run" in refused(etui, one, two, one)
    assert "only one run" in refused(etui, one)
    assert "there is no run 'nothing'" in refused(etui, one, "nothing")
    assert "is not empty" in refused(etui, one, two, "--out", str(tmp_path))
    assert "already contains a run" in refused(etui, one, two, "--out", one)
    path = tmp_path / "half-1" / "samples.jsonl"
    path.write_text(path.read_text().replace('"correct": false', '"correct": true', 1))
    said = refused(etui, one, two)
    assert said.startswith("2 ")
    assert "changed outside etui: samples.jsonl differs from what etui wrote" in said
    assert not list((etui_home / "runs").glob("*"))
