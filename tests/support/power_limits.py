"""Power limits of simulated CPU packages and AMD GPUs: the files of a sysfs below a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

VRAM_BYTES = 16 << 30


def write_package(
    sysfs_dir: Path,
    number: int = 0,
    *,
    long_watts: float = 65.0,
    short_watts: float | None = 120.0,
    max_watts: float = 125.0,
    zone: str | None = None,
    name: str | None = None,
    enabled: bool = True,
) -> Path:
    """Write the RAPL zone of a CPU package, and return its folder.

    Args:
        long_watts: Limit ``long_term``, averaged over 28 s.
        short_watts: Limit ``short_term``, over 2.4 ms; None for a package without one.
        max_watts: Highest power that the zone states for ``long_term``; 0 states none.
        zone: Name of the zone; None for that of the MSR interface.
        name: Name of the package; None for ``package-N``.
        enabled: Whether the limits are switched on.
    """
    folder = sysfs_dir / "class" / "powercap" / (zone or f"intel-rapl:{number}")
    _write(
        folder,
        {
            "name": name or f"package-{number}",
            "enabled": int(enabled),
            "energy_uj": 1_000_000,
            "max_energy_range_uj": 262_143_328_850,
            "constraint_0_name": "long_term",
            "constraint_0_power_limit_uw": round(long_watts * 1e6),
            "constraint_0_max_power_uw": round(max_watts * 1e6),
            "constraint_0_time_window_us": 27_983_872,
        },
    )
    if short_watts is not None:
        _write(
            folder,
            {
                "constraint_1_name": "short_term",
                "constraint_1_power_limit_uw": round(short_watts * 1e6),
                "constraint_1_max_power_uw": 0,
                "constraint_1_time_window_us": 2440,
            },
        )
    return folder


def write_amd_gpu(
    sysfs_dir: Path,
    address: str = "0000:03:00.0",
    *,
    watts: float = 250.0,
    min_watts: float = 100.0,
    max_watts: float = 300.0,
    default_watts: float = 272.0,
    hwmon: str = "hwmon3",
    vram_bytes: int = VRAM_BYTES,
) -> Path:
    """Write the hwmon folder of an AMD GPU with a power limit, and return it.

    Args:
        default_watts: Limit after a reboot.
        vram_bytes: Memory of its own; little makes it an APU.
    """
    folder = sysfs_dir / "class" / "hwmon" / hwmon
    _write(
        folder,
        {
            "name": "amdgpu",
            "power1_average": 60_000_000,
            "power1_cap": round(watts * 1e6),
            "power1_cap_min": round(min_watts * 1e6),
            "power1_cap_max": round(max_watts * 1e6),
            "power1_cap_default": round(default_watts * 1e6),
            **({"freq2_label": "mclk"} if vram_bytes >= VRAM_BYTES else {"in1_label": "vddnb"}),
        },
    )
    _write(
        folder / "device",
        {
            "uevent": f"DRIVER=amdgpu\nPCI_SLOT_NAME={address}",
            "mem_info_vram_total": vram_bytes,
        },
    )
    return folder


def read_package(folder: Path) -> tuple[float, ...]:
    """Read the limits of a package, watts: ``long_term``, and ``short_term`` if there is one."""
    files = sorted(folder.glob("constraint_?_power_limit_uw"))
    return tuple(int(file.read_text(encoding="ascii")) / 1e6 for file in files)


def _write(folder: Path, values: Mapping[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n", encoding="ascii")
