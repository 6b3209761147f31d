"""Run a benchmark from its plan to its reports; ``etui bench`` without the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from etui.arm import Arm
from etui.bench.report.files import write_results
from etui.bench.run.loop import answer_all, collect_done_rows
from etui.bench.run.plan import RunPlan
from etui.bench.run.precision_plan import check_sources, restore_difficulty
from etui.bench.run.precision_schedule import open_precision
from etui.bench.run.resume import (
    read_answers,
    refuse_changes,
    refuse_merged,
    refuse_other_plan,
)
from etui.bench.run.run_log import log_run
from etui.bench.run.sample_writer import SampleWriter
from etui.bench.run.schedule import build_schedule
from etui.bench.run.scoring_arm import ScoringArm
from etui.bench.run.setup import build_run_config, finish_load, load_models
from etui.bench.run.side_work import NoSideWork, SideWork, interleave
from etui.bench.run.work import QuestionAnswerer
from etui.bench.store.difficulty_table import DIFFICULTY
from etui.bench.store.find import new_run_id, runs_dir
from etui.bench.store.run_config import RunConfig
from etui.bench.store.run_folder import RUN, RunFolder
from etui.bench.store.sample import Sample
from etui.bench.store.several_machines import (
    MachineShare,
    add_machines,
    assign_keys,
    is_comparison,
    undo_join,
)
from etui.errors import UsageError
from etui.measure.folder import check_new
from etui.measure.run import NO_LIMITS, Ending, RunLimits

if TYPE_CHECKING:
    from etui.backends.local import LocalBackend
    from etui.bench.analysis.summary import Summary
    from etui.runtime.runtime import Runtime


class Audience(Protocol):
    """Shows the progress of a run."""

    def say(self, text: str) -> None:
        """Show a line about the current step."""

    def begin(self, config: RunConfig, folder: Path, samples: Sequence[Sample]) -> None:
        """Show that the run starts, or resumes after ``samples``."""

    def see(self, samples: Sequence[Sample]) -> None:
        """Show new answers, which are on disk; called from another thread, one call at a time."""

    def expect(self, questions: int) -> None:
        """Show that about so many questions are asked, since the run stops at a precision."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended."""

    ending: Ending  # Whether all questions are answered, and if not, why
    folder: Path
    config: RunConfig
    samples: Sequence[Sample]
    summary: Summary


@dataclass(slots=True)
class BenchRunner:
    """Runs plans on this machine."""

    runtime: Runtime[LocalBackend]  # This machine, with llama.cpp in this process
    audience: Audience  # Shows the progress
    stopped: Event  # Set when the user wants to stop
    on_stop: Callable[[Callable[[], None]], None] = lambda cancel: None
    """Called, once the engine is open, with a function that ends a running answer."""
    build_side_work: Callable[[RunPlan], SideWork] = lambda plan: NoSideWork()
    """Builds what a plan does between its blocks."""

    def start(self, plan: RunPlan, out: Path | None, limits: RunLimits = NO_LIMITS) -> RunOutcome:
        """Run a plan in a new folder.

        Args:
            out: The run folder; None creates one in the folder of all runs.
            limits: Stop once these are reached.

        Raises:
            EtuiError: The run cannot start, or did not finish; its answers are kept.
        """
        if out is not None:
            check_new(out, RUN)  # report an error before loading models takes minutes
        run_id = new_run_id(plan.suite.name, plan.format.name, plan.systems, datetime.now())
        config = self.configure(plan, run_id)
        check_sources(
            plan, {model.name: model.sha256 for model in config.models}, self.audience.say
        )
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
        """Resume a run.

        Args:
            plan_again: Builds the plan of a run from its configuration.
            limits: Stop once these are reached; joules used before count, time does not.

        Raises:
            UsageError: The run was started with other data, models or programs, or was merged.
            EtuiError: The run cannot resume, or did not finish; its answers are kept.
        """
        opened, recorded = RunFolder.resume(folder)
        with opened:
            before = recorded.config
            refuse_merged(before)
            plan = restore_difficulty(plan_again(undo_join(before)), before, folder / DIFFICULTY)
            now = self.configure(plan, before.run_id)
            if before.machines is not None:
                return self._resume_here(plan, before, now, opened, recorded.samples, limits)
            refuse_changes(before, now)
            return self._run(plan, before, opened, recorded.samples, limits)

    def _resume_here(
        self,
        plan: RunPlan,
        before: RunConfig,
        now: RunConfig,
        folder: RunFolder,
        samples: Sequence[Sample],
        limits: RunLimits,
    ) -> RunOutcome:
        """Resume a run of several machines on this one."""
        refuse_other_plan(before, now)
        machine = assign_keys(before.machines or (), {"here": now})["here"]
        compare = is_comparison(before)
        config = add_machines(before, [machine])
        if compare and config != before:
            keys = ", ".join(each.key for each in before.machines or ())
            raise UsageError(
                f"run {before.run_id} compares {keys}, and this machine is none of them",
                "resume it on one of them, or with --cluster",
            )
        if config != before:
            folder.add_machines(config)

        share = MachineShare(machine.key, compare)
        return self._run(plan, config, folder, samples, limits, share)

    def configure(self, plan: RunPlan, run_id: str) -> RunConfig:
        """Load the models of a plan and describe the run on this machine.

        Raises:
            EtuiError: A model cannot be loaded, or a question does not fit into its context.
        """
        runtime = self.runtime
        if plan.policy is None:
            for arm in plan.arms.values():
                runtime.serve(arm)  # report a draft model that is missing before any energy is used
        runtime.recorder.start()
        self.on_stop(runtime.backend.cancel)
        models = load_models(
            plan, runtime.backend, lambda name: runtime.serve(Arm(name, name)), self.audience.say
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
        share: MachineShare | None = None,
    ) -> RunOutcome:
        systems = self.build_systems(plan)
        side_work = self.build_side_work(plan)
        side_work.begin(config, folder.path, before)
        self.audience.begin(config, folder.path, before)
        with log_run(self.runtime.writer, config, folder.path, before) as log:
            precise = open_precision(plan, config, lambda: sink.wait(), self.audience)

            def see(new: Sequence[Sample]) -> None:
                # Not kept in memory: they are on disk, and a long run stays small.
                if precise is not None:
                    precise.add(new)
                log.add(new)
                self.audience.see(new)

            spent = math.fsum(s.joules for s in before if s.joules is not None)
            sink = SampleWriter(folder, self.runtime.meter, see, spent, share)
            try:
                if precise is not None:
                    precise.add(before)
                schedule = (
                    build_schedule(plan, systems) if precise is None else precise.pieces(systems)
                )
                if share is None:
                    done = collect_done_rows(config, before)
                else:
                    done = collect_done_rows(undo_join(config), share.select(before))
                limit = limits.start(self.stopped.is_set)

                def check(joules: float) -> Ending | None:
                    return limit(joules + side_work.joules)

                def ended() -> bool:
                    return check(sink.joules) is not None

                schedule = interleave(schedule, side_work, ended)
                ending = answer_all(plan, schedule, systems, done, sink, check)
            finally:
                sink.close()
            samples = read_answers(folder.path)
            precision = precise.report if precise is not None else None
            if ending == "complete" and precision and precision.questions < config.questions:
                ending = "precise"
            if ending == "complete" and share is not None and share.compare:
                asked = config.questions * len(config.contenders)
                ending = ending if len(samples) == asked else "stopped"  # others have some left
            log.conclude(ending)
            side_work.finish()
            self.audience.say("writing the report")
            log.summary = write_results(folder, config, samples, self.runtime.config, precision)
        return RunOutcome(ending, folder.path, config, samples, log.summary)

    def build_systems(self, plan: RunPlan) -> dict[str, QuestionAnswerer]:
        """Build the systems of a plan by name: its arms, or its policy."""
        from etui.bench.run.turn_arm import TurnArm, decide_always, decide_by_policy

        stopped = self.stopped.is_set
        if plan.policy is not None:
            decide = decide_by_policy(plan.policy, self.runtime)
            arm = TurnArm(
                decide, self.runtime, format_=plan.format, reuse=plan.reuse, cancelled=stopped
            )
            return {plan.policy.name: arm}
        if plan.format.generates:
            return {
                name: TurnArm(
                    decide_always(arm),
                    self.runtime,
                    format_=plan.format,
                    reuse=plan.reuse,
                    cancelled=stopped,
                )
                for name, arm in plan.arms.items()
            }

        def build_scoring_arm(arm: Arm) -> ScoringArm:
            def open_session() -> Any:
                served = self.runtime.serve(arm)
                return finish_load(self.runtime.backend.load(served.spec, served.local_path()))[0]

            return ScoringArm(
                arm.name, open_session, plan.format, reuse=plan.reuse, cancelled=stopped
            )

        return {name: build_scoring_arm(arm) for name, arm in plan.arms.items()}
