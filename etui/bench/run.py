"""Run a benchmark from its plan to its reports; ``etui bench`` without the command line."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from etui.arm import Arm
from etui.backends.base import Cancel
from etui.backends.local import LocalBackend
from etui.bench.config import RunConfig, differences, plan_differences
from etui.bench.cost import find_weakest_kind
from etui.bench.difficulty import DIFFICULTY
from etui.bench.folder import RUN, RunFolder, new_run_id, read_run, runs_dir
from etui.bench.machines import MachineShare, add_machines, assign_keys, is_comparison, undo_join
from etui.bench.plan import RunPlan, check_sources, restore_difficulty
from etui.bench.progress import RunProgress
from etui.bench.results import write_results
from etui.bench.sample import Sample
from etui.bench.schedule import Piece, PrecisionSchedule, build_schedule, open_precision
from etui.bench.scoring import Answered, QuestionAnswerer, ScoringArm, SubjectWork
from etui.bench.setup import build_run_config, load_models
from etui.bench.summary import Summary, may_pool, summary_document
from etui.bench.turns import Decide, TurnArm, decide_always, decide_by_policy
from etui.energy.tariff import Tariff, compute_cost
from etui.energy.tariff_files import read_tariff
from etui.engine.residency import finish_load
from etui.errors import EtuiError, Stopped, UsageError
from etui.log.records import Row
from etui.log.writer import TurnWriter
from etui.measure.folder import check_new, join_differences
from etui.measure.run import (
    NO_LIMITS,
    Ending,
    RunLimits,
    WholeBlocks,
    measure_cells,
    work_between_blocks,
)
from etui.runtime.runtime import Runtime
from etui.text import utc_now
from etui.turn.interfaces import Meter

Note = Callable[[str, SubjectWork, Iterator[Answered]], Iterator[Answered]]


def run_record(
    config: RunConfig,
    folder: Path,
    samples: Sequence[Sample],
    status: str,
    summary: Summary | None = None,
) -> Row:
    """Build the row of a run in its current state; it may have no summary yet.

    Joules are None if those of any answer are, since a partial sum would look like the total, and
    if the machines of the run are not equal.
    """
    known = [s.joules for s in samples if s.joules is not None]
    measured = bool(samples) and len(known) == len(samples) and may_pool(samples, config)
    return {
        "run_id": config.run_id,
        "created_at": config.started_at,
        "finished_at": None if status == "running" else utc_now("seconds"),
        "status": status,
        "folder": str(folder),
        "suite": config.suite,
        "format": f"{config.format}@{config.format_version}",
        "shots": config.shots,
        "seed": config.seed,
        "data_sha256": config.data_sha256,
        "config_sha256": config.sha256,
        "questions": config.questions if summary is None else summary.questions,
        "correct": sum(s.correct for s in samples),
        "joules": math.fsum(known) if measured else None,
        "uncertainty": math.fsum(s.uncertainty or 0.0 for s in samples) if measured else None,
        "kind": find_weakest_kind(s.kind for s in samples) if measured else None,
        "seconds": math.fsum(s.seconds for s in samples),
        "arms": config.contenders,
        "config": config.to_json(),
        "summary": {} if summary is None else summary_document(summary),
    }


def answer_record(run_id: str, sample: Sample) -> Row:
    """Build the row of an answer."""
    return {
        "run_id": run_id,
        "arm": sample.arm,
        "subject": sample.subject,
        "row": sample.row,
        "answer": sample.answer,
        "choice": sample.choice,
        "correct": sample.correct,
        "letter_mass": sample.letter_mass,
        "status": sample.status,
        "tokens_computed": sample.tokens.computed,
        "tokens_cached": sample.tokens.cached,
        "tokens_thinking": sample.tokens.thinking,
        "tokens_output": sample.tokens.output,
        "joules": sample.joules,
        "uncertainty": sample.uncertainty,
        "kind": sample.kind,
        "seconds": sample.seconds,
        "logprobs": dict(sample.logprobs) if sample.logprobs is not None else None,
    }


def answer_all(
    plan: RunPlan,
    schedule: Iterable[Piece],
    systems: Mapping[str, QuestionAnswerer],
    done: Mapping[tuple[str, str], set[int]],
    sink: SampleWriter,
    check_limits: Callable[[float], Ending | None],
    note: Note = lambda system, work, answers: answers,
) -> Ending:
    """Run the systems on the questions that they have not answered.

    ``done`` has the rows that are already answered, by system and subject; ``check_limits`` takes
    the joules used so far, and returns why the run ends now; ``note`` returns the same answers,
    with a note of what is being worked on.
    """
    pieces = (
        (piece.system, build_work(plan, piece, done.get((piece.system, piece.subject), set())))
        for piece in schedule
    )
    return measure_cells(
        ((system, work) for system, work in pieces if work.left),
        lambda cell: note(*cell, iter(systems[cell[0]].answer(cell[1]))),
        sink.put,
        lambda: check_limits(sink.joules),
    )


def build_work(plan: RunPlan, piece: Piece, done: set[int]) -> SubjectWork:
    """Build the work of a piece; ``done`` are the rows that its system has answered."""
    by_row = {question.row: question for question in plan.drawn[piece.subject]}
    questions = tuple(by_row[row] for row in piece.rows)
    return SubjectWork(piece.subject, questions, done, plan.examples[piece.subject])


def collect_done_rows(
    config: RunConfig, samples: Iterable[Sample]
) -> dict[tuple[str, str], set[int]]:
    """Collect the answered rows: (system, subject) -> rows."""
    found: dict[tuple[str, str], set[int]] = {}
    for sample in samples:
        key = (config.contender(sample.arm), sample.subject)
        found.setdefault(key, set()).add(sample.row)
    return found


class BetweenBlocks(Protocol):
    """Work between blocks, on the thread that answers."""

    @property
    def joules(self) -> float:
        """Joules that it has used so far, those before a resume included."""

    def begin(
        self, config: RunConfig, folder: Path, samples: Sequence[Sample], machine: str | None
    ) -> None:
        """Begin a run, or resume it after ``samples``; ``machine``: this one's key in the run."""

    def work(self, ended: Callable[[], bool]) -> None:
        """Work between two blocks, unless the run has ended."""

    def finish(self) -> None:
        """Conclude the work of a run that ends, complete or not, before the log is closed."""


class SampleWriter:
    """Measures, writes and shows answers in the order they were given, from its own thread.

    Answers are on the disk as soon as the meter has a reading after their end, some tens of
    milliseconds later, while the next question is being computed.

    Args:
        show: Called with the samples after they are written.
        joules: Joules of earlier answers if the run is resumed.
        share: The machine's share of a run of several; None for a run of one machine.
    """

    def __init__(
        self,
        folder: RunFolder,
        meter: Meter,
        show: Callable[[Sequence[Sample]], None],
        joules: float = 0.0,
        share: MachineShare | None = None,
        tariff: Tariff | None = None,
    ) -> None:
        self._tariff = tariff
        self._folder = folder
        self._meter = meter
        self._show = show
        self._share = share
        self._failure: BaseException | None = None
        self._thread = ThreadPoolExecutor(1, "etui-bench")
        self.joules = joules  # Joules of all written answers, those before a resume included

    def put(self, answered: Answered) -> None:
        """Queue answers for writing."""
        self._check()
        self._thread.submit(self._write, answered)

    def when_written(self, call: Callable[[], None]) -> None:
        """Call a function once the answers put so far are written."""
        try:
            self._thread.submit(call)
        except RuntimeError:  # it is closed: all of them are
            call()

    def wait(self) -> None:
        """Wait until the answers put so far are written and shown."""
        self._thread.submit(lambda: None).result()
        self._check()

    def close(self) -> None:
        """Wait until all answers are written."""
        self._thread.shutdown()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _write(self, answered: Answered) -> None:
        if self._failure is not None:
            return
        try:
            self._meter.settle(answered.end_ns)
            samples = answered.samples(self._meter.energy)
            samples = [price_sample(sample, self._tariff) for sample in samples]
            if self._share is not None:
                samples = [self._share.place(sample) for sample in samples]
            self._folder.add_samples(samples)
            self.joules += math.fsum(s.joules for s in samples if s.joules is not None)
            self._show(samples)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._failure = error


def price_sample(sample: Sample, tariff: Tariff | None) -> Sample:
    """Return an answer that has just ended with its cost; as it is if that is unknown."""
    if tariff is None or sample.joules is None:
        return sample
    end_s = time.time()
    cost = compute_cost(sample.joules, end_s - sample.seconds, end_s, tariff.rate)
    return replace(sample, cost=cost)


def read_answers(folder: Path) -> tuple[Sample, ...]:
    """Read the answers of a run that ends; Stopped if it has none."""
    samples = read_run(folder).samples
    if not samples:
        raise Stopped(
            "stopped before the first answer", f"resume with: etui bench --resume {folder}"
        )
    return samples


def refuse_merged(config: RunConfig) -> None:
    """Refuse to resume a run that was merged from others."""
    if config.merged is not None:
        raise UsageError(
            f"run {config.run_id} was merged from {', '.join(config.merged)}, and answers nothing "
            "itself",
            "resume one of these, or answer another part with --part, and merge again",
        )


def refuse_changes(before: RunConfig, now: RunConfig) -> None:
    """Refuse to resume a run with different settings; the message lists them."""
    if before.sha256 != now.sha256:
        _refuse_differences(before.run_id, differences(before, now))


def refuse_other_plan(before: RunConfig, now: RunConfig) -> None:
    """Refuse to resume a run of several machines on one that asks something else.

    Programs and hardware may differ there: each answer names its machine.
    """
    _refuse_differences(before.run_id, plan_differences(undo_join(before), now))


def _refuse_differences(run_id: str, found: Mapping[str, tuple[Any, Any]]) -> None:
    if found:
        raise UsageError(
            f"run {run_id} was started with different settings: {join_differences(found)}",
            "restore them, or start a new run",
        )


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended."""

    ending: Ending  # Whether all questions are answered, and if not, why
    folder: Path
    config: RunConfig
    samples: Sequence[Sample]
    summary: Summary


@dataclass(slots=True)
class Answering:
    """A run whose questions are being answered, and its rows in the log."""

    plan: RunPlan
    config: RunConfig
    folder: RunFolder
    before: Sequence[Sample]  # Its answers so far
    writer: TurnWriter
    progress: RunProgress
    blocks: WholeBlocks
    precise: PrecisionSchedule | None = None  # None for a run that does not stop at a precision
    status: str = "running"  # As in :func:`run_record`
    summary: Summary | None = None  # None before the run has one

    @contextmanager
    def log(self) -> Iterator[None]:
        """Log the run and its earlier answers for the time of the body, and close the log.

        A run that an error ends is logged as stopped if the user stopped it, else as an error.
        """
        self._save()
        self._add(self.before)
        self.status = "error"
        try:
            yield
        except (KeyboardInterrupt, Stopped):
            self.status = "stopped"
            raise
        finally:
            with suppress(EtuiError):  # all is in the folder, and a log error was reported
                self._save()
                self.writer.close()

    def open_precision(self, wait: Callable[[], None] = lambda: None) -> None:
        """Open the schedule of a run that stops at a precision; ``wait`` as in its class."""
        self.precise = open_precision(self.plan, self.config, wait, self.progress)
        if self.precise is not None:
            self.precise.add(self.before)

    def see(self, new: Sequence[Sample]) -> None:
        """Take answers that are on the disk; they are not kept in memory."""
        if self.precise is not None:
            self.precise.add(new)
        self._add(new)
        self.progress.see(new)

    def _add(self, samples: Sequence[Sample]) -> None:
        rows = [answer_record(self.config.run_id, each) for each in samples]
        self.writer.save_rows("answers", rows)

    def _save(self) -> None:
        """Write the row of the run, by the answers in its folder."""
        place = self.folder.path
        samples = read_run(place).samples
        row = run_record(self.config, place, samples, self.status, self.summary)
        self.writer.save_rows("runs", [row])


@dataclass(slots=True)
class BenchRunner:
    """Runs plans on this machine."""

    runtime: Runtime[LocalBackend]  # This machine, with llama.cpp in this process
    progress: RunProgress  # Shows the progress
    stopped: Event  # Set when the user wants to stop
    on_stop: Callable[[Callable[[], None]], None] = lambda cancel: None  # Takes what ends an answer
    cancel: Cancel = field(default_factory=Cancel)  # Ends the running answer
    build_between_blocks: Callable[[RunPlan], BetweenBlocks | None] = lambda plan: None
    """Builds what a plan does between its blocks."""
    meter: Meter | None = None  # Measures turns in place of this machine's recorder
    _share: MachineShare | None = None  # This machine's part of a run of several

    def start(self, plan: RunPlan, out: Path | None, limits: RunLimits = NO_LIMITS) -> RunOutcome:
        """Run a plan in a new folder; None creates one in the folder of all runs.

        EtuiError if the run cannot start, or did not finish; its answers are kept.
        """
        if out is not None:
            check_new(out, RUN)  # report an error before loading models takes minutes
        run_id = new_run_id(plan.suite.name, plan.format.name, plan.systems, datetime.now())
        config = self.configure(plan, run_id)
        hashes = {model.name: model.sha256 for model in config.models}
        check_sources(plan, hashes, self.progress.say)
        place = out or runs_dir(self.runtime.config) / run_id
        with RunFolder.start(place, config) as folder:
            if plan.difficulty is not None:
                folder.write(DIFFICULTY, plan.difficulty.text)
            return self._run(plan, config, folder, (), limits)

    def resume(
        self,
        folder: Path,
        plan_again: Callable[[RunConfig], RunPlan],
        limits: RunLimits = NO_LIMITS,
    ) -> RunOutcome:
        """Resume a run; joules used before count towards the limits, time does not.

        UsageError if the run was started with other data, models or programs, or was merged;
        EtuiError if the run cannot resume, or did not finish; its answers are kept.
        """
        opened, recorded = RunFolder.resume(folder)
        with opened:
            before = recorded.config
            refuse_merged(before)
            plan = restore_difficulty(plan_again(undo_join(before)), before, folder / DIFFICULTY)
            config = self._continue(plan, before)
            if config != before:
                opened.add_machines(config)
            return self._run(plan, config, opened, recorded.samples, limits)

    def _continue(self, plan: RunPlan, before: RunConfig) -> RunConfig:
        """Load the models of a run that resumes here, where it may be one of several machines."""
        now = self.configure(plan, before.run_id)
        if before.machines is None:
            refuse_changes(before, now)
            return before
        refuse_other_plan(before, now)
        machine = assign_keys(before.machines, {"here": now})["here"]
        compare = is_comparison(before)
        config = add_machines(before, [machine])
        if config != before and compare:
            keys = ", ".join(each.key for each in before.machines)
            raise UsageError(
                f"run {before.run_id} compares {keys}, and this machine is none of them",
                "resume it on one of them, or with --cluster",
            )
        self._share = MachineShare(machine.key, compare)
        return config

    def configure(self, plan: RunPlan, run_id: str) -> RunConfig:
        """Load the models of a plan and describe the run on this machine.

        EtuiError if a model cannot be loaded, or a question does not fit into its context.
        """
        runtime = self.runtime
        if plan.policy is None:
            for arm in plan.arms.values():
                runtime.resolve(arm)  # a draft model that is missing is reported before any load
        runtime.recorder.start()
        self.on_stop(self.cancel.cancel)
        models = load_models(
            plan, runtime.backend, lambda name: runtime.resolve(Arm(name, name)), self.progress.say
        )
        idle = runtime.use_idle_baseline(plan.models[0])
        gpus = runtime.backend.describe_gpus()
        return build_run_config(plan, run_id, models, runtime.config, runtime.recorder, idle, gpus)

    def _run(
        self,
        plan: RunPlan,
        config: RunConfig,
        folder: RunFolder,
        before: Sequence[Sample],
        limits: RunLimits,
    ) -> RunOutcome:
        blocks = WholeBlocks(limits.seconds)
        run = Answering(plan, config, folder, before, self.runtime.writer, self.progress, blocks)
        with run.log():
            ending = self._answer(run, limits.start(self.stopped.is_set))
            samples = read_answers(folder.path)
            precision = run.precise.report if run.precise is not None else None
            if ending == "complete" and precision and precision.questions < config.questions:
                ending = "precise"
            if ending == "complete" and is_comparison(config):
                asked = config.questions * len(config.contenders)
                ending = ending if len(samples) == asked else "stopped"  # others have some left
            run.status = "complete" if ending in ("complete", "precise") else "stopped"
            self.progress.say("writing the report")
            run.summary = write_results(folder, config, samples, self.runtime.config, precision)
        return RunOutcome(ending, folder.path, config, samples, run.summary)

    def _answer(self, run: Answering, limit: Callable[[float], Ending | None]) -> Ending:
        """Answer what is left of a run on this machine."""
        plan, config, before, share = run.plan, run.config, run.before, self._share
        systems = self.build_systems(plan)
        between = self.build_between_blocks(plan)
        if between is not None:
            machine = None if share is None else share.machine
            between.begin(config, run.folder.path, before, machine)
        self.progress.begin(config, run.folder.path, before)
        spent = math.fsum(s.joules for s in before if s.joules is not None)
        tariff = read_tariff(self.runtime.config)
        sink = SampleWriter(run.folder, self.runtime.meter, run.see, spent, share, tariff)
        run.open_precision(sink.wait)

        def check(joules: float) -> Ending | None:
            ending = limit(joules + (0.0 if between is None else between.joules))
            return ending or ("time" if run.blocks.over else None)

        try:
            if run.precise is None:
                schedule = build_schedule(plan, systems)
            else:
                schedule = run.precise.pieces(systems)
            if between is not None:
                work = partial(between.work, lambda: check(sink.joules) is not None)
                schedule = work_between_blocks(schedule, lambda piece: piece.block, work)
            if config.order == "balanced":
                schedule = run.blocks.follow(schedule, lambda piece: piece.block)
            own = before if share is None else share.select(before)
            done = collect_done_rows(config if share is None else undo_join(config), own)
            note = partial(self._note_open, plan, config, sink)
            ending = answer_all(plan, schedule, systems, done, sink, check, note)
        finally:
            sink.close()
        if between is not None:
            between.finish()
        return ending

    def _note_open(
        self,
        plan: RunPlan,
        config: RunConfig,
        sink: SampleWriter,
        system: str,
        work: SubjectWork,
        answers: Iterator[Answered],
    ) -> Iterator[Answered]:
        """Have a row for the questions that are worked on, if the process is killed."""
        arm = plan.arms.get(system) or Arm(system, "")
        what = f"bench {config.run_id}: {work.subject}, by {system}"
        note = self.runtime.writer.open_turns.note_each
        return note(answers, what, arm, self.runtime.meter, sink.when_written)

    def build_systems(self, plan: RunPlan) -> dict[str, QuestionAnswerer]:
        """Build the systems of a plan by name: its arms, or its policy."""
        runtime, stopped, reuse = self.runtime, self.stopped.is_set, plan.config.prefix_reuse

        def answer_in_turns(decide: Decide) -> TurnArm:
            return TurnArm(decide, runtime, plan.format, reuse, stopped, self.cancel, self.meter)

        def open_session(arm: Arm) -> Any:
            served = runtime.resolve(arm)
            return finish_load(runtime.backend.load(served.spec, served.local_path()))[0]

        if plan.policy is not None:
            return {plan.policy.name: answer_in_turns(decide_by_policy(plan.policy, runtime))}
        if plan.format.generates:
            return {name: answer_in_turns(decide_always(arm)) for name, arm in plan.arms.items()}
        return {
            name: ScoringArm(name, partial(open_session, arm), plan.format, reuse, stopped)
            for name, arm in plan.arms.items()
        }
