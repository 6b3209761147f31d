"""What can be done with a model: jobs that run one at a time in the job bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from etui.codec import from_document
from etui.config.config import Config
from etui.errors import EtuiError, ExitCode
from etui.tui import jobs
from etui.tui.command_run import CommandEnd, build_environment, follow_command
from etui.tui.jobs import JobEnded, JobProgress, JobStopped, Post
from etui.tui.models.calibration_job import QUICK_OPTION, calibrate, plan_calibration
from etui.tui.models.cards import ModelCard
from etui.tui.models.job_bar import JobBar
from etui.tui.models.sweep_progress import (
    PlannedSweep,
    SweepState,
    SweepVerdict,
    advance,
    build_progress,
    describe_plan,
    parse_line,
)
from etui.tui.services import TurnRunner

_STOP_SECONDS = 60.0
"""How long a stopped sweep may take: it writes its result, and restores a power limit."""


def command(*arguments: str) -> list[str]:
    """Return the command line of ``etui sweep``."""
    return [sys.executable, "-m", "etui", "sweep", *arguments]


def plan_sweep(config: Config, name: str, stopped: Callable[[], bool]) -> JobEnded:
    """Plan a sweep of a model, and ask whether to measure it.

    Raises:
        EtuiError: The model cannot be swept.
        JobStopped: It was stopped.
    """
    output: list[bytes] = []
    end = _run(config, ("--dry-run", "--json", name), output.append, stopped)
    if end.code != ExitCode.DONE:
        raise EtuiError(end.what or f"etui sweep ended with exit code {end.code}", end.fix)
    try:
        plan = from_document(PlannedSweep, json.loads(b"".join(output)), extra="ignore")
    except ValueError as error:
        raise EtuiError(f"the plan of the sweep cannot be read: {error}") from error
    return JobEnded(
        f"a sweep of {name} is planned",
        question=f"Sweep {name}: which settings cost the fewest joules here?",
        question_details="\n".join(describe_plan(plan)),
    )


def run_sweep(
    runner: TurnRunner,
    config: Config,
    name: str,
    post: Post,
    stopped: Callable[[], bool],
    options: Sequence[str] = (),
) -> JobEnded:
    """Measure a sweep of a model; at return its result is in its folder.

    It never has ``--cap user``: the app could not answer when to set a power limit.

    Args:
        runner: Unloads its models and refuses questions during the sweep.
        stopped: Returns whether to stop; the blocks so far are kept for the next run.
        options: Further options of ``etui sweep``.

    Raises:
        EtuiError: An answer is running, or the sweep failed.
        JobStopped: It was stopped before its end.
    """
    state = SweepState(name)
    verdict: SweepVerdict | None = None
    stopping = False

    def see(line: bytes) -> None:
        nonlocal state, verdict
        event = parse_line(line)
        if isinstance(event, SweepVerdict):
            verdict = event
        elif event is not None:
            state = advance(state, event)
            if not stopping:
                post(build_progress(state))

    def say_stopping() -> None:
        nonlocal stopping
        stopping = True
        post(JobProgress(f"stopping the sweep of {name} …", subject=name))

    with runner.at_rest(f"a sweep of {name} is running") as leaving:
        post(build_progress(state))
        end = follow_command(
            command("--jsonl", name, *options),
            build_environment(config),
            see,
            lambda: stopped() or leaving(),
            say_stopping,
            _STOP_SECONDS,
        )
    return _build_result(verdict, end, name, stopped=stopping)


def apply_sweep(config: Config, name: str, folder: Path, stopped: Callable[[], bool]) -> JobEnded:
    """Apply the best setting of a finished sweep.

    Raises:
        EtuiError: It cannot be applied.
        JobStopped: It was stopped.
    """
    output: list[bytes] = []
    end = _run(config, ("--apply", str(folder), "--json"), output.append, stopped)
    if end.code != ExitCode.DONE:
        raise EtuiError(end.what or f"etui sweep ended with exit code {end.code}", end.fix)
    try:
        document = json.loads(b"".join(output))
        applied, why = document["applied"], str(document["why"])
    except (ValueError, KeyError, TypeError) as error:
        raise EtuiError(f"the answer of etui sweep cannot be read: {error}") from error
    if applied is None:
        return JobEnded(why)
    return JobEnded(f"applied to {name}: {why}")


def revert_tuned(config: Config, name: str) -> JobEnded:
    """Go back to the settings of models.yaml.

    Raises:
        EtuiError: The file of tuned settings is damaged or cannot be written.
    """
    from etui.models.tuned import remove_tuned

    if remove_tuned(config, name) is None:
        return JobEnded(f"{name} has no settings of a sweep on this machine")
    return JobEnded(f"{name} uses the settings of models.yaml again")


def _run(
    config: Config,
    arguments: Sequence[str],
    on_line: Callable[[bytes], object],
    stopped: Callable[[], bool],
) -> CommandEnd:
    was_stopped = False

    def note_stop() -> None:
        nonlocal was_stopped
        was_stopped = True

    end = follow_command(
        command(*arguments), build_environment(config), on_line, stopped, note_stop
    )
    if was_stopped and end.code != ExitCode.DONE:
        raise JobStopped("stopped; nothing was changed")
    return end


def _build_result(
    verdict: SweepVerdict | None, end: CommandEnd, name: str, *, stopped: bool
) -> JobEnded:
    if verdict is not None and verdict.is_complete:
        apply = ", a applies the best setting" if verdict.is_better else ""
        return JobEnded(f"swept {name}{apply}: {verdict.verdict}")
    if end.may_force and not stopped:
        question = f"{end.what}.\nMeasure anyway? Small differences will not be seen."
        return JobEnded(
            what=end.what, fix="stop the other programs", question=question, options=("--force",)
        )
    if verdict is not None or stopped or end.code == ExitCode.PARTIAL:
        what = end.what if end.code == ExitCode.PARTIAL and not stopped and end.what else "stopped"
        raise JobStopped(f"{what}; what was measured is kept", "press s to resume")
    raise EtuiError(end.what or f"the sweep ended with exit code {end.code}", end.fix)


class ModelActions:
    """Starts the jobs on models."""

    def __init__(self, config: Config, bar: JobBar) -> None:
        self._config = config
        self._bar = bar

    def pull(self, name: str) -> None:
        """Download a model."""
        post = self._bar.post
        self._bar.start(
            f"pulling {name} …",
            lambda services, stopped: jobs.pull(services.shelf, name, post, stopped),
        )

    def verify(self, name: str) -> None:
        """Check the sha256 of the whole file of a model."""
        post = self._bar.post
        self._bar.start(
            f"checking {name} …",
            lambda services, stopped: jobs.verify(services.shelf, name, post, stopped),
        )

    def load(self, name: str) -> None:
        """Load a model into memory."""
        self._bar.start(
            f"loading {name} …", lambda services, _stopped: jobs.load(services.runner, name)
        )

    def unload(self, name: str) -> None:
        """Unload a model from memory."""
        self._bar.start(
            f"unloading {name} …", lambda services, _stopped: jobs.unload(services.runner, name)
        )

    def calibrate(self, card: ModelCard, *, quick: bool) -> None:
        """Ask whether to measure what the tokens of a model cost, and measure it after a yes."""
        name, curve = card.spec.name, card.curve
        self._bar.start(
            f"checking that the machine is idle, to calibrate {name} …",
            lambda services, stopped: plan_calibration(
                services.runner, name, curve, stopped, quick=quick
            ),
            partial(self._calibrate, name, (QUICK_OPTION,) if quick else ()),
        )

    def sweep(self, name: str) -> None:
        """Plan a sweep of a model, and measure it after a yes."""
        self._bar.start(
            f"planning a sweep of {name} …",
            lambda _services, stopped: plan_sweep(self._config, name, stopped),
            partial(self._sweep, name, ()),
        )

    def apply_sweep(self, name: str, folder: Path) -> None:
        """Use the best setting of a sweep."""
        self._bar.start(
            f"applying the sweep of {name} …",
            lambda _services, stopped: apply_sweep(self._config, name, folder, stopped),
        )

    def revert(self, name: str) -> None:
        """Use the settings of models.yaml again."""
        self._bar.start(
            f"reverting {name} …", lambda _services, _stopped: revert_tuned(self._config, name)
        )

    def _calibrate(self, name: str, options: tuple[str, ...], ended: JobEnded) -> None:
        chosen = (*options, *ended.options)
        self._bar.start(
            f"calibrating {name} …",
            lambda services, stopped: calibrate(
                services.runner, self._config, name, self._bar.post, stopped, chosen
            ),
            partial(self._calibrate, name, chosen),
            metered=True,
        )

    def _sweep(self, name: str, options: tuple[str, ...], ended: JobEnded) -> None:
        chosen = (*options, *ended.options)
        self._bar.start(
            f"sweeping {name} …",
            lambda services, stopped: run_sweep(
                services.runner, self._config, name, self._bar.post, stopped, chosen
            ),
            partial(self._sweep, name, chosen),
            metered=True,
        )
