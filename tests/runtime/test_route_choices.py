"""What F7 lists: policies, arms and models, what each costs, and which are on this machine."""

from __future__ import annotations

import pytest

from etui.arm import TokenCost
from etui.config.config import Config
from etui.runtime.routes import Route, list_route_choices

POLICY = """\
version: 1
description: One here, one not.
models: {small: [smollm2-135m], large: [qwen3-8b]}
arms: {quick: {model: small}, slow: {model: large, reasoning: cot}}
rules: [{name: everything, use: quick}]
"""


def test_policies_arms_and_models_are_listed_with_their_cost_and_whether_they_are_here(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.policies_dir.mkdir(parents=True, exist_ok=True)
    (config.policies_dir / "mine.yaml").write_text(POLICY, encoding="utf-8")
    (config.policies_dir / "broken.yaml").write_text("version: nonsense\n", encoding="utf-8")
    module = "etui.runtime.model_resolution"
    here = lambda _config, _catalogue: lambda name: name == "smollm2-135m"  # noqa: E731
    monkeypatch.setattr(f"{module}.models_on_disk", here)
    cost = TokenCost(0.25, 0.01, "a curve")
    monkeypatch.setattr(f"{module}.read_token_cost", lambda _spec, _config, _log: cost)
    listed = list_route_choices(config, Route("mine"))
    choices = {(choice.kind, choice.name): choice for choice in listed}
    policy, quick, slow = choices["policy", "mine"], choices["arm", "quick"], choices["arm", "slow"]
    assert (policy.joules_per_token, policy.details) == (0.25, "One here, one not.")
    assert (quick.route, quick.here) == (Route("mine", arm="quick"), True)
    assert quick.joules_per_token == 0.25
    assert choices["model", "smollm2-135m"].route == Route("mine", "smollm2-135m")
    assert (slow.here, slow.joules_per_token) == (False, None)
    assert not choices["model", "qwen3-8b"].here
    broken = choices["policy", "broken"]
    assert not broken.here
    assert "F4" in broken.details
    models = [choice.here for (kind, _name), choice in choices.items() if kind == "model"]
    assert models == sorted(models, reverse=True), "models of this machine come first"
