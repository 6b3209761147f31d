"""Starting and resuming sweeps: with a real plan, on a machine whose joules are known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from etui.config.config import Config
from etui.energy.power_limits.limit import LimitFiles
from etui.errors import EtuiError, ModelUnavailable, UsageError
from etui.sweep._axes import parse_axes
from etui.sweep.config import Goal, Setting, SweepConfig, SweepDesign
from etui.sweep.folder import list_sweeps, read_sweep
from etui.sweep.run import (
    SweepRunner,
    analyse_folder,
    asks_for_the_same,
    describe_plan,
    list_changes,
)
from tests.contract.tiny_model import write_tiny_model
from tests.support.power_limits import write_package
from tests.sweep.fakes import Audience, FakeWorkbench, Log, raise_at
from tests.sweep.values import CONFIG, DESIGN, ONE

GOAL = Goal()
BATCHES = ("batch_tokens=64,128,256,512",)


def ask(
    axes: tuple[str, ...] = BATCHES, *, seed: int = 0, goal: Goal = GOAL, **fields: Any
) -> SweepConfig:
    design = SweepDesign(goal=goal, seed=seed, race_rounds=2, confirm_blocks=4)
    return SweepConfig(axes=parse_axes(axes), design=design, **{"model": "tiny", **fields})


ASKED = ask()


def price(setting: Setting) -> float:
    """512 is the cheapest."""
    return 20.0 - int(setting.get("batch_tokens") or 0) / 64


@dataclass
class Machine:
    """A simulated machine with ``etui sweep``."""

    config: Config
    bench: FakeWorkbench = field(default_factory=lambda: FakeWorkbench(price))
    audience: Audience = field(default_factory=Audience)
    log: Log = field(default_factory=Log)

    @property
    def runner(self) -> SweepRunner:
        @contextmanager
        def open_bench() -> Iterator[FakeWorkbench]:
            yield self.bench

        return SweepRunner(
            self.config,
            self.audience,
            self.log,
            open_bench,
            lambda: datetime(2099, 1, 1, 10, tzinfo=UTC),
        )

    @property
    def notes(self) -> str:
        return "\n".join(map(str, self.audience.of("note")))


@pytest.fixture
def machine(config: Config) -> Machine:
    config.models_dir.mkdir(parents=True, exist_ok=True)
    write_tiny_model(config.models_dir / "tiny.gguf")
    return Machine(config)


def test_a_sweep_of_a_model_finds_the_cheapest_setting(machine: Machine) -> None:
    outcome = machine.runner.start(ASKED)
    assert outcome.result.best == "batch_tokens=512"
    assert outcome.result.is_complete
    assert outcome.folder.parent == machine.config.home / "sweeps"
    assert outcome.folder.name == outcome.config.id
    assert outcome.config.id.startswith("20990101-100000-tiny-")
    read = read_sweep(outcome.folder)
    assert read.config.channels == ("gpu:1",)
    assert read.config.window_s == 2.0
    assert read.config.model_sha256
    assert read.config.provenance["in_use"]["model"] == "tiny"
    assert analyse_folder(read) == outcome.result


def test_the_same_command_resumes_and_another_one_does_not(machine: Machine) -> None:
    machine.bench.before = raise_at(10, KeyboardInterrupt)
    first = machine.runner.start(ASKED)
    assert first.why_stopped == "stopped"
    machine.bench.before = lambda number: None
    other = machine.runner.start(ask(seed=1))
    assert other.folder != first.folder
    again = machine.runner.start(ASKED)
    assert again.folder == first.folder
    assert again.result.is_complete
    third = machine.runner.start(ASKED)  # nothing is unfinished any more
    assert third.folder != first.folder
    assert len(list_sweeps(machine.config)) == 3


def test_resume_goes_on_by_its_folder(machine: Machine, tmp_path: Path) -> None:
    machine.bench.before = raise_at(10, KeyboardInterrupt)
    asked = ask(goal=Goal("joules", 50.0), output_tokens=8, cool_down_celsius=60.0)
    first = machine.runner.start(asked, tmp_path / "mine")
    machine.bench.before = lambda number: None
    assert first.folder == tmp_path / "mine"
    done = machine.runner.resume(first.folder)
    assert done.result.is_complete
    assert done.config == first.config
    again = machine.runner.resume(first.folder)
    assert again.result == done.result


def test_out_resumes_its_own_sweep_and_refuses_another(machine: Machine, tmp_path: Path) -> None:
    machine.bench.before = raise_at(10, KeyboardInterrupt)
    place = tmp_path / "mine"
    machine.runner.start(ASKED, place)
    machine.bench.before = lambda number: None
    with pytest.raises(UsageError, match="contains another sweep"):
        machine.runner.start(ask(seed=7), place)
    assert machine.runner.start(ASKED, place).result.is_complete
    with pytest.raises(UsageError, match="already contains a sweep"):
        machine.runner.start(ASKED, place, fresh=True)


def change_conditions(machine: Machine, what: str) -> str:
    """Change something; return what the message has to name."""
    if what == "channels":
        machine.bench.channels = ("gpu:2",)
        return "the power channels was"
    if what == "model file":
        write_tiny_model(machine.config.models_dir / "tiny.gguf", "D")
        return "the model file was"
    machine.config = replace(machine.config, sample_hz=machine.config.sample_hz + 1)
    return "sample_hz was"


@pytest.mark.parametrize("what", ["channels", "model file", "settings"])
def test_other_conditions_are_refused_with_what_differs(machine: Machine, what: str) -> None:
    machine.bench.before = raise_at(10, KeyboardInterrupt)
    first = machine.runner.start(ASKED)
    before = (first.folder / "blocks.jsonl").read_bytes()
    named = change_conditions(machine, what)
    with pytest.raises(UsageError, match="under other conditions") as refused:
        machine.runner.resume(first.folder)
    assert named in refused.value.what
    assert (first.folder / "blocks.jsonl").read_bytes() == before
    machine.bench.before = lambda number: None
    second = machine.runner.start(ASKED)
    assert second.folder != first.folder
    assert named in machine.notes


def test_a_sweep_on_mains_is_not_resumed_on_a_battery(machine: Machine) -> None:
    battery = machine.config.sysfs_dir / "class/power_supply/BAT0"
    battery.mkdir(parents=True)
    (battery / "type").write_text("Battery\n")
    (battery / "status").write_text("Charging\n")
    machine.bench.before = raise_at(14, KeyboardInterrupt)
    first = machine.runner.start(ASKED).folder
    (battery / "status").write_text("Discharging\n")
    machine.bench.before = lambda number: None
    with pytest.raises(UsageError, match="the source of power was mains and is now a battery"):
        machine.runner.resume(first)
    assert machine.runner.start(ASKED).folder != first
    assert "the source of power was mains" in machine.notes
    (battery / "status").write_text("Full\n")
    assert machine.runner.resume(first).result.is_complete


def test_a_busy_machine_is_refused_before_a_folder_is_made(machine: Machine) -> None:
    def refuse() -> None:
        raise EtuiError("the machine is not idle: the CPUs are busy (70%)")

    machine.bench.busy = refuse
    with pytest.raises(EtuiError, match="not idle"):
        machine.runner.start(ASKED)
    assert list_sweeps(machine.config) == ()
    assert machine.bench.opened == 0


def test_a_machine_without_a_meter_compares_the_time_alone(machine: Machine) -> None:
    machine.bench.channels = ()
    with pytest.raises(EtuiError, match="nothing can be measured") as refused:
        machine.runner.start(ASKED)
    assert "--goal time" in refused.value.fix
    assert machine.runner.start(ask(goal=Goal("time"))).result.is_complete


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        (ask(model="tyni"), UsageError, "no model is called 'tyni'"),
        (ask(model="smollm2-135m"), ModelUnavailable, "is not on this machine"),
        (ask(axes=("kv_type=f16",)), UsageError, "only one combination"),
        (ask(axes=("power_limit=100,200",)), UsageError, "power_limit"),
        (ask(cap="user"), UsageError, "--cap user has no effect"),
        (ask(workload="chit-chat"), UsageError, "no workload 'chit-chat'"),
        (ask(suite="smaple"), UsageError, "unknown suite"),
        (ask(model="", arm="qick"), UsageError, "no arm 'qick'"),
        (ask(model="", policy="blanced", arm="quick"), UsageError, "blanced"),
    ],
)
def test_bad_input_is_refused_before_the_machine_is_opened(
    machine: Machine, asked: SweepConfig, error: type[EtuiError], said: str
) -> None:
    machine.bench.busy = lambda: pytest.fail("the machine was opened")
    with pytest.raises(error) as refused:
        machine.runner.start(asked)
    assert said in str(refused.value)
    assert list_sweeps(machine.config) == ()


def test_questions_without_options_are_refused_before_the_machine_is_opened(
    machine: Machine, tmp_path: Path
) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": 2}\n')
    machine.bench.busy = lambda: pytest.fail("the machine was opened")
    with pytest.raises(UsageError, match="the answers of sums are numbers"):
        machine.runner.start(ask(suite=str(path)))


def test_power_limits_are_checked_before_the_machine_is_opened(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(machine.config.sysfs_dir, long_watts=65.0, max_watts=125.0)
    machine.bench.busy = lambda: pytest.fail("the machine was opened")
    asked = ask(axes=("power_limit=40,9000",), cap="set")
    with pytest.raises(UsageError, match=r"9,?000"):
        machine.runner.start(asked)
    monkeypatch.setattr(LimitFiles, "can_write", lambda self, path: False)
    with pytest.raises(UsageError, match="etui may not set the power limit of") as refused:
        machine.runner.start(ask(axes=("power_limit=40,50",), cap="set"))
    assert "--cap user" in refused.value.fix


def test_power_limits_are_an_axis(machine: Machine) -> None:
    write_package(machine.config.sysfs_dir, long_watts=65.0, max_watts=125.0)
    machine.bench.price = lambda setting: float(setting.get("power_limit") or 0)
    outcome = machine.runner.start(ask(axes=("power_limit=40,50",), cap="set"))
    assert outcome.result.baseline == "power_limit=65"
    assert outcome.result.best == "power_limit=40"
    assert read_sweep(outcome.folder).config.cap == "set"


def test_a_plan_is_described_without_measuring(machine: Machine) -> None:
    plan = describe_plan(ask(questions=5, suite="sample"), machine.config)
    assert plan["model"] == "tiny"
    assert set(plan["settings"]) == {f"batch_tokens={n}" for n in (64, 128, 256, 512)}
    assert plan["blocks"] == {"floor": 4, "race": 4, "confirm": 4}
    assert plan["questions"] == 5
    assert 0 < plan["seconds"] <= plan["full_grid_seconds"]
    assert not (machine.config.home / "sweeps").exists()


OTHER = Setting((("threads", 3), ("kv_type", "f16")))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (replace(CONFIG, model_sha256="ff"), "the model file was ab and is now ff"),
        (replace(CONFIG, model_sha256=None), "the model file was ab and is now null"),
        (replace(CONFIG, workload_sha256="x"), "the texts of the workload was cd and is now x"),
        (replace(CONFIG, suite_sha256="q"), "the questions of the suite was null and is now q"),
        (replace(CONFIG, channels=("gpu:2",)), 'channels was ["gpu:1"] and is now ["gpu:2"]'),
        (
            replace(CONFIG, provenance={"machine": "other", "etui": "0"}),
            "the machine was a machine and is now other",
        ),
        (
            replace(CONFIG, provenance={"machine": "a machine", "etui": "9"}),
            "the version of etui was 0 and is now 9",
        ),
        (
            replace(CONFIG, design=replace(DESIGN, settings=(OTHER, ONE))),
            f"the baseline was {ONE.key} and is now {OTHER.key}",
        ),
        (
            replace(CONFIG, design=replace(DESIGN, settings=(ONE, OTHER))),
            "the settings of the same axes are others now",
        ),
    ],
)
def test_a_change_is_named(now: SweepConfig, said: str) -> None:
    (change,) = list_changes(CONFIG, now)
    assert said in change


def test_each_setting_in_use_that_changed_is_named() -> None:
    before = replace(CONFIG, provenance={"in_use": {"threads": 1, "kv_type": "f16"}})
    now = replace(CONFIG, provenance={"in_use": {"threads": 2, "kv_type": "f16", "split": "row"}})
    assert list_changes(before, now) == (
        "threads of the settings in use was 1 and is now 2",
        "split of the settings in use was null and is now row",
    )


def test_time_name_and_load_are_no_conditions() -> None:
    now = replace(CONFIG, id="x", created="later", provenance={**CONFIG.provenance, "threads": 7})
    assert list_changes(CONFIG, now) == ()


def test_the_machine_is_no_part_of_what_is_asked_for() -> None:
    found = replace(CONFIG, id="x", model_sha256="ff", channels=(), provenance={})
    assert asks_for_the_same(CONFIG, found)
    for other in (
        replace(CONFIG, model="n"),
        replace(CONFIG, output_tokens=1),
        replace(CONFIG, questions=3),
        replace(CONFIG, design=replace(DESIGN, goal=Goal("time"))),
        replace(CONFIG, design=replace(DESIGN, seed=1)),
    ):
        assert not asks_for_the_same(CONFIG, other)
