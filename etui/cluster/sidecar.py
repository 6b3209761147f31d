"""``cluster.json`` in the run folder: what each node did, and the joules that were wasted."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etui.bench.sample import Sample
from etui.cluster.drive import NodeTally
from etui.cluster.losses import Losses, sum_losses
from etui.codec import DocumentError, from_document, to_document

CLUSTER = "cluster.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Machine:
    """What one machine lost, over all parts of a run that was resumed."""

    deaths: int
    losses: Losses = field(default_factory=Losses)


@dataclass(frozen=True, slots=True)
class _Document:
    cluster_version: int
    ray: str | None
    machines: Mapping[str, _Machine]
    running: tuple[str, ...] = ()


def write_document(
    tallies: Mapping[str, NodeTally], ray: str | None, running: Collection[str] = ()
) -> str:
    """Write the document as text.

    ``wasted_joules`` is null once a part of the waste is unknown; ``estimated_joules`` is then an
    estimate for the questions that died with their node.

    Args:
        tallies: Key of the machine -> what it did.
        running: Keys of the machines that may be answering now. If this process dies, so do theirs,
            and what they spent on their current question stays unknown.
    """
    total = sum_losses(tally.losses for tally in tallies.values())
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


def read_tallies(folder: Path, samples: Iterable[Sample]) -> dict[str, NodeTally]:
    """Read what the machines of a run did before it is resumed.

    Answers are counted in the samples, which are complete after a crash too, and hold those of a
    part without a cluster. Losses come from the document; without a valid one there are none.

    Args:
        samples: All answers of the run.

    Returns:
        Key of the machine -> what it did.
    """
    tallies: dict[str, NodeTally] = {}
    with suppress(OSError, UnicodeDecodeError, ValueError, DocumentError, RecursionError):
        document: Any = json.loads((folder / CLUSTER).read_text(encoding="utf-8"))
        found = from_document(_Document, document, extra="ignore")
        for key, each in found.machines.items():
            crashed = each.losses.add_lost(0, None) if key in found.running else each.losses
            tallies[key] = NodeTally(deaths=each.deaths, losses=crashed)
    for sample in samples:
        if sample.machine is not None:
            tallies.setdefault(sample.machine, NodeTally()).add(sample)
    return tallies
