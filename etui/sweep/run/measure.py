"""Measure a sweep into its folder, block after block, and write its result.

What measures is behind :class:`Instruments`: this machine, or a simulated one in tests.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from etui.bench.store.sealed_folder import explain_write_errors
from etui.energy.energy_record import RECORD_FILE
from etui.errors import EtuiError, LogUnavailable, Stopped
from etui.log.records import SweepRecord, SweepSettingRecord
from etui.stats.tests import Interval
from etui.sweep.blocks import Block, BlockPlan, Failure, Stage, Visit
from etui.sweep.machine.accuracy import SettingAnswer
from etui.sweep.machine.visit_power import VisitPower
from etui.sweep.race.design import Drop, list_drops, list_remaining, next_block
from etui.sweep.race.durations import count_blocks_left, estimate_seconds_left, guess_visit_seconds
from etui.sweep.race.loop import measure_blocks
from etui.sweep.result import DetectionFloor, Difference, SettingResult, SweepResult
from etui.sweep.rig import Rig
from etui.sweep.run.find import REPORT, RESULT
from etui.sweep.run.folder import SWEEP, SweepFolder
from etui.sweep.run.measured_result import analyse_measured, group_answers, list_asked
from etui.sweep.run.recorded_sweep import RecordedSweep
from etui.sweep.setting import Setting
from etui.sweep.sweep_config import SweepConfig
from etui.text.codec import to_document


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

    rig: Rig  # Measures the settings
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
        from etui.sweep.report.document import build_document
        from etui.sweep.report.energy_record import build_energy_record
        from etui.sweep.report.page import write_report

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
        from etui.sweep.report.text import format_verdict

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
