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
def test_a_total_never_overlaps_and_loses_no_channel(channels, estimate):
    selection = select_disjoint(channels, estimate)
    require_disjoint(selection.summed)
    assert sorted([*ids(selection.summed), *ids(selection.cross_checks)]) == sorted(
        ids(tuple(channels))
    )


@pytest.mark.parametrize(
    ("channels", "estimate", "summed"),
    [
        (
            [GPU, OTHER_GPU, PACKAGE, PACKAGE1, DRAM],
            "auto",
            "gpu:A gpu:B package:0 package:1 dram:0",
        ),
        ([PSYS, BATTERY, PACKAGE, GPU], "auto", "gpu:A package:0"),
        ([BATTERY, PSYS], "auto", "psys"),  # nothing finer can be read
        ([CORE, PACKAGE], "auto", "package:0"),
        ([GUESS], "auto", "estimate:cpu"),
        ([GUESS, GPU], "auto", "gpu:A"),
        ([GUESS, BATTERY], "auto", "battery"),
        ([GUESS, GPU], "always", "gpu:A estimate:cpu"),
        ([GUESS, PACKAGE], "always", "package:0"),
        ([GUESS], "never", ""),
        ([Channel("gpu:A/power", "gpu:A", Kind.INTEGRATED), GPU], "auto", "gpu:A"),
    ],
)
def test_disjoint_hardware_of_the_best_kind_is_summed(channels, estimate, summed):
    selection = select_disjoint(channels, estimate)
    assert ids(selection.summed) == set(summed.split())
    assert selection.covers_machine == (summed in ("psys", "battery"))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        *[(CORE, PACKAGE, True), (CORE, PACKAGE1, False)],
        *[(MODULE, GPU, True), (MODULE, PACKAGE, True), (MODULE, OTHER_GPU, False)],
    ],
)
def test_a_part_and_its_whole_overlap(one, other, expected):
    assert overlaps(one, other) == overlaps(other, one) == expected


def test_an_overlap_is_refused_by_name():
    with pytest.raises(ScopeOverlap, match="psys and gpu:A cover the same hardware"):
        require_disjoint([PSYS, GPU])


def test_a_sum_is_as_weak_as_its_weakest_part():
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
def test_hardware_without_a_reading_is_named_in_words(scopes, said):
    assert describe_unread(scopes) == said
