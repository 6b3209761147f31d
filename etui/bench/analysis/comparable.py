"""Rules for comparable runs: the same questions, asked in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etui.bench.analysis.machines import explain_unpooled
from etui.bench.store.machines import group_equal, list_machines
from etui.bench.store.run_config import RunConfig, differences
from etui.bench.store.sample import Sample
from etui.errors import UsageError

_MUST_AGREE = {
    "suite": "suite",
    "split": "split",
    "data_sha256": "data (sha256)",
    "format": "format",
    "format_version": "version of the format",
    "grading": "grading rule",
    "shots": "shots",
    "seed": "seed",
    "prefix_reuse": "prefix reuse",
}
"""Settings that must be equal in compared runs -> their names."""

_WORTH_KNOWING = {
    "threads": "threads",
    "group_questions": "questions computed together",
    "versions.llama_cpp": "llama.cpp",
    "machine": "machine",
    "energy.channels": "power channels",
    "energy.kind": "kind of energy",
    "energy.unmeasured": "what is unmeasured",
}
"""Settings that may affect joules, or scores slightly, but do not invalidate a comparison."""

_BY_MACHINE = frozenset({"threads", "versions.llama_cpp", "machine", "energy.channels"})
"""Settings that runs of several machines have for each of them."""


@dataclass(frozen=True, slots=True)
class System:
    """One arm of a run, or a policy's whole run."""

    label: str  # Unique label in the comparison
    name: str  # Name of the arm or the policy
    run: RunConfig
    samples: Sequence[Sample]  # Its answers, sorted by question

    @property
    def questions(self) -> list[tuple[str, int]]:
        """Subject and row of each sample."""
        return [(sample.subject, sample.row) for sample in self.samples]


def check_comparable(systems: Sequence[System]) -> None:
    """Check that all systems answered the same questions, asked in the same way.

    Raises:
        UsageError: A system differs from the first; the message has one line per difference.
    """
    first, *others = systems
    found = [text for other in others for text in list_obstacles(first, other)]
    if found:
        raise UsageError(
            "these runs cannot be compared:\n" + "\n".join(f"  {text}" for text in found),
            "run both with the same --suite, --format, --shots, --seed, --limit and --subjects; "
            "resume an unfinished run with --resume",
        )


def list_obstacles(first: System, other: System) -> list[str]:
    """List what prevents a comparison of two systems; empty if they are comparable."""
    one, two = f"{first.label} has", f"{other.label} has"
    found = [
        f"{name}: {one} {_short(getattr(first.run, key))}, {two} {_short(getattr(other.run, key))}"
        for key, name in _MUST_AGREE.items()
        if getattr(first.run, key) != getattr(other.run, key)
    ]
    ours, theirs = set(first.questions), set(other.questions)
    if ours != theirs:
        found.append(
            f"questions: {one} {len(ours):,}, {two} {len(theirs):,}, {len(ours & theirs):,} "
            "in common"
        )
    elif not ours:
        found.append(f"questions: {one} none, {two} none")
    return found


def list_differences(systems: Sequence[System]) -> list[str]:
    """List differences that do not prevent a comparison, one sentence each."""
    first = systems[0]
    found: dict[str, None] = {}
    for system in systems:
        why = explain_unpooled(system.samples, system.run)
        if why is not None:
            found[f"{system.run.run_id}: {why}"] = None
    for other in systems[1:]:
        if other.run.run_id == first.run.run_id:
            continue
        machines = (*list_machines(first.run), *list_machines(other.run))
        several = first.run.machines is not None or other.run.machines is not None
        if several and len(group_equal(machines)) > 1:
            found[f"machines: differ between {first.label} and {other.label}"] = None
        changed = differences(first.run, other.run)
        for prefix, name in _WORTH_KNOWING.items():
            if not (several and prefix in _BY_MACHINE) and any(
                path == prefix or path.startswith(f"{prefix}.") for path in changed
            ):
                found[f"{name}: differs between {first.label} and {other.label}"] = None
    if "machine" in "".join(found):
        found["joules from different machines also differ because of the hardware"] = None
    return list(found)


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 16 else text


def build_labels(named: Sequence[tuple[str, str]]) -> list[str]:
    """Build a unique label for each system: its name, with its run's name if two share it."""
    counts: Mapping[str, int] = {
        name: sum(other == name for _, other in named) for _, name in named
    }
    plain = [name if counts[name] == 1 else f"{run}:{name}" for run, name in named]
    return [
        label if plain.count(label) == 1 else f"{label} #{plain[: at + 1].count(label)}"
        for at, label in enumerate(plain)
    ]
