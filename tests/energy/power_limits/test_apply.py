"""Setting limits: verified by reading back, and never silent about a difference."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.power_limits.hold import MOST_REQUESTS, LimitHold
from etui.energy.power_limits.limit import (
    AppliedLimit,
    CapRequest,
    PowerLimit,
    check_range,
    format_range,
    judge_applied,
)
from etui.errors import UsageError
from tests.energy.power_limits.conftest import StubbornFiles
from tests.energy.power_limits.fake_pynvml import FakeNvml
from tests.support.power_limits import read_package, write_amd_gpu, write_package

GPU = "gpu:GPU-fake-0"
AMD = "gpu:0000:03:00.0"
LIMIT = PowerLimit(GPU, "GPU 0", 350.0, 350.0, 100.0, 450.0, 450.0, "etui", "")


def test_a_gpu_gets_its_limit(open_limits, config):
    nvml = FakeNvml(350_000)
    limits = open_limits(nvml, root=True)
    with LimitHold(config, limits) as hold:
        assert hold.apply(GPU, 300) == AppliedLimit(GPU, 300, 300.0, 300.0)
        assert nvml.limits == [300_000]
    assert nvml.limits == [350_000]


@pytest.mark.parametrize("watts", [99.0, 451.0, 0.0, -5.0, math.nan, math.inf])
def test_a_limit_outside_of_the_range_touches_nothing(open_limits, config, watts):
    nvml = FakeNvml(350_000)
    limits = open_limits(nvml, root=True)
    with LimitHold(config, limits) as hold:
        with pytest.raises(UsageError, match="outside of the range of GPU 0: 100 W to 450 W"):
            hold.apply(GPU, watts)
        assert not config.power_limits_file.exists()
    assert nvml.limits == [350_000]


@pytest.mark.parametrize(
    ("driver", "applied", "enforced", "note", "is_refused"),
    [
        ({"round_to": 25_000}, 300, 300, "rounded: 310 W was requested, 300 W is set", False),
        ({"silent": True}, 350, 350, "refused without an error: the limit is still 350 W", True),
        ({"denied": True}, 350, 350, "refused: permission denied", True),  # a container, as root
        (
            {"enforced": 280_000, "reasons": 0x84},
            *(310, 280, "only 280 W is enforced: power brake (power supply)", False),
        ),
        (
            {"enforced": 280_000, "reasons": 0x20},
            *(310, 280, "only 280 W is enforced: heat (driver)", False),
        ),
    ],
)
def test_a_difference_is_noted(open_limits, config, driver, applied, enforced, note, is_refused):
    limits = open_limits(FakeNvml(350_000, **driver), root=True)
    with LimitHold(config, limits) as hold:
        found = hold.apply(GPU, 310)
    assert found == AppliedLimit(GPU, 310, applied, enforced, note, is_refused)
    assert not config.power_limits_file.exists()


def test_what_else_holds_a_package_is_noted(open_limits, config, sysfs):
    write_package(sysfs)
    write_package(sysfs, long_watts=45, short_watts=None, zone="intel-rapl-mmio:0")
    with LimitHold(config, open_limits()) as hold:
        applied = hold.apply("package:0", 60)
    assert (applied.applied, applied.enforced) == (60.0, 45.0)
    assert applied.note == "only 45 W is enforced: long_term of intel-rapl-mmio:0 is 45 W"
    write_package(sysfs, enabled=False)
    (sysfs / "class/powercap/intel-rapl-mmio:0/enabled").write_text("0")
    with LimitHold(config, open_limits()) as hold:
        assert hold.apply("package:0", 60).note == "the limit is switched off"


def test_a_missing_permission_is_refused_with_the_command(open_limits, config):
    nvml = FakeNvml(350_000, denied=True)
    limits = open_limits(nvml)
    with LimitHold(config, limits) as hold:
        applied = hold.apply(GPU, 300)
        assert not config.power_limits_file.exists(), "nothing was changed"
    assert applied.is_refused
    assert applied.applied == 350
    assert "permission denied" in applied.note
    assert "sudo nvidia-smi -i GPU-fake-0 -pl 300" in applied.note


def test_both_limits_of_a_package_are_set_and_restored(open_limits, config, sysfs):
    folder = write_package(sysfs)
    with LimitHold(config, open_limits()) as hold:
        applied = hold.apply("package:0", 40)
        assert applied == AppliedLimit("package:0", 40, 40.0, 40.0)
        assert read_package(folder) == (40, 40)
        hold.apply("package:0", 125)
        assert read_package(folder) == (125, 125), "short_term is never below long_term"
        hold.apply("package:0", 65)
        assert read_package(folder) == (65, 120), "the limit found brings back all that was found"
    assert read_package(folder) == (65, 120)
    assert not config.power_limits_file.exists()


def test_the_range_of_a_package_stays_that_of_the_beginning(open_limits, config, sysfs):
    folder = write_package(sysfs, long_watts=200, max_watts=125)
    limits = open_limits()
    with LimitHold(config, limits) as hold:
        hold.apply("package:0", 100)
        [limit] = limits.read()
        assert limit.max_watts == 200
        assert hold.apply("package:0", 150).note == ""
    assert read_package(folder)[0] == 200


def test_a_kernel_that_refuses_is_quoted(open_limits, config, sysfs):
    folder = write_package(sysfs)
    files = StubbornFiles(failure="no data available")
    with LimitHold(config, open_limits(files=files)) as hold:
        applied = hold.apply("package:0", 40)
    assert applied.is_refused
    assert applied.note == "refused: no data available"
    assert read_package(folder) == (65, 120)
    assert not config.power_limits_file.exists()


def test_an_amd_gpu_is_cut_to_whole_watts_without_a_note(open_limits, config, sysfs):
    folder = write_amd_gpu(sysfs)
    files = StubbornFiles(step=1_000_000)
    with LimitHold(config, open_limits(files=files)) as hold:
        applied = hold.apply(AMD, 210.5)
        assert (applied.applied, applied.enforced, applied.note) == (210.0, None, "")
    assert int((folder / "power1_cap").read_text()) == 250_000_000


def test_several_packages_get_the_same_limit(open_limits, config, sysfs):
    folders = [write_package(sysfs), write_package(sysfs, 1, long_watts=70)]
    limits = open_limits()
    assert limits.scopes("package") == ("package:0", "package:1")
    assert limits.scopes("gpu") == ()
    with LimitHold(config, limits) as hold:
        applied = hold.apply_each(limits.scopes("package"), 50)
        assert [one.applied for one in applied] == [50, 50]
        with pytest.raises(UsageError):
            hold.apply_each(("package:0", "package:9"), 40)
        assert read_package(folders[0])[0] == 50, "all are checked before the first is touched"
    assert [read_package(folder)[0] for folder in folders] == [65, 70]


def test_the_user_sets_a_limit_and_it_is_verified(open_limits, config):
    nvml = FakeNvml(350_000, denied=True)
    asked: list[CapRequest] = []

    def ask(request: CapRequest) -> None:
        asked.append(request)
        if len(asked) != 1:  # the first time the user only says so
            nvml.limits[0] = round(request.watts * 1000)

    with LimitHold(config, open_limits(nvml), ask=ask) as hold:
        applied = hold.apply(GPU, 300)
        assert applied == AppliedLimit(GPU, 300, 300.0, 300.0)
        assert [one.watts for one in asked] == [300, 300]
        assert asked[0].command == "sudo nvidia-smi -i GPU-fake-0 -pl 300"
        assert asked[0].problem == ""
        assert asked[1].problem == "the limit of GPU 0 is 350 W, not 300 W"
    assert asked[-1].watts == 350, "at the end the user is asked to restore it"
    assert nvml.limits == [350_000]
    assert not config.power_limits_file.exists()


def test_a_user_is_not_asked_for_what_is_set(open_limits, config, sysfs):
    folder = write_package(sysfs)
    asked: list[CapRequest] = []

    def ask(request: CapRequest) -> None:
        asked.append(request)
        (folder / "constraint_0_power_limit_uw").write_text("40000000\n")
        if request.problem or request.watts == 65:
            short = 120 if request.watts == 65 else 40
            (folder / "constraint_0_power_limit_uw").write_text(f"{request.watts * 10**6:.0f}\n")
            (folder / "constraint_1_power_limit_uw").write_text(f"{short * 10**6}\n")

    limits = open_limits(files=StubbornFiles(writable=False))
    with LimitHold(config, limits, ask=ask) as hold:
        hold.apply("package:0", 65)
        assert asked == []
        assert hold.apply("package:0", 40).note == ""
        assert [one.problem for one in asked] == [
            "",
            "the limit of CPU package 0 (short_term) is 120 W, not 40 W",
        ]
        hold.apply("package:0", 40)
        assert len(asked) == 2
    assert read_package(folder) == (65, 120)


def test_a_user_who_does_not_set_it_is_asked_a_few_times(open_limits, config):
    nvml = FakeNvml(350_000, denied=True)
    asked: list[CapRequest] = []
    with LimitHold(config, open_limits(nvml), ask=asked.append) as hold:
        applied = hold.apply(GPU, 300)
    assert len(asked) == MOST_REQUESTS, "nothing is to be restored"
    assert applied.is_refused
    assert applied.note == "not set by the user: the limit of GPU 0 is 350 W, not 300 W"
    assert not config.power_limits_file.exists()


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_the_range_is_what_the_driver_states(watts):
    inside = 100 - 0.01 <= watts <= 450 + 0.01
    try:
        check_range(LIMIT, watts)
    except UsageError:
        assert not inside
    else:
        assert inside


@given(
    requested=st.floats(100, 450),
    before=st.floats(100, 450),
    applied=st.floats(100, 450),
    enforced=st.one_of(st.none(), st.floats(50, 450)),
    unit=st.sampled_from([0.001, 0.125, 1.0]),
)
def test_a_difference_beyond_the_unit_is_never_silent(requested, before, applied, enforced, unit):
    old = replace(LIMIT, watts=before)
    new = replace(LIMIT, watts=applied, enforced_watts=enforced)
    result = judge_applied(requested, old, new, unit)
    differs = abs(applied - requested) > unit + 1e-9
    lower = enforced is not None and enforced < applied - unit - 1e-9
    assert bool(result.note) == (differs or lower)
    assert (result.applied, result.enforced) == (applied, enforced)
    if result.is_refused:
        assert differs
    unknown = judge_applied(requested, old, replace(LIMIT, watts=None), unit)
    assert (unknown.is_refused, unknown.note) == (True, "the limit cannot be read back")


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (100.0, 450.0, "100 W to 450 W"),
        (None, 65.0, "at most 65 W"),
        (5.5, None, "at least 5.5 W"),
        (None, None, "above 0 W"),
    ],
)
def test_ranges_are_written_with_what_is_known(low, high, text):
    assert format_range(replace(LIMIT, min_watts=low, max_watts=high)) == text
