"""Start, resume and measure a sweep in its folder, block after block, and write its result.

What measures is behind :class:`Workbench`: this machine, or a simulated one in tests.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from etui.codec import to_document
from etui.energy.energy_record import RECORD_FILE
from etui.errors import EtuiError, LogUnavailable, Stopped, UsageError
from etui.log.records import SweepRecord, SweepSettingRecord
from etui.measure.folder import check_new
from etui.measure.progress import Progress, Watch
from etui.models.catalogue import load_catalogue
from etui.stats.tests import Interval
from etui.sweep._accuracy import (
    analyse_measured,
    group_answers,
    group_by_numbers,
    list_asked,
)
from etui.sweep.blocks import (
    Block,
    BlockPlan,
    Failure,
    SettingAnswer,
    SettingMeasurer,
    Visit,
    VisitPower,
)
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
from etui.sweep.plan import SweepPlan, make_plan
from etui.sweep.race import (
    count_blocks_left,
    estimate_full_grid_seconds,
    estimate_seconds_left,
    follow,
    guess_visit_seconds,
    measure_blocks,
    plan_next,
)
from etui.sweep.result import Difference, SettingResult, SweepResult
from etui.sweep.verdict import floor_limit_text, format_verdict
from etui.units import count_text, seconds_text

if TYPE_CHECKING:
    from etui.config.config import Config

_STEPS = {"confirm": "confirming"}
"""Name of a step -> its name in the progress, where it differs."""

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
_SHOWN_CHANGES = 6


@dataclass(frozen=True, slots=True)
class Instruments:
    """What a sweep is measured with."""

    measurer: SettingMeasurer
    read_power: Callable[[int, Visit], VisitPower]
    """Reads the watts of a visit of the block with this number."""
    measure_answers: (
        Callable[[Sequence[Setting], Sequence[SettingAnswer]], Iterator[SettingAnswer]] | None
    ) = None
    """Answers the questions of the suite that are missing: settings to measure, and the answers
    that are there; None without a suite."""
    sleep: Callable[[float], object] = time.sleep  # Waits before a block is begun again


class Workbench(Protocol):
    """This machine, opened to measure: the meter, and what is made with it."""

    @property
    def channels(self) -> Sequence[str]:
        """Ids of the power channels that are summed; none if nothing can be measured."""

    @property
    def window_s(self) -> float:
        """Least seconds of a phase that the meter resolves."""

    def check_idle(self) -> None:
        """Refuse a machine at work, which would be measured too.

        Raises:
            EtuiError: Other programs use it.
        """

    def open_instruments(
        self, plan: SweepPlan, config: SweepConfig, place: Path
    ) -> AbstractContextManager[Instruments]:
        """Open what measures the settings; it restores what it changed at the end.

        Args:
            place: The folder of the sweep, which may keep what a resumed sweep needs.
        """


class SweepLog(Protocol):
    """Saves the rows of a sweep."""

    def save_sweep(self, record: SweepRecord, settings: Sequence[SweepSettingRecord] = ()) -> None:
        """Save a sweep and its settings."""


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """How a sweep ended."""

    folder: Path
    config: SweepConfig
    result: SweepResult
    blocks: tuple[Block, ...] = ()
    why_stopped: str = ""  # Why it is not complete; empty if it is


class SweepRunner:
    """Runs sweeps on a machine.

    Args:
        watch: Shows the progress.
        log: Saves the rows.
        now: Returns the local time.
    """

    def __init__(
        self,
        config: Config,
        watch: Watch,
        log: SweepLog,
        open_workbench: Callable[[], AbstractContextManager[Workbench]],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._config = config
        self._watch = watch
        self._log = log
        self._open_workbench = open_workbench
        self._now = now

    def start(
        self, asked: SweepConfig, out: Path | None = None, *, fresh: bool = False
    ) -> SweepOutcome:
        """Start a sweep, or resume the unfinished one that asks for the same.

        Args:
            asked: What is asked for, as :func:`make_plan` takes it.
            out: Its folder; None creates one in the folder of all sweeps.
            fresh: Whether to start over instead.

        Raises:
            EtuiError: The sweep cannot start, or has failed; what was measured is kept.
        """
        if out is not None and (fresh or not (out / CONFIG).is_file()):
            check_new(out, SWEEP)  # report an error before anything is opened
        started = self._now()
        sweep_id = new_sweep_id(asked.model or asked.arm or "", started)
        plan = self._plan(asked, sweep_id, started)
        with self._open_workbench() as bench:
            window_s = asked.window_s or bench.window_s
            channels = tuple(bench.channels)
            config = replace(plan.config, channels=channels, window_s=window_s)
            if not channels and asked.design.goal.measure != "time":
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
                return self._measure(plan, folder, read_sweep(place), bench)

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
            plan = self._plan(before, before.id, datetime.fromisoformat(before.created))
            refuse_changes(before, replace(plan.config, channels=tuple(bench.channels)))
            if plan_next(follow(before.design, recorded.blocks)) is not None:
                bench.check_idle()
            return self._measure(replace(plan, config=before), folder, recorded, bench)

    def _measure(
        self, plan: SweepPlan, folder: SweepFolder, recorded: RecordedSweep, bench: Workbench
    ) -> SweepOutcome:
        with bench.open_instruments(plan, recorded.config, folder.path) as instruments:
            return SweepRun(folder, recorded, instruments, self._watch, self._log).measure()

    def _plan(self, asked: SweepConfig, sweep_id: str, started: datetime) -> SweepPlan:
        def say(text: str) -> None:
            self._watch(_note(text))

        catalogue = load_catalogue(self._config)
        return make_plan(asked, self._config, catalogue, sweep_id, started, say)

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
            text = (
                f"{place.name} is unfinished, but was measured under other conditions: "
                f"{'; '.join(changes[:_SHOWN_CHANGES])}; this is a new sweep"
            )
            self._watch(_note(text))
            return None
        return None


class SweepRun:
    """One sweep that is measured by this process, with what was measured before an interruption."""

    def __init__(
        self,
        folder: SweepFolder,
        recorded: RecordedSweep,
        instruments: Instruments,
        watch: Watch,
        log: SweepLog,
    ) -> None:
        self._folder = folder
        self._config = recorded.config
        self._instruments = instruments
        self._watch = watch
        self._log = log
        self._progress = follow(self._config.design, recorded.blocks)
        self._best: str | None = None  # of the blocks of this process
        self._answers = list(recorded.answers)
        self._power = list(recorded.power)
        self._watts: dict[tuple[str, int], VisitPower] = {}  # of the running block
        self._notes: set[str] = set()

    def measure(self) -> SweepOutcome:
        """Measure what is missing, and write the result.

        Ctrl-C and a :class:`Stopped` of the measurer keep what was measured.

        Raises:
            Stopped: It was stopped before the first block.
            EtuiError: The engine, the meter or the disk failed; the folder has what was measured.
        """
        why = ""
        self._begin()
        try:
            for block in measure_blocks(
                self._config.design,
                self._instruments.measurer,
                self._progress.blocks,
                sleep=self._instruments.sleep,
                on_visit=self._see_visit,
            ):
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
        return f"resume with: etui sweep --resume {self._folder.path}"

    @property
    def _step(self) -> str:
        """What comes next: a stage of the blocks, ``accuracy``, or ``done``."""
        plan = plan_next(self._progress)
        if plan is not None:
            return plan.stage
        return "done" if self._instruments.measure_answers is None else "accuracy"

    @property
    def _seconds_left(self) -> float:
        config = self._config
        if plan_next(self._progress) is None:
            return 0.0
        guess = guess_visit_seconds(config.window_s, config.cool_down_s)
        return estimate_seconds_left(self._progress, guess)

    def _begin(self) -> None:
        config, settings = self._config, self._config.design.settings
        done, left = len(self._progress.blocks), self._seconds_left
        before = f" ({count_text(done, 'block')} already measured)" if done else ""
        self._watch(
            Progress(
                f"{config.model}: {count_text(len(settings), 'setting')}{before}, "
                f"about {seconds_text(left)}, in {self._folder.path}; Ctrl-C stops",
                event="begun",
                fields={
                    "sweep": config.id,
                    "folder": str(self._folder.path),
                    "model": config.model,
                    "settings": [setting.key for setting in settings],
                    "baseline": settings[0].key,
                    "blocks": done,
                    "blocks_left": count_blocks_left(self._progress),
                    "seconds_left": round(left, 1),
                },
            )
        )
        for note in config.notes:
            self._note_once(note)
        if self._has_floor():
            self._show_floor(self._analyse())

    def _see_visit(self, plan: BlockPlan, at: int, visit: Visit | Failure) -> None:
        """Take the watts while the recorder has them, and show what a reader should know."""
        if isinstance(visit, Visit):
            power = self._instruments.read_power(plan.number, visit)
            self._watts[visit.setting, visit.copy] = power
            for note in visit.notes:
                self._note_once(note)
            if visit.disturbed:
                number = plan.number + 1
                text = f"block {number} is measured again: {visit.setting}: {visit.disturbed}"
                self._watch(_note(text))
        total = len(self._progress.blocks) + count_blocks_left(self._progress)
        done = len(self._progress.blocks) + (at + 1) / len(plan.order)
        self._watch(Progress(self._format_step((at + 1, len(plan.order))), done, total))

    def _keep(self, block: Block) -> None:
        stage, drops = block.stage, len(self._progress.drops)
        self._folder.add_block(block)
        self._progress = follow(self._config.design, (*self._progress.blocks, block))
        power = [self._watts[visit.setting, visit.copy] for visit in block.visits]
        self._watts.clear()
        self._folder.add_power(power)
        self._power += power
        for drop in self._progress.drops[drops:]:
            self._watch(
                Progress(
                    f"dropped {drop.setting} after block {drop.block + 1}: {drop.reason}",
                    event="dropped",
                    fields={"setting": drop.setting, "reason": drop.reason},
                )
            )
        result = self._analyse()
        self._best = result.best
        if stage == "floor" and self._has_floor():
            self._show_floor(result)
        done, left = len(self._progress.blocks), count_blocks_left(self._progress)
        joules = _sum_joules(self._progress.blocks)
        fields = {
            "stage": stage,
            "block": done,
            "blocks_left": left,
            "remaining": len(self._progress.remaining),
            "best": result.best,
            "seconds_left": round(self._seconds_left, 1),
            "joules": None if joules is None else round(joules, 3),
        }
        self._watch(Progress(self._format_step(), done, done + left, "block", fields))

    def _format_step(self, visit: tuple[int, int] | None = None) -> str:
        """Format the progress: ``race · block 7 of at most 14, visit 3 of 12 · about 4 min left``.

        Args:
            visit: Visits of the running block that are done, and all of them.
        """
        done, step = len(self._progress.blocks), self._step
        if step in ("accuracy", "done"):
            parts = [step, f"{count_text(done, 'block')} measured"]
        else:
            inner = "" if visit is None else f", visit {visit[0]} of {visit[1]}"
            total = done + count_blocks_left(self._progress)
            parts = [
                _STEPS.get(step, step),
                f"block {done + 1} of at most {total}{inner}",
                f"about {seconds_text(self._seconds_left)} left",
            ]
        parts.append(f"{count_text(len(self._progress.remaining), 'setting')} left")
        if self._best is not None:
            parts.append(f"best {self._best}")  # last: a narrow terminal cuts it off
        return " · ".join(parts)

    def _has_floor(self) -> bool:
        return self._progress.count("floor") == self._config.design.floor_blocks

    def _show_floor(self, result: SweepResult) -> None:
        if result.floor is not None:
            self._watch(_note(floor_limit_text(result.floor)))

    def _note_once(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self._watch(_note(text))

    def _measure_answers(self) -> None:
        measure, questions = self._instruments.measure_answers, self._config.questions
        if measure is None:
            return
        answered = group_answers(self._answers, questions)
        settings = list_asked(self._config.design, self._progress.blocks, answered)
        total = len(settings) * questions
        for answer in measure(settings, tuple(self._answers)):
            self._folder.add_answers([answer])
            self._answers.append(answer)
            done = len(self._answers)
            is_due = done % max(1, total // 100) == 0 or done == total
            fields = {"done": done, "answers": total} if is_due else {}
            text = f"accuracy · {done:,} of {total:,} answers"
            self._watch(Progress(text, done, total, "answered", fields))
        answered = group_answers(self._answers, questions)
        for setting in settings:
            if setting.key not in answered:
                raise EtuiError(
                    f"the accuracy of {setting.key} could not be measured", self._how_to_resume
                )

    def _analyse(self) -> SweepResult:
        return analyse_measured(self._config, self._progress.blocks, self._answers)

    def _finish(self, why: str) -> SweepOutcome:
        from etui.sweep.document import build_document, build_energy_record
        from etui.sweep.page import render_report

        config, blocks, result = self._config, self._progress.blocks, self._analyse()
        record = to_document(build_energy_record(config, result, blocks))
        for name, document in (
            (RESULT, build_document(config, result, blocks)),
            (RECORD_FILE, record),
        ):
            self._folder.write(name, json.dumps(document, indent=2) + "\n")
        self._watch(_note("writing the report"))
        self._folder.write(REPORT, render_report(config, result, blocks, self._power))
        self._save_rows(result)
        return SweepOutcome(self._folder.path, config, result, blocks, why)

    def _save_rows(self, result: SweepResult) -> None:
        config, floor = self._config, result.floor
        record = SweepRecord(
            sweep_id=config.id,
            created_at=config.created,
            folder=str(self._folder.path.absolute()),
            model=config.model,
            model_sha256=config.model_sha256,
            machine=str(config.provenance.get("machine", "unknown")),
            goal=result.goal.measure,
            within_percent=result.goal.within_percent,
            baseline=result.baseline,
            best=result.best,
            verdict=format_verdict(result),
            floor_joules_percent=None if floor is None else floor.joules_percent,
            floor_seconds_percent=None if floor is None else floor.seconds_percent,
            blocks=result.blocks,
            visits=result.visits,
            joules=_sum_joules(self._progress.blocks),
            kind=result.kind,
            seconds=result.seconds,
            complete=result.is_complete,
        )
        self._log.save_sweep(record, [_build_row(config.id, one) for one in result.settings])


def _sum_joules(blocks: Sequence[Block]) -> float | None:
    """Sum the joules of all answers of the visits; None if there are none or one is unmeasured."""
    visits = [visit for block in blocks for visit in block.visits]
    known = [visit.joules * visit.answers for visit in visits if visit.joules is not None]
    return math.fsum(known) if known and len(known) == len(visits) else None


def _build_row(sweep_id: str, one: SettingResult) -> SweepSettingRecord:
    """Build the row of a setting in the log."""
    accuracy = one.accuracy
    joules, seconds = one.joules_difference, one.seconds_difference
    ends: dict[str, float | None] = {}
    for name, figure in (
        ("joules", one.joules),
        ("seconds", one.seconds),
        ("joules_percent", joules),
        ("seconds_percent", seconds),
        ("accuracy", None if accuracy is None else accuracy.share),
        ("accuracy_points", None if accuracy is None else accuracy.difference_points),
    ):
        ends |= _name_ends(name, figure)
    return SweepSettingRecord(
        sweep_id=sweep_id,
        setting=one.setting,
        axes=dict(one.values),
        stage=one.stage,
        blocks=one.blocks,
        joules_claimed=joules is not None and joules.is_claimed,
        seconds_claimed=seconds is not None and seconds.is_claimed,
        dropped_after=one.dropped_after,
        reason=one.drop_reason,
        frontier=one.is_on_frontier,
        **ends,
    )


def _name_ends(name: str, figure: Interval | Difference | None) -> dict[str, float | None]:
    if figure is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    value = figure.value if isinstance(figure, Interval) else figure.percent
    return {name: value, f"{name}_low": figure.low, f"{name}_high": figure.high}


def _note(text: str) -> Progress:
    return Progress(text, fields={"text": text})


def asks_for_the_same(one: SweepConfig, other: SweepConfig) -> bool:
    """Return whether both sweeps measure the same in the same way, on whatever machine."""
    names = [f.name for f in fields(SweepConfig) if f.name not in _OF_THIS_SWEEP]
    return all(getattr(one, name) == getattr(other, name) for name in names)


def list_changes(before: SweepConfig, now: SweepConfig) -> tuple[str, ...]:
    """List the conditions that have changed, each in a few words; empty if none has."""
    pairs = [
        (what, getattr(before, name), getattr(now, name)) for name, what in _CONDITIONS.items()
    ]
    for key, what in _PROVENANCE.items():
        one, other = before.provenance.get(key), now.provenance.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            keys = dict.fromkeys((*one, *other))
            pairs += [(f"{inner} of {what}", one.get(inner), other.get(inner)) for inner in keys]
        else:
            pairs.append((what, one, other))
    changes = [
        f"{what} was {_describe(one)} and is now {_describe(other)}"
        for what, one, other in pairs
        if one != other
    ]
    if before.design.settings != now.design.settings:
        one, other = before.design.settings[0].key, now.design.settings[0].key
        if one != other:
            changes.append(f"the baseline was {one} and is now {other}")
        else:
            changes.append("the settings of the same axes are others now")
    return tuple(changes)


def _describe(value: object) -> str:
    quoted = json.dumps(value, ensure_ascii=False, default=str)
    text = value if isinstance(value, str) else quoted
    return text if len(text) <= 60 else f"{text[:57]}..."


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


def describe_plan(asked: SweepConfig, config: Config) -> dict[str, Any]:
    """Plan a sweep and describe it as a document, without measuring anything.

    Raises:
        EtuiError: As :func:`make_plan`.
    """
    plan = make_plan(asked, config, load_catalogue(config), "", datetime.now())
    sweep, design = plan.config, plan.config.design
    visit = guess_visit_seconds(sweep.window_s, sweep.cool_down_s)
    full = estimate_full_grid_seconds(design, (), visit)
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
        "seconds": round(estimate_seconds_left(follow(design, ()), visit), 1),
        "full_grid_seconds": None if full is None else round(full, 1),
    }


def analyse_folder(recorded: RecordedSweep) -> SweepResult:
    """Compute the result of a recorded sweep, finished or not."""
    return analyse_measured(recorded.config, recorded.blocks, recorded.answers)
