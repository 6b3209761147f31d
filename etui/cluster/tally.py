"""Deaths and wasted joules of each machine of a run: the file ``cluster.json``.

Joules without an answer that counts are measured if the node lived, and estimated if it died.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etui.bench.cost import find_weakest_kind
from etui.bench.sample import Sample
from etui.cluster.messages import Wasted
from etui.codec import from_document, to_document
from etui.units import count_text, energy_text

CLUSTER = "cluster.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Losses:
    """What one machine, or all of a run, spent without an answer that counts."""

    doubled: int = 0  # Answers that came after another node's answer to the same question
    reported_tries: int = 0  # Tries that ended without an answer and that the node could measure
    reported_joules: float = 0.0  # Joules of both, by the meters of the nodes
    reported_uncertainty: float = 0.0  # Half width; the half widths are added
    unmeasured_tries: int = 0  # Of a living node, without joules
    lost_tries: int = 0
    """Tries in which the node died or was ended without a reply, so that their joules are unknown.
    """
    lost_questions: int = 0  # Questions that were being answered then
    estimated_joules: float | None = None
    """Estimate for the lost questions: the mean joules of a question of the same system times their
    number; None if there are none, or no mean is known."""
    reported_kind: str | None = None  # The weakest kind of a part of them

    @classmethod
    def measure(cls, spent: Sample | Wasted, *, doubled: int = 0, tries: int = 0) -> Losses:
        """Build the loss that the meter of a living node measured, or could not measure."""
        if spent.joules is None:
            return cls(doubled, tries, unmeasured_tries=1)
        width = spent.uncertainty or 0.0
        return cls(doubled, tries, spent.joules, width, reported_kind=spent.kind)

    @classmethod
    def estimate(cls, questions: int, mean_joules: float | None) -> Losses:
        """Build the loss of a node that died: questions (0 if unknown) times their mean joules."""
        known = mean_joules is not None and questions
        joules = (mean_joules or 0.0) * questions if known else None
        return cls(lost_tries=1, lost_questions=questions, estimated_joules=joules)

    def __add__(self, other: Losses) -> Losses:
        estimates = [
            each for each in (self.estimated_joules, other.estimated_joules) if each is not None
        ]
        return Losses(
            self.doubled + other.doubled,
            self.reported_tries + other.reported_tries,
            self.reported_joules + other.reported_joules,
            self.reported_uncertainty + other.reported_uncertainty,
            self.unmeasured_tries + other.unmeasured_tries,
            self.lost_tries + other.lost_tries,
            self.lost_questions + other.lost_questions,
            sum(estimates) if estimates else None,
            find_weakest_kind((self.reported_kind, other.reported_kind)),
        )

    @property
    def wasted_joules(self) -> float | None:
        """Measured joules of everything lost; None if a part of it is unknown."""
        return None if self.lost_tries or self.unmeasured_tries else self.reported_joules

    def text(self) -> str:
        """Format the losses as one line; empty if there are none.

        ``wasted: 3.1 ± 0.2 J (2 answers came late); 1 node died or hung while answering
        1 question: unknown joules, by estimate ≈0.8 J``
        """
        parts = []
        found = []
        if self.doubled:
            found.append(f"{count_text(self.doubled, 'answer')} came late")
        if self.reported_tries:
            found.append(f"{count_text(self.reported_tries, 'piece')} ended early")
        if found:
            if self.unmeasured_tries:
                found.append(f"{self.unmeasured_tries} of them unmeasured")
            uncertainty = self.reported_uncertainty or None
            what = energy_text(self.reported_joules, uncertainty, self.reported_kind)
            parts.append(f"{what} ({', '.join(found)})")
        if self.lost_tries:
            asked, estimate = "", "without an estimate"
            if self.lost_questions:
                asked = f" while answering {count_text(self.lost_questions, 'question')}"
            if self.estimated_joules is not None:
                estimate = f"by estimate {energy_text(self.estimated_joules, None, 'estimate')}"
            tries = count_text(self.lost_tries, "node")
            parts.append(f"{tries} died or hung{asked}: unknown joules, {estimate}")
        return f"wasted: {'; '.join(parts)}" if parts else ""


@dataclass(slots=True)
class NodeTally:
    """Deaths and losses of a machine in a run, over all of its parts; samples have its answers."""

    deaths: int = 0  # How often its process died while it was ready
    given_up: str = ""  # Why it was given up; empty if it was not
    losses: Losses = field(default_factory=Losses)  # What it spent without an answer that counts


def write_document(
    tallies: Mapping[str, NodeTally], ray: str | None, running: Collection[str] = ()
) -> str:
    """Write the document as text.

    ``wasted_joules`` is null once a part of the waste is unknown; ``estimated_joules`` is then an
    estimate for the questions that died with their node. Machines in ``running`` may be answering
    now: if this process dies, so do theirs, and what they spent on their current question stays
    unknown.
    """
    total = sum_losses(tallies.values())
    document = {
        "cluster_version": _VERSION,
        "ray": ray,
        "running": sorted(running),
        "wasted": {"wasted_joules": total.wasted_joules, **to_document(total)},
        "machines": {
            key: {**to_document(tally), "wasted_joules": tally.losses.wasted_joules}
            for key, tally in tallies.items()
        },
    }
    return json.dumps(document, indent=2) + "\n"


def sum_losses(tallies: Iterable[NodeTally]) -> Losses:
    """Add up the losses of several machines."""
    return sum((tally.losses for tally in tallies), Losses())


def read_tallies(folder: Path) -> dict[str, NodeTally]:
    """Read the tallies of a run before it is resumed, by machine; none without a valid file."""
    tallies: dict[str, NodeTally] = {}
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        document: Any = json.loads((folder / CLUSTER).read_text(encoding="utf-8"))
        crashed = Losses.estimate(0, None)
        for key, each in document["machines"].items():
            deaths = from_document(int, each["deaths"])
            losses = from_document(Losses, each.get("losses", {}), extra="ignore")
            if key in document.get("running", ()):
                losses += crashed
            tallies[key] = NodeTally(deaths=deaths, losses=losses)
    return tallies
