"""Run a sweep on this machine; ``etui sweep`` without the command line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from etui.codec import to_document
from etui.energy.energy_record import RECORD_FILE
from etui.errors import EtuiError, LogUnavailable, Stopped, UsageError
from etui.log.records import SweepRecord, SweepSettingRecord
from etui.measure.folder import check_new, explain_write_errors
from etui.models.catalogue import load_catalogue
from etui.stats.tests import Interval
from etui.sweep._accuracy import (
    SettingAnswer,
    analyse_measured,
    group_answers,
    group_by_numbers,
    list_asked,
)
from etui.sweep._measurer import VisitPower
from etui.sweep.blocks import Block, BlockPlan, Failure, SettingMeasurer, Stage, Visit
from etui.sweep.config import Setting, SweepConfig
from etui.sweep.folder import (
    CONFIG,
    REPORT,
    RESULT,
    SWEEP,
    RecordedSweep,
    SweepFolder,
    is_finished,
    list_sweeps,
    new_sweep_id,
    read_config,
    read_sweep,
    sweeps_dir,
)
from etui.sweep.plan import SweepPlan, SweepRequest, make_plan, restore_request
from etui.sweep.race import (
    Drop,
    count_blocks_left,
    estimate_full_grid_seconds,
    estimate_seconds_left,
    guess_visit_seconds,
    list_drops,
    list_remaining,
    measure_blocks,
    next_block,
)
from etui.sweep.result import DetectionFloor, Difference, SettingResult, SweepResult

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.sweep.config import SweepConfig
    from etui.sweep.result import SweepResult


def build_sweep_record(
    config: SweepConfig,
    folder: Path,
    blocks: Sequence[Block],
    result: SweepResult,
    verdict: str,
) -> SweepRecord:
    """Build the row of a sweep in its current state.

    Args:
        verdict: The result as a sentence.
    """
    visits = [visit for block in blocks for visit in block.visits]
    floor = result.floor
    return SweepRecord(
        sweep_id=config.id,
        created_at=config.created,
        folder=str(folder.absolute()),
        model=config.model,
        model_sha256=config.model_sha256,
        machine=str(config.provenance.get("machine", "unknown")),
        goal=result.goal.measure,
        within_percent=result.goal.within_percent,
        baseline=result.baseline,
        best=result.best,
        verdict=verdict,
        floor_joules_percent=None if floor is None else floor.joules_percent,
        floor_seconds_percent=None if floor is None else floor.seconds_percent,
        blocks=result.blocks,
        visits=result.visits,
        joules=sum_joules(visits),
        kind=result.kind,
        seconds=result.seconds,
        complete=result.is_complete,
    )


def build_setting_records(sweep_id: str, result: SweepResult) -> list[SweepSettingRecord]:
    """Build the rows of a sweep's settings."""
    return [_build_setting_record(sweep_id, setting) for setting in result.settings]


def sum_joules(visits: Sequence[Visit]) -> float | None:
    """Sum the joules of all answers of the visits; None if there are none or one is unmeasured."""
    known = [visit.joules * visit.answers for visit in visits if visit.joules is not None]
    return math.fsum(known) if known and len(known) == len(visits) else None


def _build_setting_record(sweep_id: str, setting: SettingResult) -> SweepSettingRecord:
    accuracy = setting.accuracy
    points = accuracy.difference_points if accuracy is not None else None
    joules, seconds = setting.joules_difference, setting.seconds_difference
    return SweepSettingRecord(
        sweep_id=sweep_id,
        setting=setting.setting,
        axes=dict(setting.values),
        stage=setting.stage,
        blocks=setting.blocks,
        **_name_interval("joules", setting.joules),
        **_name_interval("seconds", setting.seconds),
        **_name_difference("joules_percent", joules),
        joules_claimed=joules is not None and joules.is_claimed,
        **_name_difference("seconds_percent", seconds),
        seconds_claimed=seconds is not None and seconds.is_claimed,
        **_name_interval("accuracy", accuracy.share if accuracy is not None else None),
        **_name_interval("accuracy_points", points),
        dropped_after=setting.dropped_after,
        reason=setting.drop_reason,
        frontier=setting.is_on_frontier,
    )


def _name_interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _name_difference(name: str, difference: Difference | None) -> dict[str, float | None]:
    if difference is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {
        name: difference.percent,
        f"{name}_low": difference.low,
        f"{name}_high": difference.high,
    }


Step = Stage | str

"""What a sweep does now: a stage, ``accuracy``, or ``done``."""


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """How far a sweep is."""

    step: Step  # What comes next: a stage of the blocks, `accuracy`, or `done`
    blocks: int
    blocks_left: int  # Blocks left, at most: dropped settings may end the race earlier
    remaining: int  # Settings left, the baseline included
    best: str | None  # Key of the best setting so far; None before the first round of the race
    seconds_left: float  # Estimated time for the blocks left
    joules: float | None  # Sum over the answers measured so far; None if any is unmeasured


class SweepAudience(Protocol):
    """Shows the progress of a sweep."""

    def note(self, text: str) -> None:
        """Show a line that a reader of the result should know."""

    def begin(self, config: SweepConfig, folder: Path, progress: SweepProgress) -> None:
        """Show that the sweep starts, or resumes after the blocks of ``progress``."""

    def see_floor(self, floor: DetectionFloor) -> None:
        """Show the smallest difference that the sweep can show."""

    def see_visit(self, plan: BlockPlan, at: int, visit: Visit | Failure) -> None:
        """Show a visit of the running block, the one with index ``at`` in the plan's order."""

    def see_block(self, progress: SweepProgress) -> None:
        """Show the progress after a block that is on disk."""

    def see_drop(self, drop: Drop) -> None:
        """Show that a setting was dropped."""

    def see_answers(self, done: int, total: int) -> None:
        """Show how many answers of the suite are there."""


class SweepLog(Protocol):
    """Saves the rows of a sweep."""

    def save_sweep(self, record: SweepRecord, settings: Sequence[SweepSettingRecord] = ()) -> None:
        """Save a sweep and its settings."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What a sweep is measured with."""

    rig: SettingMeasurer  # Measures the settings
    read_power: Callable[[int, Visit], VisitPower]
    """Reads the watts of a visit of the block with this number."""
    measure_answers: (
        Callable[[Sequence[Setting], Sequence[SettingAnswer]], Iterator[SettingAnswer]] | None
    ) = None
    """Answers the questions of the suite that are missing: settings to measure, and the answers
    that are there; None without a suite."""
    sleep: Callable[[float], object] = time.sleep
    """Waits for a number of seconds, before a block is begun again."""


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """How a sweep ended."""

    folder: Path
    config: SweepConfig
    result: SweepResult
    blocks: tuple[Block, ...] = ()
    why_stopped: str = ""  # Why it is not complete; empty if it is


@dataclass(slots=True)
class SweepRun:
    """One sweep that is measured by this process.

    Attributes:
        blocks, answers, power: What was measured, also before an interruption.
    """

    folder: SweepFolder
    config: SweepConfig
    instruments: Instruments
    audience: SweepAudience  # Shows the progress
    log: SweepLog  # Saves its rows
    blocks: list[Block] = field(default_factory=list)
    answers: list[SettingAnswer] = field(default_factory=list)
    power: list[VisitPower] = field(default_factory=list)
    _drops: int = 0
    _notes: set[str] = field(default_factory=set)
    _watts: dict[tuple[str, int], VisitPower] = field(default_factory=dict)

    def measure(self) -> SweepOutcome:
        """Measure what is missing, and write the result.

        Ctrl-C and a :class:`Stopped` of the rig keep what was measured.

        Raises:
            Stopped: It was stopped before the first block.
            EtuiError: The engine, the meter or the disk failed; the folder has what was measured.
        """
        config = self.config
        self._drops = len(list_drops(config.design, self.blocks))
        why = ""
        self.audience.begin(config, self.folder.path, self._describe_progress())
        for note in config.notes:
            self._note_once(note)
        if self._has_floor():
            self._show_floor(self._analyse())
        try:
            for block in measure_blocks(
                config.design,
                self.instruments.rig,
                tuple(self.blocks),
                sleep=self.instruments.sleep,
                on_visit=self._see_visit,
            ):
                self._keep(block)
            self._measure_answers()
        except KeyboardInterrupt:
            why = "stopped"
        except Stopped as stopped:
            why = stopped.what
        except Exception:  # whatever failed, the log shows the blocks that were measured
            self._save_rows_quietly()
            raise
        if not self.blocks:
            raise Stopped(f"{why} before the first block was measured", self.how_to_resume)
        return self._finish(why)

    @property
    def how_to_resume(self) -> str:
        """What a user does to go on."""
        return f"resume with: etui sweep --resume {self.folder.path}"

    def _see_visit(self, plan: BlockPlan, at: int, visit: Visit | Failure) -> None:
        """Take the watts while the recorder has them, and show what a reader should know."""
        if isinstance(visit, Visit):
            power = self.instruments.read_power(plan.number, visit)
            self._watts[visit.setting, visit.copy] = power
            for note in visit.notes:
                self._note_once(note)
            if visit.disturbed:
                self.audience.note(
                    f"block {plan.number + 1} is measured again: {visit.setting}: {visit.disturbed}"
                )
        self.audience.see_visit(plan, at, visit)

    def _keep(self, block: Block) -> None:
        self.folder.add_block(block)
        self.blocks.append(block)
        power = [self._watts[visit.setting, visit.copy] for visit in block.visits]
        self._watts.clear()
        self.folder.add_power(power)
        self.power += power
        design = self.config.design
        drops = list_drops(design, self.blocks)
        for drop in drops[self._drops :]:
            self.audience.see_drop(drop)
        self._drops = len(drops)
        result = self._analyse()
        if block.stage == "floor" and self._has_floor():
            self._show_floor(result)
        self.audience.see_block(self._describe_progress(result))

    def _has_floor(self) -> bool:
        floors = sum(block.stage == "floor" for block in self.blocks)
        return floors == self.config.design.floor_blocks

    def _show_floor(self, result: SweepResult) -> None:
        if result.floor is not None:
            self.audience.see_floor(result.floor)

    def _measure_answers(self) -> None:
        measure = self.instruments.measure_answers
        if measure is None:
            return
        answered = group_answers(self.answers, self.config.questions)
        settings = list_asked(self.config.design, self.blocks, answered)
        total = len(settings) * self.config.questions
        for answer in measure(settings, tuple(self.answers)):
            self.folder.add_answers([answer])
            self.answers.append(answer)
            self.audience.see_answers(len(self.answers), total)
        answered = group_answers(self.answers, self.config.questions)
        for setting in settings:
            if setting.key not in answered:
                raise EtuiError(
                    f"the accuracy of {setting.key} could not be measured", self.how_to_resume
                )

    def _analyse(self) -> SweepResult:
        return analyse_measured(self.config, self.blocks, self.answers)

    def _describe_progress(self, result: SweepResult | None = None) -> SweepProgress:
        config = self.config
        plan = next_block(config.design, self.blocks)
        guess = guess_visit_seconds(config.window_s, config.cool_down_s)
        visits = [visit for block in self.blocks for visit in block.visits]
        after = "accuracy" if self.instruments.measure_answers is not None else "done"
        return SweepProgress(
            step=after if plan is None else plan.stage,
            blocks=len(self.blocks),
            blocks_left=count_blocks_left(config.design, self.blocks),
            remaining=len(list_remaining(config.design, self.blocks)),
            best=None if result is None else result.best,
            seconds_left=0.0
            if plan is None
            else estimate_seconds_left(config.design, self.blocks, guess),
            joules=sum_joules(visits),
        )

    def _note_once(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self.audience.note(text)

    def _finish(self, why: str) -> SweepOutcome:
        from etui.sweep.document import build_document, build_energy_record
        from etui.sweep.page import write_report

        result = self._analyse()
        document = build_document(self.config, result, self.blocks)
        self.folder.write(RESULT, json.dumps(document, indent=2) + "\n")
        record = to_document(build_energy_record(self.config, result, self.blocks))
        self.folder.write(RECORD_FILE, json.dumps(record, indent=2) + "\n")
        self.audience.note("writing the report")
        with explain_write_errors(self.folder.path, SWEEP):
            write_report(self.folder.path / REPORT, self.config, result, self.blocks, self.power)
        self._save_rows(result)
        return SweepOutcome(self.folder.path, self.config, result, tuple(self.blocks), why)

    def _save_rows(self, result: SweepResult) -> None:
        from etui.sweep.verdict import format_verdict

        record = build_sweep_record(
            self.config, self.folder.path, self.blocks, result, format_verdict(result)
        )
        self.log.save_sweep(record, build_setting_records(self.config.id, result))

    def _save_rows_quietly(self) -> None:
        """Save what was measured before an error; the error matters more than the log."""
        if self.blocks:
            with suppress(LogUnavailable):
                self._save_rows(self._analyse())


def resume_run(
    folder: SweepFolder,
    recorded: RecordedSweep,
    instruments: Instruments,
    audience: SweepAudience,
    log: SweepLog,
) -> SweepRun:
    """Make the run that goes on with a recorded sweep."""
    return SweepRun(
        folder,
        recorded.config,
        instruments,
        audience,
        log,
        list(recorded.blocks),
        list(recorded.answers),
        list(recorded.power),
    )


_CONDITIONS = {
    "model_sha256": "the model file",
    "workload_sha256": "the texts of the workload",
    "suite_sha256": "the questions of the suite",
    "channels": "the power channels",
}

"""Field -> what it is; these are found on the machine and not asked for."""


_PROVENANCE = {
    "machine": "the machine",
    "system": "the system",
    "cpus": "the number of CPUs",
    "etui": "the version of etui",
    "llama_cpp_python": "the version of llama-cpp-python",
    "python": "the version of Python",
    "context_tokens": "context_tokens",
    "sample_hz": "sample_hz",
    "power_source": "the source of power",
    "in_use": "the settings in use",
}

"""Key of the provenance -> what it is; the others do not change what is measured."""


_OF_THIS_SWEEP = ("id", "created", "provenance", "notes", *_CONDITIONS)


def asks_for_the_same(one: SweepConfig, other: SweepConfig) -> bool:
    """Return whether both sweeps measure the same in the same way, on whatever machine."""
    names = [f.name for f in fields(SweepConfig) if f.name not in _OF_THIS_SWEEP]
    return all(getattr(one, name) == getattr(other, name) for name in names)


def list_changes(before: SweepConfig, now: SweepConfig) -> tuple[str, ...]:
    """List the conditions that have changed, each in a few words; empty if none has."""
    return tuple(_iter_changes(before, now))


def _iter_changes(before: SweepConfig, now: SweepConfig) -> Iterator[str]:
    for name, what in _CONDITIONS.items():
        one, other = getattr(before, name), getattr(now, name)
        if one != other:
            yield f"{what} was {_describe(one)} and is now {_describe(other)}"
    for key, what in _PROVENANCE.items():
        one, other = before.provenance.get(key), now.provenance.get(key)
        if one != other:
            if isinstance(one, dict) and isinstance(other, dict):
                yield from _iter_keys(what, one, other)
            else:
                yield f"{what} was {_describe(one)} and is now {_describe(other)}"
    if before.design.settings != now.design.settings:
        one, other = before.design.settings[0].key, now.design.settings[0].key
        if one != other:
            yield f"the baseline was {one} and is now {other}"
        else:
            yield "the settings of the same axes are others now"


def _iter_keys(what: str, one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*one, *other)):
        if one.get(key) != other.get(key):
            values = f"{_describe(one.get(key))} and is now {_describe(other.get(key))}"
            yield f"{key} of {what} was {values}"


def _describe(value: object) -> str:
    quoted = json.dumps(value, ensure_ascii=False, default=str)
    text = value if isinstance(value, str) else quoted
    return text if len(text) <= 60 else f"{text[:57]}..."


_SHOWN_CHANGES = 6


class Workbench(Protocol):
    """This machine, opened to measure: the meter, and what is made with it."""

    @property
    def channels(self) -> Sequence[str]:
        """Ids of the power channels that are summed; none if nothing can be measured."""

    @property
    def window_s(self) -> float:
        """Least seconds of a phase that the meter resolves."""

    def check_idle(self) -> None:
        """Refuse a machine at work.

        Raises:
            EtuiError: Other programs use it.
        """

    def open_instruments(
        self, plan: SweepPlan, config: SweepConfig, place: Path
    ) -> AbstractContextManager[Instruments]:
        """Open what measures the settings; it restores what it changed at the end.

        Args:
            place: Its folder, which may keep what a resumed sweep needs.
        """


class SweepRunner:
    """Runs sweeps on a machine.

    Args:
        log: Saves the rows.
        now: Returns the local time.
    """

    def __init__(
        self,
        config: Config,
        audience: SweepAudience,
        log: SweepLog,
        open_workbench: Callable[[], AbstractContextManager[Workbench]],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._config = config
        self._audience = audience
        self._log = log
        self._open_workbench = open_workbench
        self._now = now

    def start(
        self, request: SweepRequest, out: Path | None = None, *, fresh: bool = False
    ) -> SweepOutcome:
        """Start a sweep, or resume the unfinished one that asks for the same.

        Args:
            out: Its folder; None creates one in the folder of all sweeps.
            fresh: Whether to start over instead.

        Raises:
            EtuiError: The sweep cannot start, or has failed; what was measured is kept.
        """
        if out is not None and (fresh or not (out / CONFIG).is_file()):
            check_new(out, SWEEP)  # report an error before anything is opened
        started = self._now()
        plan = self._plan(
            request, new_sweep_id(request.model or request.arm or "", started), started
        )
        with self._open_workbench() as bench:
            window_s = bench.window_s if request.window_s is None else request.window_s
            channels = tuple(bench.channels)
            config = replace(plan.config, channels=channels, window_s=window_s)
            if not channels and request.goal.measure != "time":
                raise EtuiError(
                    "nothing can be measured on this machine",
                    "see `etui doctor`, or compare the time alone: --goal time",
                )
            found = None if fresh else self._find_unfinished(config, out)
            if found is not None:
                return self._resume(found, bench)
            bench.check_idle()
            place = out or sweeps_dir(self._config) / config.id
            with SweepFolder.start(place, config) as folder:
                recorded = read_sweep(place)
                return self._measure(plan, folder, recorded, bench)

    def resume(self, place: Path) -> SweepOutcome:
        """Resume a sweep; one that is complete is only reported again.

        Raises:
            UsageError: The machine, the model or the programs are others than at its start.
            EtuiError: The sweep cannot go on, or has failed; what was measured is kept.
        """
        read_sweep(place)  # report an error before anything is opened
        with self._open_workbench() as bench:
            return self._resume(place, bench)

    def _resume(self, place: Path, bench: Workbench) -> SweepOutcome:
        folder, recorded = SweepFolder.resume(place)
        with folder:
            before = recorded.config
            plan = self._plan(
                restore_request(before), before.id, datetime.fromisoformat(before.created)
            )
            now = replace(plan.config, channels=tuple(bench.channels))
            refuse_changes(before, now)
            if next_block(before.design, recorded.blocks) is not None:
                bench.check_idle()
            return self._measure(replace(plan, config=before), folder, recorded, bench)

    def _measure(
        self, plan: SweepPlan, folder: SweepFolder, recorded: RecordedSweep, bench: Workbench
    ) -> SweepOutcome:
        with bench.open_instruments(plan, recorded.config, folder.path) as instruments:
            run = resume_run(folder, recorded, instruments, self._audience, self._log)
            return run.measure()

    def _plan(self, request: SweepRequest, sweep_id: str, started: datetime) -> SweepPlan:
        catalogue = load_catalogue(self._config)
        return make_plan(request, self._config, catalogue, sweep_id, started, self._audience.note)

    def _find_unfinished(self, config: SweepConfig, out: Path | None) -> Path | None:
        """Find the newest unfinished sweep that asks for the same."""
        if out is not None:
            if not (out / CONFIG).is_file():
                return None
            if not asks_for_the_same(read_config(out), config):
                raise UsageError(
                    f"{out} contains another sweep", "use a new folder with --out, or --resume it"
                )
            return out
        for place in reversed(list_sweeps(self._config)):
            if is_finished(place):
                continue
            try:
                before = read_config(place)
            except EtuiError:
                continue  # of another version, or edited: it cannot be resumed
            if not asks_for_the_same(before, config):
                continue
            changes = list_changes(before, config)
            if not changes:
                return place
            self._audience.note(
                f"{place.name} is unfinished, but was measured under other conditions: "
                f"{'; '.join(changes[:_SHOWN_CHANGES])}; this is a new sweep"
            )
            return None
        return None


def refuse_changes(before: SweepConfig, now: SweepConfig) -> None:
    """Refuse to resume a sweep under other conditions.

    Raises:
        UsageError: They differ; the message lists how.
    """
    changes = list_changes(before, now)
    if changes:
        raise UsageError(
            f"sweep {before.id} was started under other conditions: "
            f"{'; '.join(changes[:_SHOWN_CHANGES])}",
            "restore them, or start a new sweep",
        )


def describe_plan(request: SweepRequest, config: Config) -> dict[str, Any]:
    """Plan a sweep and describe it as a document, without measuring anything.

    Raises:
        EtuiError: As :func:`make_plan`.
    """
    now = datetime.now()
    plan = make_plan(request, config, load_catalogue(config), "", now)
    sweep = plan.config
    design = sweep.design
    visit = guess_visit_seconds(sweep.window_s, sweep.cool_down_s)
    return {
        "model": sweep.model,
        "policy": sweep.policy,
        "arm": sweep.arm,
        "workload": sweep.workload,
        "output_tokens": sweep.output_tokens,
        "goal": design.goal.measure,
        "within_percent": design.goal.within_percent,
        "axes": {axis.name: list(axis.values) for axis in sweep.axes},
        "settings": [setting.key for setting in design.settings],
        "blocks": {
            "floor": design.floor_blocks,
            "race": 2 * design.race_rounds,
            "confirm": design.confirm_blocks,
        },
        "suite": sweep.suite,
        "questions": sweep.questions,
        "answers": sweep.questions * len(set(group_by_numbers(design.settings).values())),
        "notes": list(sweep.notes),
        "seconds": round(estimate_seconds_left(design, (), visit), 1),
        "full_grid_seconds": _round(estimate_full_grid_seconds(design, (), visit)),
    }


def analyse_folder(recorded: RecordedSweep) -> SweepResult:
    """Compute the result of a recorded sweep, finished or not."""
    return analyse_measured(recorded.config, recorded.blocks, recorded.answers)


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
