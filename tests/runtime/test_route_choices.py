"""What F7 lists: policies, arms and models, what each costs, and which are on this machine."""

from __future__ import annotations

import pytest

from etui.config.config import Config
from etui.runtime.routes import Route, RouteChoice, list_route_choices

POLICY = """\
version: 1
description: One here, one not.
models: {small: [smollm2-135m], large: [qwen3-8b]}
arms: {quick: {model: small}, slow: {model: large, reasoning: cot}}
rules: [{name: everything, use: quick}]
"""


@pytest.fixture
def choices(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], RouteChoice]:
    """The choices of a machine with one model that is known to cost 0.25 J a token."""
    config.policies_dir.mkdir(parents=True, exist_ok=True)
    (config.policies_dir / "mine.yaml").write_text(POLICY, encoding="utf-8")
    (config.policies_dir / "broken.yaml").write_text("version: nonsense\n", encoding="utf-8")
    monkeypatch.setattr(
        "etui.runtime.model_resolution.models_on_disk",
        lambda _config, _catalogue: lambda name: name == "smollm2-135m",
    )
    from etui.arm import TokenCost

    monkeypatch.setattr(
        "etui.runtime.model_resolution.read_token_cost",
        lambda spec, _config, _log: TokenCost(0.25, 0.01, "a curve"),
    )
    listed = list_route_choices(config, Route("mine"))
    return {(choice.kind, choice.name): choice for choice in listed}


def test_policies_arms_and_models_are_listed_with_their_cost(
    choices: dict[tuple[str, str], RouteChoice],
) -> None:
    assert choices["policy", "mine"].joules_per_token == 0.25
    assert choices["policy", "mine"].details == "One here, one not."
    quick = choices["arm", "quick"]
    assert (quick.route, quick.here, quick.joules_per_token) == (
        Route("mine", arm="quick"),
        True,
        0.25,
    )
    assert choices["model", "smollm2-135m"].route == Route("mine", "smollm2-135m")


def test_what_is_not_on_this_machine_is_listed_and_says_so(
    choices: dict[tuple[str, str], RouteChoice],
) -> None:
    slow = choices["arm", "slow"]
    assert (slow.here, slow.joules_per_token) == (False, None)
    assert not choices["model", "qwen3-8b"].here


def test_a_broken_policy_is_listed_and_cannot_be_used(
    choices: dict[tuple[str, str], RouteChoice],
) -> None:
    broken = choices["policy", "broken"]
    assert not broken.here
    assert "F4" in broken.details


def test_models_on_this_machine_come_first(choices: dict[tuple[str, str], RouteChoice]) -> None:
    here = [choice.here for (kind, _name), choice in choices.items() if kind == "model"]
    assert here == sorted(here, reverse=True)
