"""``cluster.json`` in the run folder: what each node did, and the joules that were wasted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etui.cluster.drive import NodeTally
from etui.cluster.losses import Losses, sum_losses
from etui.text.codec import DocumentError, from_document, to_document

CLUSTER = "cluster.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Machine:
    """What one machine did, over all parts of a run that was resumed."""

    answers: int
    joules: float | None
    seconds: float
    deaths: int
    given_up: str
    losses: Losses = field(default_factory=Losses)


@dataclass(frozen=True, slots=True)
class _Document:
    cluster_version: int
    ray: str | None
    machines: Mapping[str, _Machine]


def write_document(tallies: Mapping[str, NodeTally], ray: str | None) -> str:
    """Write the document as text.

    ``wasted_joules`` is null once a part of the waste is unknown; ``estimated_joules`` is then an
    estimate for the questions that died with their node.

    Args:
        tallies: Key of the machine -> what it did.
        ray: Version of Ray.
    """
    total = sum_losses(tally.losses for tally in tallies.values())
    document = {
        "cluster_version": _VERSION,
        "ray": ray,
        "wasted": {"wasted_joules": total.wasted_joules, **to_document(total)},
        "machines": {
            key: {**to_document(tally), "wasted_joules": tally.losses.wasted_joules}
            for key, tally in tallies.items()
        },
    }
    return json.dumps(document, indent=2) + "\n"


def read_tallies(folder: Path) -> dict[str, NodeTally]:
    """Read what the machines of a run did before it is resumed; empty without a valid file."""
    try:
        document: Any = json.loads((folder / CLUSTER).read_text(encoding="utf-8"))
        found = from_document(_Document, document, extra="ignore")
    except (OSError, UnicodeDecodeError, ValueError, DocumentError):
        return {}
    return {
        key: NodeTally(
            answers=each.answers,
            joules=each.joules,
            seconds=each.seconds,
            deaths=each.deaths,
            losses=each.losses,
        )
        for key, each in found.machines.items()
    }
