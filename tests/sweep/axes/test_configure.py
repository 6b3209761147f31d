"""A setting becomes what is loaded; what it does not vary stays as it is."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etui.arm import Sampling
from etui.config.config import Config
from etui.engine import library
from etui.engine import thread_count as thread_limits
from etui.engine.residency import Residency
from etui.engine.session_loader import session_key
from etui.errors import ModelUnavailable, UsageError
from etui.models.catalogue import Catalogue, load_catalogue
from etui.models.spec import ModelSpec
from etui.sweep import _machine as module
from etui.sweep._axes import build_grid, choose_default_axes
from etui.sweep._machine import Baseline, Configured, configure, read_machine_facts
from etui.sweep.config import AXES, Setting
from tests.engine.opened import opened
from tests.models.test_gguf import tiny_gguf

ENTRIES = """
models:
  small: {size: s, context: 512, draft: tiny, batch_tokens: 96, sources: [{path: small.gguf}]}
  tiny: {size: s, context: 256, kv_type: q8_0, threads: 3, sources: [{path: tiny.gguf}]}
  alone: {size: s, speculate: lookup, draft_tokens: 6, split: row, tensor_split: [1, 2],
          flash_attention: off, sources: [{path: small.gguf}]}
  absent: {size: s, sources: [{path: absent.gguf}]}
"""
CPUS = 4


@pytest.fixture
def catalogue(config: Config, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    choose = lambda threads, _: min(threads or 2, CPUS)  # noqa: E731
    for each in (library, thread_limits, module):
        monkeypatch.setattr(each, "choose_threads", choose)
    for name in ("small", "tiny"):
        (config.home / f"{name}.gguf").write_bytes(tiny_gguf())
    config.models_file.write_text(ENTRIES)
    return load_catalogue(config)


def setting(**values: Any) -> Setting:
    return Setting(tuple((axis, values[axis]) for axis in AXES if axis in values))


def made(config: Config, catalogue: Catalogue, name: str = "small", **values: Any) -> Configured:
    return configure(setting(**values), catalogue.get(name), config, catalogue)


def test_nothing_but_the_threads_is_fixed_without_axes(
    config: Config, catalogue: Catalogue
) -> None:
    found = made(config, catalogue)
    spec = catalogue.get("small")
    assert found.spec == replace(
        spec, sha256=found.spec.sha256, threads=2, prefill_threads=2, speculate="off"
    )
    assert found.path == config.home / "small.gguf"
    assert found.config == replace(config, threads=2)
    assert (found.draft, found.spec.speculate, found.spec.draft_tokens) == (None, "off", None)
    assert found.power_limit_watts is None


@pytest.mark.parametrize(
    ("values", "threads"),
    [
        ({"threads": 1}, (1, 1)),
        ({"threads": 4, "prefill_threads": 1}, (4, 1)),
        ({"decode_threads": 4}, (4, 2)),
        ({"prefill_threads": 4}, (2, 4)),
        ({"decode_threads": 1, "prefill_threads": 3}, (1, 3)),
    ],
)
def test_threads_are_those_of_the_setting_and_never_adapt(
    config: Config, catalogue: Catalogue, values: dict[str, Any], threads: tuple[int, int]
) -> None:
    found = made(config, catalogue, **values)
    assert (found.spec.threads, found.spec.prefill_threads) == threads
    limits = thread_limits.choose_thread_limits(found.spec, found.config)
    assert (limits.decode, limits.prefill, limits.adapt) == (*threads, False)
    # One Config for all visits: the engine is opened once.
    assert found.config == made(config, catalogue).config


@pytest.mark.parametrize(
    "values",
    [
        {"kv_type": "q4_0"},
        {"flash_attention": "on"},
        {"gpu_layers": "all"},
        {"gpu_layers": 7},
        {"split": "row"},
        {"batch_tokens": 256},
    ],
)
def test_what_is_part_of_a_load_reaches_the_entry(
    config: Config, catalogue: Catalogue, values: dict[str, Any]
) -> None:
    plain, found = made(config, catalogue), made(config, catalogue, **values)
    for name, value in values.items():
        assert getattr(found.spec, name) == value
    assert session_key(found.spec, found.path) != session_key(plain.spec, plain.path)


@pytest.mark.parametrize(
    "values",
    [
        {"threads": 1},
        {"decode_threads": 4, "prefill_threads": 1},
        {"speculate": "lookup", "draft_tokens": 4},
        {"power_limit": 150},
    ],
)
def test_what_is_not_part_of_a_load_leaves_the_model_in_memory(
    config: Config, catalogue: Catalogue, values: dict[str, Any]
) -> None:
    plain, found = made(config, catalogue), made(config, catalogue, **values)
    assert session_key(found.spec, found.path) == session_key(plain.spec, plain.path)


def test_a_quantised_cache_switches_flash_attention_on(
    config: Config, catalogue: Catalogue
) -> None:
    assert made(config, catalogue, "alone", kv_type="q8_0").spec.flash_attention == "on"
    assert made(config, catalogue, "alone", kv_type="f16").spec.flash_attention == "off"


def test_one_gpu_needs_no_shares(config: Config, catalogue: Catalogue) -> None:
    assert made(config, catalogue, "alone", split="layer").spec.tensor_split == (1.0, 2.0)
    assert made(config, catalogue, "alone", split="none").spec.tensor_split == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("lookup", 6)),
        ({"speculate": "off"}, ("off", None)),
        ({"speculate": "off", "draft_tokens": 4}, ("off", None)),
        ({"speculate": "auto", "draft_tokens": "auto"}, ("auto", None)),
        ({"speculate": "lookup", "draft_tokens": 2}, ("lookup", 2)),
        ({"draft_tokens": "auto"}, ("lookup", None)),
    ],
)
def test_speculation_and_its_depth(
    config: Config, catalogue: Catalogue, values: dict[str, Any], expected: tuple[str, int | None]
) -> None:
    found = made(config, catalogue, "alone", **values)
    assert (found.spec.speculate, found.spec.draft_tokens) == expected
    assert found.draft is None


def test_a_draft_model_comes_with_its_file(config: Config, catalogue: Catalogue) -> None:
    for method in ("draft", "auto"):
        found = made(config, catalogue, speculate=method)
        assert found.draft is not None
        assert (found.draft[0].name, found.draft[1]) == ("tiny", config.home / "tiny.gguf")
    with pytest.raises(ModelUnavailable, match="alone has no draft model"):
        made(config, catalogue, "alone", speculate="draft")


def test_another_model_keeps_its_own_entry(config: Config, catalogue: Catalogue) -> None:
    found = made(config, catalogue, model="tiny", batch_tokens=64)
    assert (found.spec.name, found.path) == ("tiny", config.home / "tiny.gguf")
    assert (found.spec.context, found.spec.kv_type) == (256, "q8_0")
    assert (found.spec.threads, found.spec.batch_tokens) == (3, 64)
    with pytest.raises(ModelUnavailable, match="absent"):
        made(config, catalogue, model="absent")
    with pytest.raises(UsageError, match="no model is called 'smal'"):
        made(config, catalogue, model="smal")


def test_the_baseline_is_the_entry_that_was_given(config: Config, catalogue: Catalogue) -> None:
    # That of an arm has the arm's speculation, which the catalogue does not.
    given_spec = replace(catalogue.get("small"), speculate="lookup")
    for values in ({}, {"model": "small"}):
        found = configure(setting(**values), given_spec, config, catalogue)
        assert found.spec.speculate == "lookup"


def test_the_power_limit_is_in_watts(config: Config, catalogue: Catalogue) -> None:
    assert made(config, catalogue, power_limit=150).power_limit_watts == 150.0


def test_the_baseline_of_a_grid_runs_as_the_model_does_now(
    config: Config, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: ModelSpec = catalogue.get("alone")
    path: Path = config.home / "small.gguf"
    facts = read_machine_facts(config, Baseline(spec, path), catalogue, gpus=[])
    settings = build_grid(choose_default_axes(facts), facts).settings
    found = configure(settings[0], spec, config, catalogue)
    now = thread_limits.choose_thread_limits(spec, config)
    assert (found.spec.threads, found.spec.prefill_threads) == (now.decode, now.prefill)
    assert (found.spec.speculate, found.spec.draft_tokens) == ("lookup", 6)
    assert (found.spec.kv_type, found.spec.flash_attention) == ("f16", "off")
    configured = [configure(each, spec, config, catalogue) for each in settings]
    assert len(set(map(repr, configured))) == len(settings)


def test_visits_switch_threads_and_drafts_in_memory_and_load_what_they_must(
    config: Config, starter_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_limits, "choose_threads", lambda threads, _: min(threads or 2, 2))
    own = replace(config, models_dir=starter_model.parent, threads=1)
    catalogue = load_catalogue(own)
    spec = replace(catalogue.get("smollm2-135m"), context=512)
    loads = []
    with closing(Residency(configure(setting(), spec, own, catalogue).config)) as residency:
        for values in (
            {"threads": 1, "speculate": "off"},
            {"threads": 2, "speculate": "off"},
            {"threads": 2, "speculate": "lookup", "draft_tokens": 4},
            {"threads": 2, "batch_tokens": 64},
            {"threads": 1, "batch_tokens": 64, "kv_type": "q8_0"},
        ):
            found = configure(setting(**values), spec, own, catalogue)
            session, loaded, _ = opened(residency, found.spec, found.path, found.draft)
            loads.append(loaded is not None)
            assert session.threads.limits.decode == values["threads"]
            assert session.speculator.draft_tokens == values.get("draft_tokens")
            assert session.options.batch_tokens == values.get("batch_tokens", 128)
            assert session.options.kv_type == values.get("kv_type", "f16")
            sequence = session.open([100, 101, 102], Sampling())
            session.step([sequence])
            context = session._context
            threads = context.api._lib.llama_n_threads(context.handle)
            assert threads == values["threads"]
            session.close(sequence)
    assert loads == [True, False, False, True, True]
