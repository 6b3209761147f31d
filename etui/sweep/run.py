"""Start, resume and measure a sweep in its folder, block after block, and write its result.

What measures is :class:`etui.sweep.workbench.LocalWorkbench`: this machine.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import InitVar, dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from etui.codec import to_document
from etui.config.config import Config
from etui.energy.energy_record import RECORD_FILE
from etui.energy.tariff import Tariff, compute_cost
from etui.energy.tariff_files import read_tariff
from etui.energy.types import sum_known
from etui.errors import EtuiError, LogUnavailable, Stopped, UsageError
from etui.log.records import Row
from etui.log.writer import TurnWriter
from etui.measure.folder import check_new
from etui.measure.progress import Progress, Watch
from etui.models.catalogue import load_catalogue
from etui.stats.differences import Difference
from etui.stats.tests import Interval
from etui.sweep import race
from etui.sweep._accuracy import analyse_measured, group_answers, group_by_numbers, list_asked
from etui.sweep._measurer import LocalMeasurer
from etui.sweep.blocks import Block, BlockPlan, Failure, SettingAnswer, Visit, VisitPower
from etui.sweep.config import BUSY_S, SweepConfig
from etui.sweep.document import build_document, build_energy_record
from etui.sweep.folder import (
    ANSWERS,
    CONFIG,
    POWER,
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
from etui.sweep.page import render_report
from etui.sweep.plan import SweepPlan, asks_for_the_same, list_changes, make_plan, refuse_changes
from etui.sweep.result import SettingResult, SweepResult
from etui.sweep.verdict import floor_sentence, format_verdict
from etui.sweep.workbench import LocalWorkbench
from etui.units import count_text, seconds_text

_BUSY_NOTE = (
    f"beside other programs the sweep ends after {seconds_text(BUSY_S)} with what it knows, and "
    "claims only what fresh blocks confirm"
)


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """How a sweep ended."""

    folder: Path
    config: SweepConfig
    result: SweepResult
    blocks: tuple[Block, ...] = ()
    why_stopped: str = ""  # Why it is not complete; empty if it is


@dataclass(frozen=True, slots=True)
class SweepRunner:
    """Runs sweeps on a machine."""

    config: Config
    watch: Watch  # Shows the progress
    log: TurnWriter  # Saves the rows
    open_workbench: Callable[[], AbstractContextManager[LocalWorkbench]]
    now: Callable[[], datetime] = datetime.now  # Returns the local time

    def start(
        self, asked: SweepConfig, out: Path | None = None, *, fresh: bool = False
    ) -> SweepOutcome:
        """Start a sweep, or resume the unfinished one that asks for the same.

        EtuiError if the sweep cannot start, or has failed; what was measured is kept.
        """
        if out is not None and (fresh or not (out / CONFIG).is_file()):
            check_new(out, SWEEP)  # report an error before anything is opened
        started = self.now()
        sweep_id = new_sweep_id(asked.model or asked.arm or "", started)
        plan = self._plan(asked, sweep_id, started)
        with self.open_workbench() as bench:
            window_s = asked.window_s or bench.window_s
            channels = tuple(bench.channels)
            config = replace(plan.config, channels=channels, window_s=window_s)
            if not channels and asked.design.goal.measure != "time":
                raise EtuiError(
                    "nothing can be measured on this machine",
                    "see `etui doctor`, or compare the time alone: --goal time",
                )
            if bench.check_idle():
                notes = (*config.notes, _BUSY_NOTE)
                config = replace(config, design=config.design.shorten(), notes=notes)
            found = None if fresh else self._find_unfinished(config, out)
            if found is not None:
                return self._resume(found, bench)
            place = out or sweeps_dir(self.config) / config.id
            with SweepFolder.start(place, config) as folder:
                return self._measure(plan, folder, read_sweep(place), bench)

    def resume(self, place: Path) -> SweepOutcome:
        """Resume a sweep; one that is complete is only reported again.

        UsageError if the machine, the model or the programs are others than at its start; EtuiError
        if the sweep cannot go on, or has failed; what was measured is kept.
        """
        recorded = read_sweep(place)  # report an error before anything is opened
        is_measured = race.plan_next(race.follow(recorded.config.design, recorded.blocks)) is None
        with self.open_workbench() as bench:
            if not is_measured:
                bench.check_idle()
            return self._resume(place, bench)

    def _resume(self, place: Path, bench: LocalWorkbench) -> SweepOutcome:
        folder, recorded = SweepFolder.resume(place)
        with folder:
            before = recorded.config
            plan = self._plan(before, before.id, datetime.fromisoformat(before.created))
            refuse_changes(before, replace(plan.config, channels=tuple(bench.channels)))
            return self._measure(replace(plan, config=before), folder, recorded, bench)

    def _measure(
        self, plan: SweepPlan, folder: SweepFolder, recorded: RecordedSweep, bench: LocalWorkbench
    ) -> SweepOutcome:
        with bench.open_measurer(plan, recorded.config, folder.path) as measurer:
            run = SweepRun(folder, recorded, measurer, self.watch, self.log)
            run.note_open = partial(bench.note_open, recorded.config)
            run.tariff = read_tariff(self.config)
            if recorded.config.design.is_busy:
                run.most_s = BUSY_S
            return run.measure()

    def _plan(self, asked: SweepConfig, sweep_id: str, started: datetime) -> SweepPlan:
        def say(text: str) -> None:
            self.watch(_note(text))

        catalogue = load_catalogue(self.config)
        return make_plan(asked, self.config, catalogue, sweep_id, started, say)

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
        for place in reversed(list_sweeps(self.config)):
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
            text = (
                f"{place.name} is unfinished, but was measured under other conditions: {changes}; "
                "this is a new sweep"
            )
            self.watch(_note(text))
            return None
        return None


def estimate_rest(recorded: RecordedSweep) -> float:
    """Estimate the seconds of what a sweep has left to measure, without its questions."""
    return _estimate_left(recorded.config, race.follow(recorded.config.design, recorded.blocks))


def _estimate_left(
    config: SweepConfig, progress: race.RaceProgress, running: Sequence[float] = ()
) -> float:
    guess = race.guess_visit_seconds(config.window_s, config.cool_down_s)
    done = race.plan_next(progress) is None
    return 0.0 if done else race.estimate_seconds_left(progress, guess, running)


@dataclass(slots=True)
class SweepRun:
    """One sweep that is measured by this process, with what was measured before an interruption."""

    folder: SweepFolder
    recorded: InitVar[RecordedSweep]
    measurer: LocalMeasurer
    watch: Watch
    log: TurnWriter
    sleep: Callable[[float], object] = time.sleep  # Waits before a block is begun again
    clock: Callable[[], float] = time.monotonic
    most_s: float = math.inf  # After how many seconds it stops with what it knows
    note_open: Callable[[Iterator[Any]], Iterator[Any]] = iter
    """Returns the same blocks or answers, with a note of what is being measured."""
    tariff: Tariff | None = None  # Prices the blocks; None leaves their cost out
    _config: SweepConfig = field(init=False)
    _progress: race.RaceProgress = field(init=False)
    _answers: list[SettingAnswer] = field(init=False)
    _power: list[VisitPower] = field(init=False)
    _best: str | None = None  # of the blocks of this process
    _watts: dict[tuple[str, int], VisitPower] = field(default_factory=dict)  # of this block
    _notes: set[str] = field(default_factory=set)
    _start_s: float = 0.0
    _last_s: float = 0.0  # When the last visit ended
    _running: list[float] = field(default_factory=list)  # Seconds of the running block's visits

    def __post_init__(self, recorded: RecordedSweep) -> None:
        self._config = recorded.config
        self._progress = race.follow(recorded.config.design, recorded.blocks)
        self._answers, self._power = list(recorded.answers), list(recorded.power)

    def measure(self) -> SweepOutcome:
        """Measure what is missing, and write the result.

        Ctrl-C and a :class:`Stopped` of the measurer keep what was measured. Stopped if it was
        stopped before the first block; EtuiError if the engine, the meter or the disk failed; the
        folder has what was measured.
        """
        why = ""
        self._start_s = self._last_s = self.clock()
        self._begin()
        try:
            blocks = race.measure_blocks(
                self._config.design,
                self.measurer.visit,
                self._progress.blocks,
                clock=self.clock,
                sleep=self.sleep,
                on_visit=self._see_visit,
            )
            for block in self.note_open(blocks):
                self._keep(block)
            self._measure_answers()
        except KeyboardInterrupt:
            why = "stopped"
        except Stopped as stopped:
            why = stopped.what
        except Exception:  # whatever failed, the log shows the blocks that were measured
            if self._progress.blocks:
                with suppress(LogUnavailable):  # the error matters more
                    self._save_rows(self._analyse())
            raise
        if not self._progress.blocks:
            raise Stopped(f"{why} before the first block was measured", self._how_to_resume)
        return self._finish(why)

    @property
    def _how_to_resume(self) -> str:
        return f"resume with: etui sweep --resume {self.folder.path}"

    @property
    def _seconds_left(self) -> float:
        left = _estimate_left(self._config, self._progress, self._running)
        return min(left, max(0.0, self._start_s + self.most_s - self.clock()))

    def _begin(self) -> None:
        config, keys = self._config, [setting.key for setting in self._config.design.settings]
        done, left = len(self._progress.blocks), self._seconds_left
        before = f" ({count_text(done, 'block')} already measured)" if done else ""
        fields = {
            "sweep": config.id,
            "folder": str(self.folder.path),
            "model": config.model,
            "settings": keys,
            "baseline": self._progress.baseline,
            "blocks": done,
            "blocks_left": race.count_blocks_left(self._progress),
            "seconds_left": round(left, 1),
        }
        text = (
            f"{config.model}: {count_text(len(keys), 'setting')}{before}, "
            f"about {seconds_text(left)}, in {self.folder.path}; Ctrl-C stops"
        )
        self.watch(Progress(text, event="begun", fields=fields))
        for note in config.notes:
            self._note_once(note)
        if done:
            self._show_floor(self._analyse())

    def _see_visit(self, plan: BlockPlan, at: int, visit: Visit | Failure) -> None:
        """Take the watts while the recorder has them, and show what a reader should know."""
        if isinstance(visit, Visit):
            power = self.measurer.read_power(plan.number, visit)
            self._watts[visit.setting, visit.copy] = power
            for note in visit.notes:
                self._note_once(note)
            if visit.disturbed:
                number = plan.number + 1
                text = f"block {number} is measured again: {visit.setting}: {visit.disturbed}"
                self.watch(_note(text))
        now_s = self.clock()
        self._running = [*(self._running if at else ()), now_s - self._last_s]
        self._last_s = now_s
        if now_s - self._start_s > self.most_s:
            raise Stopped(f"the {seconds_text(self.most_s)} beside other programs are over")
        measured = len(self._progress.blocks)
        total = measured + race.count_blocks_left(self._progress)
        text = self._format_step(f", visit {at + 1} of {len(plan.order)}")
        self.watch(Progress(text, measured + (at + 1) / len(plan.order), total))

    def _keep(self, block: Block) -> None:
        drops, baseline = len(self._progress.drops), self._progress.baseline
        joules = _sum_joules([block])
        if self.tariff is not None and joules is not None:
            end_s = time.time()
            cost = compute_cost(joules, end_s - block.seconds, end_s, self.tariff.rate)
            block = replace(block, cost=cost)
        self.folder.add_block(block)
        self._progress = progress = race.advance(self._progress, block)
        self._running, self._last_s = [], self.clock()
        power = [self._watts[visit.setting, visit.copy] for visit in block.visits]
        self._watts.clear()
        self.folder.add(POWER, power)
        self._power += power
        for drop in progress.drops[drops:]:
            text = f"dropped {drop.setting} after block {drop.block + 1}: {drop.reason}"
            fields: dict[str, object] = {"setting": drop.setting, "reason": drop.reason}
            self.watch(Progress(text, event="dropped", fields=fields))
        if progress.baseline != baseline:
            self._note_once(f"the baseline is {progress.baseline} instead of {baseline}")
        result = self._analyse()
        self._best = result.best
        if block.stage == "floor":
            self._show_floor(result)
        done, left = len(progress.blocks), race.count_blocks_left(progress)
        joules = _sum_joules(progress.blocks)
        fields = {
            "stage": block.stage,
            "block": done,
            "blocks_left": left,
            "remaining": len(progress.remaining),
            "best": result.best,
            "seconds_left": round(self._seconds_left, 1),
            "joules": None if joules is None else round(joules, 3),
        }
        self.watch(Progress(self._format_step(), done, done + left, "block", fields))

    def _format_step(self, visit: str = "") -> str:
        """Format the progress: ``race · block 7 of at most 14, visit 3 of 12 · 4 min left``."""
        done, plan = len(self._progress.blocks), race.plan_next(self._progress)
        if plan is None:
            step = "accuracy" if self._config.questions else "done"
            parts = [step, f"{count_text(done, 'block')} measured"]
        else:
            total = done + race.count_blocks_left(self._progress)
            parts = [
                "confirming" if plan.stage == "confirm" else plan.stage,
                f"block {done + 1} of at most {total}{visit}",
                f"about {seconds_text(self._seconds_left)} left",
            ]
        parts.append(f"{count_text(len(self._progress.remaining), 'setting')} left")
        if self._best is not None:
            parts.append(f"best {self._best}")  # last: a narrow terminal cuts it off
        return " · ".join(parts)

    def _show_floor(self, result: SweepResult) -> None:
        """Show the detection floor, once all of its blocks are measured."""
        is_measured = self._progress.count("floor") == self._config.design.floor_blocks
        if is_measured and result.floor is not None:
            self.watch(_note(floor_sentence(result)))

    def _note_once(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self.watch(_note(text))

    def _measure_answers(self) -> None:
        questions = self._config.questions
        if not questions:
            return
        answered = group_answers(self._answers, questions)
        settings = list_asked(self._config.design, self._progress.blocks, answered)
        total = len(settings) * questions
        asked = self.measurer.measure_answers(settings, tuple(self._answers))
        for answer in self.note_open(asked):
            self.folder.add(ANSWERS, [answer])
            self._answers.append(answer)
            done = len(self._answers)
            is_due = done % max(1, total // 100) == 0 or done == total
            fields = {"done": done, "answers": total} if is_due else {}
            text = f"accuracy · {done:,} of {total:,} answers"
            self.watch(Progress(text, done, total, "answered", fields))
        answered = group_answers(self._answers, questions)
        for setting in settings:
            if setting.key not in answered:
                raise EtuiError(
                    f"the accuracy of {setting.key} could not be measured", self._how_to_resume
                )

    def _analyse(self) -> SweepResult:
        return analyse_measured(self._config, self._progress.blocks, self._answers)

    def _finish(self, why: str) -> SweepOutcome:
        config, blocks, result = self._config, self._progress.blocks, self._analyse()
        documents = {
            RESULT: build_document(config, result, blocks),
            RECORD_FILE: to_document(build_energy_record(config, result, blocks)),
        }
        for name, document in documents.items():
            self.folder.write(name, json.dumps(document, indent=2) + "\n")
        self.watch(_note("writing the report"))
        self.folder.write(REPORT, render_report(config, result, blocks, self._power))
        self._save_rows(result)
        return SweepOutcome(self.folder.path, config, result, blocks, why)

    def _save_rows(self, result: SweepResult) -> None:
        config, floor = self._config, result.floor
        row = {
            "sweep_id": config.id,
            "created_at": config.created,
            "folder": str(self.folder.path.absolute()),
            "model": config.model,
            "model_sha256": config.model_sha256,
            "machine": str(config.provenance.get("machine", "unknown")),
            "goal": result.goal.measure,
            "within_percent": result.goal.within_percent,
            "baseline": result.baseline,
            "best": result.best,
            "verdict": format_verdict(result),
            "floor_joules_percent": None if floor is None else floor.joules_percent,
            "floor_seconds_percent": None if floor is None else floor.seconds_percent,
            "blocks": result.blocks,
            "visits": result.visits,
            "joules": _sum_joules(self._progress.blocks),
            "kind": result.kind,
            "seconds": result.seconds,
            "complete": result.is_complete,
        }
        self.log.save_rows("sweeps", [row])
        settings = [_build_row(config.id, one) for one in result.settings]
        self.log.save_rows("sweep_settings", settings)


def _sum_joules(blocks: Sequence[Block]) -> float | None:
    """Sum the joules of all answers of the visits; None if there are none or one is unmeasured."""
    visits = (visit for block in blocks for visit in block.visits)
    return sum_known(None if v.joules is None else v.joules * v.answers for v in visits)


def _build_row(sweep_id: str, one: SettingResult) -> Row:
    """Build the row of a setting in the log: costs of an answer, differences to the baseline.

    ``accuracy`` is a share in [0, 1], ``accuracy_points`` its difference in percentage points; all
    ends are those of intervals at 95 %. ``dropped_after`` is the number of a block.
    """
    joules, seconds = one.joules_difference, one.seconds_difference
    figures: dict[str, Interval | Difference | None] = {
        "joules": one.joules,
        "seconds": one.seconds,
        "joules_percent": joules,
        "seconds_percent": seconds,
        "accuracy": one.accuracy_share,
        "accuracy_points": one.accuracy_points,
    }
    ends: dict[str, float | None] = {}
    for name, figure in figures.items():
        if figure is None:
            value = low = high = None
        else:
            value = figure.percent if isinstance(figure, Difference) else figure.value
            low, high = figure.low, figure.high
        ends |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return {
        "sweep_id": sweep_id,
        "setting": one.setting,
        "axes": dict(one.values),
        "stage": one.stage,
        "blocks": one.blocks,
        "joules_claimed": joules is not None and joules.is_claimed,
        "seconds_claimed": seconds is not None and seconds.is_claimed,
        "dropped_after": one.dropped_after,
        "reason": one.drop_reason,
        "frontier": one.is_on_frontier,
        **ends,
    }


def _note(text: str) -> Progress:
    return Progress(text, fields={"text": text})


def describe_plan(asked: SweepConfig, config: Config) -> dict[str, Any]:
    """Plan a sweep and describe it as a document, without measuring anything."""
    plan = make_plan(asked, config, load_catalogue(config), "", datetime.now())
    sweep, design = plan.config, plan.config.design
    visit = race.guess_visit_seconds(sweep.window_s, sweep.cool_down_s)
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
        "seconds": round(race.estimate_seconds_left(race.follow(design, ()), visit), 1),
    }


def analyse_folder(recorded: RecordedSweep) -> SweepResult:
    """Compute the result of a recorded sweep, finished or not."""
    return analyse_measured(recorded.config, recorded.blocks, recorded.answers)
