"""The state of the machine, read below a made-up sysfs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from etui.config.config import Config, load_config
from etui.runtime.host import read_host
from etui.runtime.provenance import read_weights


def test_a_model_file_with_a_known_hash_is_read(tmp_path, make_gguf) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "mine.gguf").write_bytes(make_gguf(1))
    (models / "broken.gguf").write_bytes(b"GGUF")
    entry = "  {name}:\n    size: tiny\n    sha256: {digit}{zeros}\n    context: 512\n"
    entry += "    sources: [{{path: {path}}}]\n"
    text = "models:\n" + "".join(
        entry.format(
            name=name, digit="abc"[digit - 1], zeros="0" * 63, path=models / f"{name}.gguf"
        )
        for name, digit in (("mine", 1), ("broken", 2), ("absent", 3))
    )
    (tmp_path / "models.yaml").write_text(text)
    found = read_weights(Config(home=tmp_path, models_dir=models))
    assert found.keys() == {"a" + "0" * 63}
    assert all(found.values())


def test_an_invalid_catalogue_gives_none(tmp_path) -> None:
    (tmp_path / "models.yaml").write_text("models: [")
    assert read_weights(Config(home=tmp_path, models_dir=tmp_path)) == {}


class FakeNvml:
    """Three GPUs: a warm one, one that tells no temperature, and one that cannot be opened."""

    NVML_TEMPERATURE_GPU = 0
    NVMLError = OSError
    started = 0

    def __init__(self, works: bool = True) -> None:
        self.works = works

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.works:
            raise OSError("no driver")
        self.started += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.started -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index == 2:
            raise OSError("lost")
        return index

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        if handle == 1:
            raise OSError("not supported")
        return 71

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(free=(handle + 1) * 10**9)


def test_gpus(etui_home: Path) -> None:
    library = FakeNvml()
    host = read_host(load_config(), nvml=library)
    assert (host.gpu_temperature, host.gpu_free_memory_gb) == (71, 2.0)
    assert library.started == 0
    host = read_host(load_config(), nvml=FakeNvml(works=False))
    assert (host.gpu_temperature, host.gpu_free_memory_gb) == (None, None)


def supply(etui_home: Path, name: str, **files: str) -> None:
    folder = etui_home.parent / "sysfs" / "class" / "power_supply" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text + "\n")


@pytest.mark.parametrize(
    ("status", "on_battery"),
    [("Discharging", True), ("Charging", False), ("Full", False), ("Unknown", None)],
)
def test_battery(etui_home: Path, status: str, on_battery: bool | None) -> None:
    supply(etui_home, "AC", type="Mains", online="1")
    supply(etui_home, "BAT0", type="Battery", capacity="73", status=status)
    supply(etui_home, "A-mouse", type="Battery", scope="Device", capacity="5", status="Discharging")
    host = read_host(load_config(), nvml=FakeNvml())
    assert (host.battery_percent, host.on_battery) == (73, on_battery)
    assert host.hour is not None
    assert 0 <= host.hour < 24
    assert host.free_memory_gb is not None
    assert host.free_memory_gb > 0


def test_no_battery_and_nonsense(etui_home: Path) -> None:
    assert read_host(load_config()).battery_percent is None
    supply(etui_home, "BAT0", type="Battery", capacity="full")
    host = read_host(load_config())
    assert (host.battery_percent, host.on_battery) == (None, None)
