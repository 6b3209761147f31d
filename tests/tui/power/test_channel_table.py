"""One row a channel: what fits, what is missing, GPUs first and numbered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from etui.energy.devices import ChannelState, DeviceVitals
from etui.energy.types import Channel, ChannelPower, Kind
from etui.tui.power.channel_table import (
    ChannelFacts,
    channel_rows,
    name_channels,
    resample,
    watts_fact,
)

GPU = Channel("gpu:GPU-1", "gpu:GPU-1", Kind.COUNTER, limit_watts=350.0)
CPU = Channel("package:0", "package:0", Kind.COUNTER, limit_watts=150.0)
FULL = DeviceVitals("gpu:GPU-1", 0.87, 61.0, 1980, 9000, None, 40_000_000_000, 48_000_000_000)


def state(
    watts: float | None, channel: Channel = GPU, device: DeviceVitals = FULL, **power: object
) -> ChannelState:
    reading = ChannelPower(channel, 0, watts, None, in_total=bool(power.get("in_total", True)))
    idle = power.get("idle")
    return ChannelState(reading, device, idle if isinstance(idle, float) else None)


def lines(facts: list[ChannelFacts], width: int, columns: int = 1) -> list[str]:
    return ["".join(text for text, _ in row) for row in channel_rows(facts, width, columns)]


def test_a_row_has_sparkline_watts_of_limit_use_memory_and_heat() -> None:
    (row,) = lines([ChannelFacts("GPU0", state(231.0), (0.0, 175.0, 350.0, 350.0))], 44)
    assert row.startswith("GPU0 ")
    assert row.endswith("231/350 W 87 % 40/48 GB 61 °C")
    assert "⣠⣿ 231" in row


def test_a_shared_gpu_shows_etuis_watts_above_idle() -> None:
    shared = replace(FULL, shared=True, own_share=0.5)
    (row,) = lines([ChannelFacts("GPU0", state(131.0, device=shared, idle=31.0))], 60)
    assert "etui 50 W" in row
    unknown = replace(FULL, shared=True, own_share=None)
    (row,) = lines([ChannelFacts("GPU0", state(131.0, device=unknown))], 60)
    assert "shared" in row


def test_what_is_missing_is_a_dash_where_others_have_it_and_never_0() -> None:
    bare = DeviceVitals("gpu:GPU-2")
    other = replace(GPU, id="gpu:GPU-2", scope="gpu:GPU-2")
    rows = lines(
        [
            ChannelFacts("GPU0", state(231.0)),
            ChannelFacts("GPU1", state(None, other, bare)),
            ChannelFacts("CPU", state(62.0, CPU, DeviceVitals("package:0"))),
        ],
        60,
    )
    assert "unmeasured" in rows[1]
    assert rows[1].count("–") == 3
    assert rows[2].count("–") == 2, "a CPU has no memory of its own"
    assert all(" 0 " not in row for row in rows)


def test_a_fact_that_nobody_reports_takes_no_place() -> None:
    (row,) = lines([ChannelFacts("CPU", state(62.0, CPU, DeviceVitals("package:0")))], 40)
    assert row.split() == ["CPU", "62/150", "W"]


def test_what_is_not_in_the_total_has_a_star() -> None:
    psys = Channel("psys", "psys", Kind.COUNTER)
    facts = ChannelFacts("machine", state(80.0, psys, DeviceVitals("psys"), in_total=False))
    assert lines([facts], 40)[0].startswith("machine* ")


@pytest.mark.parametrize(
    ("width", "gone"),
    [(44, ""), (33, "°C"), (25, "GB"), (18, "%")],
)
def test_a_narrow_row_leaves_out_the_least_important(width: int, gone: str) -> None:
    (row,) = lines([ChannelFacts("GPU0", state(231.0), (10.0,) * 48)], width)
    assert cell_len(row) == width
    assert "231/350 W" in row
    assert not gone or gone not in row


@given(st.integers(1, 14), st.integers(1, 120), st.integers(1, 3))
def test_every_row_fills_its_width_and_no_channel_is_lost(
    count: int, width: int, columns: int
) -> None:
    facts = [
        ChannelFacts(f"GPU{n}", state(231.0, replace(GPU, id=str(n))), (9.0,)) for n in range(count)
    ]
    rows = lines(facts, width, columns)
    assert all(cell_len(row) == width for row in rows)
    if width >= 80:
        text = "\n".join(rows)
        assert all(f"GPU{n} " in text for n in range(count))
        assert len(rows) == -(-count // min(columns, count))


def test_gpus_come_first_and_are_numbered() -> None:
    channels = [
        CPU,
        Channel("dram:0", "dram:0", Kind.COUNTER),
        GPU,
        replace(GPU, id="gpu:GPU-2", scope="gpu:GPU-2"),
        Channel("estimate:cpu", "estimate:cpu", Kind.ESTIMATE),
    ]
    assert name_channels(channels) == {
        "gpu:GPU-1": "GPU0", "gpu:GPU-2": "GPU1", "package:0": "CPU0", "estimate:cpu": "CPU1",
        "dram:0": "RAM",
    }  # fmt: skip
    assert list(name_channels(channels))[:2] == ["gpu:GPU-1", "gpu:GPU-2"]
    assert name_channels([CPU]) == {"package:0": "CPU"}


def test_the_watts_are_written_with_their_limit() -> None:
    assert watts_fact(state(118.0)) == "118/350 W"
    assert watts_fact(state(118.0, device=replace(FULL, limit_watts=200.0))) == "118/200 W"
    assert watts_fact(state(None)) == "unmeasured"
    assert watts_fact(state(14.0, replace(GPU, limit_watts=None))) == "14 W"
    estimate = Channel("estimate:cpu", "estimate:cpu", Kind.ESTIMATE, limit_watts=65.0)
    assert watts_fact(state(12.0, estimate)) == "≈12/65 W"


@given(st.lists(st.none() | st.floats(0, 100), max_size=60), st.integers(1, 60))
def test_a_shorter_sparkline_still_covers_everything(
    values: list[float | None], count: int
) -> None:
    means = resample(values, count)
    assert len(means) == min(len(values), count)
    known = [value for value in values if value is not None]
    for mean in means:
        assert mean is None or min(known) - 1e-9 <= mean <= max(known) + 1e-9
    assert (not known) == all(mean is None for mean in means)
