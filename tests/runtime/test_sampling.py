"""What a model asks for reaches the arm that answers, and a bench run does not ask."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from etui.arm import OPEN_SAMPLING, Arm, Sampling, SamplingFrom
from etui.bench.arms import ArmOverrides, build_arms, list_policy_arms, to_json
from etui.bench.formats import FORMATS
from etui.bench.turns import decide_by_policy
from etui.chat import Query
from etui.config.config import Config
from etui.models.spec import ModelSampling, ModelSpec
from etui.routing.library import load_policy
from etui.runtime.caches import FileCache
from etui.runtime.decide import choose
from etui.runtime.model_resolution import has_open_sampling, resolve_sampling
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import Runtime, open_runtime
from etui.turn.interfaces import ResolvedModel
from tests.models.test_gguf import asks, f32, tiny_gguf
from tests.turn.stage import Part, Stage, decided, play

ASKED = ModelSampling(
    temperature=0.7, top_p=0.8, top_k=20, thinking=ModelSampling(temperature=0.6, top_p=0.95)
)

DIRECT = Arm("a", "m", sampling_from=OPEN_SAMPLING)

THINKS = replace(DIRECT, reasoning="cot")

VOTE = replace(
    DIRECT,
    reasoning="vote",
    sampling=Sampling(temperature=0.7),
    sampling_from=replace(OPEN_SAMPLING, temperature="vote"),
)


def resolve(
    arm: Arm, asked: ModelSampling | None = ASKED, *, tags: bool = True
) -> tuple[Sampling, dict[str, str]]:
    found = resolve_sampling(arm, asked, "models.yaml", tags=tags)
    return found.sampling, asdict(found.sampling_from)


def test_the_model_fills_what_nothing_else_states() -> None:
    sampling, origins = resolve(DIRECT)
    assert sampling == Sampling(temperature=0.7, top_p=0.8, top_k=20)
    assert origins == {
        "temperature": "models.yaml",
        "top_p": "models.yaml",
        "top_k": "models.yaml",
        "min_p": "default",
        "repeat_penalty": "default",
        "repeat_last_n": "default",
        "presence_penalty": "default",
    }


def test_a_model_that_asks_for_nothing_keeps_the_defaults() -> None:
    assert resolve(DIRECT, None) == (Sampling(), asdict(OPEN_SAMPLING))
    assert resolve(DIRECT, ModelSampling()) == (Sampling(), asdict(OPEN_SAMPLING))


def test_an_arm_overrides_key_by_key() -> None:
    arm = replace(
        DIRECT,
        sampling=Sampling(temperature=0.0, top_k=5, seed=9),
        sampling_from=replace(OPEN_SAMPLING, temperature="option", top_k="arm"),
    )
    sampling, origins = resolve(arm)
    assert sampling == Sampling(temperature=0.0, top_p=0.8, top_k=5, seed=9)
    assert (origins["temperature"], origins["top_p"], origins["top_k"]) == (
        "option",
        "models.yaml",
        "arm",
    )


@pytest.mark.parametrize(
    ("arm", "tags", "thinks"),
    [
        (THINKS, True, True),
        (THINKS, False, True),  # asked in words: the model thinks all the same
        (replace(THINKS, style="native"), True, True),
        (replace(THINKS, style="plain"), True, False),  # its own thinking is switched off
        (replace(THINKS, style="draft"), True, False),
        (replace(THINKS, style="plain"), False, True),
        (replace(THINKS, think_tokens=0), True, False),
        (replace(VOTE, think_tokens=0), True, False),
        (VOTE, True, True),
        (DIRECT, True, False),
    ],
)
def test_thinking_has_a_form_of_its_own(arm: Arm, tags: bool, thinks: bool) -> None:
    sampling, origins = resolve(arm, tags=tags)
    assert sampling.temperature == (0.6 if thinks else 0.7)
    assert sampling.top_k == 20  # what the form leaves out is that without thinking
    assert origins["temperature"] == ("models.yaml thinking" if thinks else "models.yaml")
    assert origins["top_k"] == "models.yaml"


def test_a_vote_is_as_warm_as_its_model_asks_but_never_nearly_greedy() -> None:
    assert resolve(VOTE, ModelSampling(temperature=1.0))[0].temperature == 1.0
    greedy = ModelSampling(temperature=0.0, top_k=3)
    sampling, origins = resolve(VOTE, greedy)
    assert (sampling.temperature, sampling.top_k, origins["temperature"]) == (0.7, 3, "vote")
    assert resolve(VOTE, ModelSampling(temperature=0.2))[0].temperature == 0.7
    assert resolve(VOTE, ModelSampling(temperature=0.5))[0].temperature == 0.5
    assert resolve(replace(VOTE, votes=1), greedy)[0].temperature == 0.0
    assert resolve(DIRECT, greedy)[0].temperature == 0.0


def test_an_arm_in_full_is_left_alone() -> None:
    own = Arm("a", "m")
    assert not has_open_sampling(own)
    assert resolve(own) == (Sampling(), asdict(SamplingFrom()))
    assert has_open_sampling(DIRECT)
    assert has_open_sampling(replace(own, sampling_from=SamplingFrom(min_p="default")))


def test_to_resolve_twice_changes_nothing_more() -> None:
    once = resolve_sampling(THINKS, ASKED, "models.yaml", tags=True)
    assert resolve_sampling(once, ASKED, "models.yaml", tags=True) == once


class AsksForMore(Stage):
    """A stage whose model asks for a sampling of its own."""

    def serve(self, arm: Arm) -> ResolvedModel:
        served = super().serve(arm)
        return replace(served, arm=resolve_sampling(arm, ASKED, "gguf", tags=False))


def test_the_turn_answers_with_it_and_says_where_it_comes_from() -> None:
    stage = AsksForMore({"a": Part()})
    played = play(stage, decided(replace(DIRECT, sampling=Sampling(seed=11))))
    assert stage.requests[0].arm.sampling == Sampling(temperature=0.7, top_p=0.8, top_k=20, seed=11)
    settings = played.record.settings
    names = ("temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty", "repeat_last_n")
    assert [settings[name] for name in names] == [0.7, 0.8, 20, 0.05, 11, 1.0, 64]
    assert settings["sampling_from"]["temperature"] == "gguf"
    assert settings["sampling_from"]["min_p"] == "default"


def test_a_spec_crosses_the_pipe_with_its_sampling() -> None:
    from etui.backends.wire import Load, decode, encode

    spec = ModelSpec("m", "tiny", (), sampling=ASKED)
    assert decode(encode(Load(1, spec, Path("m.gguf")))) == Load(1, spec, Path("m.gguf"))


LATER_NS = 1 << 62
QUERY = Query("What is a joule?")
ENTRIES = """
models:
  asks:
    size: s
    sources: [{path: asks.gguf}]
    sampling: {temperature: 0.7, top_k: 20, repeat_penalty: 1.1, thinking: {temperature: 0.6}}
  present: {size: s, sources: [{path: silent.gguf}], sampling: {presence_penalty: 1.5}}
  silent: {size: s, sources: [{path: silent.gguf}]}
  plain: {size: s, sources: [{path: silent.gguf}], sampling: {}}
"""
POLICY = """
version: 1
arms:
  open: {model: asks}
  own: {model: asks, temperature: 0.1, repeat_last_n: 8}
  votes: {model: asks, reasoning: vote, think_tokens: 0}
  flat: {model: present, presence_penalty: -0.5}
fallbacks: {load_failed: open}
rules: [{name: rest, cascade: {arms: [open, own], accept_at: 0.5}}]
"""


@pytest.fixture
def runtime(config: Config) -> Runtime[Any]:
    config.models_file.write_text(ENTRIES)
    (config.home / "asks.gguf").write_bytes(tiny_gguf(asks("temp", 6, f32(1.5))))
    (config.home / "silent.gguf").write_bytes(
        tiny_gguf(asks("temp", 6, f32(0.9)), asks("top_p", 6, f32(0.5)))
    )
    (config.home / "mine.yaml").write_text(POLICY)
    return open_runtime(config)


def sampled(runtime: Runtime[Any], **options: Any) -> tuple[Sampling, SamplingFrom]:
    """Choose as the chat and ``ask`` do, and serve the arm."""
    arm = choose(QUERY, Overrides(**options), runtime).decision.arm
    served: ResolvedModel = runtime.resolve(arm)
    assert served.arm is not None
    return served.arm.sampling, served.arm.sampling_from


def test_models_yaml_then_the_file_then_the_defaults(runtime: Runtime[Any]) -> None:
    sampling, origin = sampled(runtime, model="asks")
    assert sampling == Sampling(temperature=0.7, top_k=20, repeat_penalty=1.1)
    assert (origin.temperature, origin.min_p) == ("models.yaml", "default")
    sampling, origin = sampled(runtime, model="silent")
    assert sampling == Sampling(temperature=0.9, top_p=0.5)
    assert (origin.temperature, origin.top_k) == ("gguf", "default")
    assert sampled(runtime, model="plain")[0] == Sampling()


def test_a_file_that_changes_is_read_again(runtime: Runtime[Any], config: Config) -> None:
    assert sampled(runtime, model="silent")[0].temperature == 0.9
    (config.home / "silent.gguf").write_bytes(tiny_gguf())
    assert sampled(runtime, model="silent")[0] == Sampling()


def test_the_file_is_read_once(runtime: Runtime[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # the file is not as new as it is
    runtime.model_files._sampling = FileCache(lambda: LATER_NS)
    read: list[Path] = []
    reader = "etui.runtime.model_resolution._read_file_sampling"
    monkeypatch.setattr(reader, lambda path: read.append(path))
    sampled(runtime, model="silent")
    sampled(runtime, model="silent")
    sampled(runtime, model="asks")  # its entry has a sampling
    assert [path.name for path in read] == ["silent.gguf"]


def test_options_and_arms_come_first(runtime: Runtime[Any], config: Config) -> None:
    sampling, origin = sampled(runtime, model="asks", temperature=0.0, seed=3)
    assert sampling == Sampling(temperature=0.0, top_k=20, repeat_penalty=1.1, seed=3)
    assert origin.temperature == "option"
    policy = str(config.home / "mine.yaml")
    sampling, origin = sampled(runtime, policy=policy, arm="own")
    assert (sampling.temperature, sampling.repeat_last_n, sampling.top_k) == (0.1, 8, 20)
    assert (origin.temperature, origin.top_k) == ("arm", "models.yaml")
    assert sampled(runtime, policy=policy, arm="votes")[0].temperature == 0.7


def test_a_presence_penalty_is_the_models_the_arms_or_the_clients(
    runtime: Runtime[Any], config: Config
) -> None:
    policy = str(config.home / "mine.yaml")
    sampling, origin = sampled(runtime, model="present")
    assert (sampling.presence_penalty, origin.presence_penalty) == (1.5, "models.yaml")
    sampling, origin = sampled(runtime, policy=policy, arm="flat")
    assert (sampling.presence_penalty, origin.presence_penalty) == (-0.5, "arm")
    sampling, origin = sampled(runtime, model="present", presence_penalty=0.0)
    assert (sampling.presence_penalty, origin.presence_penalty) == (0.0, "option")


def test_thinking_and_votes_on_the_command_line(runtime: Runtime[Any]) -> None:
    sampling, origin = sampled(runtime, model="asks", reasoning="cot")
    assert (sampling.temperature, origin.temperature) == (0.6, "models.yaml thinking")
    sampling, origin = sampled(runtime, model="plain", reasoning="vote")
    assert (sampling.temperature, origin.temperature) == (0.7, "vote")


def test_a_bench_run_is_greedy_unless_told(runtime: Runtime[Any], config: Config) -> None:
    policy = load_policy(str(config.home / "mine.yaml"), config, runtime.catalogue.models)
    arms = list_policy_arms(policy, lambda _: True)
    direct = build_arms(["asks"], ["direct", "vote"], ArmOverrides(), FORMATS["chat"])
    told = build_arms(["asks"], ["direct"], ArmOverrides(temperature=0.5), FORMATS["chat"])
    found = {name: runtime.resolve(arm).arm for name, arm in {**arms, **direct, **told}.items()}
    temperatures = [arm.sampling.temperature for arm in found.values() if arm is not None]
    # "asks direct" is greedy in the first run and at 0.5 in the second, which replaces it here.
    assert dict(zip(found, temperatures, strict=True)) == {
        "open": 0.0,
        "own": 0.1,
        "votes": 0.7,
        "flat": 0.0,
        "asks direct": 0.5,
        "asks vote 7x256": 0.7,
    }
    assert runtime.resolve(direct["asks direct"]).arm == direct["asks direct"]
    decision = decide_by_policy(policy, runtime)(QUERY).decision
    assert decision.cascade is not None
    instead = decision.fallbacks.load_failed
    assert instead is not None
    for arm in (decision.arm, *decision.cascade.arms, instead):
        assert runtime.resolve(arm).arm == arm


def test_a_run_without_the_new_keys_keeps_its_document() -> None:
    document = to_json(Arm("a", "m"))
    assert "sampling_from" not in document
    assert list(document["sampling"]) == ["temperature", "top_p", "top_k", "min_p", "seed"]
    told = to_json(Arm("a", "m", sampling=Sampling(repeat_penalty=1.1, presence_penalty=2)))
    assert told["sampling"]["repeat_penalty"] == 1.1
    assert told["sampling"]["presence_penalty"] == 2
