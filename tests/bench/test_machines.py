"""Which machines are alike: hardware, programs and settings decide, serial numbers do not."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.config import BenchMachine, RunConfig, parse_run_config
from etui.bench.machines import (
    are_equal,
    describe_machine,
    group_equal,
    name_devices,
    read_gpu_driver,
)
from etui.energy.types import Channel, Kind
from tests.bench import synthetic

NAME = "AMD EPYC, 2 CPUs, Linux x86_64"


def of(**changes) -> RunConfig:
    base = {"machine": {"name": NAME, "memory_bytes": 16 << 30}}
    return synthetic.config(**(base | changes))


def with_gpu(serial: str, *, name: str | None = "NVIDIA L40S", kind: str = "counter", **changes):
    machine = {"name": NAME, "memory_bytes": 16 << 30}
    return of(
        machine=machine | ({"devices": [name]} if name else {}),
        energy={"channels": {f"gpu:GPU-{serial}": kind}, "unmeasured": ["package:0"]},
        **changes,
    )


def made(config: RunConfig, key: str = "m1") -> BenchMachine:
    return describe_machine(config, key)


def test_serial_numbers_and_a_few_bytes_of_memory_do_not_decide():
    one = made(with_gpu("a"), "m1")
    other = made(with_gpu("b"), "m2")
    assert are_equal(one, other)
    assert are_equal(one, replace(other, memory_bytes=other.memory_bytes - 4096))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Intel Core, 2 CPUs, Linux x86_64"},
        {"memory_bytes": 32 << 30},
        {"threads": 3},
        {"versions": {"etui": "0.2.0", "llama_cpp": "0.3.36"}},
        {"versions": {"etui": "0.1.0", "llama_cpp": "0.3.36", "gpu_driver": "nvidia 550"}},
        {"devices": ("NVIDIA H100",)},
        {"devices": ("NVIDIA L40S", "NVIDIA L40S")},
        {"energy": {"channels": {"gpu:GPU-a": "integrated"}, "unmeasured": ["package:0"]}},
        {"energy": {"channels": {"gpu:GPU-a": "counter", "package:0": "counter"}}},
        {"models": (replace(synthetic.MODEL, gpu_layers=9),)},
        {"models": (replace(synthetic.MODEL, kv_type="q8_0"),)},
    ],
)
def test_what_changes_joules_separates_machines(changes):
    one = made(with_gpu("a"))
    assert are_equal(one, one)
    assert not are_equal(one, replace(one, **changes))


@pytest.mark.parametrize(
    "config",
    [
        with_gpu("a", name=None),
        with_gpu("a", name="AMD GPU"),
        of(models=(replace(synthetic.MODEL, gpu_layers=9),)),
        of(machine={"name": "unknown processor, 2 CPUs, Linux", "memory_bytes": 1}),
        synthetic.config(),
    ],
    ids=["no name", "a label without a model", "offloaded", "processor", "no machine"],
)
def test_an_unknown_model_of_the_hardware_equals_nothing(config):
    assert not are_equal(made(config), made(config))
    assert len(group_equal([made(config, "m1"), made(config, "m2")])) == 2


@given(st.lists(st.sampled_from("abc"), max_size=8))
def test_groups_are_a_partition_in_order(names):
    machines = [
        made(of(machine={"name": f"cpu {name}", "memory_bytes": 1 << 30}), f"m{at}")
        for at, name in enumerate(names)
    ]
    groups = group_equal(machines)
    assert sorted(m.key for group in groups for m in group) == sorted(m.key for m in machines)
    assert [group[0].name for group in groups] == list(dict.fromkeys(m.name for m in machines))
    for one, other in product(machines, machines):
        together = any(one in group and other in group for group in groups)
        assert together == are_equal(one, other)


def test_a_configuration_that_is_no_map_of_channels_is_read_without_a_crash():
    odd = made(of(energy={"channels": [1, 2], "unmeasured": "x"}))
    assert are_equal(odd, odd)


def test_machines_are_in_the_document_only_where_they_are_used():
    plain = of()
    assert "machines" not in plain.to_json()
    several = replace(plain, machines=(made(plain), made(with_gpu("a"), "m2")))
    document = several.to_json()
    assert "devices" not in document["machines"][0]
    assert parse_run_config(document | {"config_sha256": ""}).machines == several.machines
    assert several.plan_sha256 == plain.plan_sha256
    assert several.sha256 != plain.sha256


def channel(scope: str, label: str) -> Channel:
    return Channel(scope, scope, Kind.COUNTER, label=label)


def test_devices_are_named_by_their_channels_and_by_llama_cpp_where_these_do_not():
    cpu, card, amd = (
        channel("package:0", "CPU package 0"),
        channel("gpu:GPU-1", "NVIDIA L40S"),
        channel("gpu:0000:03:00.0", "AMD GPU"),
    )
    assert name_devices([cpu]) == ()
    assert name_devices([cpu, card], ["NVIDIA L40S"]) == ("NVIDIA L40S",)
    assert name_devices([amd], ["Radeon RX 7900"]) == ("Radeon RX 7900",)
    assert name_devices([amd], []) == ("AMD GPU",)
    assert name_devices([cpu], ["Radeon RX 7900"]) == ("Radeon RX 7900",)


def test_the_driver_is_read_from_sysfs(tmp_path):
    assert read_gpu_driver(tmp_path) is None
    folder = tmp_path / "module" / "nvidia"
    folder.mkdir(parents=True)
    assert (read_gpu_driver(tmp_path) or "").startswith("nvidia ")
    (folder / "version").write_text("550.54.15\n")
    assert read_gpu_driver(tmp_path) == "nvidia 550.54.15"
