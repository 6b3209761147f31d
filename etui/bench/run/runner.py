"""A bench run from its plan to its reports: what ``etui bench`` does, without a command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
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
from etui.bench.run.turn_arm import TurnArm
from etui.bench.run.work import QuestionAnswerer
from etui.bench.store.find import new_run_id, runs_dir
from etui.bench.store.log_rows import answer_record, run_record
from etui.bench.store.run_config import RunConfig, differences
from etui.bench.store.run_folder import RunFolder, check_new, read_run
from etui.bench.store.sample import Sample
from etui.energy.idle_baseline import load_baselines, use
from etui.errors import EtuiError, Stopped, UsageError
from etui.routing.decision import Decision

if TYPE_CHECKING:
    from etui.backends.local import LocalBackend
    from etui.bench.analysis.summary import Summary
    from etui.chat import Query
    from etui.config.config import Config
    from etui.energy.recorder import Recorder
    from etui.models.catalogue import Catalogue
    from etui.turn.ports import Serve


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
    """Runs plans on this machine.

    Attributes:
        config, catalogue: Folders and models.
        audience: Who watches.
        stopped: Set when the user wants to stop.
        on_stop: Told what ends an answer under way, once there is an engine.
    """

    config: Config
    catalogue: Catalogue
    audience: Audience
    stopped: Event
    on_stop: Callable[[Callable[[], None]], None] = lambda cancel: None

    def start(self, plan: RunPlan, out: Path | None, max_joules: float | None = None) -> RunOutcome:
        """Run a plan in a new folder.

        Raises:
            EtuiError: It cannot be begun, or did not come to its end; what was answered is kept.
        """
        if out is not None:
            check_new(out)  # said before minutes go into loading models
        with ExitStack() as stack:
            named = [plan.policy_text.name] if plan.policy and plan.policy_text else list(plan.arms)
            run_id = new_run_id(plan.suite.name, plan.format.name, named, datetime.now())
            engine = self._engine(stack)
            config = self._configured(plan, run_id, *engine)
            place = out or runs_dir(self.config) / run_id
            folder = stack.enter_context(RunFolder.create(place, config))
            return self._run(plan, config, folder, (), *engine, max_joules)

    def resume(
        self,
        folder: Path,
        plan_again: Callable[[RunConfig], RunPlan],
        max_joules: float | None = None,
    ) -> RunOutcome:
        """Go on with a run.

        Raises:
            UsageError: The run was made with other data, models or programs.
            EtuiError: It cannot go on, or did not come to its end; what was answered is kept.
        """
        with ExitStack() as stack:
            opened, recorded = RunFolder.reopen(folder)
            stack.enter_context(opened)
            made = recorded.config
            plan = plan_again(made)
            engine = self._engine(stack)
            now = self._configured(plan, made.run_id, *engine)
            refuse_other(made, now)
            return self._run(plan, made, opened, recorded.samples, *engine, max_joules)

    def _engine(self, stack: ExitStack) -> tuple[Recorder, LocalBackend, Serve]:
        from etui.backends.local import LocalBackend
        from etui.energy.discovery import open_recorder
        from etui.runtime.serving import serve_here

        recorder = stack.enter_context(open_recorder(self.config))
        answerer = stack.enter_context(closing(LocalBackend(self.config)))
        self.on_stop(answerer.cancel)
        baselines = load_baselines(self.config)
        serve = serve_here(
            self.config, self.catalogue, lambda model: use(recorder, baselines, model)
        )
        return recorder, answerer, serve

    def _configured(
        self, plan: RunPlan, run_id: str, recorder: Recorder, answerer: LocalBackend, serve: Serve
    ) -> RunConfig:
        models = load_models(plan, answerer, lambda name: serve(Arm(name, name)), self.audience.say)
        idle = use(recorder, load_baselines(self.config), plan.models[0])
        return configure(plan, run_id, models, self.config, recorder, idle)

    def _run(
        self,
        plan: RunPlan,
        config: RunConfig,
        folder: RunFolder,
        before: Sequence[Sample],
        recorder: Recorder,
        answerer: LocalBackend,
        serve: Serve,
        max_joules: float | None,
    ) -> RunOutcome:
        from etui.log.writer import TurnWriter

        contenders = self._contenders(plan, recorder, answerer, serve)
        self.audience.begin(config, folder.path, before)
        log = TurnWriter(self.config, lambda error: self.audience.say(error.what))

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
        sink = SampleWriter(folder, recorder, see, spent)
        status = "error"
        summary: Summary | None = None
        try:
            try:
                done = done_rows(config, before)
                ending = answer_all(plan, contenders, done, sink, self.stopped.is_set, max_joules)
            finally:
                sink.close()
            samples = read_run(folder.path).samples
            if not samples:
                raise Stopped(
                    "stopped before the first answer",
                    f"begin with: etui bench --resume {folder.path}",
                )
            status = "complete" if ending == "complete" else "stopped"
            self.audience.say("writing the report")
            summary = self._results(folder, config, samples)
        except (KeyboardInterrupt, EtuiError) as error:
            status = "stopped" if isinstance(error, KeyboardInterrupt | Stopped) else "error"
            raise
        finally:
            with suppress(EtuiError):  # the folder holds everything; a fault of the log was told
                record(status, summary)
                log.close()
        return RunOutcome(ending, folder.path, config, samples, summary)

    def _contenders(
        self, plan: RunPlan, recorder: Recorder, answerer: LocalBackend, serve: Serve
    ) -> dict[str, QuestionAnswerer]:
        stopped = self.stopped.is_set
        if plan.policy is not None:
            from etui.bench.run.turn_arm import routed

            decided = routed(
                plan.policy,
                self.config,
                self.catalogue,
                recorder,
                answerer,
                serve,
                reuse=plan.reuse,
                cancelled=stopped,
            )
            return {plan.policy.name: decided}
        if plan.format.generates:
            return {
                name: TurnArm(
                    _always(arm),
                    serve,
                    answerer,
                    recorder,
                    answerer.forget,
                    reuse=plan.reuse,
                    cancelled=stopped,
                )
                for name, arm in plan.arms.items()
            }

        def scoring(arm: Arm) -> ScoringArm:
            def session() -> Any:
                served = serve(arm)
                return drained(answerer.load(served.spec, served.path))[0]

            return ScoringArm(arm.name, session, plan.format, reuse=plan.reuse, cancelled=stopped)

        return {name: scoring(arm) for name, arm in plan.arms.items()}

    def _results(self, folder: RunFolder, config: RunConfig, samples: Sequence[Sample]) -> Summary:
        from etui.bench.analysis.summary import summarise
        from etui.bench.report.files import result_files
        from etui.bench.report.sources import labels_for, texts_for

        labels, texts = labels_for(config, self.config), texts_for(config, self.config)
        summary = summarise(samples, config, labels)
        for name, text in result_files(config, samples, summary, texts).items():
            folder.write(name, text)
        return summary


def refuse_other(before: RunConfig, now: RunConfig) -> None:
    """Refuse to go on with a run under other circumstances.

    Raises:
        UsageError: Says what differs.
    """
    if before.sha256 == now.sha256:
        return
    found = differences(before, now)
    told = "; ".join(
        f"{path} was {_short(one)} and is {_short(other)}"
        for path, (one, other) in list(found.items())[:6]
    )
    raise UsageError(
        f"the run {before.run_id} was made otherwise: {told}",
        "answers of both would not compare: bring that back, or begin a new run",
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _always(arm: Arm) -> Callable[[Query], Decision]:
    decision = Decision(arm, None, None, f"arm {arm.name} is measured")
    return lambda query: decision
