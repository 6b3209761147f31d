"""Facts of a machine and its models: read from headers, sysfs and what llama.cpp sees."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etui.config.config import Config
from etui.engine import cpu_limits, library
from etui.engine.library import Device
from etui.models import files as drafts
from etui.models.catalogue import Catalogue, load_catalogue
from etui.models.files import require
from etui.sweep._axes import check_axes, choose_default_axes
from etui.sweep._machine import (
    Baseline,
    MachineFacts,
    combine_limits,
    read_machine_facts,
)
from etui.sweep.config import PLAIN_WORK, WorkShape
from tests.models.test_gguf import string, tiny_gguf
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
    for module in (library, cpu_limits):
        monkeypatch.setattr(module, "cpu_affinity", lambda: cpus)
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
