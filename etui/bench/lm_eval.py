"""Export of a run in the results format of lm-evaluation-harness, which many viewers read.

Subjects become tasks (``mmlu_abstract_algebra``); MMLU's groups and the whole suite become groups.
For a format other than that of lm-eval's task for the suite, the task names include the format, so
that no viewer compares its scores with those of another prompt. The metrics are those of the task:
``acc`` and ``acc_norm`` of ARC, both filters of GSM8K. Data that lm-eval has no field for (energy,
intervals, the arm) are under ``etui``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from etui.bench.accuracy import RightShare, compute_accuracy, compute_share, group_by_subject
from etui.bench.compare import System
from etui.bench.config import RunConfig
from etui.bench.cost import compute_cost
from etui.bench.formats import FORMATS, LM_EVAL_FORMATS
from etui.bench.sample import Sample
from etui.codec import to_document
from etui.datasets.mmlu import GROUPS, find_group
from etui.datasets.suites import suite_repo
from etui.stats.bootstrap import STRATIFIED_REPLICATES

_UNKNOWN = "N/A"  # lm-eval's value for an unknown standard error


@dataclass(frozen=True, slots=True)
class _Metric:
    """A metric with its filter, and whether a sample is right by it."""

    name: str
    filter: str = "none"
    grades: Callable[[Sample], bool] = lambda sample: sample.correct


def lm_eval_document(system: System) -> dict[str, Any]:
    """Build the results document of one system in the format of lm-eval 0.4.9 and later."""
    run = system.run
    accuracy = compute_accuracy(system.samples, run.seed)
    cost = compute_cost(system.samples, run.seed)
    metrics = _metrics(run)
    subjects = list(accuracy.subjects)
    tasks = {subject: _task(run, subject) for subject in subjects}
    groups = _groups(run, subjects)
    shares = [_grade_tasks(system, metric) for metric in metrics]
    suite, suffix = _name_parts(run)
    scores: dict[str, Any] = {}
    for name, inside in groups.items():
        leaves = [leaf for part in inside for leaf in groups.get(part, [part])]
        bare = name.removeprefix(f"{suite}_").removesuffix(suffix).replace("_", " ")
        alias = name if name == f"{suite}{suffix}" else f" - {bare}"
        scores[name] = _score(alias, leaves, metrics, shares)
    indent = "  - " if groups else ""
    results = scores | {
        task: _score(f"{indent}{subject}", [task], metrics, shares)
        for subject, task in tasks.items()
    }
    every = [*scores, *tasks.values()]
    letters = sorted({letter for sample in system.samples for letter in sample.logprobs or ()})
    return {
        "results": results,
        "groups": scores,
        "group_subtasks": {**groups, **({} if groups else {task: [] for task in tasks.values()})},
        "configs": {
            tasks[subject]: _task_config(run, subject, tasks[subject], metrics, letters)
            for subject in subjects
        },
        "versions": dict.fromkeys(every, run.format_version),
        "n-shot": dict.fromkeys(tasks.values(), run.shots),
        "higher_is_better": {name: {each.name: True for each in metrics} for name in every},
        "n-samples": {
            tasks[subject]: {
                "original": run.sizes.get(subject, share.questions),
                "effective": share.questions,
            }
            for subject, share in accuracy.subjects.items()
        },
        "config": _config(system),
        "git_hash": None,
        "date": datetime.fromisoformat(run.started_at).timestamp(),
        "pretty_env_info": "\n".join(f"{key}: {value}" for key, value in run.machine.items()),
        "transformers_version": None,
        "lm_eval_version": None,
        "upper_git_hash": None,
        "task_hashes": {},
        "model_source": "etui",
        "model_name": _model_name(system),
        "model_name_sanitized": sanitize_path(_model_name(system)),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": str(
            math.fsum(sample.seconds for sample in system.samples)
        ),
        "etui": {
            "run_id": run.run_id,
            "arm": system.name,
            "format": f"{run.format}@{run.format_version}",
            **({"grading": run.grading} if run.grading else {}),
            "data_sha256": run.data_sha256,
            "models": to_document(run.models),
            "versions": dict(run.versions),
            "micro": to_document(accuracy.micro),
            "macro": to_document(accuracy.macro),
            "energy": to_document(cost),
            **({} if run.machines is None else {"machines": to_document(run.machines)}),
        },
    }


def default_path(folder: Path, document: Mapping[str, Any]) -> Path:
    """Return lm-eval's path of the file: ``FOLDER/MODEL/results_2026-01-01T12-00-00.json``."""
    when = datetime.fromtimestamp(document["date"]).isoformat().replace(":", "-")
    return folder / str(document["model_name_sanitized"]) / f"results_{when}.json"


def sanitize_path(name: str) -> str:
    """Replace the characters of a model name that are not allowed in a path."""
    return re.sub(r'["<>:/|\\?*\[\]]+', "__", name)


def pooled_stderr(shares: Sequence[tuple[float, int]]) -> float | None:
    """Compute the standard error of a mean over tasks as lm-eval does.

    The sample variances of the tasks are weighted by their sizes; only the questions within a task
    vary, not the tasks. None if a task has fewer than two questions.
    """
    total = sum(size for _, size in shares)
    if total <= len(shares) or any(size < 2 for _, size in shares):
        return None
    # The sample variance of a task is its size times its squared standard error.
    pooled = math.fsum((size - 1) * size * error**2 for error, size in shares)
    return math.sqrt(pooled / (total - len(shares)) / total)


def _groups(run: RunConfig, subjects: Sequence[str]) -> dict[str, list[str]]:
    """Build the tree of groups, the whole suite first; empty for a run of one subject."""
    if len(subjects) < 2:
        return {}
    suite, suffix = _name_parts(run)
    top = f"{suite}{suffix}"
    found: dict[str, list[str]] = {top: []}
    for group in GROUPS:
        inside = [_task(run, subject) for subject in subjects if find_group(subject) == group]
        if inside:
            name = f"{suite}_{group.replace(' ', '_')}{suffix}"
            found[top].append(name)
            found[name] = inside
    found[top] += [_task(run, subject) for subject in subjects if find_group(subject) is None]
    return found


def _grade_tasks(system: System, metric: _Metric) -> dict[str, RightShare]:
    """Compute the share of right answers of every task by one metric."""
    graded = [replace(sample, correct=metric.grades(sample)) for sample in system.samples]
    by_subject = group_by_subject(graded).items()
    return {_task(system.run, name): compute_share(inside) for name, inside in by_subject}


def _score(
    alias: str,
    tasks: Sequence[str],
    metrics: Sequence[_Metric],
    shares: Sequence[Mapping[str, RightShare]],
) -> dict[str, Any]:
    """Score a task, or the tasks of a group together, by each metric."""
    scores: dict[str, Any] = {"alias": alias}
    for metric, by_task in zip(metrics, shares, strict=True):
        found = [by_task[task] for task in tasks]
        count = sum(share.questions for share in found)
        error = pooled_stderr([(_stderr(share) or 0.0, share.questions) for share in found])
        scores |= {
            f"{metric.name},{metric.filter}": sum(share.correct for share in found) / count,
            f"{metric.name}_stderr,{metric.filter}": _UNKNOWN if error is None else error,
        }
    return scores


def _stderr(share: RightShare) -> float | None:
    """Compute the standard error of a mean of zeros and ones; None for one question."""
    if share.questions < 2:
        return None
    return math.sqrt(share.accuracy * (1 - share.accuracy) / (share.questions - 1))


def _metrics(run: RunConfig) -> tuple[_Metric, ...]:
    form = FORMATS.get(run.format)
    if form is None or form.reads == "letters":
        return (_Metric("acc"),)
    if form.name == "arc":
        return (_Metric("acc", grades=_has_most_likely_text), _Metric("acc_norm"))
    if form.reads == "texts":
        return (_Metric("acc_norm"),)
    if run.grading == "gsm8k-flexible@1":
        strict = _Metric("exact_match", "strict-match", lambda sample: bool(sample.strict))
        return (strict, _Metric("exact_match", "flexible-extract"))
    return (_Metric("exact_match", "custom-extract" if form.name == "mmlu-pro" else "none"),)


def _has_most_likely_text(sample: Sample) -> bool:
    """Return whether the right answer has the highest log-probability, without its length."""
    odds = sample.logprobs or {}
    return bool(odds) and max(odds, key=lambda letter: odds[letter]) == sample.answer


def _name_parts(run: RunConfig) -> tuple[str, str]:
    """Return what the names of all tasks begin with, and what they end with."""
    suite = run.suite.replace("-", "_") if run.suite in LM_EVAL_FORMATS else run.suite
    usual = LM_EVAL_FORMATS.get(run.suite, "letters")
    return suite, "" if run.format == usual else f"_{run.format}"


def _task(run: RunConfig, subject: str) -> str:
    """Return the name of a subject's task; a known suite of one subject is one task."""
    suite, suffix = _name_parts(run)
    if run.suite in LM_EVAL_FORMATS and len(run.sizes) == 1:
        return f"{suite}{suffix}"
    return f"{suite}_{subject}{suffix}"


def _task_config(
    run: RunConfig,
    subject: str,
    task: str,
    metrics: Sequence[_Metric],
    letters: Sequence[str],
) -> dict[str, Any]:
    form = FORMATS.get(run.format)
    group = find_group(subject)
    reads_letters = form is None or form.reads == "letters"
    return {
        "task": task,
        "task_alias": subject,
        "tag": f"{_name_parts(run)[0]}_{(group or 'all').replace(' ', '_')}_tasks",
        "dataset_path": suite_repo(run.suite),
        "dataset_name": subject,
        "test_split": run.split,
        "fewshot_split": "dev",
        "doc_to_choice": list(letters) if reads_letters else None,
        "description": form.summary if form else run.format,
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": run.shots,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in dict.fromkeys(metric.name for metric in metrics)
        ],
        "output_type": "generate_until" if form and form.generates else "multiple_choice",
        "repeats": 1,
        "should_decontaminate": False,
        "metadata": {"version": run.format_version},
    }


def _config(system: System) -> dict[str, Any]:
    run = system.run
    subjects = run.asked
    whole = run.precision is None and all(
        subjects.get(subject) == size for subject, size in run.sizes.items()
    )
    asked = run.questions if run.precision is None else len(system.samples)
    return {
        "model": "etui",
        "model_args": {"model": _model_name(system), "arm": system.name},
        "model_sha": next((model.sha256 for model in _models(system)), None),
        "batch_size": run.group_questions,
        "batch_sizes": [],
        "device": None,
        "use_cache": None,
        "limit": None if whole else float(asked),
        "bootstrap_iters": STRATIFIED_REPLICATES,
        "gen_kwargs": {},
        "random_seed": run.seed,
        "numpy_seed": run.seed,
        "torch_seed": None,
        "fewshot_seed": None,
    }


def _models(system: System) -> list[Any]:
    """Return the model of the system's arm, or all models of a policy."""
    arm = system.run.arms.get(system.name, {})
    named = [model for model in system.run.models if model.name == arm.get("model")]
    return named or list(system.run.models)


def _model_name(system: System) -> str:
    return " + ".join(model.name for model in _models(system)) or system.name
