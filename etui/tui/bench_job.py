"""A bench run of the app: what it asks and costs, how far it is, and its result in one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from etui import units
from etui.codec import from_document
from etui.config.config import Config
from etui.design.price import ArmPrice
from etui.errors import EtuiError
from etui.tui.jobs import JobEnded, JobProgress, Running, ask_etui

if TYPE_CHECKING:
    from etui.bench.folder import Recorded

RUN_TITLE = "{suite} on {system}"


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to start: questions of a suite for a model or a policy."""

    suite: str
    system: str
    questions: int
    by: Literal["model", "policy"] = "model"

    @property
    def title(self) -> str:
        return RUN_TITLE.format(suite=self.suite, system=self.system)

    @property
    def options(self) -> tuple[str, ...]:
        limit = f"{self.questions}"
        return "--suite", self.suite, f"--{self.by}", self.system, "--limit", limit


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is, by the lines of ``etui bench --jsonl``: one for each answer."""

    title: str
    folder: str
    answers: int = 0  # Of the finished run; 0 before it began
    done: int = 0
    right: int = 0
    new: int = 0  # Answers of this process
    began: float | None = None  # When the first of them was complete, monotonic seconds
    now: float = 0.0  # When the last one was

    def begun(self, run: Recorded) -> RunState:
        """Return the state at the begin of this process."""
        total = run.config.questions * len(run.config.contenders)
        right = sum(sample.correct for sample in run.samples)
        return replace(self, answers=total, done=len(run.samples), right=right)

    def after(self, line: bytes, now: float) -> RunState:
        """Return the state after a line; a line that the app does not know changes nothing."""
        try:
            right = json.loads(line)["correct"]
        except (ValueError, KeyError, TypeError):
            return self
        began = now if self.began is None else self.began
        return replace(
            self, done=self.done + 1, right=self.right + bool(right), new=self.new + 1,
            began=began, now=now,
        )  # fmt: skip

    @property
    def progress(self) -> JobProgress:
        numbers = f"{self.done:,} of {self.answers:,}"
        details = ["Running: Esc stops it, questions in the chat are refused"]
        details.append(f"answers   {numbers}")
        if self.done:
            right = f"{units.accuracy_text(self.right / self.done)} right"
            numbers += f" · {right}"
            details.append(f"so far    {right}")
        if self.began is not None and self.new > 1 and self.now > self.began:
            each = (self.now - self.began) / (self.new - 1)
            left = f"about {units.seconds_text(each * (self.answers - self.done))} left"
            numbers += f" · {left}"
            details.append(f"time      {left}")
        return JobProgress(
            f"running {self.title} … {numbers}", self.done, self.answers or None, self.folder,
            tuple(details),
        )  # fmt: skip


def plan_run(config: Config, new: NewRun, job: Running) -> JobEnded:
    """Price a run, and ask whether to start it; its folder is chosen now."""
    from etui.bench.folder import new_run_id, runs_dir

    try:
        command = ("bench", "--dry-run", "--json", "--quiet", *new.options)
        answer = ask_etui(config, command, job.stopped)
        arms = from_document(list[ArmPrice], answer["price"]["left"]["arms"], extra="ignore")
        run_id = new_run_id(new.suite, answer["format"], [new.system], datetime.now())
        asked = int(answer["questions"])
    except (ValueError, KeyError, TypeError) as error:
        raise EtuiError(f"the plan of the run cannot be read: {error}") from error
    return JobEnded(
        f"a run of {new.title} is planned",
        question=f"Run {units.count_text(asked, 'question')} of {new.title}?",
        question_details="\n".join(_describe_run(asked, arms, job.services.runner.residents())),
        options=("--out", str(runs_dir(config) / run_id)),
    )


def _describe_run(asked: int, arms: Sequence[ArmPrice], resident: Sequence[str]) -> list[str]:
    """Describe what a run costs, how precise it is, and what it takes from the user."""
    joules = [arm.total_joules.value for arm in arms if arm.total_joules is not None]
    seconds = [arm.total_seconds.value for arm in arms if arm.total_seconds is not None]
    lines = []
    if joules and seconds and len(joules) == len(seconds) == len(arms):
        cost, duration = (
            " to ".join(dict.fromkeys(form(value) for value in (min(values), max(values))))
            for values, form in ((joules, units.about_joules), (seconds, units.seconds_text))
        )
        origin = ", ".join(dict.fromkeys(arm.origin for arm in arms))
        by = ", by the arms that the policy chooses" if len(arms) > 1 else ""
        lines.append(f"Costs {cost} and takes about {duration}{by} (from {origin}).")
    else:
        unknown = ", ".join(arm.arm for arm in arms if arm.joules is None or arm.seconds is None)
        lines.append(
            f"Joules and time are not known before ({unknown} has no answers or curve here): they "
            "are shown from the first answers on."
        )
    unloaded = f" Unloads {', '.join(resident)}." if resident else ""
    return [
        *lines,
        f"An accuracy near 50 % will be known to ± {98 / math.sqrt(asked):.0f} points.",
        f"Questions in the chat are refused until it ends.{unloaded}",
        "Esc stops it; its answers are kept, and m continues it.",
    ]


def read_verdict(folder: Path) -> str:
    """Read the result of a finished run in one sentence."""
    from etui.bench.folder import SUMMARY
    from etui.bench.summary import Summary
    from etui.bench.summary_text import describe_answer

    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return describe_answer(from_document(Summary, document, extra="ignore"))
    except (OSError, ValueError) as error:
        raise EtuiError(f"the summary of the run cannot be read: {error}") from error
