"""``etui bench publish`` as a user meets it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from etui.bench.config import NamedText
from tests.bench import synthetic

PLAN = synthetic.config(
    ("direct", "think"),
    per_subject=1,
    machine={"name": "A processor, 8 CPUs, Linux x86_64", "memory_bytes": 8 << 30},
    energy={"channels": {"gpu:GPU-1a2b3c4d-0000-1111-2222-333344445555": "counter"}},
)


@pytest.fixture
def run(tmp_path, etui_home):
    config = replace(PLAN, data_path=str(etui_home / "data"))
    return synthetic.write(tmp_path / "run", config, synthetic.samples(config))


def test_a_run_becomes_a_folder(etui, etui_home, run, tmp_path):
    to = tmp_path / "public" / "mine"
    done = etui("bench", "publish", str(run), "--to", str(to), "--license", "CC0-1.0")
    assert done.stdout == f"{to}\n"
    for path in to.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert str(etui_home) not in text
            assert "GPU-1a2b" not in text
    assert json.loads((to / "record.json").read_text())["license"] == "CC0-1.0"
    record = json.loads((to / "record.json").read_text())
    assert record["plan_sha256"] == PLAN.plan_sha256
    assert record["config"]["energy"]["channels"] == {"gpu:0": "counter"}


def refused(etui, *args):
    done = etui("bench", *args, code=None)
    assert done.stdout == ""
    return f"{done.returncode} {done.stderr}"


def test_bad_input_has_a_message(etui, etui_home, run, tmp_path):
    to = tmp_path / "public"
    name = str(run)
    assert "2 " in refused(etui, "publish", name)
    for licence in ("", "my licence", "<b>", "x" * 80):
        said = refused(etui, "publish", name, "--to", str(to), "--license", licence)
        assert said.startswith("2 ")
        assert "is not an SPDX identifier like CC-BY-4.0" in said
    assert "not empty, and not a publication" in refused(etui, "publish", name, "--to", name)
    policy = NamedText("mine", f"version: 1\n# see {etui_home}/notes\n")
    config = replace(PLAN, policy=policy)
    other = synthetic.write(tmp_path / "other", config, synthetic.samples(config))
    said = refused(etui, "publish", str(other), "--to", str(to))
    assert said.startswith("1 ")
    assert "record.json contains a folder of this machine: /" in said
    assert "policy.yaml contains a folder of this machine: /" in said
    samples = run / "samples.jsonl"
    samples.write_text(samples.read_text().replace("false", "true", 1))
    assert "changed outside etui" in refused(etui, "publish", name, "--to", str(to))
    assert not to.exists()
