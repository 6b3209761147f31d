"""A build with a GPU backend that finds no device: the reason, and its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from etui.cli.doctor import format_diagnosis
from etui.config.config import Config
from etui.engine.library import Device
from etui.runtime.doctor import (
    Diagnosis,
    DriverFacts,
    check_offload,
    explain_missing_device,
    read_driver_facts,
)
from etui.runtime.try_gpu import judge_offload

MESA = ("intel_icd.x86_64", "lvp_icd.x86_64", "radeon_icd.x86_64")
NODE = "/dev/dri/renderD128"


@pytest.mark.parametrize(
    ("backend", "cards", "facts", "why", "fix"),
    [
        ("Vulkan", ["AMD"], DriverFacts("GGML_VK_VISIBLE_DEVICES=", MESA, (NODE,)),
         "GGML_VK_VISIBLE_DEVICES= selects none", "unset GGML_VK_VISIBLE_DEVICES"),
        ("CUDA", ["NVIDIA"], DriverFacts("CUDA_VISIBLE_DEVICES=-1"),
         "CUDA_VISIBLE_DEVICES=-1 selects none", "unset CUDA_VISIBLE_DEVICES"),
        ("Vulkan", ["AMD"], DriverFacts("", MESA, (NODE,), (NODE,)),
         f"may not open {NODE}", "sudo usermod -aG render,video"),
        ("Vulkan", [], DriverFacts("", MESA), "no graphics card is on the bus",
         "--device /dev/dri"),
        ("Vulkan", ["Intel"], DriverFacts("", (), (NODE,)), "no Vulkan driver for the Intel card",
         "sudo apt-get install mesa-vulkan-drivers"),
        ("Vulkan", ["NVIDIA"], DriverFacts("", ("lvp_icd.x86_64",), (NODE,)),
         "no Vulkan driver for the NVIDIA card", "nvidia-vulkan-icd"),
        ("Vulkan", ["AMD"], DriverFacts("", MESA), "no render node", "kernel driver"),
        ("Vulkan", ["AMD"], DriverFacts("", MESA, (NODE,)), "knows the AMD card", "vulkaninfo"),
        ("CUDA", [], DriverFacts(), "no graphics card is on the bus", "docker run --gpus all"),
        ("CUDA", ["NVIDIA"], DriverFacts(), "NVIDIA driver is missing", "nvidia-smi"),
        ("ROCm", ["AMD"], DriverFacts(), "/dev/kfd", "rocminfo"),
        ("SYCL", ["Intel"], DriverFacts("", (), (NODE,)), "no SYCL device", "SYCL driver"),
    ],
)  # fmt: skip
def test_each_reason_has_its_fix(
    backend: str, cards: list[str], facts: DriverFacts, why: str, fix: str
) -> None:
    said, step = explain_missing_device(backend, cards, facts)
    assert said.startswith(f"built with {backend}, but no {backend} device was found")
    assert why in said
    assert fix in step


@pytest.mark.parametrize(("drivers", "offered"), [(MESA, True), (("radeon_icd.x86_64",), False)])
def test_the_software_device_is_offered_only_where_it_is(
    drivers: tuple[str, ...], offered: bool
) -> None:
    why, _ = explain_missing_device("Vulkan", [], DriverFacts("", drivers))
    assert ("GGML_VK_VISIBLE_DEVICES=0" in why) is offered


def test_the_facts_are_read_from_the_machine(tmp_path: Path) -> None:
    (tmp_path / "dri").mkdir()
    for node in ("renderD128", "card0"):
        (tmp_path / "dri" / node).touch()
    drivers = tmp_path / "icd.d"
    drivers.mkdir()
    (drivers / "radeon_icd.x86_64.json").write_text("{}")
    (drivers / "README").touch()
    environment = {"GGML_VK_VISIBLE_DEVICES": "7", "PATH": "/bin"}
    facts = read_driver_facts("Vulkan", environment, tmp_path, [drivers, tmp_path / "none"])
    assert facts.hidden_by == "GGML_VK_VISIBLE_DEVICES=7"
    assert facts.vulkan_drivers == ("radeon_icd.x86_64",)
    assert facts.nodes == (str(tmp_path / "dri" / "renderD128"),)
    assert facts.forbidden_nodes == ()
    assert read_driver_facts("CUDA", {}, tmp_path, []) == DriverFacts()


class Build:
    """A Library with these backends and GPUs."""

    def __init__(self, backends: tuple[str, ...], gpus: tuple[Device, ...]) -> None:
        self._backends, self._gpus = backends, gpus

    def __call__(self, *_: object) -> Build:
        return self

    def gpus(self) -> tuple[Device, ...]:
        return self._gpus

    def gpu_backends(self) -> tuple[str, ...]:
        return self._backends

    def close(self) -> None:
        """Do nothing: it is no library."""


REMOTE = Device("RPC0", "", 4 * 10**9, 8 * 10**9)
CARD = Device("CUDA0", "A100", 70 * 10**9, 80 * 10**9)


@pytest.mark.parametrize("backends", [(), ("RPC",), ("CUDA",), ("CUDA", "RPC"), ("WebGPU",)])
@pytest.mark.parametrize("gpus", [(), (REMOTE,), (CARD, REMOTE)])
@pytest.mark.parametrize("vendor", ["", "0x1002", "0x10de"])
def test_doctor_names_the_devices_of_any_build_or_says_that_there_is_none(
    config: Config, monkeypatch: pytest.MonkeyPatch, backends, gpus, vendor
) -> None:
    monkeypatch.setattr("etui.engine.library.Library", Build(backends, gpus))
    if vendor:
        device = config.sysfs_dir / "bus" / "pci" / "devices" / "0000:01:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text(vendor)
        (device / "class").write_text("0x030000")
    offload = check_offload(config)
    lines = list(format_diagnosis(Diagnosis({}, offload, (), (), (), (), ())))
    text = "\n".join(lines[lines.index("GPU offload") : lines.index("power channels")])
    for gpu in gpus:
        assert f"    {gpu.description or gpu.name}: " in text
    if not gpus:
        assert "models run on the CPU" in text
        assert "none" in text or "no " in text or "not compiled" in text
    for name in backends:
        assert name in text or not gpus
    verdict = judge_offload(offload)
    assert (verdict is None) is bool(gpus)
    if verdict is not None:
        assert verdict.text.strip(" :")
        assert not verdict.text.endswith(":")


def test_a_build_for_other_machines_alone_says_so_and_how_to_use_this_ones_card() -> None:
    why, fix = explain_missing_device("RPC", ["AMD"], DriverFacts())
    assert why == "built with RPC alone, which uses devices of other machines and has none here"
    assert fix.startswith("etui engine build --hip")
    assert explain_missing_device("RPC", [], DriverFacts())[1] == ""
