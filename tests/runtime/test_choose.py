"""From overrides to a decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.chat import Query
from etui.errors import InvalidFile, ModelUnavailable, UsageError
from etui.models.catalogue import load_catalogue
from etui.runtime.decide import Overrides, choose, save_fallback_model
from etui.runtime.model_resolution import find_draft_file, find_model_file, models_on_disk
from etui.runtime.runtime import open_runtime

QUERY = Query("What is a joule?")


@pytest.fixture
def machine(config):
    """A Config, its catalogue, and a way to put (empty) model files on this machine."""

    class Machine:
        def __init__(self):
            self.config = config

        @property
        def catalogue(self):
            return load_catalogue(self.config)

        def has(self, *names):
            config.models_dir.mkdir(exist_ok=True)
            for name in names:
                (config.models_dir / f"{name}.gguf").touch()

        def choose(self, **overrides):
            runtime = open_runtime(self.config)
            return choose(QUERY, Overrides(**overrides), runtime).decision

    return Machine()


def test_a_model_spells_the_arm_out(machine):
    decision = machine.choose(model="smollm2-135m", reasoning="cot", think_tokens=32, seed=7)
    arm = decision.arm
    assert (arm.model, arm.reasoning, arm.think_tokens) == ("smollm2-135m", "cot", 32)
    assert arm.sampling.seed == 7
    assert (decision.policy, decision.rule) == (None, None)
    assert decision.why == "--model smollm2-135m"


def test_the_path_of_a_file_is_a_model(machine, tmp_path):
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"no model")
    decision = machine.choose(model=str(file))
    assert decision.arm.model == str(file)
    with pytest.raises(ModelUnavailable, match="GGUF"):
        find_model_file(decision.arm, machine.config, machine.catalogue)


def test_the_path_of_an_entrys_own_file_is_the_entry(machine):
    machine.has("smollm2-135m")
    file = machine.config.models_dir / "smollm2-135m.gguf"
    assert machine.choose(model=str(file)).arm.model == "smollm2-135m"


def test_an_unknown_model_gets_the_nearest_names(machine):
    with pytest.raises(UsageError) as caught:
        machine.choose(model="smollm-135m")
    assert "smollm2-135m" in caught.value.fix


def test_a_chosen_model_outside_the_policy_stands_in_for_its_missing_models(machine):
    machine.has("gemma-3-270m")  # in no role of the policy
    with pytest.raises(ModelUnavailable):
        machine.choose()
    save_fallback_model(machine.config, "gemma-3-270m")
    decision = machine.choose()
    assert decision.arm.model == "gemma-3-270m"
    assert "gemma-3-270m" in decision.why
    machine.has("smollm2-135m")
    assert machine.choose().arm.model == "smollm2-135m", "a model of the policy comes first"


def test_the_policy_of_the_config_decides(machine):
    machine.has("smollm2-135m")
    decision = machine.choose()
    assert decision.policy == "balanced"
    assert decision.rule
    assert decision.arm.model == "smollm2-135m"


def test_overrides_change_the_arm_a_policy_chose(machine):
    machine.has("smollm2-135m")
    decision = machine.choose(policy="frugal", max_tokens=5, temperature=0.5)
    assert decision.policy == "frugal"
    assert (decision.arm.max_tokens, decision.arm.sampling.temperature) == (5, 0.5)


def test_a_model_excludes_a_policy(machine):
    with pytest.raises(UsageError, match="--model"):
        machine.choose(model="smollm2-135m", policy="frugal")


def test_an_unknown_policy_gets_the_nearest_name(machine):
    machine.has("smollm2-135m")
    with pytest.raises(UsageError, match="frugel") as caught:
        machine.choose(policy="frugel")
    assert "frugal" in str(caught.value)


def test_an_unknown_arm_is_named(machine):
    machine.has("smollm2-135m")
    with pytest.raises(UsageError, match="no arm 'quik'"):
        machine.choose(arm="quik")


def test_a_broken_policy_is_located(machine):
    machine.has("smollm2-135m")
    machine.config.policies_dir.mkdir()
    (machine.config.policies_dir / "mine.yaml").write_text("version: 1\nruls: []\n")
    with pytest.raises(InvalidFile, match=r"mine\.yaml:2:1: .*rules"):
        machine.choose(policy="mine")


def test_without_any_model_the_fix_is_the_pull_command(machine):
    with pytest.raises(ModelUnavailable) as caught:
        machine.choose()
    assert caught.value.fix == "run: etui models pull smollm2-135m"


def test_think_tokens_on_a_direct_answer_is_an_error(machine):
    with pytest.raises(UsageError, match="--think-tokens"):
        machine.choose(model="smollm2-135m", think_tokens=10)


def test_the_model_of_the_config_answers(machine):
    machine.config = replace(machine.config, model="gemma-3-270m")
    decision = machine.choose()
    assert decision.arm.model == "gemma-3-270m"
    assert "config.yaml" in decision.why


def test_a_damaged_file_does_not_serve(machine):
    machine.has("smollm2-135m")
    with pytest.raises(ModelUnavailable):
        find_model_file(machine.choose(model="smollm2-135m").arm, machine.config, machine.catalogue)


def test_here_knows_names_that_do_not_exist(machine):
    machine.has("smollm2-135m")
    here = models_on_disk(machine.config, machine.catalogue)
    assert here("smollm2-135m")
    assert not here("gemma-3-270m")
    assert not here("no-such-model")


def test_a_vote_without_a_temperature_gets_one(machine):
    arm = machine.choose(model="smollm2-135m", reasoning="vote", votes=5).arm
    assert (arm.votes, arm.stop.rule) == (5, "flip")
    assert arm.sampling.temperature == 0.7
    arm = machine.choose(model="smollm2-135m", reasoning="vote", temperature=1.0, stop="all").arm
    assert (arm.sampling.temperature, arm.stop.rule) == (1.0, "all")


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        ({"votes": 5}, "--votes has no effect"),
        ({"reasoning": "cot", "stop": "lead"}, "--stop has no effect"),
        ({"reasoning": "vote", "temperature": 0.0}, "all the same"),
        ({"reasoning": "vote", "speculate": "auto"}, "--speculate and votes exclude each other"),
    ],
)
def test_overrides_without_effect_are_refused(machine, overrides, what):
    with pytest.raises(UsageError, match=what):
        machine.choose(model="smollm2-135m", **overrides)


CASCADE = """
version: 1
arms:
  quick: {model: smollm2-135m, reasoning: direct}
  think: {model: smollm2-135m, reasoning: cot}
rules: [{name: all, cascade: {arms: [quick, think], accept_at: 0.7}}]
"""


@pytest.fixture
def climbing(machine):
    machine.has("smollm2-135m")
    machine.config.policies_dir.mkdir()
    (machine.config.policies_dir / "mine.yaml").write_text(CASCADE)
    return machine


DRAFTED = "models:\n  mine: {size: s, draft: drafter, speculate: %s, sources: [{path: m.gguf}]}\n"
DRAFTER = "  drafter: {size: s, sources: [{path: d.gguf}]}\n"


def test_an_arm_without_a_policy_follows_its_model(machine):
    machine.config.models_file.write_text(DRAFTED % "auto" + DRAFTER)
    assert machine.choose(model="mine").arm.speculate == "auto"
    assert machine.choose(model="mine", reasoning="cot").arm.speculate == "auto"
    assert machine.choose(model="mine", reasoning="vote").arm.speculate == "off"
    assert machine.choose(model="mine", speculate="lookup").arm.speculate == "lookup"
    assert machine.choose(model="smollm2-135m").arm.speculate == "off"


def test_speculation_applies_to_every_arm_of_a_cascade(climbing):
    decision = climbing.choose(policy="mine", speculate="lookup")
    assert [arm.speculate for arm in decision.cascade.arms] == ["lookup", "lookup"]


def test_the_file_of_the_draft_model_goes_with_the_answer(machine, make_gguf):
    config = machine.config
    config.models_file.write_text(DRAFTED % "draft" + DRAFTER)
    (config.home / "m.gguf").write_bytes(make_gguf(8))
    (config.home / "d.gguf").write_bytes(make_gguf(4))
    runtime = open_runtime(config)
    arm = machine.choose(model="mine").arm
    spec, path = find_draft_file(arm, runtime.catalogue.get("mine"), config, runtime.catalogue)
    assert (spec.name, path) == ("drafter", config.home / "d.gguf")
    for other in ("off", "lookup", "mtp"):
        plain = replace(arm, speculate=other)
        assert (
            find_draft_file(plain, runtime.catalogue.get("mine"), config, runtime.catalogue) is None
        )


def test_a_draft_model_that_is_not_here_is_an_error_for_draft_and_none_for_auto(machine):
    config = machine.config
    config.models_file.write_text(
        "models:\n  mine: {size: s, draft: gemma-3-270m, sources: [{path: m.gguf}]}\n"
        "  alone: {size: s, sources: [{path: m.gguf}]}\n"
    )
    catalogue = machine.catalogue
    arm = machine.choose(model="mine", speculate="draft").arm
    with pytest.raises(ModelUnavailable, match="the draft model of mine cannot be used") as caught:
        find_draft_file(arm, catalogue.get("mine"), config, catalogue)
    assert "etui models pull gemma-3-270m" in caught.value.fix
    with pytest.raises(ModelUnavailable, match="alone has no draft model"):
        find_draft_file(arm, catalogue.get("alone"), config, catalogue)
    auto = replace(arm, speculate="auto")
    assert find_draft_file(auto, catalogue.get("mine"), config, catalogue) is None
    assert find_draft_file(auto, catalogue.get("alone"), config, catalogue) is None


def test_a_draft_that_no_model_can_follow_is_refused_before_a_load(machine, climbing):
    for overrides in ({"model": "smollm2-135m"}, {}):
        with pytest.raises(UsageError, match="which --speculate draft needs") as caught:
            machine.choose(speculate="draft", **overrides)
        assert "add `draft: NAME`" in caught.value.fix
    assert machine.choose(model="smollm2-135m", speculate="auto").arm.speculate == "auto"


def test_overrides_for_every_answer_change_every_arm_of_a_cascade(climbing):
    cascade = climbing.choose(policy="mine", max_tokens=9, seed=3).cascade
    assert [(arm.max_tokens, arm.sampling.seed) for arm in cascade.arms] == [(9, 3), (9, 3)]


def test_a_way_of_reasoning_that_is_named_ends_the_cascade(climbing):
    decision = climbing.choose(policy="mine", reasoning="cot", think_tokens=40)
    assert (decision.cascade, decision.arm.name, decision.arm.think_tokens) == (None, "quick", 40)
    assert decision.notices == (
        "only quick answers, not the cascade: a reasoning option was given",
    )


def test_a_damaged_fit_is_told_before_a_cascade_begins(climbing):
    (climbing.config.policies_dir / "mine.fitted.json").write_text("{")
    with pytest.raises(InvalidFile, match=r"mine\.fitted\.json"):
        climbing.choose(policy="mine")
