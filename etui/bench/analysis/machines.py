"""Figures of each machine of a run, and whether the joules of all of them may be pooled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from etui.bench.analysis.cost import Cost, compute_cost
from etui.bench.store.machines import explain_difference, group_equal
from etui.bench.store.run_config import BenchMachine, RunConfig
from etui.bench.store.sample import Sample
from etui.bench.store.several_machines import is_comparison


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """Results of one system on one machine.

    Attributes:
        questions, correct: Number of questions that it answered, and of right answers.
    """

    name: str  # Processor, number of CPUs and system
    devices: tuple[str, ...]  # Models of its GPUs; empty without
    group: int  # Machines of the same group are equal, so that their joules may be pooled; from 0
    questions: int
    correct: int
    seconds: float  # Sum over the questions
    energy: Cost | None  # Cost of the answers; None if unmeasured


def may_pool(samples: Iterable[Sample], run: RunConfig) -> bool:
    """Test whether the machines that answered are all equal; a run of one machine always is."""
    if run.machines is None:
        return True
    keys = {sample.machine for sample in samples}
    used = [machine for machine in run.machines if machine.key in keys]
    return len(keys) <= 1 or (len(used) == len(keys) and len(group_equal(used)) == 1)


def drop_unpooled(samples: Sequence[Sample], run: RunConfig) -> Sequence[Sample]:
    """Return the samples, without their joules if their machines are not all equal.

    A sum, a mean or a difference over unlike machines depends on which of them answered what. In a
    comparison of machines each system is on one of them, so its joules stay.
    """
    if is_comparison(run) or may_pool(samples, run):
        return samples
    return [_drop_joules(sample) for sample in samples]


def summarise_machines(
    samples: Sequence[Sample], run: RunConfig
) -> dict[str, MachineSummary] | None:
    """Summarise the answers of one system by machine.

    Args:
        samples: Its samples with their joules, sorted by question.

    Returns:
        Key -> results, in the order of the machines, without those that answered nothing; None for
        a run of one machine.
    """
    if run.machines is None:
        return None
    groups = {
        machine.key: at for at, group in enumerate(group_equal(run.machines)) for machine in group
    }
    found = {}
    for machine in run.machines:
        inside = [sample for sample in samples if sample.machine == machine.key]
        if inside:
            found[machine.key] = _summarise_machine(inside, machine, groups[machine.key], run.seed)
    return found


def explain_unpooled(samples: Sequence[Sample], run: RunConfig) -> str | None:
    """Say why the joules of a run are not pooled; None if they are."""
    if run.machines is None or is_comparison(run) or may_pool(samples, run):
        return None
    keys = {sample.machine for sample in samples}
    used = [machine for machine in run.machines if machine.key in keys]
    return f"joules are given by machine and not pooled: {explain_difference(used)}"


def _drop_joules(sample: Sample) -> Sample:
    drafted = sample.speculation
    if drafted is not None:
        drafted = replace(
            drafted,
            verify_joules=None,
            verify_uncertainty=None,
            draft_joules=None,
            draft_uncertainty=None,
            accepted_joules=None,
            accepted_uncertainty=None,
            waste_joules=None,
            waste_uncertainty=None,
        )
    return replace(
        sample,
        joules=None,
        uncertainty=None,
        kind=None,
        prefill_joules=None,
        decode_joules=None,
        speculation=drafted,
    )


def _summarise_machine(
    samples: Sequence[Sample], machine: BenchMachine, group: int, seed: int
) -> MachineSummary:
    return MachineSummary(
        name=machine.name,
        devices=machine.devices or (),
        group=group,
        questions=len(samples),
        correct=sum(sample.correct for sample in samples),
        seconds=math.fsum(sample.seconds for sample in samples),
        energy=compute_cost(samples, seed),
    )
