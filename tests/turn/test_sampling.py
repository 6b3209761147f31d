"""How an arm samples: its own values, then its model's, then the defaults."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from etui.arm import OPEN_SAMPLING, Arm, Sampling, SamplingFrom
from etui.models.spec import ModelSampling, ModelSpec
from etui.runtime.model_resolution import has_open_sampling, resolve_sampling
from etui.turn.interfaces import ResolvedModel
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
