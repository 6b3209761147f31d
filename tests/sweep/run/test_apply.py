"""The best setting of a sweep, applied to its model on this machine, and reverted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.config.machine import machine_name
from etui.engine.library import choose_threads
from etui.engine.thread_count import choose_thread_limits
from etui.errors import EtuiError, ExitCode
from etui.models.catalogue import load_catalogue
from etui.models.files import read_entries
from etui.models.spec import STARTER
from etui.models.tuned import load_tuned, remove_tuned
from etui.sweep.apply import (
    NothingToApply,
    apply_best,
    build_limit_command,
    choose_setting,
    choose_values,
)
from etui.sweep.config import Goal, Setting, SweepConfig, Value
from etui.sweep.document import build_document
from etui.sweep.result import DetectionFloor, SettingResult, SweepResult
from etui.sweep.verdict import format_verdict
from tests.sweep.results import difference, make_config, make_result, setting_result

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
THREADS = choose_threads(None)
"""What the entry of the models gives here; the tuned number is another one."""

JOULES, TIME = Goal(), Goal("time")


def setting(
    joules: float = 0.0, seconds: float = 0.0, *, claimed: bool = True, **values: Value
) -> SettingResult:
    """A setting by its differences to the baseline in per cent; both 0 is the baseline."""
    pairs: Any = tuple(values.items())
    one = setting_result(Setting(pairs).key, 10 + joules / 10, 4 * (1 + seconds / 100))
    if joules or seconds:
        changes = [difference(each, 1.0, claimed=claimed) for each in (joules, seconds)]
        one = replace(one, joules_difference=changes[0], seconds_difference=changes[1])
    return replace(one, values=pairs)


def sweep(*settings: SettingResult, best: int = 1, **changes: Any) -> SweepResult:
    return make_result(*settings, best=settings[best].setting, **changes)


def described(result: SweepResult, **changes: Any) -> SweepConfig:
    here = {"id": "20261125-190000", "model": STARTER, "model_sha256": SHA256}
    return make_config(result, **{**here, "provenance": {"machine": machine_name()}, **changes})


BASE = setting(threads=THREADS, kv_type="f16")
SAVES = setting(-18.0, 4.0, threads=THREADS + 1, kv_type="q8_0")
FASTER = setting(9.0, -12.0, threads=THREADS + 2, kv_type="f16")


def test_a_baseline_that_replaced_the_setting_in_use_is_not_applied(config: Config) -> None:
    result = sweep(BASE, SAVES, FASTER)
    asked = described(result)
    settings = asked.design.settings
    in_use = replace(asked.design, settings=(settings[2], *settings[:2]))
    with pytest.raises(EtuiError, match=f"nothing was compared with {FASTER.setting}"):
        apply_best(config, replace(asked, design=in_use), result, JOULES)
    assert not load_tuned(config)


def test_a_floor_that_shows_no_saving_of_joules_leaves_the_time_to_apply(config: Config) -> None:
    floor = DetectionFloor(6606.4, 0.9, -3.6, 0.1, 8, 2)
    open_ = replace(FASTER, joules_difference=difference(9.0, 1.0, claimed=False))
    result = replace(sweep(BASE, open_, floor=floor), best=None)
    with pytest.raises(NothingToApply, match="no saving could be shown: the detection floor"):
        apply_best(config, described(result), result, JOULES)
    assert apply_best(config, described(result), result, TIME).values["threads"] == THREADS + 2


def test_the_best_setting_is_used_from_then_on_and_reverted(config: Config) -> None:
    before = load_catalogue(config)
    result = sweep(BASE, SAVES, FASTER)
    settings = apply_best(config, described(result), result, JOULES)
    assert settings.values == {
        "threads": THREADS + 1,
        "kv_type": "q8_0",
        "flash_attention": "on",
    }
    assert settings.entry == {"threads": "auto", "kv_type": "f16", "flash_attention": "auto"}
    assert settings.verdict.startswith(f"threads={THREADS + 1} kv_type=q8_0 saves 18 % [17, 19]")
    assert (settings.goal, settings.sweep) == ("joules", "20261125-190000")
    spec = load_catalogue(config).get(STARTER)
    assert (spec.threads, spec.kv_type) == (THREADS + 1, "q8_0")
    assert load_tuned(config) == (settings,)
    assert remove_tuned(config, STARTER) == settings
    assert load_catalogue(config) == before
    assert remove_tuned(config, STARTER) is None


def test_another_goal_chooses_among_the_measured_settings(config: Config) -> None:
    result = sweep(BASE, SAVES, FASTER)
    settings = apply_best(config, described(result), result, TIME)
    assert settings.values == {"threads": THREADS + 2}, "kv_type is that of the entry"
    assert settings.goal == "time"
    assert "saves 12 % [11, 13] of the time" in settings.verdict


def test_within_a_time_limit_a_slower_setting_is_passed_over() -> None:
    slow = setting(-30.0, 40.0, threads=1)
    result = sweep(BASE, slow, SAVES)
    assert choose_setting(result, Goal("joules", 10.0)).setting == SAVES
    assert choose_setting(result, JOULES).setting == slow
    assert choose_setting(result, Goal("joules", 1.0)).setting is None


@pytest.mark.parametrize(
    ("joules", "seconds", "half", "wins"),
    [
        (-18.0, 4.0, 1.0, True),
        (-18.0, 25.0, 1.0, False),  # more in the product
        (-3.0, 1.0, 3.0, False),  # less, but not beyond the intervals
    ],
)
def test_the_product_is_claimed_only_beyond_both_intervals(
    joules: float, seconds: float, half: float, wins: bool
) -> None:
    one = replace(
        setting(joules, seconds, threads=1),
        joules_difference=difference(joules, half),
        seconds_difference=difference(seconds, half),
    )
    found = choose_setting(sweep(BASE, one, best=0), Goal("joules*time")).setting
    assert (found == one) is wins


@pytest.mark.parametrize("goal", [JOULES, TIME, Goal("joules*time")])
def test_only_a_claimed_improvement_is_applied(config: Config, goal: Goal) -> None:
    noise = setting(-3.0, -2.0, claimed=False, threads=1)
    result = sweep(BASE, noise, best=0)
    with pytest.raises(NothingToApply, match="nothing was changed") as caught:
        apply_best(config, described(result), result, goal)
    assert caught.value.exit_code == ExitCode.DONE
    assert not config.tuned_file.exists()


def test_a_best_setting_that_only_ranks_best_is_not_applied(config: Config) -> None:
    noise = setting(-3.0, -2.0, claimed=False, threads=THREADS + 1, kv_type="f16")
    result = sweep(BASE, noise)
    with pytest.raises(NothingToApply) as caught:
        apply_best(config, described(result), result, JOULES)
    assert caught.value.what == (
        f"threads={THREADS + 1} ranks best by joules, but no improvement could be shown, so "
        "nothing was changed"
    )
    assert not config.tuned_file.exists()
    assert format_verdict(result).startswith(f"threads={THREADS + 1} ranks best by joules, but no")
    document = build_document(described(result), result)
    assert (document["best"], document["is_best_claimed"]) == (noise.setting, False)


@pytest.mark.parametrize(("claimed", "wins"), [(True, True), (False, False)])
def test_a_baseline_that_is_too_slow_gives_way_to_what_is_faster_beyond_doubt(
    config: Config, claimed: bool, wins: bool
) -> None:
    goal = Goal("joules", 5.0)
    allowed = setting(3.0, -20.0, claimed=claimed, threads=THREADS + 1)
    frugal = setting(-30.0, 40.0, threads=THREADS + 2)
    result = sweep(setting(threads=THREADS), allowed, frugal, goal=goal)
    assert (choose_setting(result, goal).setting == allowed) is wins
    assert (choose_setting(replace(result, goal=JOULES), goal).setting == allowed) is wins
    document = build_document(described(result), result)
    assert (document["best"], document["is_best_claimed"]) == (allowed.setting, wins)
    if wins:
        settings = apply_best(config, described(result), result, goal)
        assert settings.values == {"threads": THREADS + 1}
        assert "costs 3 % [2, 4] of the joules and saves 20 % [19, 21] of the" in settings.verdict
    else:
        with pytest.raises(NothingToApply, match="ranks best by joules within 5 %"):
            apply_best(config, described(result), result, goal)


def test_another_model_is_named_and_not_applied(config: Config) -> None:
    base = setting(model=STARTER, threads=THREADS)
    own = setting(-10.0, 1.0, model=STARTER, threads=THREADS + 1)
    other = setting(-40.0, 1.0, model="gemma-3-270m", threads=THREADS)
    result = sweep(base, other, own)
    settings = apply_best(config, described(result), result, JOULES)
    assert settings.values == {"threads": THREADS + 1}
    (note,) = settings.notes
    assert "gemma-3-270m (-40 %)" in note
    assert "--model gemma-3-270m" in note
    with pytest.raises(NothingToApply, match="gemma-3-270m"):
        apply_best(config, described(result), sweep(base, other), JOULES)


class Gpu:
    """A device with a power limit, as the command names it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read_knobs(self) -> Mapping[str, float | None]:
        return {"limit": 60.0}

    def format_command(self, changes: Mapping[str, float]) -> str:
        return f"set {self.name} {changes['limit']:g}"


class Limits:
    """The limits of a machine with two GPUs and a package."""

    def scopes(self, family: str) -> tuple[str, ...]:
        every = ("package:0", "gpu:GPU-1a", "gpu:GPU-2b")
        return tuple(scope for scope in every if scope.startswith(family))

    def device(self, scope: str) -> Any:
        return Gpu(scope)


def test_a_power_limit_is_advice_and_not_kept(config: Config) -> None:
    base = setting(threads=THREADS, power_limit=30.0)
    capped = setting(-20.0, 5.0, threads=THREADS, power_limit=20.0)
    result = sweep(base, capped)
    zone = config.sysfs_dir / "class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (
        ("name", "package-0"),
        ("enabled", "1"),
        ("constraint_0_name", "long_term"),
        ("constraint_0_power_limit_uw", "30000000"),
    ):
        (zone / name).write_text(f"{text}\n")
    # The card draws power too, but the model runs on the CPU, whose limit was swept.
    seen = {"machine": machine_name(), "in_use": {"gpu_layers": 0}}
    sweep_config = described(result, channels=("package:0", "gpu:GPU-1a"), provenance=seen)
    settings = apply_best(config, sweep_config, result, JOULES)
    assert settings.values == {}
    assert settings.power_limit is not None
    assert settings.power_limit.watts == 20.0
    assert settings.power_limit.command.startswith("echo 20000000 | sudo tee ")
    assert load_tuned(config) == (settings,)
    assert load_catalogue(config).get(STARTER).tuned is None


@pytest.mark.parametrize(
    ("on_gpu", "command"),
    [
        (True, "set gpu:GPU-1a 45 && set gpu:GPU-2b 45"),
        (False, "set package:0 45"),
    ],
)
def test_the_command_of_a_power_limit(on_gpu: bool, command: str) -> None:
    assert build_limit_command(Limits(), 45.0, on_gpu=on_gpu) == command


def test_a_second_sweep_keeps_the_axes_that_it_did_not_vary(config: Config) -> None:
    first = sweep(BASE, SAVES)
    apply_best(config, described(first), first, JOULES)
    base, batch = setting(batch_tokens=128), setting(-6.0, 1.0, batch_tokens=256)
    second = sweep(base, batch)
    settings = apply_best(config, described(second, id="second"), second, JOULES)
    assert settings.values == {
        "threads": THREADS + 1,
        "batch_tokens": 256,
        "kv_type": "q8_0",
        "flash_attention": "on",
    }
    assert settings.sweep == "second"


def test_a_sweep_that_finds_the_entry_best_removes_the_tuned_settings(config: Config) -> None:
    first = sweep(BASE, setting(-18.0, 4.0, threads=THREADS + 1, kv_type="f16"))
    apply_best(config, described(first), first, JOULES)
    second = sweep(setting(threads=THREADS + 1), setting(-5.0, 1.0, threads=THREADS))
    settings = apply_best(config, described(second), second, JOULES)
    assert settings.values == {}
    assert load_tuned(config) == ()


REFUSED: Mapping[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unfinished": ({"is_complete": False}, {}, "not finished"),
    "nothing compared": ({"best": None}, {}, "not finished"),
    "another machine": ({}, {"provenance": {"machine": "another"}}, "another machine"),
    "an unknown machine": ({}, {"provenance": {}}, "another machine"),
    "another file": ({}, {"model_sha256": "0" * 64}, "not the one of the sweep"),
    "a file of unknown hash": ({}, {"model_sha256": None}, "not the one of the sweep"),
    "a model that is gone": ({}, {"model": "gone"}, "not in models.yaml any more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_applied_is_refused_with_the_reason(config: Config, name: str) -> None:
    changes, fields, says = REFUSED[name]
    result = replace(sweep(BASE, SAVES), **changes)
    with pytest.raises(EtuiError, match=says) as caught:
        apply_best(config, described(result, **fields), result, JOULES)
    assert caught.value.fix
    assert not config.tuned_file.exists()


@pytest.mark.parametrize(
    ("entry", "best", "base", "values"),
    [
        (
            {}, {"decode_threads": THREADS + 1}, {"decode_threads": THREADS},
            {"threads": THREADS + 1, "prefill_threads": THREADS},
        ),
        (
            {"prefill_threads": 6}, {"threads": THREADS + 1}, {"threads": THREADS},
            {"threads": THREADS + 1, "prefill_threads": THREADS + 1},
        ),
        (  # `auto` is a value of some keys, and an open number of others
            {"gpu_layers": 20, "batch_tokens": 64},
            {"gpu_layers": "auto", "batch_tokens": "auto"}, {}, {"gpu_layers": "auto"},
        ),
        (  # the entry has them already
            {"kv_type": "q8_0", "flash_attention": "on", "threads": 3, "batch_tokens": 256},
            {"kv_type": "q8_0", "threads": 3, "batch_tokens": 256, "gpu_layers": "auto"}, {}, {},
        ),
    ],
)  # fmt: skip
def test_values_that_differ_from_the_entry_are_kept(
    config: Config, entry: Any, best: Any, base: Any, values: Any
) -> None:
    spec = replace(read_entries(config)[STARTER], **entry)
    assert choose_values(best, base or best, {}, spec, config) == values


def test_what_auto_gives_is_left_to_auto(config: Config) -> None:
    # The baseline of a sweep names what is in use: on a CPU, `auto` is without flash attention.
    spec = read_entries(config)[STARTER]
    base: Any = {"threads": THREADS, "flash_attention": "off", "batch_tokens": 128}
    best: Any = {"threads": THREADS + 1, "flash_attention": "off", "batch_tokens": 128}
    assert choose_values(best, base, {}, spec, config) == {"threads": THREADS + 1}
    on: Any = {**best, "flash_attention": "on"}
    earlier = choose_values(on, base, {}, spec, config)
    assert earlier == {"threads": THREADS + 1, "flash_attention": "on"}
    assert choose_values(on, on, earlier, spec, config) == earlier


def test_an_arm_may_have_speculation_of_its_own(config: Config) -> None:
    result = sweep(setting(speculate="off"), setting(-9.0, -3.0, speculate="lookup"))
    described_arm = described(result, policy="balanced", arm="quick")
    settings = apply_best(config, described_arm, result, JOULES)
    assert settings.values == {"speculate": "lookup"}
    assert "change it in the policy" in settings.notes[0]


AXES: Any = st.fixed_dictionaries(
    {"kv_type": st.sampled_from(["f16", "q8_0", "q4_0"])},
    optional={
        "threads": st.integers(1, 2),
        "decode_threads": st.integers(1, 2),
        "prefill_threads": st.integers(1, 2),
        "speculate": st.sampled_from(["off", "lookup"]),
        "gpu_layers": st.sampled_from(["auto", "all", 7]),
    },
).filter(lambda axes: not ("threads" in axes and "decode_threads" in axes))
ENTRY: Any = st.fixed_dictionaries(
    {},
    optional={
        "threads": st.integers(1, 2),
        "prefill_threads": st.integers(1, 2),
        "kv_type": st.sampled_from(["f16", "q8_0"]),
        "gpu_layers": st.just(3),
        "speculate": st.just("lookup"),
        "flash_attention": st.just("on"),
    },
)


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etui.engine.library.usable_cpus", lambda: 8)


@pytest.mark.usefixtures("eight_cpus")
@given(best=AXES, before=AXES, fields=ENTRY)
def test_the_model_runs_as_the_setting_was_measured(
    config: Config, best: Any, before: Any, fields: Any
) -> None:
    """What a rig measured on top of an earlier sweep is what the entry gives afterwards."""
    entry = replace(read_entries(config)[STARTER], **fields)
    earlier = choose_values(before, {}, {}, entry, config)
    in_use = replace(entry, **earlier)  # type: ignore[arg-type]
    base: Any = {key: getattr(in_use, key) for key in ("kv_type", "flash_attention", "gpu_layers")}
    limits = choose_thread_limits(in_use, config)
    both = best.get("threads")
    expected = (
        best.get("decode_threads", both or limits.decode),
        best.get("prefill_threads", both or limits.prefill),
        best["kv_type"],
        in_use.flash_attention if best["kv_type"] == "f16" else "on",
        best.get("gpu_layers", in_use.gpu_layers),
        best.get("speculate", in_use.speculate or "off"),
    )
    used = replace(entry, **choose_values(best, base, earlier, entry, config))  # type: ignore[arg-type]
    found = choose_thread_limits(used, config)
    assert expected == (
        found.decode,
        found.prefill,
        used.kv_type,
        used.flash_attention,
        used.gpu_layers,
        used.speculate or "off",
    )
