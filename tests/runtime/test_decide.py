"""A policy decides alike in the chat, in ``etui bench --policy`` and in ``etui policy explain``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etui.bench.turns import decide_by_policy
from etui.chat import Query
from etui.config.config import Config
from etui.learning.fit import fit_accuracy
from etui.learning.fitted_file import Provenance, format_fitted
from etui.learning.graded import ArmFacts
from etui.learning.predictor import FITTED_ENDING
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path
from etui.routing.library import load_policy
from etui.runtime.decide import choose
from etui.runtime.explain import decide_for_show
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import Runtime, open_runtime
from tests.fixtures.turns import TURN
from tests.learning import made

BY_FIT = """
version: 1
arms: {weak: {model: smollm2-135m}, strong: {model: qwen2.5-coder-1.5b}}
rules:
  - name: best
    objective: {maximize: accuracy}
    arms: [strong]
    otherwise: weak
"""
BY_NEIGHBOURS = """
version: 1
arms: {weak: {model: smollm2-135m}, strong: {model: qwen2.5-coder-1.5b}}
signals:
  seen: {nearest: {of: log, by: strong, k: 5}, at_least: 0.3}
rules:
  - {name: seen, when: seen, use: strong}
  - {name: rest, use: weak}
"""


@pytest.fixture
def runtime(config: Config) -> Runtime[Any]:
    catalogue = load_catalogue(config)
    config.models_dir.mkdir()
    for name in ("smollm2-135m", "qwen2.5-coder-1.5b"):
        model_path(catalogue.get(name), config).touch()
    return open_runtime(config)


def every_way(text: str, query: Query, config: Config, runtime: Runtime[Any]) -> list[str]:
    """Return the arm that each front end comes to: chat, bench, explanation."""
    path = config.home / "mine.yaml"
    path.write_text(text)
    policy = load_policy(str(path), config, runtime.catalogue.models)
    chat = choose(query, Overrides(policy=str(path)), runtime).decision
    bench = decide_by_policy(policy, runtime)(query).decision
    shown = decide_for_show(query, policy, runtime)
    return [chat.arm.name, bench.arm.name, shown.arm.name]


def test_what_was_fitted_counts_everywhere(config: Config, runtime: Runtime[Any]) -> None:
    origin = Provenance(
        fitted_at="2026", source=("made",), data_sha256="", n=1, excluded=0, etui="0"
    )
    query = Query("hello")
    assert every_way(BY_FIT, query, config, runtime) == ["weak"] * 3
    facts = {
        "weak": ArmFacts("smollm2-135m", "direct", 10),
        "strong": ArmFacts("qwen2.5-coder-1.5b", "direct", 20),
    }
    fitted = format_fitted(fit_accuracy(replace(made.graded(300), facts=facts), origin))
    Path(config.home / f"mine{FITTED_ENDING}").write_text(fitted)
    assert every_way(BY_FIT, query, config, runtime) == ["strong"] * 3


def test_earlier_questions_count_everywhere(config: Config, runtime: Runtime[Any]) -> None:
    query = Query("prove the theorem")
    assert every_way(BY_NEIGHBOURS, query, config, runtime) == ["weak"] * 3
    with TurnWriter(config) as writer:
        for number in range(9):
            asked = f"prove the theorem number {number}"
            turn = replace(TURN, turn_id=f"id{number:010}", query=asked, arm="strong")
            writer.save_turn(turn)
    assert every_way(BY_NEIGHBOURS, query, config, runtime) == ["strong"] * 3
