"""A bench run from its plan to its reports: what ``etui bench`` does, without a command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from etui.arm import Arm
from etui.bench.run.loop import Ending, answer_all, done_rows
from etui.bench.run.plan import RunPlan
from etui.bench.run.sample_writer import SampleWriter
from etui.bench.run.scoring_arm import ScoringArm
from etui.bench.run.setup import configure, drained, load_models
from etui.bench.run.work import QuestionAnswerer
from etui.bench.store.find import new_run_id, runs_dir
from etui.bench.store.log_rows import answer_record, run_record
from etui.bench.store.run_config import RunConfig, differences
from etui.bench.store.run_folder import RunFolder, check_new, read_run
from etui.bench.store.sample import Sample
from etui.errors import EtuiError, Stopped, UsageError

if TYPE_CHECKING:
    from etui.backends.local import LocalBackend
    from etui.bench.analysis.summary import Summary
    from etui.runtime.open import Runtime


class Audience(Protocol):
    """Who watches a run."""

    def say(self, text: str) -> None:
        """A line on what is being done."""

    def begin(self, config: RunConfig, folder: Path, samples: Sequence[Sample]) -> None:
        """The run begins, or goes on behind these answers."""

    def see(self, samples: Sequence[Sample]) -> None:
        """Answers are on the disk; called from another thread, one call at a time."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        ending: Whether all is answered.
        folder: The run folder.
        config: Its configuration.
        samples: Every answer.
        summary: What it comes to.
    """

    ending: Ending
    folder: Path
    config: RunConfig
    samples: Sequence[Sample]
    summary: Summary


@dataclass(slots=True)
class BenchRunner:
    """Run plans on this machine.

    Attributes:
        runtime: This machine, with llama.cpp in this process.
        audience: Who watches.
        stopped: Set when the user wants to stop.
        on_stop: Called with what ends a running answer, once there is an engine.
    """

    runtime: Runtime[LocalBackend]
    audience: Audience
    stopped: Event
    on_stop: Callable[[Callable[[], None]], None] = lambda cancel: None

    def start(self, plan: RunPlan, out: Path | None, max_joules: float | None = None) -> RunOutcome:
        """Run a plan in a new folder.

        Raises:
            EtuiError: It cannot start, or did not finish; what was answered is kept.
        """
        if out is not None:
            check_new(out)  # reported before minutes go into loading models
        named = [plan.policy_text.name] if plan.policy and plan.policy_text else list(plan.arms)
        run_id = new_run_id(plan.suite.name, plan.format.name, named, datetime.now())
        config = self._configure(plan, run_id)
        place = out or runs_dir(self.runtime.config) / run_id
        with RunFolder.create(place, config) as folder:
            return self._run(plan, config, folder, (), max_joules)

    def resume(
        self,
        folder: Path,
        plan_again: Callable[[RunConfig], RunPlan],
        max_joules: float | None = None,
    ) -> RunOutcome:
        """Continue a run.

        Raises:
            UsageError: The run was made with other data, models or programs.
            EtuiError: It cannot continue, or did not finish; what was answered is kept.
        """
        opened, recorded = RunFolder.reopen(folder)
        with opened:
            before = recorded.config
            plan = plan_again(before)
            refuse_other(before, self._configure(plan, before.run_id))
            return self._run(plan, before, opened, recorded.samples, max_joules)

    def _configure(self, plan: RunPlan, run_id: str) -> RunConfig:
        runtime = self.runtime
        runtime.recorder.start()
        self.on_stop(runtime.backend.cancel)
        models = load_models(
            plan, runtime.backend, lambda name: runtime.serve(Arm(name, name)), self.audience.say
        )
        idle = runtime.use_idle_baseline(plan.models[0])
        return configure(plan, run_id, models, runtime.config, runtime.recorder, idle)

    def _run(
        self,
        plan: RunPlan,
        config: RunConfig,
        folder: RunFolder,
        before: Sequence[Sample],
        max_joules: float | None,
    ) -> RunOutcome:
        systems = self._systems(plan)
        self.audience.begin(config, folder.path, before)
        log = self.runtime.writer

        def record(status: str, summary: Summary | None = None) -> None:
            answers = read_run(folder.path).samples
            log.save_run(run_record(config, folder.path, answers, status, summary))

        def see(new: Sequence[Sample]) -> None:
            # Not kept: what is on the disk is what counts, and a long run stays small.
            log.save_answers([answer_record(config.run_id, sample) for sample in new])
            self.audience.see(new)

        record("running")
        log.save_answers([answer_record(config.run_id, sample) for sample in before])
        spent = math.fsum(s.joules for s in before if s.joules is not None)
        sink = SampleWriter(folder, self.runtime.meter, see, spent)
        status = "error"
        summary: Summary | None = None
        try:
            try:
                done = done_rows(config, before)
                ending = answer_all(plan, systems, done, sink, self.stopped.is_set, max_joules)
            finally:
                sink.close()
            samples = read_run(folder.path).samples
            if not samples:
                raise Stopped(
                    "stopped before the first answer",
                    f"start with: etui bench --resume {folder.path}",
                )
            status = "complete" if ending == "complete" else "stopped"
            self.audience.say("writing the report")
            summary = self._results(folder, config, samples)
        except (KeyboardInterrupt, EtuiError) as error:
            status = "stopped" if isinstance(error, KeyboardInterrupt | Stopped) else "error"
            raise
        finally:
            with suppress(EtuiError):  # the folder has everything; a log fault was reported
                record(status, summary)
                log.close()
        return RunOutcome(ending, folder.path, config, samples, summary)

    def _systems(self, plan: RunPlan) -> dict[str, QuestionAnswerer]:
        from etui.bench.run.turn_arm import TurnArm, decide_always, decide_by_policy

        stopped = self.stopped.is_set
        if plan.policy is not None:
            decide = decide_by_policy(plan.policy, self.runtime)
            arm = TurnArm(decide, self.runtime, reuse=plan.reuse, cancelled=stopped)
            return {plan.policy.name: arm}
        if plan.format.generates:
            return {
                name: TurnArm(decide_always(arm), self.runtime, reuse=plan.reuse, cancelled=stopped)
                for name, arm in plan.arms.items()
            }

        def scoring(arm: Arm) -> ScoringArm:
            def session() -> Any:
                served = self.runtime.serve(arm)
                return drained(self.runtime.backend.load(served.spec, served.path))[0]

            return ScoringArm(arm.name, session, plan.format, reuse=plan.reuse, cancelled=stopped)

        return {name: scoring(arm) for name, arm in plan.arms.items()}

    def _results(self, folder: RunFolder, config: RunConfig, samples: Sequence[Sample]) -> Summary:
        from etui.bench.analysis.summary import summarise
        from etui.bench.report.files import result_files
        from etui.bench.report.sources import labels_for, texts_for

        labels, texts = (
            labels_for(config, self.runtime.config),
            texts_for(config, self.runtime.config),
        )
        summary = summarise(samples, config, labels)
        for name, text in result_files(config, samples, summary, texts).items():
            folder.write(name, text)
        return summary


def refuse_other(before: RunConfig, now: RunConfig) -> None:
    """Refuse to continue a run with different settings.

    Raises:
        UsageError: The settings differ; names them.
    """
    if before.sha256 == now.sha256:
        return
    found = differences(before, now)
    changes = "; ".join(
        f"{path} was {_short(one)} and is {_short(other)}"
        for path, (one, other) in list(found.items())[:6]
    )
    raise UsageError(
        f"run {before.run_id} was started with different settings: {changes}",
        "restore them, or start a new run",
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
