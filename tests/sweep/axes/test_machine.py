"""What is swept: facts of the machine, an arm as the baseline, and settings as they are loaded."""

from __future__ import annotations

import struct
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etui.arm import Arm, Sampling
from etui.config.config import Config
from etui.engine import cpu_limits, library
from etui.engine import thread_count as thread_limits
from etui.engine.library import Device
from etui.engine.offload import Placement, gpu_bytes, needs
from etui.engine.placement_speeds import PlacementSpeeds
from etui.engine.residency import Residency
from etui.engine.session_loader import session_key
from etui.errors import ModelUnavailable, UsageError
from etui.models import files as drafts
from etui.models.catalogue import Catalogue, load_catalogue
from etui.models.files import require
from etui.models.gguf import check_usable
from etui.models.spec import ModelSpec
from etui.sweep import _machine as module
from etui.sweep._axes import build_grid, check_axes, choose_default_axes, parse_axes
from etui.sweep._machine import (
    Baseline,
    Configured,
    MachineFacts,
    build_work_shape,
    combine_limits,
    configure,
    find_baseline,
    read_machine_facts,
)
from etui.sweep.config import AXES, PLAIN_WORK, Setting, WorkShape
from tests.engine.opened import opened
from tests.models.test_gguf import asks, f32, string, tiny_gguf
from tests.support.tiny_mixtures import write_mixture
from tests.sweep.machines import Limit

ENTRIES = """
models:
  small: {size: s, context: 512, draft: tiny, sources: [{path: small.gguf}]}
  tiny: {size: s, context: 512, sources: [{path: tiny.gguf}]}
  other: {size: s, draft: foreign, speculate: auto, sources: [{path: small.gguf}]}
  foreign: {size: s, sources: [{path: foreign.gguf}]}
  lonely: {size: s, draft: absent, sources: [{path: small.gguf}]}
  heads: {size: s, draft_tokens: 3, sources: [{path: heads.gguf}]}
  recurrent: {size: s, sources: [{path: recurrent.gguf}]}
  damaged: {size: s, sources: [{path: damaged.gguf}]}
  absent: {size: s, sources: [{path: absent.gguf}]}
  own: {size: s, threads: 3, prefill_threads: 5, batch_tokens: 64, kv_type: q8_0,
        sources: [{path: small.gguf}]}
"""
GPU = Device("CUDA0", "fake", 8 * 10**9, 8 * 10**9)


@pytest.fixture
def catalogue(config: Config) -> Catalogue:
    """Models of two layers; ``foreign`` has another tokenizer, ``heads`` a third layer."""
    kind = lambda name: ("tokenizer.ggml.model", 8, string(name))  # noqa: E731
    number = lambda key, n: (f"llama.{key}", 4, struct.pack("<I", n))  # noqa: E731
    files = {
        "small": tiny_gguf(kind("gpt2")),
        "tiny": tiny_gguf(kind("gpt2")),
        "foreign": tiny_gguf(kind("llama")),
        "heads": tiny_gguf(kind("gpt2"), number("nextn_predict_layers", 1)),
        "recurrent": tiny_gguf(kind("gpt2"), number("ssm.state_size", 16)),
        "damaged": b"GGUF and no more",
    }
    for name, data in files.items():
        (config.home / f"{name}.gguf").write_bytes(data)
    config.models_file.write_text(ENTRIES)
    return load_catalogue(config)


@pytest.fixture(params=[2, 8, 64])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine of so many physical cores with two CPUs each."""
    use_cores(monkeypatch, request.param)
    return int(request.param)


def use_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    cpus = frozenset(range(2 * cores))
    for each in (library, cpu_limits):
        monkeypatch.setattr(each, "cpu_affinity", lambda: cpus)
    monkeypatch.setattr(library, "count_cores", lambda *_: cores)


def facts(
    name: str,
    config: Config,
    catalogue: Catalogue,
    gpus: int = 0,
    limits: tuple[Any, ...] = (),
    shape: WorkShape = PLAIN_WORK,
) -> MachineFacts:
    spec = catalogue.get(name)
    return read_machine_facts(
        config,
        Baseline(spec, require(spec, config), shape=shape),
        catalogue,
        gpus=[replace(GPU, name=f"CUDA{i}") for i in range(gpus)],
        limits=limits,
    )


def test_the_values_in_use_are_those_of_the_engine(
    config: Config, catalogue: Catalogue, cores: int
) -> None:
    found = facts("small", config, catalogue)
    assert (found.cores, found.cpus) == (cores, 2 * cores)
    assert found.current == {
        "model": "small",
        "threads": cores,
        "decode_threads": cores,
        "prefill_threads": cores,
        "batch_tokens": 128,
        "kv_type": "f16",
        "flash_attention": "off",
        "gpu_layers": 0,
        "cpu_moe": 0,
        "split": "layer",
        "speculate": "off",
        "draft_tokens": "auto",
    }
    assert facts("small", replace(config, threads=1), catalogue).current["threads"] == 1


def test_the_values_of_the_entry_come_first(
    config: Config, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cores(monkeypatch, 4)
    now = facts("own", config, catalogue).current
    assert (now["decode_threads"], now["prefill_threads"]) == (3, 5)
    assert (now["batch_tokens"], now["kv_type"], now["flash_attention"]) == (64, "q8_0", "on")
    assert facts("heads", config, catalogue).current["draft_tokens"] == 3
    assert facts("other", config, catalogue).current["speculate"] == "auto"


def test_a_cpu_quota_limits_the_default_threads(
    config: Config, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cores(monkeypatch, 8)
    group = config.sysfs_dir / "fs/cgroup"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("350000 100000\n")
    found = facts("small", config, catalogue)
    assert (found.cores, found.cpus, found.current["threads"]) == (3, 16, 3)
    chosen = {axis.name: axis.values for axis in choose_default_axes(found)}
    assert chosen["threads"] == (1, 3)


def test_what_can_draft_is_read_from_the_headers(config: Config, catalogue: Catalogue) -> None:
    found = facts("small", config, catalogue)
    obstacles = {name: model.obstacles for name, model in found.models.items()}
    assert "draft" not in obstacles["small"]
    assert obstacles["tiny"]["draft"] == "tiny has no `draft` in models.yaml"
    kind = "foreign cannot draft for other: its vocabulary has another kind of tokenizer"
    assert obstacles["other"]["draft"] == kind
    missing = "absent cannot draft for lonely: absent is not on this machine"
    assert obstacles["lonely"]["draft"] == missing
    assert "mtp" not in obstacles["heads"]
    assert "no heads" in obstacles["small"]["mtp"]
    assert set(obstacles["recurrent"]) == {"lookup", "draft", "mtp", "auto"}
    names = [axis.name for axis in choose_default_axes(facts("recurrent", config, catalogue))]
    assert "speculate" not in names


@pytest.mark.parametrize(("tokens", "fits"), [(515, True), (516, False), (None, True)])
def test_a_draft_with_another_number_of_tokens_cannot_draft(
    config: Config,
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
    tokens: int | None,
    fits: bool,
) -> None:
    read = drafts.check_gguf
    header = SimpleNamespace(tokenizer="gpt2", vocabulary=tokens)
    monkeypatch.setattr(
        drafts, "check_gguf", lambda path: header if path.stem == "tiny" else read(path)
    )
    found = facts("small", config, catalogue).baseline.obstacles.get("draft")
    why = "tiny cannot draft for small: its vocabulary has 516 tokens, not 3"
    assert found == (None if fits else why)


def test_models_that_cannot_be_used_are_known_and_not_offered(
    config: Config, catalogue: Catalogue
) -> None:
    found = facts("small", config, catalogue)
    assert {"damaged", "absent", "smollm2-135m"} <= set(found.known_models)
    assert not {"damaged", "absent", "smollm2-135m"} & found.models.keys()
    assert {model.layers for model in found.models.values()} == {3}  # two blocks and the output


def test_where_the_experts_are_is_a_value_in_use(
    config: Config, catalogue: Catalogue, tmp_path: Path
) -> None:
    path = write_mixture(tmp_path / "mixture.gguf")
    spec = ModelSpec("mixture", "1M", (), context=512)
    need = needs(check_usable(path), 512, "f16")
    free = int(gpu_bytes(need, Placement(7, 2)) / 0.95) + 1
    gpu = replace(GPU, free_bytes=free)
    found = read_machine_facts(config, Baseline(spec, path), catalogue, gpus=[gpu])
    assert (found.current["gpu_layers"], found.current["cpu_moe"]) == ("all", 2)
    assert found.baseline.mixture is not None
    assert found.baseline.mixture.least_cpu_moe == 2
    gguf, speeds = check_usable(path), PlacementSpeeds(config)
    speeds.add(gguf, [gpu], Placement(7, 2), 10.0)
    speeds.add(gguf, [gpu], Placement(0, 0), 20.0)
    found = read_machine_facts(config, Baseline(spec, path), catalogue, gpus=[gpu])
    assert (found.current["gpu_layers"], found.current["cpu_moe"]) == (0, 0)


@pytest.mark.parametrize("gpus", [1, 2])
def test_layers_on_gpus(config: Config, catalogue: Catalogue, gpus: int) -> None:
    now = facts("small", config, catalogue, gpus).current
    assert (now["gpu_layers"], now["batch_tokens"]) == ("all", 512)
    assert now["flash_attention"] == "auto"
    assert facts("own", config, catalogue, gpus).current["flash_attention"] == "on"
    part = replace(catalogue.get("small"), gpu_layers=1)
    own = Catalogue({**catalogue.models, "small": part})
    assert facts("small", config, own, gpus).current["gpu_layers"] == 1
    none = Catalogue({**catalogue.models, "small": replace(part, gpu_layers=0)})
    now = facts("small", config, none, gpus).current
    assert (now["gpu_layers"], now["batch_tokens"], now["flash_attention"]) == (0, 128, "off")


def test_a_model_that_does_not_fit_has_fewer_layers(config: Config, catalogue: Catalogue) -> None:
    spec = catalogue.get("small")
    gpu = replace(GPU, free_bytes=1_000)
    found = read_machine_facts(config, Baseline(spec, require(spec, config)), catalogue, gpus=[gpu])
    assert (found.baseline.fitting_layers, found.current["gpu_layers"]) == (0, 0)
    found = read_machine_facts(
        config,
        Baseline(replace(spec, gpu_layers="all"), require(spec, config)),
        catalogue,
        gpus=[gpu],
    )
    assert found.current["gpu_layers"] == "all"


def test_limits_of_the_swept_devices_are_combined(config: Config, catalogue: Catalogue) -> None:
    limits = (
        Limit("gpu:A", 250.0, 100.0, 300.0, 300.0),
        Limit("gpu:B", 250.0, 150.0, 400.0, 350.0, setter="user"),
        Limit("package:0", 65.0, None, 90.0, 65.0),
    )
    found = facts("small", config, catalogue, 2, limits)
    assert found.power is not None
    assert found.power.labels == ("GPU:A", "GPU:B")
    assert (found.power.min_watts, found.power.max_watts) == (150.0, 300.0)
    assert (found.power.default_watts, found.power.can_set) == (300.0, False)
    assert found.current["power_limit"] == 250
    on_cpu = facts("small", config, catalogue, 0, limits)
    assert on_cpu.current["power_limit"] == 65
    assert combine_limits(limits, "memory") is None
    differing = combine_limits((limits[0], Limit("gpu:C", 300.0)), "gpu")
    assert differing is not None
    assert differing.watts is None
    assert "power_limit" not in replace(on_cpu, power=differing).current


def test_votes_are_not_speculated(config: Config, catalogue: Catalogue) -> None:
    found = facts("other", config, catalogue, shape=WorkShape(sequences=5))
    assert found.current["speculate"] == "off"
    check_axes(choose_default_axes(found), found)


def test_the_real_machine_can_be_swept(config: Config, starter_model: Path) -> None:
    own = replace(config, models_dir=starter_model.parent)
    catalogue = load_catalogue(own)
    spec = catalogue.get("smollm2-135m")
    found = read_machine_facts(own, Baseline(spec, starter_model), catalogue)
    chosen = choose_default_axes(found)
    assert check_axes(chosen, found) == chosen
    assert found.baseline.layers == 31


CONFIGURED = """
models:
  small: {size: s, context: 512, draft: tiny, batch_tokens: 96, sources: [{path: small.gguf}]}
  tiny: {size: s, context: 256, kv_type: q8_0, threads: 3, sources: [{path: tiny.gguf}]}
  alone: {size: s, speculate: lookup, draft_tokens: 6, split: row, tensor_split: [1, 2],
          flash_attention: off, sources: [{path: small.gguf}]}
  absent: {size: s, sources: [{path: absent.gguf}]}
"""
CPUS = 4


@pytest.fixture
def models(config: Config, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    choose = lambda threads, _: min(threads or 2, CPUS)  # noqa: E731
    for each in (library, thread_limits, module):
        monkeypatch.setattr(each, "choose_threads", choose)
    for name in ("small", "tiny"):
        (config.home / f"{name}.gguf").write_bytes(tiny_gguf())
    config.models_file.write_text(CONFIGURED)
    return load_catalogue(config)


def setting(**values: Any) -> Setting:
    return Setting(tuple((axis, values[axis]) for axis in AXES if axis in values))


def made(config: Config, models: Catalogue, name: str = "small", **values: Any) -> Configured:
    return configure(setting(**values), models.get(name), config, models)


def test_nothing_but_the_threads_is_fixed_without_axes(config: Config, models: Catalogue) -> None:
    found = made(config, models)
    spec = models.get("small")
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
    config: Config, models: Catalogue, values: dict[str, Any], threads: tuple[int, int]
) -> None:
    found = made(config, models, **values)
    assert (found.spec.threads, found.spec.prefill_threads) == threads
    limits = thread_limits.choose_thread_limits(found.spec, found.config)
    assert (limits.decode, limits.prefill, limits.adapt) == (*threads, False)
    # One Config for all visits: the engine is opened once.
    assert found.config == made(config, models).config


@pytest.mark.parametrize(
    "values",
    [
        {"kv_type": "q4_0"},
        {"flash_attention": "on"},
        {"gpu_layers": "all"},
        {"gpu_layers": 7},
        {"cpu_moe": "all"},
        {"cpu_moe": 3},
        {"split": "row"},
        {"batch_tokens": 256},
    ],
)
def test_what_is_part_of_a_load_reaches_the_entry(
    config: Config, models: Catalogue, values: dict[str, Any]
) -> None:
    plain, found = made(config, models), made(config, models, **values)
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
    config: Config, models: Catalogue, values: dict[str, Any]
) -> None:
    plain, found = made(config, models), made(config, models, **values)
    assert session_key(found.spec, found.path) == session_key(plain.spec, plain.path)


def test_a_quantised_cache_switches_flash_attention_on(config: Config, models: Catalogue) -> None:
    assert made(config, models, "alone", kv_type="q8_0").spec.flash_attention == "on"
    assert made(config, models, "alone", kv_type="f16").spec.flash_attention == "off"


def test_one_gpu_needs_no_shares(config: Config, models: Catalogue) -> None:
    assert made(config, models, "alone", split="layer").spec.tensor_split == (1.0, 2.0)
    assert made(config, models, "alone", split="none").spec.tensor_split == ()


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
    config: Config, models: Catalogue, values: dict[str, Any], expected: tuple[str, int | None]
) -> None:
    found = made(config, models, "alone", **values)
    assert (found.spec.speculate, found.spec.draft_tokens) == expected
    assert found.draft is None


def test_a_draft_model_comes_with_its_file(config: Config, models: Catalogue) -> None:
    for method in ("draft", "auto"):
        found = made(config, models, speculate=method)
        assert found.draft is not None
        assert (found.draft[0].name, found.draft[1]) == ("tiny", config.home / "tiny.gguf")
    with pytest.raises(ModelUnavailable, match="alone has no draft model"):
        made(config, models, "alone", speculate="draft")


def test_another_model_keeps_its_own_entry(config: Config, models: Catalogue) -> None:
    found = made(config, models, model="tiny", batch_tokens=64)
    assert (found.spec.name, found.path) == ("tiny", config.home / "tiny.gguf")
    assert (found.spec.context, found.spec.kv_type) == (256, "q8_0")
    assert (found.spec.threads, found.spec.batch_tokens) == (3, 64)
    with pytest.raises(ModelUnavailable, match="absent"):
        made(config, models, model="absent")
    with pytest.raises(UsageError, match="no model is called 'smal'"):
        made(config, models, model="smal")


def test_the_baseline_is_the_entry_that_was_given(config: Config, models: Catalogue) -> None:
    # That of an arm has the arm's speculation, which the models does not.
    given_spec = replace(models.get("small"), speculate="lookup")
    for values in ({}, {"model": "small"}):
        found = configure(setting(**values), given_spec, config, models)
        assert found.spec.speculate == "lookup"


def test_the_power_limit_is_in_watts(config: Config, models: Catalogue) -> None:
    assert made(config, models, power_limit=150).power_limit_watts == 150.0


def test_the_baseline_of_a_grid_runs_as_the_model_does_now(
    config: Config, models: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: ModelSpec = models.get("alone")
    path: Path = config.home / "small.gguf"
    facts = read_machine_facts(config, Baseline(spec, path), models, gpus=[])
    settings = build_grid(choose_default_axes(facts), facts).settings
    found = configure(settings[0], spec, config, models)
    now = thread_limits.choose_thread_limits(spec, config)
    assert (found.spec.threads, found.spec.prefill_threads) == (now.decode, now.prefill)
    assert (found.spec.speculate, found.spec.draft_tokens) == ("lookup", 6)
    assert (found.spec.kv_type, found.spec.flash_attention) == ("f16", "off")
    configured = [configure(each, spec, config, models) for each in settings]
    assert len(set(map(repr, configured))) == len(settings)


def test_visits_switch_threads_and_drafts_in_memory_and_load_what_they_must(
    config: Config, starter_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_limits, "choose_threads", lambda threads, _: min(threads or 2, 2))
    own = replace(config, models_dir=starter_model.parent, threads=1)
    models = load_catalogue(own)
    spec = replace(models.get("smollm2-135m"), context=512)
    loads = []
    with closing(Residency(configure(setting(), spec, own, models).config)) as residency:
        for values in (
            {"threads": 1, "speculate": "off"},
            {"threads": 2, "speculate": "off"},
            {"threads": 2, "speculate": "lookup", "draft_tokens": 4},
            {"threads": 2, "batch_tokens": 64},
            {"threads": 1, "batch_tokens": 64, "kv_type": "q8_0"},
        ):
            found = configure(setting(**values), spec, own, models)
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


OF_ARMS = """
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
def of_arms(config: Config) -> Catalogue:
    (config.home / "small.gguf").write_bytes(tiny_gguf(asks("temp", 6, f32(0.75))))
    config.models_file.write_text(OF_ARMS)
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
    config: Config, of_arms: Catalogue, arm: str, speculate: str, shape: WorkShape
) -> None:
    found = find_baseline("", "mine", arm, config, of_arms)
    assert (found.policy, found.spec.name) == ("mine", "small")
    assert found.path == config.home / "small.gguf"
    assert found.spec.speculate == speculate
    assert found.shape == shape
    configured = configure(Setting(()), found.spec, config, of_arms)
    assert configured.spec.speculate == speculate


def test_an_unknown_arm_or_policy_offers_the_nearest(config: Config, of_arms: Catalogue) -> None:
    with pytest.raises(UsageError, match="no arm 'quik', did you mean 'quick'"):
        find_baseline("", "mine", "quik", config, of_arms)
    with pytest.raises(UsageError, match="unknown policy 'mime'"):
        find_baseline("", "mime", "quick", config, of_arms)


def test_an_arm_without_a_model_here_says_what_to_pull(config: Config, of_arms: Catalogue) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        find_baseline("", "mine", "big", config, of_arms)
    assert "etui models pull large" in caught.value.fix


def test_the_work_of_an_arm_limits_its_axes(config: Config, of_arms: Catalogue) -> None:
    found = find_baseline("", "mine", "votes", config, of_arms)
    facts = read_machine_facts(config, found, of_arms, gpus=[])
    with pytest.raises(UsageError, match="votes are never speculated"):
        check_axes(parse_axes(["speculate=off,lookup"]), facts)


def test_votes_beyond_the_batch_are_not_decoded_together() -> None:
    shape = build_work_shape(Arm("v", "m", "vote", think_tokens=0, votes=20, batch=8))
    assert (shape.sequences, shape.think_tokens) == (8, 0)
    assert build_work_shape(Arm("d", "m", think_tokens=256)).think_tokens == 0
    assert WorkShape(0, None, 1, False) == PLAIN_WORK
