"""Designs: what a file makes, and what is wrong with one that makes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import VoteStop
from etui.bench.arms import to_json
from etui.bench.config import NamedText
from etui.bench.plan import RunRequest, make_plan
from etui.config.config import Config, shipped_dir
from etui.design.load import (
    ModelChoice,
    check_design,
    design_of_run,
    designs_dir,
    find_design,
    json_schema,
    list_arm_names,
    list_designs,
    parse_design,
    read_curve_grid,
)
from etui.design.plan import _widen
from etui.errors import InvalidFile, ModelUnavailable, UsageError
from etui.models.catalogue import load_catalogue
from etui.yaml.load import read_text
from tests.bench import synthetic

TEXT = """\
version: 1
title: A study
models:
  small: [tiny, little]
  large: [big]
arms:
  direct: {reasoning: direct}
  cot: {reasoning: cot, think_tokens: [32, 64]}
  vote: {reasoning: vote, votes: [1, 3], think_tokens: 16, stop: all, batch: 1}
  deep: {model: large, reasoning: cot, think_tokens: 512}
questions: {suite: sample, block: 3, seed: 7}
curves: {prompt_tokens: [64, 32], output_tokens: [8, 16], repeats: 2}
"""


def problems(text: str, known=None) -> list[str]:
    with pytest.raises(InvalidFile) as caught:
        check_design(text, "d.yaml", known)
    return caught.value.what.splitlines()


def test_a_design_is_a_cross_product_of_roles_and_ways():
    design = parse_design(TEXT, "d.yaml", "d")
    assert design.models == {"small": "tiny", "large": "big"}
    assert list(design.arms) == [
        *("small-direct", "small-cot-32", "small-cot-64", "small-vote-1", "small-vote-3"),
        *("large-direct", "large-cot-32", "large-cot-64", "large-vote-1", "large-vote-3"),
        "large-deep",
    ]
    vote = design.arms["small-vote-3"]
    assert (vote.role, vote.arm.model, vote.arm.votes, vote.arm.batch) == ("small", "tiny", 3, 1)
    assert vote.arm.stop == VoteStop(rule="all")
    assert (vote.arm.sampling.temperature, vote.arm.sampling.seed) == (0.7, 7)
    assert design.arms["small-direct"].arm.sampling.temperature == 0
    assert design.arms["small-direct"].arm.max_tokens == 64
    assert (design.curves.computed, design.curves.output) == ((32, 64), (8, 16))
    assert list_arm_names(check_design(TEXT, "d.yaml").model) == list(design.arms)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("reasoning: direct", "reasoning: dirct", "d.yaml:7:23: reasoning: 'dirct' is not one of"),
        ("think_tokens: 16", "thinks: 16", "d.yaml:9:42: unknown key 'thinks', did you mean"),
        ("direct: {", "direct: {votes: 3, ", "d.yaml:7:19: votes has no effect with reasoning"),
        ("[32, 64]}\n  vote", "[]}\n  vote", "d.yaml:8:39: think_tokens is empty"),
        ("[32, 64]}\n  vote", "[32, 32]}\n  vote", "d.yaml:8:39: think_tokens lists a value"),
        ("[32, 64]}\n  vote", "[0, 64]}\n  vote", "d.yaml:8:39: think_tokens: 0 means no thinking"),
        ("stop: all", "temperature: 0", "d.yaml:9:73: votes drawn at temperature 0 are identical"),
        ("model: large", "model: lage", "d.yaml:10:17: unknown role 'lage', did you mean 'large'"),
        ("direct:", "cot-32:", "d.yaml:8:3: arm 'small-cot-32' is also made by 'cot-32'"),
        ("suite: sample,", "suite: sample, format: letters,", "d.yaml:8:20: format letters only"),
        ("suite: sample,", "suite: sample, format: chatt,", "did you mean 'chat'"),
        ("suite: sample", "limit: 4", "d.yaml:11:12: missing key 'suite'"),
        ("[big]", "[]", "d.yaml:5:10: role 'large' has no models"),
        ("[64, 32]", "[64]", "d.yaml:12:25: prompt_tokens: must have at least 2 items"),
        ("[8, 16]", "[1, 16]", "d.yaml:12:51: must be at least 2"),
        ("version: 1", "version: 2", "d.yaml:1:10: unsupported version 2"),
    ],
)
def test_each_fault_has_its_place(before, after, message):
    assert before in TEXT
    found = problems(TEXT.replace(before, after, 1))
    assert any(message in problem for problem in found), found


def test_an_unknown_model_is_named_before_anything_runs():
    assert problems(TEXT, ("tiny", "big", "litle")) == [
        "d.yaml:4:17: unknown model 'little', did you mean 'litle'?"
    ]


def test_a_role_without_a_model_says_what_to_pull():
    with pytest.raises(ModelUnavailable) as caught:
        parse_design(TEXT, "d.yaml", "d", ModelChoice(is_available={"big"}.__contains__))
    assert caught.value.what.startswith("d.yaml:4:10: role small: none of tiny, little")
    assert caught.value.fix == "pull one of them, for example: etui models pull little"


def test_two_roles_need_two_models():
    text = TEXT.replace("[big]", "[big, tiny]")
    with pytest.raises(ModelUnavailable, match="nothing to compare") as caught:
        parse_design(text, "d.yaml", "d", ModelChoice(is_available={"tiny"}.__contains__))
    assert caught.value.fix.endswith("etui models pull big")


def test_a_role_may_be_given_another_model():
    choice = ModelChoice(("tiny", "little", "big", "own"), {"big", "own"}.__contains__)
    given = replace(choice, overrides={"small": "own"})
    assert parse_design(TEXT, "d.yaml", "d", given).models["small"] == "own"
    with pytest.raises(UsageError, match="no role 'smal'"):
        parse_design(TEXT, "d.yaml", "d", replace(choice, overrides={"smal": "own"}))
    with pytest.raises(UsageError, match="unknown model 'onw', did you mean 'own'"):
        parse_design(TEXT, "d.yaml", "d", replace(choice, overrides={"small": "onw"}))


def test_a_role_that_no_arm_uses_needs_no_model():
    text = TEXT.replace("direct: {", "direct: {model: large, ").replace(
        "cot: {", "cot: {model: large, "
    )
    text = text.replace("vote: {", "vote: {model: large, ")
    only = parse_design(text, "d.yaml", "d", ModelChoice(is_available={"big"}.__contains__))
    assert only.models == {"large": "big"}
    assert "large-deep" in only.arms


def test_the_design_of_a_run_has_the_models_of_the_run():
    choice = ModelChoice(is_available={"little", "big"}.__contains__)
    design = parse_design(TEXT, "d.yaml", "d", choice)
    arms = {name: to_json(arm.arm) for name, arm in design.arms.items()}
    run = synthetic.config(arms=(), design=NamedText("d", TEXT), seed=9, format="chat")
    again = design_of_run(replace(run, arms=arms, block=5))
    assert again.models == design.models
    assert again.arms == design.arms
    assert (again.questions.suite, again.questions.seed, again.questions.block) == ("mmlu", 9, 5)
    assert again.curves == design.curves == read_curve_grid(NamedText("d", TEXT))
    with pytest.raises(ValueError, match="has no design"):
        design_of_run(replace(run, design=None))


@given(st.text(max_size=200))
def test_any_text_is_a_design_or_an_error_with_a_place(text):
    with pytest.raises(InvalidFile) as caught:
        check_design(text, "d.yaml")
    assert all(problem.file == "d.yaml" for problem in caught.value.problems)


def test_the_shipped_designs_are_valid(config: Config):
    known = load_catalogue(config).models
    names = [place.name for place in list_designs(config)]
    assert names == ["quick", "seed"]
    for name in names:
        place = find_design(name, config)
        design = parse_design(read_text(place.path), str(place.path), name, ModelChoice(known))
        assert design.title
        assert design.summary
        first = read_text(place.path).splitlines()[0]
        assert first == "# yaml-language-server: $schema=design.schema.json"
    path = shipped_dir() / "designs" / "design.schema.json"
    assert json.loads(path.read_text()) == json_schema(), "etui bench designs schema"


def test_a_design_of_the_user_takes_the_place_of_the_shipped(config: Config, tmp_path: Path):
    assert find_design("seed", config).origin == "shipped"
    designs_dir(config).mkdir()
    own = designs_dir(config) / "seed.yaml"
    own.write_text(TEXT)
    place = find_design("seed", config)
    assert (place.origin, place.hides, place.path) == ("user", True, own)
    assert find_design(str(own), config).origin == "file"
    with pytest.raises(UsageError, match="unknown design 'sed'") as caught:
        find_design("sed", config)
    assert "did you mean 'seed'?" in caught.value.fix
    with pytest.raises(InvalidFile, match="no such file"):
        read_text(find_design(str(tmp_path / "gone.yaml"), config).path)


def write_rows(path: Path, *answers: object) -> None:
    rows = [{"question": f"What is {at} + 2?", "answer": text} for at, text in enumerate(answers)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def test_the_whole_shows_the_examples_that_a_run_shows(tmp_path: Path, config: Config) -> None:
    """A raw format leaves out examples without a solution."""
    write_rows(tmp_path / "sums.jsonl", 2, 3, 4)
    write_rows(tmp_path / "sums_dev.jsonl", 2, "1 and 2 are 3. #### 3")
    ask = RunRequest(str(tmp_path / "sums.jsonl"), format="gsm8k", shots=1, limit=2)
    plan = make_plan(ask, config, load_catalogue(config))
    whole = _widen(plan)
    assert whole.questions == 3
    assert whole.examples == plan.examples
    assert [example.solution for example in whole.examples["sums"]] != [""]
