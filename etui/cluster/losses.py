"""Joules that gave no answer that counts: measured if the node lived, estimated if it died."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

from etui.bench.sample import Sample
from etui.energy.scopes import weakest
from etui.energy.types import Kind
from etui.units import count_text, energy_text


@dataclass(frozen=True, slots=True)
class Losses:
    """What one machine, or all of a run, spent without an answer that counts."""

    doubled: int = 0  # Answers that came after another node's answer to the same question
    reported_tries: int = 0  # Tries that ended without an answer and that the node could measure
    reported_joules: float = 0.0  # Joules of both, by the meters of the nodes
    reported_uncertainty: float = 0.0  # Half width; the half widths are added
    unmeasured_tries: int = 0
    """Answers and tries of which a living node could not measure the joules."""
    lost_tries: int = 0
    """Tries in which the node died or was ended without a reply, so that their joules are unknown.
    """
    lost_questions: int = 0  # Questions that were being answered then
    estimated_joules: float | None = None
    """Estimate for the lost questions: the mean joules of a question of the same system times their
    number; None if there are none, or no mean is known."""
    reported_kind: str | None = None
    """The weakest way in which a part of them was measured; None without any."""

    @property
    def wasted_joules(self) -> float | None:
        """Measured joules of everything lost; None if a part of it is unknown."""
        unknown = self.lost_tries or self.unmeasured_tries
        return None if unknown else self.reported_joules

    def add_doubled(self, sample: Sample) -> Losses:
        """Add an answer that came too late."""
        added = self._add(sample.joules, sample.uncertainty, sample.kind)
        return replace(added, doubled=self.doubled + 1)

    def add_reported(
        self, joules: float | None, uncertainty: float | None, kind: str | None = None
    ) -> Losses:
        """Add a try that ended without an answer, as the node measured it."""
        added = self._add(joules, uncertainty, kind)
        return replace(added, reported_tries=self.reported_tries + 1)

    def add_lost(self, questions: int, mean_joules: float | None) -> Losses:
        """Add a try in which the node died.

        Args:
            questions: Questions that it was answering; 0 if their number is unknown.
            mean_joules: Mean joules of a question of that system; None if unknown.
        """
        estimate = self.estimated_joules
        if mean_joules is not None and questions:
            estimate = (estimate or 0.0) + mean_joules * questions
        return replace(
            self,
            lost_tries=self.lost_tries + 1,
            lost_questions=self.lost_questions + questions,
            estimated_joules=estimate,
        )

    def _add(self, joules: float | None, uncertainty: float | None, kind: str | None) -> Losses:
        if joules is None:
            return replace(self, unmeasured_tries=self.unmeasured_tries + 1)
        return replace(
            self,
            reported_joules=self.reported_joules + joules,
            reported_uncertainty=self.reported_uncertainty + (uncertainty or 0.0),
            reported_kind=_find_weakest([self.reported_kind, kind]),
        )


def sum_losses(losses: Iterable[Losses]) -> Losses:
    """Add up the losses of several machines."""
    every = list(losses)
    known = [each.estimated_joules for each in every if each.estimated_joules is not None]
    sums: dict[str, float] = {
        field.name: sum(getattr(each, field.name) for each in every)
        for field in fields(Losses)
        if field.name not in ("estimated_joules", "reported_kind")
    }
    return Losses(
        **sums,  # type: ignore[arg-type]  # counts stay whole numbers
        estimated_joules=math.fsum(known) if known else None,
        reported_kind=_find_weakest(each.reported_kind for each in every),
    )


def _find_weakest(kinds: Iterable[str | None]) -> str | None:
    found = weakest(Kind(kind) for kind in kinds if kind is not None)
    return None if found is None else found.value


@dataclass(slots=True)
class MeanJoules:
    """Running mean of the joules of a question, by system."""

    _sums: dict[str, tuple[float, int]]

    @classmethod
    def of(cls, samples: Mapping[str, Iterable[Sample]]) -> MeanJoules:
        """Start from the answers of a run: system -> answers."""
        mean = cls({})
        for system, inside in samples.items():
            for sample in inside:
                mean.add(system, sample)
        return mean

    def add(self, system: str, sample: Sample) -> None:
        """Add an answer; an unmeasured one changes nothing."""
        if sample.joules is not None:
            joules, count = self._sums.get(system, (0.0, 0))
            self._sums[system] = joules + sample.joules, count + 1

    def of_system(self, system: str) -> float | None:
        """Return the mean of a system; None before its first measured answer."""
        joules, count = self._sums.get(system, (0.0, 0))
        return joules / count if count else None


def losses_text(losses: Losses) -> str:
    """Format losses as one line; empty if there are none.

    ``wasted: 3.1 ± 0.2 J (2 answers came late); 1 try died with its node, unknown joules, by
    estimate ≈0.8 J``
    """
    parts = []
    known_tries = losses.doubled + losses.reported_tries
    if known_tries:
        what = energy_text(
            losses.reported_joules, losses.reported_uncertainty or None, losses.reported_kind
        )
        found = []
        if losses.doubled:
            found.append(f"{count_text(losses.doubled, 'answer')} came late")
        if losses.reported_tries:
            found.append(f"{count_text(losses.reported_tries, 'piece')} ended early")
        if losses.unmeasured_tries:
            found.append(f"{losses.unmeasured_tries} of them unmeasured")
        parts.append(f"{what} ({', '.join(found)})")
    if losses.lost_tries:
        tries = count_text(losses.lost_tries, "node")
        asked = (
            f" while answering {count_text(losses.lost_questions, 'question')}"
            if losses.lost_questions
            else ""
        )
        estimate = (
            f"by estimate {energy_text(losses.estimated_joules, None, 'estimate')}"
            if losses.estimated_joules is not None
            else "without an estimate"
        )
        parts.append(f"{tries} died or hung{asked}: unknown joules, {estimate}")
    return f"wasted: {'; '.join(parts)}" if parts else ""
