"""Rows of the log for a run: one in ``runs``, and one in ``answers`` per question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from etui.bench.analysis.machines import may_pool
from etui.bench.analysis.summary import Summary, summary_document
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample
from etui.energy.scopes import weakest
from etui.energy.types import Kind
from etui.log.records import AnswerRecord, RunRecord
from etui.text import utc_now


def run_record(
    config: RunConfig,
    folder: Path,
    samples: Sequence[Sample],
    status: str,
    summary: Summary | None = None,
) -> RunRecord:
    """Build the row of a run in its current state.

    Joules are None if those of any answer are, since a partial sum would look like the total, and
    if the machines of the run are not equal.

    Args:
        samples: The answers so far.
        status: ``running``, ``complete``, ``stopped`` or ``error``.
        summary: None before the run has one.
    """
    known = [s.joules for s in samples if s.joules is not None]
    measured = bool(samples) and len(known) == len(samples) and may_pool(samples, config)
    kind = weakest(Kind(s.kind) for s in samples if s.kind is not None) if measured else None
    return RunRecord(
        run_id=config.run_id,
        created_at=config.started_at,
        finished_at=None if status == "running" else utc_now("seconds"),
        status=status,
        folder=str(folder),
        suite=config.suite,
        format=f"{config.format}@{config.format_version}",
        shots=config.shots,
        seed=config.seed,
        data_sha256=config.data_sha256,
        config_sha256=config.sha256,
        questions=config.questions if summary is None else summary.questions,
        correct=sum(s.correct for s in samples),
        joules=math.fsum(known) if measured else None,
        uncertainty=math.fsum(s.uncertainty or 0.0 for s in samples) if measured else None,
        kind=kind.value if kind is not None else None,
        seconds=math.fsum(s.seconds for s in samples),
        arms=config.contenders,
        config=config.to_json(),
        summary={} if summary is None else summary_document(summary),
    )


def answer_record(run_id: str, sample: Sample) -> AnswerRecord:
    """Build the row of an answer."""
    return AnswerRecord(
        run_id=run_id,
        arm=sample.arm,
        subject=sample.subject,
        row=sample.row,
        answer=sample.answer,
        choice=sample.choice,
        correct=sample.correct,
        letter_mass=sample.letter_mass,
        status=sample.status,
        tokens_computed=sample.tokens.computed,
        tokens_cached=sample.tokens.cached,
        tokens_thinking=sample.tokens.thinking,
        tokens_output=sample.tokens.output,
        joules=sample.joules,
        uncertainty=sample.uncertainty,
        kind=sample.kind,
        seconds=sample.seconds,
        logprobs=dict(sample.logprobs) if sample.logprobs is not None else None,
    )
