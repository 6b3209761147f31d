"""GPUs and boards that show power through hwmon, without root, and AMD GPUs through amdsmi.

amdgpu gives ``power1_average`` or, on newer chips, ``power1_input`` in whole or micro-watts; i915
and xe give counters in microjoules, xe one of the card, one of the package, or both. An empty file
or a sleeping GPU is a missing value. On an APU, amdgpu reports the power of the whole package, so
its scope is that of the package. Where an APU has ``gpu_metrics`` 3.0 (as Strix Point), its power
comes from there in milliwatts, without AMD cards that share its limit, and with that of its NPU.

The sensors of some boards of NVIDIA name what they measure:

- Jetson: an INA3221 has volts and amperes of three rails. On some boards one rail supplies CPU and
  GPU. ``VDD_IN`` supplies the whole module, and a 5-V rail that of the memory, so it is not read.
- Grace: an ACPI power meter for each part of a socket. ``Grace`` is the CPU with all beside the
  GPU; ``CPU`` and ``SysIO`` are parts of it, and ``Module`` adds the GPU, which NVML reads.
- GB10 (DGX Spark): the driver spbm (https://github.com/antheas/spark_hwmon) has a counter of the
  package with its GPU. Without that driver only the GPU can be read, by NVML.

Formats: Documentation/hwmon/ina3221.rst and acpi_power_meter.rst of Linux. Rails of each board:
"Platform Power and Performance" in NVIDIA's Jetson Linux Developer Guide.
"""

from __future__ import annotations

import math
import re
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from etui.energy.sources.sysfs import (
    SysfsError,
    entries,
    int_or_none,
    read_int,
    read_micro,
    read_positive,
    text_or,
)
from etui.energy.types import BaseSource, Channel, Kind

_WHOLE, _NPU = "package:0", "npu:0"
_DRIVERS = {"amdgpu": "AMD GPU", "i915": "Intel GPU", "xe": "Intel GPU"}
_POWER_FILES = ("power1_average", "power1_input")
_ENERGY_LABELS = ("pkg", "package", "card", "")
"""Labels of counters of a whole GPU, the best first: some have a register of the package alone.
Others, such as ``vram``, are parts of it."""
CHECK_SECONDS = 0.3
"""Time between the two readings of a counter that are compared with power."""
_TRUSTED_RATIO = (0.1, 10.0)
_METRICS = struct.Struct("<HBB108xIH2xIII132x")
"""``struct gpu_metrics_v3_0`` of kgd_pp_interface.h (264 bytes): size, format and content revision;
power of the socket with AMD cards that share its limit, of NPU, APU, GPU and these cards, mW."""
_NO_POWER = "no power reading (the GPU may be asleep, or another die of the card reports for both)"
_RAILS = (
    (re.compile(r"(VDD_|POM_5V_|5V_|V)?IN"), "system"),
    (re.compile(r"VDD_CPU_GPU(_CV)?"), "module:{gpu}"),
    (re.compile(r"(VDD_|POM_5V_)?(SYS_)?GPU(_SOC)?"), "gpu:{gpu}"),
    (re.compile(r"(VDD_|POM_5V_)?(SYS_)?CPU(_CV|_SOC_MSS)?"), "package:0"),
    (re.compile(r"VDDR?Q.*|(VDD_)?(SYS_)?DDR"), "dram:0"),
    (re.compile(r"(VDD_)?(SYS_)?(SOC|CV)"), "soc:{label}"),
)
"""Labels of a Jetson's rails, and the scopes that they supply; others are not read."""
_SOCKET = re.compile(r"(CPU|Grace) Power Socket (\d+)")
_LEAST_AVERAGE_S = 0.2
_SPBM_JOULES = 2**32 / 1e3  # The only counters here have 32 bits, in millijoules


class HwmonSource(BaseSource):
    """GPUs below ``<sysfs>/class/hwmon``.

    Those ``without`` are read by another source; ``doubled`` reads them here too, by other names.
    """

    def __init__(
        self,
        sysfs_dir: Path,
        clock: Callable[[], int] = time.monotonic_ns,
        without: Collection[str] = (),
        *,
        doubled: bool = False,
    ) -> None:
        super().__init__(clock)
        self._without, self._doubled = without, doubled
        for folder in entries(sysfs_dir / "class" / "hwmon"):
            driver = text_or(folder / "name")
            if driver in _DRIVERS:
                self._open(folder, driver)

    def _open(self, folder: Path, driver: str) -> None:
        device = folder / "device"
        scope = f"gpu:{read_address(device) or folder.name}"
        if driver == "amdgpu" and is_apu(device, [folder]):
            scope = _WHOLE
        if scope in self._without and not self._doubled:
            return
        energy, no_energy = _find_readable(folder, _list_counters(folder))
        power, no_power = _find_readable(folder, _POWER_FILES)
        if energy is None and power is None:
            self.refuse(scope, *_explain(folder, no_power or no_energy))
            return
        label, is_whole = _DRIVERS[driver], scope == _WHOLE
        channel = Channel(
            id=f"{scope}/hwmon" if is_whole or scope in self._without else scope,
            scope=scope,
            kind=Kind.COUNTER if energy else Kind.INTEGRATED,
            limit_watts=read_positive(folder / "power1_cap")
            or read_positive(folder / "power1_max"),
            label=f"{label} (whole APU)" if is_whole else label,
        )
        whole, npu = _read_apu_watts(device) if is_whole else (None, None)
        metrics = device if whole is not None else None
        self.add(channel, read=partial(_read_values, energy, power, metrics))
        if npu is not None:
            part = Channel(_NPU, _NPU, Kind.INTEGRATED, parent=_WHOLE, label="AMD NPU")
            self.add(part, read=lambda: (None, _read_apu_watts(device)[1]))


def _read_values(
    energy: Path | None, power: Path | None, apu: Path | None
) -> tuple[float | None, float | None]:
    joules = read_micro(energy) if energy else None
    if apu is not None:
        return joules, _read_apu_watts(apu)[0]
    return joules, read_positive(power) if power else None


def _read_apu_watts(device: Path) -> tuple[float | None, float | None]:
    """Read the power of an APU and of its NPU, which is a part of it; None where it has neither."""
    try:
        size, *revision, socket, npu, _, _, cards = _METRICS.unpack(
            (device / "gpu_metrics").read_bytes()
        )
    except (OSError, struct.error):
        return None, None
    if (size, revision) != (_METRICS.size, [3, 0]) or socket in (0, 0xFFFF_FFFF):
        return None, None
    apart = cards if cards < socket else 0  # all bits are set where there is none
    return (socket - apart) / 1e3, None if npu == 0xFFFF else npu / 1e3


def _explain(folder: Path, error: SysfsError | None) -> tuple[str, str]:
    """Return why a device has no reading, and what to do."""
    if error is None:
        return f"{folder} has no power or energy file", "its driver does not measure this GPU"
    if error.denied:
        names = (*_POWER_FILES, *_list_counters(folder))
        files = " ".join(str(folder / name) for name in names if (folder / name).exists())
        return f"{folder}: {error.why}", f"sudo chmod a+r {files}"
    return f"{folder}: {error.why}", "wake the GPU (run a program on it) and try again"


def is_apu(device: Path, folders: Sequence[Path] = ()) -> bool:
    """Return whether an amdgpu device is part of a CPU, whose power it then shows.

    The driver shows the voltage of the north bridge (``vddnb``) for APUs alone, and a memory clock
    (``mclk``) for cards alone. Where it shows neither, the memory of a card has a vendor. The size
    of the memory says nothing: an APU may be given 96 GiB. Its folders of hwmon are given, or are
    those below the device.
    """
    folders = folders or entries(device / "hwmon")
    labels = {text_or(folder / f"{name}_label") for folder in folders for name in ("in1", "freq2")}
    if "vddnb" in labels or "mclk" in labels:
        return "vddnb" in labels
    if not (device / "mem_info_vram_total").exists():
        return False
    return text_or(device / "mem_info_vram_vendor", "unknown") == "unknown"


def _list_counters(folder: Path) -> list[str]:
    """List the counters of a whole GPU, the best first; only one of them is read."""
    found = [
        (_ENERGY_LABELS.index(label), file.name)
        for file in entries(folder)
        if re.fullmatch(r"energy\d+_input", file.name)
        and (label := text_or(folder / file.name.replace("_input", "_label"))) in _ENERGY_LABELS
    ]
    return [name for _, name in sorted(found)]


def read_address(device: Path) -> str:
    """Read the PCI address of a device, the stable part of its id."""
    for line in text_or(device / "uevent").splitlines():
        if line.startswith("PCI_SLOT_NAME="):
            return line.partition("=")[2]
    return device.resolve().name if device.is_symlink() else ""


def _find_readable(folder: Path, names: Sequence[str]) -> tuple[Path | None, SysfsError | None]:
    """Find the first file that holds a number; with none, the reason of the last failure."""
    failure: SysfsError | None = None
    for name in names:
        path = folder / name
        if not path.exists():
            continue
        try:
            if read_int(path) >= 0:
                return path, None
            failure = SysfsError(f"{name} is negative")
        except SysfsError as error:
            failure = error
    return None, failure


class AmdSmiSource(BaseSource):
    """The GPUs that AMD's own library lists and that report power, if ``amdsmi`` is installed.

    ``amdsmi_get_energy_count`` is a counter in microjoules, finer than the power of hwmon. On some
    cards and firmware it is off by orders of magnitude (https://github.com/ROCm/amdsmi/issues/38),
    so it is trusted only if its first movement agrees with power; else power in whole watts is
    integrated. On a card with two dies, one die reports for both and the other reports nothing.
    APUs are left to hwmon, which assigns them to the package. sysfs has the power limits, and shows
    what is an APU.
    """

    def __init__(
        self,
        sysfs_dir: Path,
        clock: Callable[[], int] = time.monotonic_ns,
        library: ModuleType | Any = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sysfs = sysfs_dir
        super().__init__(clock)
        self._library = _import() if library is None else library
        if self._library is not None:
            self._open(sleep)

    def close(self) -> None:
        """Shut the library down."""
        if self._library is not None:
            self._call("amdsmi_shut_down")
            self._library = None
            self.channels = []

    def _open(self, sleep: Callable[[float], None]) -> None:
        try:
            self._library.amdsmi_init()
            handles = list(self._library.amdsmi_get_processor_handles())
        except Exception as error:  # noqa: BLE001 - its errors and ctypes' have no common base
            why = f"amdsmi cannot be used: {str(error).strip() or type(error).__name__}"
            self.refuse("amdsmi", " ".join(why.split()))
            self._library = None
            return
        named = [(handle, address) for handle in handles if (address := self._address(handle))]
        devices = self._sysfs / "bus" / "pci" / "devices"
        discrete = [(h, a) for h, a in named if not is_apu(devices / a)]
        first = {address: self._sample(handle) for handle, address in discrete}
        if any(watts and joules is not None for _, joules, watts in first.values()):
            sleep(CHECK_SECONDS)
        for handle, address in discrete:
            self._open_gpu(handle, address, first[address])

    def _open_gpu(
        self, handle: Any, address: str, first: tuple[int, float | None, float | None]
    ) -> None:
        scope = f"gpu:{address}"
        then_ns, then_joules, then_watts = first
        now_ns, joules, watts = self._sample(handle)
        known = [value for value in (then_watts, watts) if value]
        if not known:
            self.refuse(scope, _NO_POWER)
            return
        remark = ""
        if joules is not None and then_joules is not None:
            expected = sum(known) / len(known) * (now_ns - then_ns) / 1e9
            ratio = (joules - then_joules) / expected if expected > 0 else 0.0
            if not _TRUSTED_RATIO[0] <= ratio <= _TRUSTED_RATIO[1]:
                joules = None
                remark = f"energy counter is {ratio:.3g} times the power; power is integrated"
        kind = Kind.INTEGRATED if joules is None or then_joules is None else Kind.COUNTER
        limit = self._limit_watts(address)
        channel = Channel(scope, scope, kind, limit_watts=limit, label="AMD GPU")
        counts = kind is Kind.COUNTER
        self.add(
            channel,
            remark,
            read=lambda: (self._joules(handle) if counts else None, self._watts(handle)),
        )

    def _sample(self, handle: Any) -> tuple[int, float | None, float | None]:
        joules = self._joules(handle)
        return self.clock(), joules, self._watts(handle)

    def _address(self, handle: Any) -> str | None:
        found = self._call("amdsmi_get_gpu_device_bdf", handle)
        return found.lower() if isinstance(found, str) and found else None

    def _joules(self, handle: Any) -> float | None:
        found = self._call("amdsmi_get_energy_count", handle)
        if not isinstance(found, Mapping):
            return None
        count = _parse_number(found.get("energy_accumulator", found.get("power")))
        resolution_uj = _parse_number(found.get("counter_resolution"))
        if not count or not resolution_uj:
            return None
        return count * resolution_uj / 1e6

    def _watts(self, handle: Any) -> float | None:
        found = self._call("amdsmi_get_power_info", handle)
        if not isinstance(found, Mapping):
            return None
        average, current = found.get("average_socket_power"), found.get("current_socket_power")
        return _parse_number(average) or _parse_number(current) or None  # 0 W is a missing value

    def _call(self, name: str, *args: Any) -> Any:
        try:
            return getattr(self._library, name)(*args)
        except Exception:  # noqa: BLE001 - as above; after any error the value is missing
            return None

    def _limit_watts(self, address: str) -> float | None:
        """Read the power limit from the kernel: amdsmi changed its unit between versions."""
        for folder in entries(self._sysfs / "bus" / "pci" / "devices" / address / "hwmon"):
            if limit := read_positive(folder / "power1_cap"):
                return limit
        return None


def _import() -> Any:
    try:
        import amdsmi
    except Exception:  # noqa: BLE001 - without its C library it raises any error of the loader
        return None
    return amdsmi


def _parse_number(value: object) -> float | None:
    """Return a finite number of at least 0; None for ``N/A``, all bits set, or anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    all_bits_set = value in (0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)
    return float(value) if math.isfinite(value) and value >= 0 and not all_bits_set else None


@dataclass(frozen=True, slots=True)
class _Rail:
    scope: str
    label: str
    files: tuple[Path, ...]  # Volts and amperes in thousandths, or watts in millionths
    counter: Path | None = None
    average_s: float = 0.0

    def read(self) -> tuple[float | None, float | None]:
        joules = read_micro(self.counter) if self.counter else None
        values = [value for file in self.files if (value := int_or_none(file)) is not None]
        known = values and len(values) == len(self.files)
        # The offset of a shunt makes the power of a rail that is off negative.
        return joules, max(math.prod(values) / 1e6, 0.0) if known else None


class BoardSource(BaseSource):
    """The rails of a Jetson, the sockets of Grace, or the package of a GB10.

    ``gpu`` is what NVML calls the GPU of the board, so that it is counted once.
    """

    def __init__(
        self,
        sysfs_dir: Path,
        clock: Callable[[], int] = time.monotonic_ns,
        gpu: str = "board",
    ) -> None:
        super().__init__(clock)
        folders = entries(sysfs_dir / "class" / "hwmon")
        rails = [rail for folder in folders for rail in _find_rails(folder, gpu)]
        for rail in sorted(rails, key=lambda rail: rail.label.startswith("CPU ")):  # a part, last
            self._open(rail)
        tree = text_or(sysfs_dir / "firmware" / "devicetree" / "base" / "compatible")
        is_jetson = "nvidia,tegra" in tree or any("rail" in rail.label for rail in rails)
        if is_jetson and not {f"gpu:{gpu}", f"module:{gpu}"} & {c.scope for c in self.channels}:
            why = "no rail with a sensor that can be read supplies the GPU"
            self.refuse(f"gpu:{gpu}", why, "sudo modprobe ina3221")

    def _open(self, rail: _Rail) -> None:
        (joules, watts), name = rail.read(), f"{rail.scope}/board"
        if joules is None and watts is None:
            self.refuse(rail.scope, f"the sensor of {rail.label} cannot be read")
        elif name not in self._readers:
            kind = Kind.INTEGRATED if joules is None else Kind.COUNTER
            self.add(
                Channel(
                    id=name,
                    scope=rail.scope,
                    kind=kind,
                    label=rail.label,
                    range_joules=_SPBM_JOULES,
                    average_s=rail.average_s,
                ),
                read=rail.read,
            )


def _find_rails(folder: Path, gpu: str) -> Iterator[_Rail]:
    driver = text_or(folder / "name")
    if driver == "ina3221":
        for number in (1, 2, 3):
            label = text_or(folder / f"in{number}_label")
            rail = folder / f"in{number}_input", folder / f"curr{number}_input"
            scope = next((s for pattern, s in _RAILS if pattern.fullmatch(label.upper())), None)
            if scope is not None:
                yield _Rail(scope.format(gpu=gpu, label=label.lower()), f"rail {label}", rail)
    elif driver == "power_meter":
        for place in (folder, folder / "device"):  # where older kernels have the files
            match = _SOCKET.fullmatch(text_or(place / "power1_oem_info"))
            if match is not None:
                seconds = (int_or_none(place / "power1_average_interval") or 0) / 1e3
                average_s = seconds if seconds >= _LEAST_AVERAGE_S else 0.0
                files = (place / "power1_average",)
                yield _Rail(f"package:{match[2]}", match[0], files, average_s=average_s)
    elif driver == "spbm":
        counter = _find_input(folder, "energy*_label", "pkg")
        power = (_find_input(folder, "power*_label", "soc_pkg"),)
        yield _Rail(f"module:{gpu}", "GB10 package (GPU and CPU together)", power, counter)
        yield _Rail("system", "DGX Spark", (_find_input(folder, "power*_label", "sys_total"),))


def _find_input(folder: Path, pattern: str, label: str) -> Path:
    """Find the file of a label; without one, a file that does not exist."""
    labels = (file for file in sorted(folder.glob(pattern)) if text_or(file) == label)
    found = next(labels, folder / "no_label")
    return found.with_name(found.name.replace("_label", "_input"))
