"""The machines that serve a model: entries of models.yaml with the same weights.

``same_as:`` marks an entry as another place of the same weights. An arm that names one of them can
be answered at any of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

THIS_MACHINE = "this machine"


class PlaceSettings(Protocol):
    """What an entry of models.yaml says of its place."""

    @property
    def backend(self) -> str | None:
        """Name of the backend that serves it; None for this machine."""

    @property
    def same_as(self) -> str | None:
        """Name of the entry with the same weights; None for weights of its own."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model runs."""

    model: str
    weights: str  # Name of the entry whose weights it has: its own name, or another's
    backend: str | None = None  # Name of the backend that serves it; None for this machine
    stated: bool = True
    """Whether the policy names it; False for another place of a model that it names."""

    @property
    def machine(self) -> str:
        """The name to show: that of the backend, or ``this machine``."""
        return self.backend or THIS_MACHINE


def find_place(models: Collection[str], name: str) -> Place:
    """Return the place of a model; this machine, if only names of models are known."""
    entry: PlaceSettings | None = models.get(name) if isinstance(models, Mapping) else None
    if entry is None:
        return Place(name, name)
    return Place(name, find_weights(models, name), entry.backend)


def find_weights(models: Collection[str], name: str) -> str:
    """Follow ``same_as`` to the entry that names no other; a circle ends before it repeats."""
    seen = {name}
    while isinstance(models, Mapping) and name in models:
        following = models[name].same_as
        if following is None or following in seen:
            break
        seen.add(following)
        name = following
    return name


def list_places(models: Sequence[str], known: Collection[str]) -> tuple[Place, ...]:
    """List the places of the models of a role, in order; other places of a model follow it.

    Places that the role itself names keep their order; others follow the last of the same weights.

    Args:
        models: The models of the role, best first.
        known: Models of models.yaml by name, or only their names, which have no other places.
    """
    others: defaultdict[str, list[Place]] = defaultdict(list)
    if isinstance(known, Mapping):
        roots = {entry.same_as for entry in known.values()}
        for name, entry in known.items():
            if name not in models and (entry.same_as is not None or name in roots):
                place = replace(find_place(known, name), stated=False)
                others[place.weights].append(place)
    stated = [find_place(known, name) for name in models]
    last = {place.weights: index for index, place in enumerate(stated)}
    found: list[Place] = []
    for index, place in enumerate(stated):
        found += [place, *(others[place.weights] if last[place.weights] == index else ())]
    return tuple(found)
