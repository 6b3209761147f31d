"""``etui bench --design`` as a user meets it: the starter model, a process of its own."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter

import pytest

from etui.bench.folder import CURVES, read_run
from etui.config.config import shipped_dir
from etui.design.load import design_of_run
from tests.support.command import run_here, start_and_signal

TEXT = """\
version: 1
title: A study of two ways
models: {small: [smollm2-135m]}
arms:
  direct: {reasoning: direct, max_tokens: 2}
  cot: {reasoning: cot, think_tokens: [4, 8], max_tokens: 2}
questions: {suite: sample, block: 2, seed: 3}
curves: {prompt_tokens: [8, 16], output_tokens: [2, 4], repeats: 1, window_seconds: 0}
"""


@pytest.fixture(scope="module")
def models(tiny_starter):
    """A models folder with the starter alone."""
    return tiny_starter.parent


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    path = tmp_path_factory.mktemp("designs") / "study.yaml"
    path.write_text(TEXT)
    return path


def answers(folder):
    return {s.key: (s.choice, s.text, s.tokens) for s in read_run(folder).samples}


@pytest.fixture(scope="module")
def whole(models, design, tmp_path_factory):
    """The folder of a run of the design that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run_here(
        *("bench", "--design", str(design), "-n", "6", "-o", str(out)),
        ETUI_MODELS=str(models), ETUI_HOME=str(tmp_path_factory.mktemp("home")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "A study of two ways: small is smollm2-135m" in done.stderr
    return out


def test_a_run_answers_in_balanced_blocks_and_measures_curves(whole):
    recorded = read_run(whole)
    config = recorded.config
    assert (config.order, config.block, config.seed) == ("balanced", 2, 3)
    assert config.design is not None
    assert (config.design.name, config.design.text) == ("study", TEXT)
    assert list(design_of_run(config).arms) == ["small-direct", "small-cot-4", "small-cot-8"]
    assert len(recorded.samples) == 18
    for block in range(3):
        rows = [(s.subject, s.row) for s in recorded.samples[6 * block : 6 * block + 6]]
        assert set(Counter(rows).values()) == {3}, "every arm answers the questions of a block"
    assert (whole / CURVES).is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_loses_at_most_the_question_in_flight(
    whole, models, design, etui_home, tmp_path, etui
):
    out = tmp_path / "killed"
    words = ("bench", "--design", str(design), "-n", "6", "-o", str(out), "--jsonl", "-q")
    with start_and_signal(
        *words, lines=4, number=signal.SIGKILL, ETUI_MODELS=str(models)
    ) as process:
        seen, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors
    assert len(seen.splitlines()) == 4
    assert 4 <= len(read_run(out).samples) < 18
    priced = etui("bench", "--resume", str(out), "--dry-run", "--json", models=models)
    left = json.loads(priced.stdout)["left"]
    assert sum(arm["questions"] for arm in left["arms"]) == 18 - len(read_run(out).samples)
    etui("bench", "--resume", str(out), "-q", models=models)
    assert answers(out) == answers(whole)


def test_a_pilot_prices_what_nothing_is_known_of(models, design, etui):
    ask = ("bench", "--design", str(design), "--dry-run", "--json", "-q", "-n", "8")
    done = etui(*ask, models=models)
    first = json.loads(done.stdout)
    assert first["left"]["joules"] is None
    assert first["left"]["unknown"] == ["small-direct", "small-cot-4", "small-cot-8"]
    assert all(arm["prompt_tokens"] > 40 for arm in first["left"]["arms"])
    assert first["left"]["arms"][2]["most_output_tokens"] == 11
    done = etui(*ask, "--pilot", "2", "--max-hours", "1000", models=models)
    document = json.loads(done.stdout)
    assert document["questions_within"] == 8
    assert document["whole"]["questions"] == 60
    for arm in document["left"]["arms"]:
        assert (arm["source"], arm["measured"]) == ("answers", 2)
        assert arm["joules"]["value"] > 0
        assert arm["kind"] == "estimate"
        assert arm["most_joules"] >= arm["joules"]["value"]
    text = etui(*(part for part in ask if part not in ("--json", "-q")), models=models)
    assert "2 answers of 1 earlier run" in text.stdout
    assert "all 60 questions of sample: " in text.stdout


def test_a_limit_of_time_ends_a_run_with_a_report(models, design, etui, tmp_path):
    out = tmp_path / "short"
    done = etui(
        "bench",
        "--design",
        str(design),
        "--max-hours",
        "0.0001",
        "-o",
        str(out),
        models=models,
        code=3,
    )
    assert "--max-hours reached" in done.stderr
    assert (out / "report.html").is_file()


def test_designs_are_listed_and_shown(etui, etui_home, models, tmp_path):
    (etui_home / "designs").mkdir()
    (etui_home / "designs" / "mine.yaml").write_text(TEXT)
    (etui_home / "designs" / "bad.yaml").write_text(TEXT.replace("cot:", "cot: {x: 1}\n  c:"))
    done = etui("bench", "designs", models=models)
    assert (
        "mine (yours): A study of two ways\n  3 arms on sample (test), format chat, with"
        in done.stdout
    )
    assert "  small: smollm2-135m" in done.stdout
    assert "unknown key 'x'" in done.stdout
    assert "  large: none of qwen3-8b, " in done.stdout
    done = etui("bench", "designs", "--json")
    listed = {row["name"]: row for row in json.loads(done.stdout)["designs"]}
    assert list(listed) == ["bad", "mine", "quick", "seed"]
    assert listed["seed"]["questions"]["suite"] == "mmlu"
    assert len(listed["seed"]["arms"]) == 10
    assert listed["mine"]["models"] == {"small": {"serves": None, "missing": ["smollm2-135m"]}}
    shown = etui("bench", "designs", "show", "seed").stdout
    assert shown == (shipped_dir() / "designs" / "seed.yaml").read_text()
    schema = etui("bench", "designs", "schema").stdout
    assert json.loads(schema) == json.loads(
        (shipped_dir() / "designs" / "design.schema.json").read_text()
    )


@pytest.mark.parametrize(
    ("args", "what", "fix"),
    [
        (("--suite", "mmlu"), "--suite cannot be used with --design", "etui bench designs show"),
        (("-r", "cot"), "--reasoning cannot be used with --design", "designs show"),
        (("--think-tokens", "9"), "--think-tokens cannot be used with --design", "designs show"),
        (("--precision", "9"), "--precision cannot be used with --design\n", "--limit"),
        (("-m", "smollm2-135m"), "names no role of the design", "--model ROLE=NAME"),
        (("-m", "big=smollm2-135m"), "no role 'big'", "its roles are small"),
        (("-m", "small=smollm"), "unknown model 'smollm'", "etui models list"),
        (("-m", "small=a", "-m", "small=b"), "the role small twice", "once"),
        (("--pilot", "3"), "--pilot needs --dry-run", "--dry-run"),
        (("--subjects", "nothing"), "unknown subject", ""),
        (("--data", "."), "--data has no effect on --suite sample", "leave it out"),
    ],
)
def test_options_that_a_design_states_are_refused(etui, models, design, args, what, fix):
    done = etui("bench", "--design", str(design), *args, models=models, code=2)
    assert what in done.stderr
    assert fix in done.stderr


@pytest.mark.parametrize(
    ("change", "code", "what"),
    [
        (("suite: sample", "suite: smaple"), 2, "study.yaml:7:20: unknown suite 'smaple'"),
        (("[smollm2-135m]", "[smollm3]"), 2, "study.yaml:3:18: unknown model 'smollm3'"),
        (("[smollm2-135m]", "[qwen3-8b]"), 1, "etui models pull qwen3-8b"),
        (("cot,", "cto,"), 2, "study.yaml:6:20: reasoning: 'cto' is not one of"),
    ],
)
def test_a_design_that_cannot_run_is_refused(etui, models, tmp_path, change, code, what):
    path = tmp_path / "study.yaml"
    path.write_text(TEXT.replace(*change))
    done = etui("bench", "--design", str(path), models=models, code=code)
    assert what in done.stderr


def test_a_suite_beside_its_design_is_found_from_anywhere(etui, models, tmp_path):
    rows = "What is 1+1?,1,2,3,4,B\nWhat is 2+2?,1,2,3,4,D\n"
    (tmp_path / "own.csv").write_text(rows)
    path = tmp_path / "study.yaml"
    path.write_text(TEXT.replace("suite: sample", "suite: own.csv"))
    done = etui("bench", "--design", str(path), "--dry-run", "--json", models=models)
    document = json.loads(done.stdout)
    assert (document["suite"], document["left"]["questions"]) == ("own", 2)
    path.write_text(path.read_text().replace("block: 2", "shots: 2"))
    done = etui("bench", "--design", str(path), models=models, code=2)
    assert "study.yaml:7:36: --shots 2 needs 2 worked examples" in done.stderr


def test_names_that_do_not_exist_are_suggested(etui):
    done = etui("bench", "--design", "sed", code=2)
    assert "unknown design 'sed'" in done.stderr
    assert "did you mean 'seed'?" in done.stderr
    done = etui("bench", "--suite", "sample", "--pilot", "2", code=2)
    assert "--pilot needs --design" in done.stderr
