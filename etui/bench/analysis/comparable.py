"""Which runs may be compared: the same questions, put in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etui.bench.store.run_config import RunConfig, differences
from etui.bench.store.sample import Sample
from etui.errors import UsageError

_MUST_AGREE = {
    "suite": "suite",
    "split": "split",
    "data_sha256": "data (sha256)",
    "format": "format",
    "format_version": "version of the format",
    "shots": "shots",
    "seed": "seed",
    "prefix_reuse": "prefix reuse",
}
"""Settings in which compared runs must agree, and their names."""

_WORTH_KNOWING = {
    "threads": "threads",
    "group_questions": "questions computed together",
    "versions.llama_cpp": "llama.cpp",
    "machine": "machine",
    "energy.channels": "power channels",
    "energy.kind": "kind of the energy",
    "energy.unmeasured": "what is unmeasured",
}
"""Settings that may move scores a little, or joules, but do not make a comparison wrong."""


@dataclass(frozen=True, slots=True)
class System:
    """One arm of a run, or a policy's whole run.

    Attributes:
        label: Names it in the comparison; no two have the same.
        name: The arm, or the policy.
        run: The configuration of its run.
        samples: Its answers, sorted by question.
    """

    label: str
    name: str
    run: RunConfig
    samples: Sequence[Sample]

    @property
    def questions(self) -> list[tuple[str, int]]:
        """Subject and row of each sample."""
        return [(sample.subject, sample.row) for sample in self.samples]


def check_comparable(contenders: Sequence[System]) -> None:
    """Refuse contenders that did not answer the same questions, put in the same way.

    Raises:
        UsageError: With everything that differs from the first one, one line each.
    """
    first, *others = contenders
    found = [text for other in others for text in why_not(first, other)]
    if found:
        raise UsageError(
            "these runs cannot be compared:\n" + "\n".join(f"  {text}" for text in found),
            "run both with the same --suite, --format, --shots, --seed, --limit and --subjects; "
            "an unfinished run goes on with --resume",
        )


def why_not(first: System, other: System) -> list[str]:
    """Why two contenders may not be compared; empty if they may."""
    one, two = f"{first.label} has", f"{other.label} has"
    found = [
        f"{name}: {one} {_short(getattr(first.run, key))}, {two} {_short(getattr(other.run, key))}"
        for key, name in _MUST_AGREE.items()
        if getattr(first.run, key) != getattr(other.run, key)
    ]
    ours, theirs = set(first.questions), set(other.questions)
    if ours != theirs:
        found.append(
            f"questions: {one} {len(ours):,}, {two} {len(theirs):,}, and {len(ours & theirs):,} "
            "are the same"
        )
    elif not ours:
        found.append(f"questions: {one} none, {two} none")
    return found


def worth_knowing(contenders: Sequence[System]) -> list[str]:
    """Differences between runs that do not forbid to compare them, one sentence each."""
    first = contenders[0]
    found: dict[str, None] = {}
    for other in contenders[1:]:
        if other.run.run_id == first.run.run_id:
            continue
        changed = differences(first.run, other.run)
        for prefix, name in _WORTH_KNOWING.items():
            if any(path == prefix or path.startswith(f"{prefix}.") for path in changed):
                found[f"{name}: differs between {first.label} and {other.label}"] = None
    if "machine" in "".join(found):
        found["the joules of two machines differ by the machines too"] = None
    return list(found)


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 16 else text


def labels_of(named: Sequence[tuple[str, str]]) -> list[str]:
    """A label for each (run, contender): the contender's name, with its run's where two share it.

    Args:
        named: Run and contender, in order.
    """
    counts: Mapping[str, int] = {
        name: sum(other == name for _, other in named) for _, name in named
    }
    plain = [name if counts[name] == 1 else f"{run}:{name}" for run, name in named]
    return [
        label if plain.count(label) == 1 else f"{label} #{plain[: at + 1].count(label)}"
        for at, label in enumerate(plain)
    ]
