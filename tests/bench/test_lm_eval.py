"""The form of lm-eval's results files."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.compare import System
from etui.bench.lm_eval import lm_eval_document, pooled_stderr, sanitize_path
from etui.bench.summary import group_by_system
from etui.cli.bench_runs import export as command
from etui.errors import UsageError
from tests.bench import synthetic

RUN = synthetic.config(arms=("large",), per_subject=5)
ROWS = synthetic.samples(RUN)


def document(run=RUN, rows=ROWS) -> dict:
    ((name, inside),) = group_by_system(rows, run).items()
    made = lm_eval_document(System(name, name, run, inside))
    return json.loads(json.dumps(made, allow_nan=False))


def test_another_format_never_passes_for_lm_evals() -> None:
    cloze = document(replace(RUN, format="cloze"))
    assert "mmlu_anatomy_cloze" in cloze["results"]
    assert "acc_norm,none" in cloze["results"]["mmlu_cloze"]
    assert "mmlu" not in cloze["results"]
    chat = document(replace(RUN, format="chat"))
    assert chat["configs"]["mmlu_anatomy_chat"]["output_type"] == "generate_until"
    assert "exact_match,none" in chat["results"]["mmlu_stem_chat"]


def test_one_subject_of_ones_own_needs_no_group() -> None:
    run = replace(RUN, suite="trivia", drawn={"trivia": 1})
    made = document(run, synthetic.samples(run))
    assert made["groups"] == {}
    assert made["results"]["trivia_trivia"]["acc_stderr,none"] == "N/A"
    assert made["group_subtasks"] == {"trivia_trivia": []}


def test_gsm8k_has_both_filters_of_lm_evals_task() -> None:
    run = replace(
        RUN, suite="gsm8k", format="gsm8k", drawn={"gsm8k": 40}, sizes={"gsm8k": 40},
        grading="gsm8k-flexible@1", chance=0.0,
    )  # fmt: skip
    rows = [
        replace(row, answer="18", choice="18" if at % 2 else "7", correct=at % 2 == 1,
                strict=at % 4 == 1, logprobs=None, letter_mass=None)
        for at, row in enumerate(synthetic.samples(run))
    ]  # fmt: skip
    made = document(run, rows)
    (task,) = made["results"]
    assert task == "gsm8k"
    result = made["results"]["gsm8k"]
    assert result["exact_match,flexible-extract"] == pytest.approx(0.5)
    assert result["exact_match,strict-match"] == pytest.approx(0.25)
    assert result["exact_match_stderr,strict-match"] == pytest.approx(math.sqrt(0.1875 / 39))
    config = made["configs"]["gsm8k"]
    assert config["doc_to_choice"] is None
    assert [metric["metric"] for metric in config["metric_list"]] == ["exact_match"]
    assert made["etui"]["grading"] == "gsm8k-flexible@1"


def test_arc_has_both_metrics_of_lm_evals_task() -> None:
    sizes = {"arc-challenge": 8}
    run = replace(RUN, suite="arc-challenge", format="arc", drawn=sizes, sizes=sizes)
    odds = {"A": -1.0, "B": -2.0, "C": -9.0, "D": -9.0, "E": -9.0}
    rows = [
        replace(row, answer="A" if row.row % 2 else "B", choice="B", correct=row.row % 2 == 0,
                logprobs=odds, letter_mass=None)
        for row in synthetic.samples(run)
    ]  # fmt: skip
    rows[1] = replace(rows[1], answer="E")
    result = document(run, rows)["results"]["arc_challenge"]
    assert result["acc_norm,none"] == pytest.approx(4 / 8)
    assert result["acc,none"] == pytest.approx(3 / 8)


def test_mmlu_pro_has_its_own_names_and_ten_letters_where_letters_are_read() -> None:
    sizes = {"biology": 6, "computer_science": 6}
    pro = replace(RUN, suite="mmlu-pro", format="mmlu-pro", drawn=sizes, sizes=sizes,
                  grading="mmlu-pro@1")  # fmt: skip
    made = document(pro, synthetic.samples(pro))
    assert list(made["results"]) == ["mmlu_pro", "mmlu_pro_biology", "mmlu_pro_computer_science"]
    assert "exact_match,custom-extract" in made["results"]["mmlu_pro"]
    letters = replace(pro, format="letters", grading=None)
    odds = dict.fromkeys("ABCDEFGHIJ", -2.3)
    rows = [replace(row, logprobs=odds) for row in synthetic.samples(letters)]
    made = document(letters, rows)
    assert made["configs"]["mmlu_pro_biology_letters"]["doc_to_choice"] == list("ABCDEFGHIJ")


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=9), min_size=1, max_size=6))
def test_the_pooled_error_is_of_the_variance_within_tasks(tasks: list[list[bool]]) -> None:
    values = [[float(value) for value in task] for task in tasks]
    shares = [(statistics.stdev(task) / math.sqrt(len(task)), len(task)) for task in values]
    within = sum((value - statistics.mean(task)) ** 2 for task in values for value in task)
    total = sum(map(len, values))
    expected = math.sqrt(within / (total - len(values)) / total)
    assert pooled_stderr(shares) == pytest.approx(expected, abs=1e-12)


def test_names_become_paths() -> None:
    assert sanitize_path('a/b:c"d') == "a__b__c__d"


def invoke(*args: object):
    return CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)


def test_the_command_writes_where_lm_eval_would(tmp_path) -> None:
    run = synthetic.write(tmp_path / "run", RUN, ROWS)
    result = invoke(run, "--lm-eval", "-o", tmp_path)
    (file,) = (tmp_path / "large").glob("results_2026-*.json")
    assert result.stdout.strip() == str(file)
    assert json.loads(file.read_text()) == json.loads(invoke(run, "--lm-eval").stdout)


def test_a_form_and_one_arm_must_be_named(tmp_path) -> None:
    several = synthetic.config(per_subject=2)
    run = synthetic.write(tmp_path / "run", several, synthetic.samples(several))
    assert "--lm-eval" in str(invoke(run).exception)
    error = invoke(run, "--lm-eval").exception
    assert isinstance(error, UsageError)
    assert "think" in error.what
    assert invoke(f"{run}:think", "--lm-eval").exception is None
