"""What a model runs with is what its turns and its curves record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from etui.arm import Arm
from etui.config.config import Config
from etui.curves.operating_curve import list_differences, parse_conditions
from etui.engine import library, thread_limits
from etui.engine.thread_limits import choose_thread_limits
from etui.models.spec import ModelSpec
from etui.runtime.provenance import conditions, model_settings, provenance
from etui.runtime.runtime import Runtime, open_runtime
from tests.models.test_gguf import tiny_gguf

SPEC = ModelSpec("one", "135M", ())
OWN = replace(SPEC, threads=2, prefill_threads=6, kv_type="q8_0", batch_tokens=64, draft_tokens=3)


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (library, thread_limits, provenance.__globals__):
        fake = lambda threads, _: min(threads or 4, 8)  # noqa: E731
        if isinstance(module, dict):
            monkeypatch.setitem(module, "choose_threads", fake)
        else:
            monkeypatch.setattr(module, "choose_threads", fake)


def test_settings_of_a_model_replace_those_of_the_config(config: Config) -> None:
    settings = provenance(config) | model_settings(OWN, config)
    assert (settings["threads"], settings["threads_setting"]) == (2, 2)
    assert settings["prefill_limit"] == 6
    assert settings["kv_type"] == "q8_0"
    assert (settings["batch_tokens_setting"], settings["draft_tokens"]) == (64, 3)


def test_a_model_without_settings_leaves_the_threads_to_the_config(config: Config) -> None:
    settings = provenance(config) | model_settings(SPEC, config)
    assert (settings["threads"], settings["threads_setting"]) == (4, "auto")
    assert "prefill_limit" not in settings
    assert settings["batch_tokens_setting"] == "auto"


@pytest.mark.parametrize("threads", [None, 1, 3, 99])
@pytest.mark.parametrize("prefill", [None, 1, 3, 99])
def test_what_is_logged_is_what_the_engine_gets(
    config: Config, threads: int | None, prefill: int | None
) -> None:
    spec = replace(SPEC, threads=threads, prefill_threads=prefill)
    limits = choose_thread_limits(spec, config)
    logged = provenance(config) | model_settings(spec, config)
    assert logged["threads"] == limits.decode
    assert logged.get("prefill_limit", logged["threads"]) == limits.prefill
    found = conditions(config, spec=spec)
    assert found == parse_conditions(logged, ())
    assert not list_differences(found, conditions(config, spec=spec))


@pytest.mark.parametrize(
    "change",
    [{"threads": 1}, {"prefill_threads": 1}, {"kv_type": "f16"}, {"batch_tokens": 128}],
)
def test_a_curve_of_other_settings_does_not_hold(config: Config, change: dict[str, Any]) -> None:
    then, now = conditions(config, spec=OWN), conditions(config, spec=replace(OWN, **change))
    assert len(list_differences(then, now)) == 1


def test_a_curve_does_not_depend_on_the_depth_of_drafts(config: Config) -> None:
    # Curves are made of turns without drafts.
    other = replace(OWN, draft_tokens=None)
    assert conditions(config, spec=OWN) == conditions(config, spec=other)


def test_a_turn_is_served_with_the_settings_of_its_model(config: Config) -> None:
    (config.home / "own.gguf").write_bytes(tiny_gguf())
    config.models_file.write_text(
        "models:\n  own: {size: s, threads: 2, batch_tokens: 64, sources: [{path: own.gguf}]}\n"
    )
    runtime: Runtime[Any] = open_runtime(config)
    served = runtime.resolve(Arm("a", "own"))
    assert served.settings["threads"] == 2
    assert served.settings["batch_tokens_setting"] == 64
