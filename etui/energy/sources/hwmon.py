"""GPUs and boards that show power through hwmon, without root, and AMD GPUs through amdsmi.

amdgpu gives ``power1_average`` or, on newer chips, ``power1_input`` in whole or micro-watts; i915
and xe give counters in microjoules, xe one of the card, one of the package, or both. An empty file
or a sleeping GPU is a missing value. On an APU, amdgpu reports the power of the whole package, so
its scope is that of the package. Where an APU has ``gpu_metrics`` 3.0 (as Strix Point), its power
comes from there in milliwatts, without AMD cards that share its limit, and with that of its NPU.
"""

from __future__ import annotations

import math
import re
import struct
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from etui.energy.sources.sysfs import (
    SysfsError,
    entries,
    read_int,
    read_micro,
    read_positive,
    text_or,
)
from etui.energy.types import BaseSource, Channel, Kind, Reading

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


class HwmonSource(BaseSource):
    """GPUs below ``<sysfs>/class/hwmon``.

    Args:
        without: Scopes that another source reads.
        doubled: Whether to read them here too, as channels of other names.
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
        self._files: dict[str, tuple[Path | None, Path | None]] = {}
        """Channel id -> files of its counter and its power."""
        self._apus: dict[str, Path] = {}
        """Channel id -> device of an APU with ``gpu_metrics``."""
        for folder in entries(sysfs_dir / "class" / "hwmon"):
            driver = text_or(folder / "name")
            if driver in _DRIVERS:
                self._open(folder, driver)

    def read_channel(self, channel: Channel) -> Reading:
        """Read counter and power of a device."""
        energy, power = self._files[channel.id]
        begin_ns = self.clock()
        joules = read_micro(energy) if energy else None
        watts = read_positive(power) if power else None
        if channel.id in self._apus:
            whole, npu = _read_apu_watts(self._apus[channel.id])
            watts = npu if channel.scope == _NPU else whole
        return self.date(begin_ns, joules, watts)

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
        self._files[channel.id] = energy, power
        self.add(channel)
        whole, npu = _read_apu_watts(device) if is_whole else (None, None)
        if whole is not None:
            self._apus[channel.id] = device
        if npu is not None:
            self._files[_NPU], self._apus[_NPU] = (None, None), device
            self.add(Channel(_NPU, _NPU, Kind.INTEGRATED, parent=_WHOLE, label="AMD NPU"))


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
    of the memory says nothing: an APU may be given 96 GiB.

    Args:
        folders: Its folders of hwmon; empty looks for them below the device.
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
    APUs are left to hwmon, which assigns them to the package.

    Args:
        sysfs_dir: Root of sysfs, for power limits and to recognize APUs.
        library: The module ``amdsmi``; None imports it if it is installed.
        sleep: Function that waits, in seconds, between the two readings of the counters.
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
        self._handles: dict[str, Any] = {}
        if self._library is not None:
            self._open(sleep)

    def read_channel(self, channel: Channel) -> Reading:
        """Read counter and power of a GPU."""
        handle = self._handles[channel.id]
        begin_ns = self.clock()
        joules = self._joules(handle) if channel.kind is Kind.COUNTER else None
        return self.date(begin_ns, joules, self._watts(handle))

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
        discrete = [(h, a) for h, a in named if not is_apu(self._device(a))]
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
        self._handles[scope] = handle
        self.add(Channel(scope, scope, kind, limit_watts=limit, label="AMD GPU"), remark)

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

    def _device(self, address: str) -> Path:
        return self._sysfs / "bus" / "pci" / "devices" / address

    def _limit_watts(self, address: str) -> float | None:
        """Read the power limit from the kernel: amdsmi changed its unit between versions."""
        for folder in entries(self._device(address) / "hwmon"):
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
