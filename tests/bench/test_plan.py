"""Speculation of the arms of a run, and their form in ``config.json``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from etui.arm import Arm
from etui.bench.arms import ArmOverrides, parse_arm, speculate_arms, to_json
from etui.bench.config import parse_run_config
from etui.bench.plan import RunRequest, make_plan, restore_plan
from etui.config.config import Config
from etui.datasets.questions import Question, Suite
from etui.errors import EtuiError, InvalidFile, UsageError
from etui.models.catalogue import load_catalogue
from tests.bench import synthetic

LINE = '{"question": "Which?", "choices": ["x", "y", "z"], "answer": 2}\n'


def write(path: Path, lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines, encoding="utf-8")
    return path


@pytest.mark.parametrize("file", ["own.jsonl", "arc-challenge.jsonl", "mmlu.csv"])
def test_a_resumed_run_finds_the_file_of_its_questions(
    config: Config, tmp_path: Path, file: str
) -> None:
    lines = LINE * 3 if file.endswith("jsonl") else "Which?,1,2,3,4,A\n" * 3
    path = write(tmp_path / file, lines)
    catalogue = load_catalogue(config)
    plan = make_plan(RunRequest(str(path)), config, catalogue)
    assert plan.config.data_path == str(path)
    run = synthetic.config(
        suite=plan.suite.name,
        data_path=plan.config.data_path,
        data_sha256=plan.suite.sha256,
        shots=0,
        per_subject=None,
        arms={},
    )
    again = restore_plan(run, config, catalogue)
    assert again.suite == plan.suite
    assert again.drawn == plan.drawn


def test_a_resumed_run_finds_the_local_copy_of_its_suite(config: Config, tmp_path: Path) -> None:
    place = write(tmp_path / "data" / "test.jsonl", LINE * 3).parent
    write(place / "train.jsonl", LINE)
    catalogue = load_catalogue(config)
    plan = make_plan(RunRequest("arc-challenge", data=str(place), shots=1), config, catalogue)
    assert plan.config.data_path == str(place)
    assert plan.config.shots == 1
    run = synthetic.config(
        suite="arc-challenge", data_path=plan.config.data_path, shots=1, per_subject=None, arms={}
    )
    again = restore_plan(run, config, catalogue)
    assert (again.suite, again.examples) == (plan.suite, plan.examples)


def test_missing_worked_examples_name_the_file_that_would_have_them(
    config: Config, tmp_path: Path
) -> None:
    path = write(tmp_path / "own.jsonl", LINE * 3)
    with pytest.raises(UsageError) as caught:
        make_plan(RunRequest(str(path), shots=2), config, load_catalogue(config))
    assert "own_dev.jsonl" in caught.value.fix
    place = write(tmp_path / "data" / "test.jsonl", LINE).parent
    ask = RunRequest("arc-challenge", data=str(place), shots=2)
    with pytest.raises(UsageError) as caught:
        make_plan(ask, config, load_catalogue(config))
    assert caught.value.fix == "use --shots 0"


OLD_RUN = Path(__file__).parents[1] / "contract" / "old_run" / "config.json"
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
    assert (made.format.name, made.config.shots, list(made.arms)) == (format_, shots, [arm])
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


def test_an_arm_of_a_run_that_is_none_is_an_invalid_file(config: Config, tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", LINE * 3)
    catalogue = load_catalogue(config)
    run = synthetic.config(data_path=str(path), suite="own", arms={"direct": {"model": "m"}})
    with pytest.raises(InvalidFile, match=r"of run .* has an arm that cannot be read: .*`name`"):
        restore_plan(run, config, catalogue)
