"""Limits of a run: what its figures do not cover, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etui import units
from etui.design.analysis.paired import Paired

if TYPE_CHECKING:
    from etui.bench.store.run_config import RunConfig
    from etui.design.analysis.operating_curves import ModelCurve

_PAPER = (
    "No figure repeats one of arXiv 2603.20224, whose numbers are not public: models, card and "
    "prompts differ from the paper's (an L40S, read by NVML), and its second suite, MT-Bench, is "
    "not included because its answers are graded by a model."
)


def list_limits(
    config: RunConfig, paired: Paired, kind: str | None, curves: Sequence[ModelCurve] = ()
) -> tuple[str, ...]:
    """List the limits of a run.

    Args:
        kind: Kind of the joules; None if unmeasured.
    """
    return (
        *_list_machine(config),
        *(_list_joules(config, kind) if len(paired) else ()),
        _describe_batches(config),
        *_list_questions(config, paired),
        *_list_shared(curves),
        *_list_models(config),
        f"Prompts: format {config.format}@{config.format_version}, {config.shots} worked examples, "
        f"one wording; seed {config.seed}. Intervals cover the choice of questions, not another "
        "wording, seed or day.",
        _PAPER,
    )


def _list_machine(config: RunConfig) -> Iterator[str]:
    names = [machine.name for machine in config.machines or ()]
    if not names:
        names = [str(config.machine.get("name") or config.machine.get("cpu") or units.UNKNOWN)]
    yield f"Machine: {', '.join(dict.fromkeys(names))}. Other hardware has other multiples."


def _list_joules(config: RunConfig, kind: str | None) -> Iterator[str]:
    if kind is None:
        yield "Joules are unmeasured, so that nothing is said about cost."
    elif kind == units.ESTIMATE:
        yield (
            "Joules are estimates (utilisation times a stated power range), not readings of a "
            "sensor. A constant error of the range cancels in the multiples; an error that "
            "depends on the kind of work does not, and no interval contains it."
        )
    else:
        yield f"Joules are measured ({kind}); the loading of models is not included."
    missing = [str(scope) for scope in config.energy.get("unmeasured", ())]
    if missing and kind is not None:
        yield f"Not in the joules: {', '.join(missing)}."


def _describe_batches(config: RunConfig) -> str:
    wide = {int(arm.get("batch", 1)) for arm in config.arms.values() if _votes(arm) > 1}
    if wide - {1}:
        return (
            f"Up to {max(wide)} votes of a question are decoded as one batch; other answers are "
            "computed one at a time."
        )
    return "Answers are computed one at a time (batch 1); a server with many users spends less."


def _votes(arm: Mapping[str, Any]) -> int:
    return int(arm.get("votes", 1)) if arm.get("reasoning") == "vote" else 1


def _list_questions(config: RunConfig, paired: Paired) -> Iterator[str]:
    count = len(paired)
    subjects = len(set(paired.subjects))
    yield (
        f"Questions: {count:,} of {config.questions:,} drawn from {config.suite} "
        f"({config.split} split), {units.count_text(subjects, 'subject')}."
    )
    if paired.questions_dropped:
        yield (
            f"{units.count_text(paired.questions_dropped, 'question')} of an unfinished block "
            f"({units.count_text(paired.answers_dropped, 'answer')}) is left out, because not "
            "every arm answered it."
            if paired.questions_dropped == 1
            else f"{units.count_text(paired.questions_dropped, 'question')} of an unfinished block "
            f"({units.count_text(paired.answers_dropped, 'answer')}) are left out, because not "
            "every arm answered them."
        )
    unmetered = count - int(paired.measured.sum())
    if any(paired.metered) and unmetered:
        yield (
            f"{units.count_text(unmetered, 'question')} without joules of every arm: left out of "
            "all figures in joules."
        )
    failed = sum(sample.status == "error" for inside in paired.samples for sample in inside)
    if failed:
        yield f"{units.count_text(failed, 'answer')} failed with an error; they count as not right."


def _list_shared(curves: Sequence[ModelCurve]) -> Iterator[str]:
    shared = sum(curve.shared for curve in curves)
    if shared:
        total = sum(mean.repeats for curve in curves for mean in curve.means)
        yield (
            f"Other processes used the hardware during {shared:,} of {total:,} measurements of the "
            "operating curves."
        )


def _list_models(config: RunConfig) -> Iterator[str]:
    files = ", ".join(
        f"{model.name} ({units.bytes_text(model.file_bytes)}, sha256 "
        f"{(model.sha256 or units.UNKNOWN)[:12]})"
        for model in config.models
    )
    yield (
        f"Models: {files}. Quantised files, so that neither accuracy nor joules are those of the "
        "original weights."
    )
