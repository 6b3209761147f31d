"""The command that repeats a run makes the same plan again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.bench.arms import to_json
from etui.bench.config import BenchDesign, BenchPart, BenchPolicy, BenchPrecision
from etui.bench.plan import make_plan
from etui.bench.publish import build_command
from etui.cli.bench import _build_request, bench
from etui.models.catalogue import load_catalogue
from tests.bench import synthetic

SUITE = ("--suite", "sample")
LETTERS = (*SUITE, "-m", "smollm2-135m", "-m", "gemma-3-270m")
CHAT = (*SUITE, "-m", "smollm2-135m", "-r", "direct", "-r", "cot")


def plan_of(words, config):
    context = bench.make_context("bench", list(words))
    return make_plan(_build_request(context.params), config, load_catalogue(config))


def config_of(plan):
    return replace(
        synthetic.config(),
        suite="sample",
        data_path=plan.data_path,
        format=plan.format.name,
        shots=plan.shots,
        seed=plan.seed,
        limit=plan.limit,
        per_subject=plan.per_subject,
        subjects=plan.subjects,
        prefix_reuse=plan.reuse,
        arms={name: to_json(arm) for name, arm in plan.arms.items()},
        part=plan.part,
    )


@pytest.mark.parametrize(
    "words",
    [
        LETTERS,
        (*LETTERS, "--format", "cloze", "--shots", "0", "--seed", "7", "--no-prefix-reuse"),
        (*LETTERS, "--limit", "24", "--part", "2/3"),
        (*LETTERS, "--per-subject", "2", "--subjects", "logic,algebra"),
        CHAT,
        (*CHAT, "--think-tokens", "64", "--max-tokens", "9", "--temperature", "0.3"),
        (*CHAT, "-r", "vote", "--votes", "3", "--stop", "all", "--loop-guard"),
        (*CHAT, "--speculate", "off", "--speculate", "lookup"),
        (*SUITE, "-m", "smollm2-135m", "-f", "cot"),
    ],
)
def test_the_command_makes_the_same_plan(words, config):
    plan = plan_of(words, config)
    command = build_command(config_of(plan))
    assert command.exact
    assert command.words[:2] == ("etui", "bench")
    again = plan_of(command.words[2:], config)
    assert again.arms == plan.arms
    assert again.asked == plan.asked
    assert (again.format, again.shots, again.reuse) == (plan.format, plan.shots, plan.reuse)


def test_the_fewest_options_are_named(config):
    words = build_command(config_of(plan_of(CHAT, config))).words
    assert "--think-tokens" not in words
    assert "--temperature" not in words


def test_settings_that_no_option_gives_are_said_to_be_missing(config):
    made = config_of(plan_of(CHAT, config))
    name, settings = next(iter(made.arms.items()))
    other = replace(made, arms={**made.arms, name: {**settings, "max_joules": 3.0}})
    assert not build_command(other).exact
    assert not build_command(replace(made, arms={"odd": {"model": "small"}})).exact


def test_files_of_the_folder_are_named_and_no_place_of_this_machine():
    run = synthetic.config(data_path="/home/anna/my questions.csv", suite="questions")
    assert "questions.csv" in build_command(run).words
    lines = replace(run, data_path="/home/anna/my questions.jsonl")
    assert "questions.jsonl" in build_command(lines).words
    routed = synthetic.config(policy=BenchPolicy("mine", "version: 1"), routed=True)
    assert build_command(routed).words[-2:] == ("--policy", "policy.yaml")
    arms = build_command(replace(routed, routed=False))
    assert arms.words[-2:] == ("--arms", "direct,think,vote-5,large")
    assert not arms.exact
    design = build_command(synthetic.config(design=BenchDesign("seed", "x"), part=BenchPart(0, 4)))
    assert design.words[:4] == ("etui", "bench", "--design", "design.yaml")
    assert design.words[-2:] == ("--part", "1/4")
    precise = build_command(synthetic.config(precision=BenchPrecision(3.0, "difference")))
    assert precise.words[-4:] == ("--precision", "3", "--precision-of", "difference")
    helped = build_command(synthetic.config(precision=BenchPrecision(3.0, "accuracy", "ab" * 32)))
    assert helped.words[-2:] == ("--difficulty", "difficulty.csv")
    for command in (routed, run):
        assert "anna" not in " ".join(build_command(command).words)
