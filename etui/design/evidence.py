"""Collect what is known of the cost of a plan's arms: earlier answers, and operating curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from etui.arm import Arm
from etui.bench.run.arms import parse_arm
from etui.bench.store.run_config import RunConfig, parse_run_config
from etui.bench.store.sample import Sample
from etui.config.machine import machine_name
from etui.curves.operating_curve import OperatingCurve
from etui.design.price_arm import ArmEvidence, MeasuredAnswer
from etui.errors import LogUnavailable
from etui.log.curve_lookup import find_curve
from etui.log.past_answers import PastAnswer, read_past_answers, read_run_documents
from etui.log.queries import LogReader
from etui.runtime.provenance import conditions
from etui.runtime.serving import find_model_file
from etui.text.codec import DocumentError
from etui.units import count_text

if TYPE_CHECKING:
    from etui.bench.run.plan import RunPlan
    from etui.models.spec import ModelSpec
    from etui.runtime.open import Runtime


_THIS_RUN = "this run"


@dataclass(frozen=True, slots=True)
class Here:
    """What joules depend on here, besides the arm and its model."""

    machine: str
    threads: int  # Threads of llama.cpp
    llama_cpp: str | None  # Version of the bindings
    channels: frozenset[str]  # Ids of the power channels


@dataclass(slots=True)
class _Found:
    answers: list[MeasuredAnswer] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    runs: set[str] = field(default_factory=set)


def collect_evidence(
    plan: RunPlan,
    runtime: Runtime[Any],
    run: RunConfig | None = None,
    samples: Iterable[Sample] = (),
) -> dict[str, ArmEvidence]:
    """Collect what is known of every arm of a plan.

    Args:
        runtime: This machine; nothing is loaded.
        run: The run that is resumed; None for a new one.

    Returns:
        Arm -> what is known of it. A log that cannot be read knows nothing.

    Raises:
        ModelUnavailable: A model is missing, damaged, or has another sha256.
    """
    specs = {name: _find_spec(name, runtime) for name in plan.models}
    here = describe_here(runtime)
    found = {name: _Found() for name in plan.arms}
    for sample in samples:
        if sample.arm in found and sample.status != "error":
            found[sample.arm].answers.append(measured_sample(sample))
            found[sample.arm].outputs.append(sample.tokens.output)
            found[sample.arm].runs.add(_THIS_RUN)
    curves: dict[str, OperatingCurve | None] = dict.fromkeys(specs)
    try:
        with LogReader(runtime.config) as log:
            hashes = {name: spec.sha256 for name, spec in specs.items()}
            skipped = None if run is None else run.run_id
            _read_earlier(log, plan, hashes, here, skipped, found)
            for name, spec in specs.items():
                if spec.backend is None:
                    now = conditions(runtime.config, runtime.recorder.selection.summed, spec)
                    curves[name] = find_curve(log, name, spec.sha256, now)
    except LogUnavailable:
        pass
    return {
        name: ArmEvidence(each.answers, each.outputs, curves[plan.arms[name].model], _origin(each))
        for name, each in found.items()
    }


def describe_here(runtime: Runtime[Any]) -> Here:
    """Describe this machine as the configuration of a run does."""
    facts = runtime.provenance
    channels = runtime.recorder.selection.summed
    return Here(
        machine_name(),
        int(facts["threads"]),
        facts["llama_cpp_python"],
        frozenset(channel.id for channel in channels),
    )


def is_same_arm(one: Arm, other: Arm) -> bool:
    """Return whether two arms do the same work; their names and seeds do not matter."""
    return _anonymous(one) == _anonymous(other)


def asks_alike(run: RunConfig, plan: RunPlan) -> bool:
    """Return whether a run asked the suite of a plan in the same way."""
    return (
        run.suite == plan.suite.name
        and (run.format, run.format_version) == (plan.format.name, plan.format.version)
        and (run.shots, run.prefix_reuse) == (plan.shots, plan.reuse)
        and run.data_sha256 == plan.suite.sha256
        and not run.routed
    )


def ran_here(run: RunConfig, here: Here) -> bool:
    """Return whether a run was made under the conditions of this machine."""
    return (
        run.machines is None
        and run.machine.get("name") == here.machine
        and run.threads == here.threads
        and run.versions.get("llama_cpp_python") == here.llama_cpp
        and frozenset(run.energy.get("channels", {})) == here.channels
    )


def measured_sample(sample: Sample) -> MeasuredAnswer:
    """Return the cost of an answer of a run."""
    tokens = sample.tokens
    return MeasuredAnswer(
        sample.joules,
        sample.uncertainty,
        sample.seconds,
        tokens.computed + sample.prefix_tokens,
        tokens.output,
        sample.kind,
    )


def _read_earlier(
    log: LogReader,
    plan: RunPlan,
    hashes: Mapping[str, str | None],
    here: Here,
    skipped: str | None,
    found: Mapping[str, _Found],
) -> None:
    """Add the answers of equal arms in earlier runs."""
    for run_id, document in read_run_documents(log, plan.suite.name):
        run = _parse(document)
        if run is None or run_id == skipped or not asks_alike(run, plan):
            continue
        measured_here = ran_here(run, here)
        equal_models = {model.name: model.sha256 for model in run.models}
        for name, arm in plan.arms.items():
            for other, settings in run.arms.items():
                if settings.get("model") != arm.model or not is_same_arm(parse_arm(settings), arm):
                    continue
                if equal_models.get(arm.model) != hashes[arm.model]:
                    continue
                answers = read_past_answers(log, run_id, other)
                found[name].outputs.extend(answer.tokens_output for answer in answers)
                if measured_here and answers:
                    found[name].answers.extend(map(_measured, answers))
                    found[name].runs.add(run_id)


def _parse(document: Mapping[str, Any]) -> RunConfig | None:
    try:
        return parse_run_config(document)
    except DocumentError:
        return None


def _measured(answer: PastAnswer) -> MeasuredAnswer:
    return MeasuredAnswer(
        answer.joules,
        answer.uncertainty,
        answer.seconds,
        answer.tokens_computed,
        answer.tokens_output,
        answer.kind,
    )


def _find_spec(name: str, runtime: Runtime[Any]) -> ModelSpec:
    spec = runtime.catalogue.get(name)
    if spec.backend is not None:
        return spec
    return find_model_file(Arm(name, name), runtime.config, runtime.catalogue)[0]


def _anonymous(arm: Arm) -> Arm:
    return replace(arm, name="", sampling=replace(arm.sampling, seed=0))


def _origin(found: _Found) -> str:
    earlier = len(found.runs - {_THIS_RUN})
    parts = [_THIS_RUN] if _THIS_RUN in found.runs else []
    parts += [count_text(earlier, "earlier run")] if earlier else []
    return " and ".join(parts)
