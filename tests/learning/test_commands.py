"""``etui policy fit`` and ``etui policy replay`` as they are called."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from etui.bench.folder import RunFolder
from etui.cli.main import cli
from tests.bench import synthetic
from tests.learning import made

POLICY = """
version: 1
description: d
models: {small: [smollm2-135m], large: [qwen2.5-coder-1.5b]}
arms:
  weak: {model: small}
  strong: {model: large}
rules:
  - name: all
    objective: {minimize: joules, accuracy: {at_least: 0.6, confidence: 0.8}}
    arms: [weak, strong]
    otherwise: strong
"""
COSTS = ("--costs", "weak=1,strong=10")


def call(*arguments):
    return CliRunner().invoke(cli, ["policy", *map(str, arguments)])


def run(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def refused(*arguments):
    """The error of a call that is wrong."""
    result = call(*arguments)
    assert result.exception is not None
    return result.exception


@pytest.fixture
def outcomes(tmp_path):
    return made.write(tmp_path, 300)


def test_a_router_over_outcomes(outcomes, tmp_path):
    file, data = outcomes
    svg = tmp_path / "r.svg"
    result = run("replay", "--outcomes", file, *COSTS, "--data", data, "--json", "--svg", svg)
    document = json.loads(result.stdout)
    assert {"apgr", "cpt50", "cpt80", "hull", "oracle", "n"} <= set(document)
    assert document["n"] == 300
    assert document["apgr"] > 0.6
    assert list(document["routers"]) == ["subject", "joint"]
    drawing = svg.read_text(encoding="utf-8")
    assert drawing.startswith("<?xml")
    assert all(word in drawing for word in ("oracle", "weak", "strong", "random mixture"))
    plain = run("replay", "--outcomes", file, *COSTS).stdout
    assert "subject" in plain
    assert "without --data" in plain


def test_a_table_with_empty_cells_and_its_own_costs(outcomes, tmp_path):
    lines = outcomes[0].read_text(encoding="utf-8").splitlines()
    rows = [f"{line},{1 + at % 3},{10 + at % 5}" for at, line in enumerate(lines[1:])]
    subject, row, *_ = lines[8].split(",")
    rows[7] = f"{subject},{row},1,,2,"
    file = tmp_path / "costs.csv"
    text = "\n".join([f"{lines[0]},weak:cost,strong:cost", *rows])
    file.write_text(text, encoding="utf-8")
    document = json.loads(run("replay", "--outcomes", file, "--json").stdout)
    assert document["n"] == 299
    assert document["arms"]["weak"]["cost"] == pytest.approx(2, abs=0.02)
    assert any("left out: 1 " in note for note in document["notes"])
    assert any("stated costs are charged once" in note for note in document["notes"])
    other = json.loads(run("replay", "--outcomes", file, *COSTS, "--json").stdout)
    assert other["arms"]["strong"]["cost"] == 10
    assert any("replaces the costs" in note for note in other["notes"])
    some = run("replay", "--outcomes", file, "--costs", "strong=10", "--json").stdout
    assert json.loads(some)["arms"]["weak"]["cost"] == pytest.approx(2, abs=0.02)
    every = run("replay", "--outcomes", file, "--costs", "strong=10,default=3", "--json").stdout
    assert json.loads(every)["arms"]["weak"]["cost"] == 3
    target = tmp_path / "out.json"
    given = ("--outcomes", file, "--data", outcomes[1], "--output", target, "--json")
    fitted = json.loads(run("fit", *given).stdout)
    assert fitted["arms"]["strong"]["n"] == 299
    assert fitted["arms"]["weak"]["n"] == 300


def test_routers_are_judged_over_the_arms_that_are_named(outcomes, tmp_path):
    head, *lines = outcomes[0].read_text(encoding="utf-8").splitlines()
    rows = [f"{line},{at % 2}" for at, line in enumerate(lines)]
    file = tmp_path / "three.csv"
    file.write_text("\n".join([f"{head},coin", *rows]), encoding="utf-8")
    given = ("replay", "--outcomes", file, "--costs", "weak=1,default=10", "--json")
    assert list(json.loads(run(*given).stdout)["arms"]) == ["weak", "strong", "coin"]
    document = json.loads(run(*given, "--arms", "strong,weak").stdout)
    assert list(document["arms"]) == ["weak", "strong"]
    low, high = document["apgr_interval"]
    assert low < document["apgr"] < high
    assert document["over_mixture"]["value"] == pytest.approx(document["apgr"] - 0.5)


def test_stated_costs_name_the_arms_that_vote(outcomes, tmp_path):
    policy = tmp_path / "voting.yaml"
    given = ("replay", policy, "--outcomes", outcomes[0], "--data", outcomes[1], *COSTS)
    plain = POLICY[: POLICY.index("rules:")] + "rules: [{name: all, use: weak}]\n"
    policy.write_text(plain.replace("small}\n", "small, reasoning: vote, votes: 5}\n"))
    text = run(*given).stdout
    assert "arms of voting that vote, each with all its votes in its cost: weak (5)" in text
    policy.write_text(plain)
    assert "that vote" not in run(*given).stdout


@pytest.fixture
def mine(tmp_path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(POLICY, encoding="utf-8")
    return path


def test_fit_and_replay_what_was_fitted(outcomes, tmp_path, mine):
    given = (mine, "--outcomes", outcomes[0], "--data", outcomes[1])
    document = json.loads(run("fit", *given, "--json").stdout)
    fitted = tmp_path / "mine.fitted.json"
    assert document["file"] == str(fitted)
    assert document["arms"]["weak"]["brier"] < document["arms"]["weak"]["brier_rate"]
    assert document["needs"][0]["need"] == "larger_model"
    assert document["provenance"]["n"] == 300
    assert "larger model" in run("fit", *given).stdout
    replay = ("replay", *given, *COSTS, "--as-fitted")
    assert "policy mine" in run(*replay).stdout
    text = fitted.read_text(encoding="utf-8").replace('"weak"', '"w"').replace('"strong"', '"s"')
    fitted.write_text(text, encoding="utf-8")
    error = refused(*replay)
    assert error.what == "the saved fit of policy 'mine' has none of its arms: it is of w, s"
    assert "etui policy fit mine" in error.fix


def test_fit_leaves_out_what_is_also_in_test(outcomes, tmp_path):
    file, data = outcomes
    target = tmp_path / "out.json"
    other = made.write(tmp_path / "other", 60)[1]
    given = ("--outcomes", file, "--data", data, "--output", target, "--json")
    document = json.loads(run("fit", *given, "--exclude-test", other).stdout)
    assert document["provenance"]["excluded"] == 60
    assert document["provenance"]["n"] == 240
    assert "every question is also" in refused("fit", *given, "--exclude-test", data).what


def test_a_shipped_policy_is_fitted_into_the_users_folder(outcomes, config):
    file, data = outcomes
    renamed = file.with_name("named.csv")
    text = file.read_text(encoding="utf-8").replace("weak,strong", "quick,large")
    renamed.write_text(text, encoding="utf-8")
    document = json.loads(
        run("fit", "balanced", "--outcomes", renamed, "--data", data, "--json").stdout
    )
    assert document["file"] == str(config.policies_dir / "balanced.fitted.json")
    assert any("without graded answers" in note for note in document["notes"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit",), "graded answers are missing"),
        (("fit", "--outcomes", "{file}", "--runs", "x"), "there is no run"),
        (("fit", "balanced", "--outcomes", "{file}"), "is an arm of policy 'balanced'"),
        (("fit", "a", "b", "--outcomes", "{file}"), "2 policies were given"),
        (("fit", "--outcomes", "{file}", "--output", "/proc/none/x.json"), "cannot write"),
        (("fit", "--outcomes", "none.csv", "--output", "/tmp"), "cannot write"),
        (("replay", "--outcomes", "none.csv", *COSTS, "--svg", "/tmp/no/r.svg"), "cannot write"),
        (("replay", "--outcomes", "none.csv", *COSTS, "--svg", "/tmp"), "cannot write"),
        (("replay", "--outcomes", "{file}", *COSTS, "--hide-subjects"), "needs the texts"),
        (
            ("fit", "--outcomes", "{file}", "--output", "x.json", "--exclude-test", "{data}"),
            "--exclude-test needs the texts",
        ),
        (("replay", "--outcomes", "{file}"), "has no costs"),
        (("replay", "--outcomes", "{file}", "--costs", "weak=1"), "no cost for strong"),
        (("replay", "--outcomes", "{file}", "--log"), "exclude each other"),
        (("replay", "--outcomes", "none.csv", "--costs", "a=1"), "cannot be read"),
        (("replay", "--outcomes", "{file}", *COSTS, "--data", "/nowhere"), "/nowhere does not"),
        (("replay", "nosuch", "--outcomes", "{file}", *COSTS), "unknown policy"),
        (("replay", "balanced", "--outcomes", "{file}", *COSTS, "--data", "{data}"), "none of the"),
        (("replay", "--costs", "a=1"), "need --outcomes"),
        (("replay", "--arms", "a,b"), "need --outcomes"),
        (("replay", "--outcomes", "{file}", *COSTS, "--arms", "weak,x"), "no arm 'x'"),
        (("replay", "balanced", "--outcomes", "{file}", "--arms", "weak,strong"), "without a pol"),
        (("replay", "--runs", "nosuch"), "there is no run"),
    ],
)
def test_wrong_calls_are_told_how_to_mend(outcomes, arguments, said):
    file, data = outcomes
    error = refused(*(str(a).format(file=file, data=data) for a in arguments))
    assert said in error.what
    assert error.fix
    if said != "cannot write":
        assert error.exit_code == 2


def test_answers_that_are_all_right_are_noted(tmp_path):
    file = tmp_path / "easy.csv"
    rows = "".join(f"anatomy,{row},1,{row % 2}\n" for row in range(30))
    file.write_text(f"subject,row,weak,strong\n{rows}", encoding="utf-8")
    given = ("fit", "--outcomes", file, "--output", tmp_path / "out.json", "--json")
    notes = json.loads(run(*given).stdout)["notes"]
    assert "every answer of weak is right (30 answers): no question differs" in notes
    assert not any("strong" in note for note in notes)
    _, data = made.write(tmp_path, 30)  # rows of another split name the option
    error = refused("replay", "--outcomes", file, *COSTS, "--data", data)
    assert "anatomy has no row 10, its last is 9" in error.what
    assert "--split" in error.fix


def test_runs_are_named_one_behind_the_other(tmp_path):
    run_ = synthetic.config(("direct", "large"), per_subject=2)
    folders = []
    for at in range(2):
        made_run = RunFolder.start(tmp_path / f"run{at}", replace(run_, run_id=f"run{at}"))
        made_run.add_samples(synthetic.samples(run_, seed=at))
        made_run.close()
        folders.append(tmp_path / f"run{at}")
    document = json.loads(run("replay", "--runs", *folders, "--json").stdout)
    assert document["unit"] == "J"
    assert document["kinds"] == ["counter"]
    assert document["oracle"]["reproducible"]["accuracy"] < document["oracle"]["accuracy"]
    text = run("replay", "--runs", folders[0], "--runs", folders[1]).stdout
    assert "joules (counter)" in text
    assert "judged on the second run" in text
    assert "texts of the questions" in refused("replay", "frugal", "--runs", folders[0]).what


def real_outcomes() -> tuple[Path, Path]:
    """The outcomes of two models on MMLU, and MMLU; skips where they are not."""
    mmlu = os.environ.get("ETUI_MMLU")
    if not mmlu:
        pytest.skip("ETUI_MMLU does not name MMLU's folder")
    named = os.environ.get("ETUI_OUTCOMES")
    beside = Path(mmlu).resolve().parent / "outcomes" / "mmlu_two_models.csv"
    file = Path(named) if named else beside
    if not file.is_file():
        pytest.skip("no outcomes: ETUI_OUTCOMES names none, and none lie beside ETUI_MMLU")
    return file, Path(mmlu)


@pytest.mark.slow
def test_apgr_on_the_outcomes_of_two_real_models():
    file, data = real_outcomes()
    costs = "mixtral_8x7b=1,gpt_4_1106=10"
    given = ("--outcomes", file, "--data", data, "--costs", costs, "--json")
    document = json.loads(run("replay", *given).stdout)
    assert document["n"] == 7026
    assert document["apgr"] >= 0.68
    assert document["routers"]["subject"]["apgr"] > 0.64
    assert document["cpt50"] < 0.30
    assert document["oracle"]["accuracy"] == pytest.approx(0.8617, abs=1e-4)


def test_a_policy_is_compared_with_a_mixture_of_its_own_arms(outcomes, tmp_path, mine):
    file, data = outcomes
    mine.write_text(POLICY[: POLICY.index("rules:")] + "rules: [{name: all, use: weak}]\n")
    # A cheap arm that is always right, which the policy lacks; it skipped half of the questions.
    lines = file.read_text().splitlines()
    cells = [",1" if at % 2 else "," for at in range(1, len(lines))]
    wide = tmp_path / "wide.csv"
    wide.write_text("\n".join([lines[0] + ",wizard", *map(str.__add__, lines[1:], cells)]))
    plain, other = (
        json.loads(run("replay", mine, "--outcomes", path, *costs, "--data", data, "--json").stdout)
        for path, costs in ((file, COSTS), (wide, ("--costs", "wizard=0.1,weak=1,strong=10")))
    )
    assert other["policies"] == plain["policies"]
    assert list(other["arms"]) == ["weak", "strong"]
    assert "not arms of the policy, left out: wizard" in other["notes"]
