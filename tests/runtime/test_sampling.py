"""What a model asks for reaches the arm that answers, and a bench run does not ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etui.arm import Arm, Sampling, SamplingFrom
from etui.bench.arms import ArmOverrides, build_arms, list_policy_arms, to_json
from etui.bench.formats import FORMATS
from etui.bench.turns import decide_by_policy
from etui.chat import Query
from etui.config.config import Config
from etui.routing.library import load_policy
from etui.runtime.caches import FileCache
from etui.runtime.decide import Overrides, choose
from etui.runtime.runtime import Runtime, open_runtime
from etui.turn.interfaces import ResolvedModel
from tests.models.test_gguf import asks, f32, tiny_gguf

LATER_NS = 1 << 62
QUERY = Query("What is a joule?")
ENTRIES = """
models:
  asks:
    size: s
    sources: [{path: asks.gguf}]
    sampling: {temperature: 0.7, top_k: 20, repeat_penalty: 1.1, thinking: {temperature: 0.6}}
  silent: {size: s, sources: [{path: silent.gguf}]}
  plain: {size: s, sources: [{path: silent.gguf}], sampling: {}}
"""
POLICY = """
version: 1
arms:
  open: {model: asks}
  own: {model: asks, temperature: 0.1, repeat_last_n: 8}
  votes: {model: asks, reasoning: vote, think_tokens: 0}
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
    reader = "etui.runtime.model_resolution.read_file_sampling"
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
    told = to_json(Arm("a", "m", sampling=Sampling(repeat_penalty=1.1)))
    assert told["sampling"]["repeat_penalty"] == 1.1
