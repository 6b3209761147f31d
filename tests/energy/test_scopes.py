"""No hardware is counted twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.scopes import (
    ScopeOverlap,
    describe_unread,
    overlaps,
    require_disjoint,
    select_disjoint,
    weakest,
)
from etui.energy.types import Channel, Kind


def channel(scope: str, kind: Kind = Kind.COUNTER, parent: str | None = None) -> Channel:
    return Channel(id=scope, scope=scope, kind=kind, parent=parent)


GPU, OTHER_GPU = channel("gpu:A", parent="module:A"), channel("gpu:B")
PACKAGE, PACKAGE1, DRAM = channel("package:0"), channel("package:1"), channel("dram:0")
CORE = channel("core:0", parent="package:0")
PSYS, BATTERY = channel("psys"), channel("battery", Kind.BATTERY)
MODULE = channel("module:A")
GUESS = channel("estimate:cpu", Kind.ESTIMATE)
EVERY = [GPU, OTHER_GPU, PACKAGE, PACKAGE1, DRAM, CORE, PSYS, BATTERY, MODULE, GUESS]


def ids(channels: tuple[Channel, ...]) -> set[str]:
    return {c.id for c in channels}


@given(st.lists(st.sampled_from(EVERY), unique=True), st.sampled_from(["auto", "always", "never"]))
def test_a_total_never_overlaps_and_loses_no_channel(
    channels: list[Channel], estimate: str
) -> None:
    selection = select_disjoint(channels, estimate)
    require_disjoint(selection.summed)
    assert sorted([*ids(selection.summed), *ids(selection.cross_checks)]) == sorted(
        ids(tuple(channels))
    )


def test_disjoint_hardware_is_summed() -> None:
    selection = select_disjoint([GPU, OTHER_GPU, PACKAGE, PACKAGE1, DRAM])
    assert ids(selection.summed) == {"gpu:A", "gpu:B", "package:0", "package:1", "dram:0"}


def test_psys_and_battery_only_check() -> None:
    selection = select_disjoint([PSYS, BATTERY, PACKAGE, GPU])
    assert ids(selection.summed) == {"package:0", "gpu:A"}
    assert ids(selection.cross_checks) == {"psys", "battery"}


def test_a_covering_scope_is_the_total_when_nothing_finer_is_readable() -> None:
    selection = select_disjoint([BATTERY, PSYS])
    assert ids(selection.summed) == {"psys"}
    assert selection.covers_machine


def test_cores_are_never_added_to_their_package() -> None:
    assert ids(select_disjoint([CORE, PACKAGE]).summed) == {"package:0"}
    assert overlaps(CORE, PACKAGE)
    assert not overlaps(CORE, PACKAGE1)


def test_a_module_is_never_added_to_its_gpu_or_its_cpu() -> None:
    assert overlaps(MODULE, GPU)
    assert overlaps(MODULE, PACKAGE)
    assert not overlaps(MODULE, OTHER_GPU)


def test_an_estimate_is_summed_only_without_hardware() -> None:
    assert ids(select_disjoint([GUESS]).summed) == {"estimate:cpu"}
    assert ids(select_disjoint([GUESS, GPU]).summed) == {"gpu:A"}
    assert ids(select_disjoint([GUESS, BATTERY]).summed) == {"battery"}


def test_an_estimate_that_was_asked_for_joins_what_it_does_not_cover() -> None:
    assert ids(select_disjoint([GUESS, GPU], "always").summed) == {"gpu:A", "estimate:cpu"}
    assert ids(select_disjoint([GUESS, PACKAGE], "always").summed) == {"package:0"}


def test_an_unwanted_estimate_is_not_summed() -> None:
    assert select_disjoint([GUESS], "never").summed == ()


def test_of_two_channels_of_one_scope_the_better_kind_is_summed() -> None:
    twin = Channel("gpu:A/power", "gpu:A", Kind.INTEGRATED)
    assert ids(select_disjoint([twin, GPU]).summed) == {"gpu:A"}


def test_an_overlap_is_refused_by_name() -> None:
    with pytest.raises(ScopeOverlap, match="psys and gpu:A cover the same hardware"):
        require_disjoint([PSYS, GPU])


def test_a_sum_is_as_weak_as_its_weakest_part() -> None:
    assert weakest([Kind.COUNTER, Kind.ESTIMATE, Kind.INTEGRATED]) is Kind.ESTIMATE
    assert weakest([]) is None


@pytest.mark.parametrize(
    ("scopes", "said"),
    [
        ((), ""),
        (("package:0",), "CPU package: not readable"),
        (("package:0", "package:1"), "CPU package 0, CPU package 1: not readable"),
        (("desk/package:0", "gpu:GPU-1"), "CPU package on desk, GPU GPU-1: not readable"),
    ],
)
def test_hardware_without_a_reading_is_named_in_words(scopes: tuple[str, ...], said: str) -> None:
    assert describe_unread(scopes) == said
