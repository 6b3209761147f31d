"""Find every power source of this machine, and report why the others cannot be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etui.config.config import Config
from etui.energy.idle import load_baselines, use_baseline
from etui.energy.recorder import Recorder
from etui.energy.scopes import family, select_disjoint
from etui.energy.sharing import CpuWatch, GpuWatch
from etui.energy.sources.apple import AppleSource
from etui.energy.sources.battery import BatterySource
from etui.energy.sources.estimate import EstimateSource
from etui.energy.sources.hwmon import AmdSmiSource, BoardSource, HwmonSource
from etui.energy.sources.nvml import NvmlSource
from etui.energy.sources.rapl import EmiSource, RaplSource
from etui.energy.sources.sysfs import graphics_cards
from etui.energy.types import BaseSource, Channel, ChannelProbe, Kind, PowerSource
from etui.energy.wall_model import find_wall
from etui.units import count_text

if TYPE_CHECKING:
    from etui.energy.sources.wall import WallSource

_RARE_HZ, _INTEGRATED_HZ = 2.0, 5.0
"""Readings per second where they cost much: of counters, and of power that is integrated."""


@dataclass(frozen=True, slots=True)
class FoundSources:
    """The sources of a machine, and the scopes that no source can read."""

    sources: tuple[PowerSource, ...]
    unmeasured: tuple[str, ...]
    probes: tuple[ChannelProbe, ...]


def find_sources(
    config: Config,
    clock: Callable[[], int] = time.monotonic_ns,
    *,
    watch_cpus: bool = True,
    doubled: bool = False,
) -> FoundSources:
    """Open every source, and the watches on the GPUs and CPUs; the caller closes them.

    ``doubled`` opens hwmon for GPUs that amdsmi reads too, to compare both.
    """
    nvml = NvmlSource(clock)
    amdsmi = AmdSmiSource(config.sysfs_dir, clock)
    gpus = [p.id.partition(":")[2] for p in nvml.probes if family(p.id) in ("gpu", "module")]
    hardware: list[BaseSource] = [
        nvml,
        RaplSource(config.sysfs_dir, clock),
        EmiSource(clock),
        BoardSource(config.sysfs_dir, clock, *gpus[:1]),
        amdsmi,
        HwmonSource(config.sysfs_dir, clock, [c.scope for c in amdsmi.channels], doubled=doubled),
        AppleSource(clock),
        BatterySource(config.sysfs_dir, clock),
    ]
    probes = _nvml_probes(nvml, config.sysfs_dir)
    probes += [probe for source in hardware[1:] for probe in source.probe()]
    channels = [channel for source in hardware for channel in source.channels]
    # amdsmi is left out: the second die of a card reports nothing, and the first one both.
    unreadable = [
        s for source in hardware if source is not amdsmi for s in source.unreadable_scopes
    ]
    walls: list[WallSource] = []
    if config.wall_meters:
        from etui.energy.sources.wall import WallSource

        walls = [WallSource(spec, clock) for spec in config.wall_meters.values()]
    unmeasured = _unmeasured(
        # Alone, a wall meter is the total only where no estimate is wanted.
        [*channels, *(wall.channel for wall in walls if config.estimate == "never")],
        unreadable,
        config.estimate,
    )
    sources: list[PowerSource] = [source for source in hardware if source.channels]
    for source in hardware:
        if source not in sources:
            source.close()
    is_estimated = config.estimate == "always" or (config.estimate == "auto" and not channels)
    if is_estimated:
        estimate = EstimateSource(config.cpu_idle_watts, config.cpu_limit_watts, clock=clock)
        sources.append(estimate)
        probes += estimate.probe()
    sources += walls
    if nvml.channels:
        sources.append(GpuWatch(nvml, clock))
    if sources and watch_cpus:
        sources.append(CpuWatch(clock, attribute=is_estimated))
    return FoundSources(tuple(sources), unmeasured, tuple(probes))


def open_recorder(
    config: Config,
    clock: Callable[[], int] = time.monotonic_ns,
    *,
    light: bool = False,
    doubled: bool = False,
    keep_seconds: float = 3600.0,
) -> Recorder:
    """Open a recorder of every readable power channel of this machine, without starting it.

    It uses the saved cold idle baseline and the calibration of the wall, if they fit the channels.
    If ``light``, it reads rarely and does not watch the CPUs: more readings of a counter show its
    peaks better, and its joules no better. ``doubled`` is as in :func:`find_sources`.
    """
    found = find_sources(config, clock, watch_cpus=not light, doubled=doubled)
    hz = config.sample_hz
    if light:
        kinds = {channel.kind for source in found.sources for channel in source.channels}
        hz = min(hz, _RARE_HZ if kinds <= {Kind.COUNTER, Kind.ESTIMATE} else _INTEGRATED_HZ)
    recorder = Recorder(
        found.sources,
        hz=hz,
        clock=clock,
        unmeasured=found.unmeasured,
        keep_seconds=keep_seconds,
        estimate=config.estimate,
    )
    use_baseline(recorder, load_baselines(config))
    recorder.wall_model = find_wall(config, [c.id for c in recorder.selection.summed])
    return recorder


def _unmeasured(
    channels: Sequence[Channel], unreadable: Sequence[str], estimate: str
) -> tuple[str, ...]:
    """Return the scopes without a reading; the CPU package is one unless a channel covers it.

    Nothing is unmeasured where the total covers the whole machine (a battery alone).
    """
    if select_disjoint(channels, estimate).covers_machine:
        return ()
    readable = {channel.scope for channel in channels}
    readable |= {s.replace("module:", "gpu:") for s in readable}  # a module includes its GPU
    scopes = [s for s in unreadable if ":" in s and s not in readable]
    seen = {family(channel.scope) for channel in channels} | {family(s) for s in scopes}
    if not seen & {"package", "module"}:
        scopes.append("package:0")
    return tuple(dict.fromkeys(scopes))


def _nvml_probes(nvml: NvmlSource, sysfs_dir: Path) -> list[ChannelProbe]:
    if not nvml.failure:
        return list(nvml.probe())
    cards = [card for card in graphics_cards(sysfs_dir) if card.vendor == "NVIDIA"]
    if not cards:
        return [ChannelProbe("nvml", False, False, f"no NVIDIA GPU found ({nvml.failure})")]
    fix = "install the NVIDIA driver, then check it with nvidia-smi"
    if "not found" in nvml.failure:
        fix = "install the NVIDIA driver (in a container: start it with --gpus all)"
    found = count_text(len(cards), "NVIDIA GPU")
    return [ChannelProbe("nvml", True, False, f"{found} found, but {nvml.failure}", fix)]
