"""Speculation of the arms of a run, and their form in ``config.json``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from etui.arm import Arm
from etui.bench.arms import ArmOverrides, parse_arm, speculate_arms, to_json
from etui.bench.config import parse_run_config
from etui.bench.plan import RunRequest, make_plan
from etui.datasets.questions import Question, Suite
from etui.errors import EtuiError, UsageError
from etui.models.catalogue import load_catalogue

OLD_RUN = Path(__file__).parents[2] / "contract" / "old_run" / "config.json"
ARMS = {"m direct": Arm("m direct", "m"), "m vote": Arm("m vote", "m", "vote")}


def test_one_method_keeps_the_names_and_several_add_theirs() -> None:
    (one, vote) = speculate_arms(ARMS, ["lookup"]).values()
    assert (one.name, one.speculate, vote.speculate) == ("m direct", "lookup", "off")
    both = speculate_arms(ARMS, ["off", "auto"])
    assert [(name, arm.name, arm.speculate) for name, arm in both.items()] == [
        ("m direct off", "m direct off", "off"),
        ("m direct auto", "m direct auto", "auto"),
        ("m vote", "m vote", "off"),
    ]
    assert speculate_arms(ARMS, []) == ARMS


def test_votes_alone_cannot_speculate() -> None:
    votes = {"m vote": ARMS["m vote"]}
    with pytest.raises(UsageError, match="exclude each other"):
        speculate_arms(votes, ["auto"])
    assert speculate_arms(votes, ["off"]) == votes


def test_an_arm_without_speculation_has_the_document_it_had() -> None:
    assert "speculate" not in to_json(ARMS["m direct"])
    drafted = speculate_arms(ARMS, ["lookup"])["m direct"]
    assert to_json(drafted)["speculate"] == "lookup"
    assert parse_arm(to_json(drafted)) == drafted


def test_the_arms_of_an_old_run_keep_its_hash() -> None:
    document = json.loads(OLD_RUN.read_text(encoding="utf-8"))
    config = parse_run_config(document)
    assert config.sha256 == document["config_sha256"]
    for settings in config.arms.values():
        assert to_json(parse_arm(settings)) == settings


NUMBERS = Suite(
    "gsm8k", "test", "ab" * 32,
    {"gsm8k": tuple(Question("gsm8k", row, f"{row}?", (), "3") for row in range(9))},
    {"gsm8k": tuple(Question("gsm8k", row, f"{row}?", (), "3", "#### 3") for row in range(5))},
    grading="number",
)  # fmt: skip


@pytest.fixture
def numbers(monkeypatch) -> None:
    monkeypatch.setattr("etui.bench.plan.load_suite", lambda *given: NUMBERS)


@pytest.mark.parametrize(
    ("ask", "format_", "shots", "arm", "tokens"),
    [
        ({}, "gsm8k", 5, "smollm2-135m", 256),
        ({"overrides": ArmOverrides(max_tokens=99)}, "gsm8k", 5, "smollm2-135m", 99),
        ({"models": ("smollm2-135m",), "reasonings": ("direct",)}, "chat", 0,
         "smollm2-135m direct", 256),
        ({"models": ("smollm2-135m",), "reasonings": ("vote",)}, "chat", 0,
         "smollm2-135m vote 7x256", 256),
        ({"format": "cot"}, "cot", 0, "smollm2-135m cot 256", 256),
    ],
)  # fmt: skip
def test_numbers_are_planned_with_a_format_that_fits(
    config, numbers, ask, format_, shots, arm, tokens
):
    made = make_plan(RunRequest("gsm8k", limit=4, **ask), config, load_catalogue(config))
    assert (made.format.name, made.shots, list(made.arms)) == (format_, shots, [arm])
    assert made.arms[arm].max_tokens == tokens
    assert [len(shown) for shown in made.examples.values()] == [shots]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({"format": "letters"}, "letters cannot ask the questions of gsm8k"),
        ({"format": "mmlu-pro"}, "use --format chat, cot or gsm8k"),
        ({"format": "gsm8k", "models": ("smollm2-135m",), "reasonings": ("cot",)},
         "in which cot has no place"),
        ({"format": "gsm8k", "models": ("smollm2-135m",), "reasonings": ("vote",)},
         "use --format chat or cot"),
        ({"models": ("smollm3",)}, "smollm3"),
        ({"split": "test", "shots": 6}, "needs 6 worked examples with a solution"),
    ],
)  # fmt: skip
def test_what_does_not_fit_numbers_is_refused(config, numbers, ask, said):
    with pytest.raises(EtuiError) as caught:
        make_plan(RunRequest("gsm8k", **ask), config, load_catalogue(config))
    assert said in str(caught.value)


def test_a_wrong_model_is_reported_before_the_data_are_loaded(config, monkeypatch):
    def load(*given):
        raise AssertionError("the data were loaded")

    monkeypatch.setattr("etui.bench.plan.load_suite", load)
    with pytest.raises(EtuiError, match="smollm3"):
        make_plan(RunRequest("mmlu", models=("smollm3",)), config, load_catalogue(config))


def plan(config, **ask):
    return make_plan(RunRequest("sample", limit=4, **ask), config, load_catalogue(config)).arms


def test_a_run_follows_the_model_unless_the_command_line_says(config) -> None:
    config.models_file.write_text(
        "models:\n  mine: {size: s, speculate: lookup, sources: [{path: m.gguf}]}\n"
    )
    generated = {"models": ("mine",), "reasonings": ("direct", "vote")}
    (direct, vote) = plan(config, **generated).values()
    assert (direct.speculate, vote.speculate) == ("lookup", "off")
    (direct, vote) = plan(config, **generated, speculates=("off",)).values()
    assert (direct.speculate, vote.speculate) == ("off", "off")
    # Letters are read and nothing is decoded.
    (letters,) = plan(config, models=("mine",)).values()
    assert letters.speculate == "off"
    with pytest.raises(UsageError, match="decodes nothing"):
        plan(config, models=("mine",), speculates=("lookup",))
