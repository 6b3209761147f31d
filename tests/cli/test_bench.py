"""``etui bench`` as a user meets it: the starter model, a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from etui.bench.folder import read_run
from tests.cli.conftest import check
from tests.support.command import run_here, start_and_signal

SMALL = (
    "--suite",
    "sample",
    "--subjects",
    "logic,algebra,history",
    "--per-subject",
    "2",
    "--shots",
    "1",
)


def run(home, *args, models=None, code=0):
    environ = {} if models is None else {"ETUI_MODELS": str(models)}
    return check(run_here("bench", *args, ETUI_HOME=str(home), **environ), code)


@pytest.fixture(scope="module")
def models(tiny_starter):
    """A models folder with the starter alone, whatever else lies beside it."""
    return tiny_starter.parent


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """A run that nothing disturbed: its folder and its document."""
    home = tmp_path_factory.mktemp("home")
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run(home, *SMALL, "--out", str(out), "--json", models=models)
    return out, json.loads(done.stdout)


def test_a_run_leaves_its_folder_and_prints_one_document(whole):
    out, summary = whole
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.json", "samples.jsonl", "summary.json", "per_subject.csv"}
    assert "report.html" in names
    assert json.loads((out / "summary.json").read_text()) == summary
    recorded = read_run(out)
    assert len(recorded.samples) == 6
    config = recorded.config
    assert (config.suite, config.format, config.shots, config.prefix_reuse) == (
        *("sample", "letters", 1),
        True,
    )
    assert len(config.models[0].sha256 or "") == 64
    assert config.models[0].letters == "single"
    for sample in recorded.samples:
        assert sample.letter_mass is not None
        assert 0 < sample.letter_mass <= 1
        assert sample.tokens.prompt == sample.tokens.cached + sample.tokens.computed
        assert sample.tokens.cached > 40
        assert sample.joules is not None
        assert sample.kind == "estimate"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_in_the_middle_loses_nothing_that_was_answered(whole, models, etui_home, tmp_path):
    out = tmp_path / "killed"
    words = ("bench", *SMALL, "--out", str(out), "--jsonl", "-q")
    with start_and_signal(
        *words, lines=1, number=signal.SIGKILL, ETUI_MODELS=str(models)
    ) as process:
        first, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors
    kept = read_run(out)
    assert json.loads(first) == json.loads(json.dumps(kept.samples[0].to_json()))
    assert not (out / "summary.json").exists()
    assert len(kept.samples) < 6, "the kill came too late to show anything"
    done = run(etui_home, "--resume", str(out), "--json", models=models)
    undisturbed, summary = whole
    again = json.loads(done.stdout)
    arm = "smollm2-135m"
    assert again["arms"][arm]["accuracy"] == summary["arms"][arm]["accuracy"]
    assert again["arms"][arm]["tokens"] == summary["arms"][arm]["tokens"]

    def told(folder):
        return {s.key: (s.choice, s.logprobs, s.tokens) for s in read_run(folder).samples}

    assert told(out) == told(undisturbed)
    with sqlite3.connect(etui_home / "etui.db") as connection:
        rows = connection.execute("SELECT status, questions, correct FROM runs").fetchall()
        (answers,) = connection.execute("SELECT count(*) FROM answers").fetchone()
    correct = sum(sample.correct for sample in read_run(out).samples)
    assert rows == [("complete", 6, correct)]
    assert answers == 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_neither_the_library_nor_the_reader_an_answer(
    models, etui_home, tmp_path
):
    (etui_home / "logs").mkdir()
    (etui_home / "logs" / "llama.log").symlink_to("/dev/full")
    out = tmp_path / "full"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "etui", "bench", *SMALL, "--out", str(out), "--jsonl", "-q"],
            env={**os.environ, "ETUI_MODELS": str(models)},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=300,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "etui: cannot write to standard output: No space left on device\n"
    assert 1 <= len(read_run(out).samples) < 6
    done = run(etui_home, "--resume", str(out), "-q", models=models)
    assert done.stderr == ""
    assert len(read_run(out).samples) == 6


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_a_run_that_can_go_on(models, etui_home, tmp_path):
    out = tmp_path / "stopped"
    words = ("bench", *SMALL, "--out", str(out), "--jsonl")
    with start_and_signal(
        *words, lines=1, number=signal.SIGINT, ETUI_MODELS=str(models)
    ) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 3, errors
    assert f"--resume {out}" in errors
    assert 1 <= len(read_run(out).samples) < 6
    assert json.loads((out / "summary.json").read_text())["complete"] is False


def test_a_run_of_another_machine_is_refused(whole, models, etui_home, tmp_path):
    import shutil

    from etui.atomic import write_text

    copy = tmp_path / "copy"
    shutil.copytree(whole[0], copy)
    document = json.loads((copy / "config.json").read_text())
    document["threads"] = 99
    from etui.bench.config import parse_run_config

    document["config_sha256"] = parse_run_config(document).sha256
    write_text(copy / "config.json", json.dumps(document))
    done = run(etui_home, "--resume", str(copy), models=models, code=2)
    assert "threads was 99" in done.stderr


def test_gates_and_limits_have_their_exit_codes(whole, models, etui_home):
    out = str(whole[0])
    run(etui_home, "--resume", out, "--fail-under", "0", models=models)
    done = run(etui_home, "--resume", out, "--fail-under", "100", models=models, code=4)
    assert "is below 100 %" in done.stderr


def test_a_dry_run_counts_and_computes_nothing(models, etui_home):
    done = run(etui_home, *SMALL, "--dry-run", "--json", models=models)
    document = json.loads(done.stdout)
    counts = document["models"]["smollm2-135m"]
    assert document["questions"] == 6
    assert 0 < counts["prefix"] < counts["computed"] < counts["whole"]
    (arm,) = document["price"]["left"]["arms"]
    assert (arm["questions"], arm["joules"]) == (6, None)
    assert not (etui_home / "runs").exists()


def test_generated_answers_are_turns(models, etui_home, tmp_path):
    out = tmp_path / "chat"
    run(
        etui_home,
        *("--suite", "sample", "--subjects", "history", "--per-subject", "1", "-r", "direct"),
        *("-r", "cot", "--think-tokens", "12", "--max-tokens", "8", "-m", "smollm2-135m"),
        *("--out", str(out), "-q"),
        models=models,
    )
    direct, cot = read_run(out).samples
    assert (direct.arm, cot.arm) == ("smollm2-135m direct", "smollm2-135m cot 12")
    assert direct.row == cot.row
    assert (direct.tokens.cached, cot.tokens.cached) == (0, 0)
    assert cot.tokens.thinking > 0
    assert cot.decode_joules is not None
    assert cot.decode_joules > 0


@pytest.mark.parametrize(
    ("args", "said", "code"),
    [
        ([], "no questions given", 2),
        (["--suite", "mmlup"], "unknown suite 'mmlup'", 2),
        (["--suite", "sample", "--limit", "0"], "is not a number above 0 or 'all'", 2),
        (["--suite", "sample", "--limit", "many"], "is not a number above 0 or 'all'", 2),
        *(
            (["--suite", "sample", "--part", value], "is not a part like 1/4", 2)
            for value in ("0/4", "5/4", "1/1", "1/0", "x/y", "1", "1/2/3", "-1/4", "1/99999", "١/٤")
        ),
        (["--suite", "sample", "-m", "smollm2-135m", "--part", "1/61"], "60 questions cannot", 2),
        (["--resume", "none", "--part", "1/2"], "--part cannot be used with --resume", 2),
        (["--suite", "sample", "--shots", "6"], "--shots", 2),
        (["--suite", "sample", "--subjects", "logik"], "did you mean logic", 2),
        (["--suite", "sample", "--json", "--jsonl"], "cannot be combined", 2),
        (["--suite", "sample"], "etui models pull smollm2-135m", 1),
        (["--suite", "mmlu", "--data", "/nowhere"], "/nowhere does not exist", 2),
        (["--resume", "none"], "there is no run 'none'", 2),
        (["--resume", "none", "--seed", "3"], "--seed cannot be used with --resume", 2),
        (["--resume", "none", "--speculate", "off"], "--speculate cannot be used with", 2),
        (
            ["--suite", "sample", "--speculate", "lookup"],
            "--speculate has no effect on format letters",
            2,
        ),
        (
            [*("--suite", "sample", "-m", "smollm2-135m", "-r", "vote"), "--speculate", "auto"],
            "--speculate and votes exclude each other",
            2,
        ),
        (
            [
                *("--suite", "sample", "-m", "smollm2-135m", "-r", "direct"),
                *("--speculate", "off", "--speculate", "draft"),
            ],
            "smollm2-135m has no draft model, which --speculate draft needs",
            2,
        ),
        (["--seed", "3", "compare"], "--seed before 'compare' has no effect", 2),
        (["-r", "cot", "compare"], "--reasoning before 'compare' has no effect", 2),
    ],
)
def test_bad_input_has_a_message_and_an_exit_code(etui_home, tmp_path, args, said, code):
    done = run(etui_home, *args, models=tmp_path / "none", code=code)
    assert said in done.stderr
    assert done.stdout == ""


def test_a_draft_model_that_is_not_here_ends_a_run_before_it_begins(etui_home, models, tmp_path):
    (etui_home / "models.yaml").write_text(
        "models:\n  mine:\n    size: s\n    draft: gemma-3-270m\n"
        f"    sources: [{{path: {next(models.glob('*.gguf'))}}}]\n"
    )
    out = tmp_path / "run"
    args = ("-m", "mine", "-r", "direct", "--speculate", "draft", "--out", str(out))
    done = run(etui_home, *SMALL, *args, models=models, code=1)
    assert "the draft model of mine cannot be used" in done.stderr
    assert "etui models pull gemma-3-270m" in done.stderr
    assert not out.exists()


def test_the_help_states_the_half_widths(etui_home):
    done = run(etui_home, "--help")
    assert "±4.1" in done.stdout
    assert "compare" in done.stdout


def test_every_option_is_in_a_section_of_the_help():
    from etui.cli.bench import bench
    from etui.cli.bench_options import SECTIONS

    assert set(SECTIONS) <= {param.name for param in bench.params}
    text = CliRunner().invoke(bench, ["--help"]).output
    titles = [line[:-1] for line in text.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert titles == [*SECTIONS.values(), "Commands"]
