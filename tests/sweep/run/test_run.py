"""Starting, measuring and resuming sweeps: what is kept, shown and logged, however they end."""

from __future__ import annotations

import errno
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from etui.atomic import write_text
from etui.config.config import Config
from etui.energy.power_limits.limit import LimitFiles
from etui.energy.tariff import Rate, Tariff
from etui.errors import EtuiError, ModelUnavailable, Stopped, UsageError
from etui.sweep._accuracy import analyse_measured, group_answers
from etui.sweep._axes import parse_axes
from etui.sweep.blocks import Collapsed, SettingAnswer, Visit
from etui.sweep.config import BUSY_S, Goal, Setting, SweepConfig, SweepDesign
from etui.sweep.folder import SweepFolder, list_sweeps, read_sweep
from etui.sweep.plan import asks_for_the_same, list_changes
from etui.sweep.run import (
    SweepOutcome,
    SweepRun,
    SweepRunner,
    analyse_folder,
    describe_plan,
)
from etui.sweep.verdict import format_verdict
from tests.contract.tiny_model import write_tiny_model
from tests.fixtures.records import check_document
from tests.support.power_limits import write_package
from tests.sweep.fakes import Audience, FakeRig, FakeWorkbench, Log, make_answer, raise_at
from tests.sweep.values import CONFIG, DESIGN, ONE, TWO

GOAL = Goal()
AXIS = ("batch_tokens=64,128,256,512",)


def ask(
    axes: tuple[str, ...] = AXIS, *, seed: int = 0, goal: Goal = GOAL, **fields: Any
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
        return "channels was"
    if what == "model file":
        write_tiny_model(machine.config.models_dir / "tiny.gguf", "D")
        return "model_sha256 was"
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
    with pytest.raises(UsageError, match='power_source was "mains" and is now "a battery"'):
        machine.runner.resume(first)
    assert machine.runner.start(ASKED).folder != first
    assert 'power_source was "mains"' in machine.notes
    (battery / "status").write_text("Full\n")
    assert machine.runner.resume(first).result.is_complete


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
    assert plan["seconds"] > 0
    assert not (machine.config.home / "sweeps").exists()


OTHER = Setting((("threads", 3), ("kv_type", "f16")))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (replace(CONFIG, model_sha256="ff"), 'model_sha256 was "ab" and is now "ff"'),
        (replace(CONFIG, model_sha256=None), 'model_sha256 was "ab" and is now null'),
        (replace(CONFIG, workload_sha256="x"), 'workload_sha256 was "cd" and is now "x"'),
        (replace(CONFIG, suite_sha256="q"), 'suite_sha256 was null and is now "q"'),
        (replace(CONFIG, channels=("gpu:2",)), 'channels was ["gpu:1"] and is now ["gpu:2"]'),
        (
            replace(CONFIG, provenance={"machine": "other", "etui": "0"}),
            'machine was "a machine" and is now "other"',
        ),
        (
            replace(CONFIG, provenance={"machine": "a machine", "etui": "9"}),
            'etui was "0" and is now "9"',
        ),
        (
            replace(CONFIG, design=replace(DESIGN, settings=(OTHER, ONE))),
            f'settings was ["{ONE.key}", "{TWO.key}"] and is now ["{OTHER.key}", "{ONE.key}"]',
        ),
    ],
)
def test_a_change_is_named(now: SweepConfig, said: str) -> None:
    assert list_changes(CONFIG, now) == said


def test_each_setting_in_use_that_changed_is_named() -> None:
    before = replace(CONFIG, provenance={"in_use": {"threads": 1, "kv_type": "f16"}})
    now = replace(CONFIG, provenance={"in_use": {"threads": 2, "kv_type": "f16", "split": "row"}})
    assert list_changes(before, now) == (
        'in_use.threads was 1 and is now 2; in_use.split was null and is now "row"'
    )


def test_time_name_and_load_are_no_conditions() -> None:
    now = replace(CONFIG, id="x", created="later", provenance={**CONFIG.provenance, "threads": 7})
    assert not list_changes(CONFIG, now)


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


SETTINGS = tuple(Setting((("threads", n),)) for n in (1, 2, 3, 4, 5, 6))
JOULES = {setting.key: 10.0 + 2 * at for at, setting in enumerate(reversed(SETTINGS))}
"""The baseline, ``threads=1``, costs 20 J and ``threads=6`` 10 J."""
BEST = SETTINGS[-1].key
BATCHES = tuple(Setting((("batch_tokens", 32 * n),)) for n in (1, 2, 3, 4, 5, 6))
BATCH_JOULES = {
    batch.key: JOULES[threads.key] for batch, threads in zip(BATCHES, SETTINGS, strict=True)
}
"""The same joules by settings that compute other numbers."""
DESIGN = SweepDesign(SETTINGS, floor_blocks=2, race_rounds=2, confirm_blocks=4)
SWEEP = replace(CONFIG, design=DESIGN)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "sweep"


def run(
    place: Path,
    rig: FakeRig | None = None,
    audience: Audience | None = None,
    log: Log | None = None,
    questions: int = 0,
    settings: tuple[Setting, ...] = SETTINGS,
    measure_answers: Any = None,
    **options: Any,
) -> SweepOutcome:
    """Start a sweep, or go on with it."""
    rig = rig or FakeRig(JOULES)
    if measure_answers is not None:
        rig.measure_answers = measure_answers
    if place.exists():
        folder, recorded = SweepFolder.resume(place)
    else:
        folder = SweepFolder.start(
            place,
            replace(SWEEP, questions=questions, design=replace(DESIGN, settings=settings)),
        )
        recorded = read_sweep(place)
    with folder:
        return SweepRun(
            folder, recorded, rig, audience or Audience(), log or Log(), **options
        ).measure()


def test_a_sweep_ends_with_its_best_setting_in_every_place(place: Path) -> None:
    audience, log = Audience(), Log()
    outcome = run(place, audience=audience, log=log)
    assert outcome.why_stopped == ""
    assert outcome.result.is_complete
    assert outcome.result.best == BEST
    read = read_sweep(place)
    assert read.is_finished
    assert analyse_measured(read.config, read.blocks, read.answers) == outcome.result
    assert json.loads((place / "result.json").read_text())["is_complete"] is True
    assert "<svg" in (place / "report.html").read_text()
    record = check_document(json.loads((place / "energy_record.json").read_text()))
    assert len(record["measurements"]) == len(outcome.result.settings)
    assert log.sweep is not None
    assert (log.sweep["best"], log.sweep["complete"]) == (BEST, True)
    assert log.sweep["verdict"]
    assert [row["setting"] for row in log.settings] == [
        one.setting for one in outcome.result.settings
    ]
    best = next(row for row in log.settings if row["setting"] == BEST)
    assert best["joules_claimed"]
    assert best["joules_percent"] == pytest.approx(-50, abs=2)
    measured = [(v.block, v.setting, v.copy) for v in read.power]
    assert measured == [(b.number, v.setting, v.copy) for b in read.blocks for v in b.visits]


def test_a_sweep_says_what_its_answers_cost(place: Path) -> None:
    outcome = run(place, tariff=Tariff(Rate(1e6, None, "EUR")))
    joules = sum((v.joules or 0.0) * v.answers for b in outcome.blocks for v in b.visits)
    cost = json.loads((place / "result.json").read_text())["cost"]
    assert cost["price"] == pytest.approx(joules / 3.6)
    assert "each block at the price of its time" in (place / "report.html").read_text()


def test_progress_is_shown_block_by_block(place: Path) -> None:
    audience = Audience()
    run(place, audience=audience)
    first, *_ = audience.seen
    assert first.text.startswith("m: 6 settings, about ")
    assert first.text.endswith(f"in {place}; Ctrl-C stops")
    kinds = [one.event for one in audience.seen if one.fields]
    assert kinds[:4] == ["begun", "block", "note", "block"]
    assert audience.of("note")[0].startswith("Detection floor: with ")
    blocks = audience.of("block")
    assert [one["stage"] for one in blocks[:3]] == ["floor", "floor", "race"]
    left = [one["blocks_left"] for one in blocks]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    assert [one["block"] for one in blocks] == list(range(1, len(blocks) + 1))
    (last,) = [one.text for one in audience.seen if one.event == "block"][-1:]
    assert last == f"done · {len(blocks)} blocks measured · 2 settings left · best {BEST}"
    drops = [one["setting"] for one in audience.of("dropped")]
    assert SETTINGS[1].key in drops
    assert BEST not in drops


def test_a_visit_moves_the_bar_within_its_block(place: Path) -> None:
    audience = Audience()
    run(place, audience=audience)
    visits = [one for one in audience.seen if one.total is not None and not one.fields]
    assert [one.done for one in visits[:4]] == [0.5, 1.0, 1.5, 2.0]
    assert visits[0].text.startswith("floor · block 1 of at most 10, visit 1 of 2 · about ")
    assert visits[0].text.endswith("6 settings left")
    assert "race · block 3" in visits[4].text
    assert any("confirming · " in one.text for one in visits)
    assert "best" not in visits[4].text


@pytest.mark.parametrize("cut", [4, 11, 30])
def test_ctrl_c_keeps_the_blocks_and_a_resumed_sweep_ends_alike(place: Path, cut: int) -> None:
    whole = run(place.with_name("whole"))

    audience, log = Audience(), Log()
    first = run(place, FakeRig(JOULES, raise_at(cut, KeyboardInterrupt)), audience, log)
    assert first.why_stopped == "stopped"
    assert not first.result.is_complete
    assert log.sweep is not None
    assert not log.sweep["complete"]
    kept = len(read_sweep(place).blocks)
    assert 0 < kept < whole.result.blocks
    assert (place / "report.html").exists()
    again = Audience()
    second = run(place, audience=again)
    (begun,) = again.of("begun")
    assert begun["blocks"] == kept
    assert f"({kept} block" in again.seen[0].text
    assert "already measured), about" in again.seen[0].text
    assert sum(text.startswith("Detection floor: with") for text in again.of("note")) == 1
    assert second.result.best == BEST
    orders = [
        [[(v.setting, v.copy) for v in block.visits] for block in read_sweep(folder).blocks[:kept]]
        for folder in (place, place.with_name("whole"))
    ]
    assert orders[0] == orders[1]


def test_ctrl_c_before_the_first_block_says_how_to_go_on(place: Path) -> None:
    with pytest.raises(Stopped, match="before the first block") as stopped:
        run(place, FakeRig(JOULES, raise_at(1, KeyboardInterrupt)))
    assert stopped.value.fix == f"resume with: etui sweep --resume {place}"
    assert run(place).result.is_complete


def test_a_rig_that_cannot_go_on_now_keeps_the_blocks(place: Path) -> None:
    discharge = raise_at(9, Stopped("the battery discharges", "plug it in"))
    outcome = run(place, FakeRig(JOULES, discharge))
    assert outcome.why_stopped == "the battery discharges"
    assert run(place).result.is_complete


def test_an_engine_that_fails_leaves_its_blocks_in_folder_and_log(place: Path) -> None:
    fail = raise_at(9, EtuiError("llama.cpp failed"))
    log = Log()
    with pytest.raises(EtuiError, match=r"llama\.cpp failed"):
        run(place, FakeRig(JOULES, fail), log=log)
    assert log.sweep is not None
    assert log.sweep["blocks"] == len(read_sweep(place).blocks) > 0
    assert run(place).result.is_complete


def test_a_full_disk_at_the_report_stops_the_sweep(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(path: Path, *args: Any, **options: Any) -> None:
        if path.name == "report.html":
            raise OSError(errno.ENOSPC, "No space left on device")  # of a write: it names no file
        write_text(path, *args, **options)

    monkeypatch.setattr("etui.measure.folder.write_text", fill)
    with pytest.raises(Stopped, match="the disk of") as full:
        run(place)
    assert f"etui sweep --resume {place}" in full.value.fix
    monkeypatch.undo()
    assert run(place).result.is_complete
    assert (place / "report.html").is_file()


def test_a_busy_machine_repeats_the_block_and_says_so(place: Path) -> None:
    def disturb(number: int, visit: Visit) -> Visit:
        return replace(visit, disturbed="the CPUs are busy (70 %)") if number == 6 else visit

    audience = Audience()
    waits: list[float] = []
    rig = FakeRig(JOULES, change=disturb)
    outcome = run(place, rig, audience, sleep=waits.append)
    assert outcome.result.is_complete
    assert len(waits) == 1
    notes = [str(text) for text in audience.of("note")]
    assert any("block 3 is measured again" in text and "busy (70 %)" in text for text in notes)
    assert any("busy (70 %)" in text for text in outcome.result.repeated)
    read = read_sweep(place)
    measured = [(v.block, v.setting, v.copy, v.start_ns) for v in read.power]
    assert measured == [
        (b.number, v.setting, v.copy, v.start_ns) for b in read.blocks for v in b.visits
    ]


@dataclass
class Clock:
    """A clock that a rig moves on."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_sweep_beside_other_programs_ends_in_time_with_what_it_knows(place: Path) -> None:
    clock, audience = Clock(), Audience()

    def pass_time(number: int) -> None:
        clock.now_s += 20.0

    outcome = run(place, FakeRig(JOULES, pass_time), audience, clock=clock, most_s=450.0)
    assert outcome.why_stopped == "the 7 min 30 s beside other programs are over"
    assert 450.0 < clock.now_s <= 470.0
    assert not outcome.result.is_complete
    assert outcome.blocks
    assert (place / "report.html").is_file()
    texts = [one.text for one in audience.seen if ", visit " in one.text]
    left = [one.text.partition("about ")[2].partition(" left")[0] for one in audience.seen]
    assert len({text for text in left if text}) > len(texts) / 2
    whole = run(place, FakeRig(JOULES), clock=clock)
    assert whole.result.is_complete


def test_a_busy_machine_gets_a_shorter_sweep_that_resumes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    measure = SweepRun.measure

    def look(self: SweepRun) -> SweepOutcome:
        limits.append(self.most_s)
        return measure(self)

    monkeypatch.setattr(SweepRun, "measure", look)
    asked = replace(ASKED, design=replace(ASKED.design, race_rounds=5, confirm_blocks=8))
    machine.bench.busy = lambda: True
    machine.bench.before = raise_at(10, KeyboardInterrupt)
    first = machine.runner.start(asked)
    design = first.config.design
    assert (design.race_rounds, design.confirm_blocks, design.is_busy) == (1, 6, True)
    assert first.config.notes[-1].startswith("beside other programs the sweep ends after 13 min")
    machine.bench.before = lambda number: None
    assert machine.runner.start(asked).folder == first.folder
    machine.bench.busy = lambda: False
    assert machine.runner.start(asked).config.design == replace(
        asked.design, settings=design.settings
    )
    assert limits == [BUSY_S, BUSY_S, math.inf]


THREADS = tuple(
    Setting((("threads", n), ("kv_type", kv)))
    for n, kv in itertools.product((2, 1), ("f16", "q8_0"))
)


@dataclass
class CollapsingRig(FakeRig):
    """More than one thread collapses."""

    def visit(self, setting: Setting, copy: int) -> Visit:
        if setting.get("threads") != 1:
            raise Collapsed("its threads wait for each other")
        return FakeRig.visit(self, setting, copy)


def test_the_calmest_setting_is_the_baseline_if_that_in_use_collapses(place: Path) -> None:
    audience, log = Audience(), Log()
    rig = CollapsingRig({setting.key: 10.0 for setting in THREADS})
    outcome = run(place, rig, audience, log, settings=THREADS)
    in_use, calm = "threads=2 kv_type=f16", "threads=1 kv_type=f16"
    result = outcome.result
    assert result.is_complete
    assert result.baseline == result.best == result.settings[0].setting == calm
    why = "its threads wait for each other"
    reasons = {one.setting: one.drop_reason for one in result.settings}
    assert reasons[in_use] == reasons["threads=2 kv_type=q8_0"] == why
    visited = {visit.setting for block in outcome.blocks for visit in block.visits}
    assert visited == {calm, "threads=1 kv_type=q8_0"}
    assert f"the baseline is {calm} instead of {in_use}" in audience.of("note")
    assert format_verdict(result).startswith(f"Nothing beats the baseline ({calm})")
    assert log.sweep is not None
    assert log.sweep["baseline"] == calm
    assert "<svg" in (place / "report.html").read_text()
    assert analyse_folder(read_sweep(place)) == result
    assert run(place, rig).result == result


def test_a_note_of_many_visits_is_shown_once(place: Path) -> None:
    def note(number: int, visit: Visit) -> Visit:
        return replace(visit, notes=("the cap was rounded to 200 W",))

    audience = Audience()
    run(place, FakeRig(JOULES, change=note), audience)
    assert audience.of("note").count("the cap was rounded to 200 W") == 1


def answer_some(
    right: Callable[[Setting, int], bool], count: int, stop_at: int | None = None
) -> Callable[[Sequence[Setting], Sequence[SettingAnswer]], Iterator[SettingAnswer]]:
    def measure(
        settings: Sequence[Setting], done: Sequence[SettingAnswer]
    ) -> Iterator[SettingAnswer]:
        there = {(line.setting, line.number) for line in done}
        asked = [(s, n) for s in settings for n in range(count) if (s.key, n) not in there]
        for at, (setting, number) in enumerate(asked):
            if at == stop_at:
                raise KeyboardInterrupt
            yield make_answer(setting, number, correct=right(setting, number))

    return measure


def test_accuracy_is_measured_for_each_kind_and_resumed_by_question(place: Path) -> None:
    def right(setting: Setting, number: int) -> bool:
        return number % 2 == 0

    answer = answer_some(right, 10, stop_at=13)
    rig = FakeRig(BATCH_JOULES)
    first = run(place, rig, questions=10, settings=BATCHES, measure_answers=answer)
    assert first.why_stopped == "stopped"
    assert not first.result.is_complete
    assert not read_sweep(place).is_finished
    assert len(read_sweep(place).answers) == 13
    rig, audience = FakeRig(BATCH_JOULES), Audience()
    second = run(place, rig, audience, measure_answers=answer_some(right, 10), questions=10)
    assert second.why_stopped == ""
    assert second.result.is_complete
    assert rig.visits == 0
    assert audience.of("answered")[-1] == {"done": 10 * len(BATCHES), "answers": 10 * len(BATCHES)}
    by_key = {one.setting: one for one in second.result.settings}
    accuracy = by_key[BATCHES[-1].key].accuracy
    assert accuracy is not None
    assert (accuracy.correct, accuracy.questions) == (5, 10)
    dropped = by_key[BATCHES[1].key]
    assert dropped.dropped_after is not None
    assert dropped.accuracy is not None


def test_settings_that_compute_the_same_numbers_are_asked_once(place: Path) -> None:
    asked: list[str] = []

    def right(setting: Setting, number: int) -> bool:
        asked.append(setting.key)
        return True

    outcome = run(place, questions=5, measure_answers=answer_some(right, 5))
    assert asked == [SETTINGS[0].key] * 5  # threads do not change an answer
    best = next(one for one in outcome.result.settings if one.setting == BEST)
    assert best.accuracy is not None
    assert best.accuracy.measured_as == SETTINGS[0].key


def test_a_setting_that_gives_no_answers_is_an_error(place: Path) -> None:
    with pytest.raises(EtuiError, match="could not be measured") as failed:
        run(place, questions=5, measure_answers=lambda settings, done: iter(()))
    assert "--resume" in failed.value.fix
    assert not read_sweep(place).is_finished


def test_answers_of_a_setting_that_is_not_done_are_left_out() -> None:
    one, two = SETTINGS[:2]
    lines = [make_answer(one, 1, correct=False), make_answer(one, 0, correct=True)]
    lines.append(make_answer(two, 0, correct=True))
    assert group_answers(lines, 2) == {one.key: [True, False]}
    assert group_answers([], 0) == {}
