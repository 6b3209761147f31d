"""An arm of a policy as the baseline: its model on this machine, and the work of its answers."""

from __future__ import annotations

import pytest

from etui.arm import Arm
from etui.config.config import Config
from etui.errors import ModelUnavailable, UsageError
from etui.models.catalogue import Catalogue, load_catalogue
from etui.sweep._axes import check_axes, parse_axes
from etui.sweep._machine import build_work_shape, configure, find_baseline, read_machine_facts
from etui.sweep.config import PLAIN_WORK, Setting, WorkShape
from tests.models.test_gguf import asks, f32, tiny_gguf

ENTRIES = """
models:
  large: {size: s, sources: [{path: absent.gguf}]}
  small: {size: s, speculate: auto, sources: [{path: small.gguf}]}
"""
POLICY = """
version: 1
models: {any: [large, small]}
arms:
  quick: {model: small, max_tokens: 64}
  copy: {model: any, speculate: lookup}
  think: {model: small, reasoning: cot, think_tokens: 300, max_tokens: 80}
  votes: {model: small, reasoning: vote, think_tokens: 100, max_tokens: 40, votes: 5}
  letters: {model: small, readout: choices}
  big: {model: large}
rules: [{name: rest, use: quick}]
"""


@pytest.fixture
def catalogue(config: Config) -> Catalogue:
    (config.home / "small.gguf").write_bytes(tiny_gguf(asks("temp", 6, f32(0.75))))
    config.models_file.write_text(ENTRIES)
    config.policies_dir.mkdir()
    (config.policies_dir / "mine.yaml").write_text(POLICY)
    return load_catalogue(config)


@pytest.mark.parametrize(
    ("arm", "speculate", "shape"),
    [
        ("quick", "auto", WorkShape(answer_tokens=64)),
        ("copy", "lookup", WorkShape(answer_tokens=512)),
        ("think", "auto", WorkShape(300, 80)),
        ("votes", "off", WorkShape(100, 40, sequences=5)),
        ("letters", "auto", WorkShape(answer_tokens=0, reads_letters=True)),
    ],
)
def test_an_arm_gives_its_model_its_speculation_and_its_work(
    config: Config, catalogue: Catalogue, arm: str, speculate: str, shape: WorkShape
) -> None:
    found = find_baseline("", "mine", arm, config, catalogue)
    assert (found.policy, found.spec.name) == ("mine", "small")
    assert found.path == config.home / "small.gguf"
    assert found.spec.speculate == speculate
    assert found.shape == shape
    configured = configure(Setting(()), found.spec, config, catalogue)
    assert configured.spec.speculate == speculate


def test_an_unknown_arm_or_policy_offers_the_nearest(config: Config, catalogue: Catalogue) -> None:
    with pytest.raises(UsageError, match="no arm 'quik', did you mean 'quick'"):
        find_baseline("", "mine", "quik", config, catalogue)
    with pytest.raises(UsageError, match="unknown policy 'mime'"):
        find_baseline("", "mime", "quick", config, catalogue)


def test_an_arm_without_a_model_here_says_what_to_pull(
    config: Config, catalogue: Catalogue
) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        find_baseline("", "mine", "big", config, catalogue)
    assert "etui models pull large" in caught.value.fix


def test_the_work_of_an_arm_limits_its_axes(config: Config, catalogue: Catalogue) -> None:
    found = find_baseline("", "mine", "votes", config, catalogue)
    facts = read_machine_facts(config, found, catalogue, gpus=[])
    with pytest.raises(UsageError, match="votes are never speculated"):
        check_axes(parse_axes(["speculate=off,lookup"]), facts)


def test_votes_beyond_the_batch_are_not_decoded_together() -> None:
    shape = build_work_shape(Arm("v", "m", "vote", think_tokens=0, votes=20, batch=8))
    assert (shape.sequences, shape.think_tokens) == (8, 0)
    assert build_work_shape(Arm("d", "m", think_tokens=256)).think_tokens == 0
    assert WorkShape(0, None, 1, False) == PLAIN_WORK
