"""What drafting saved and cost in a turn, as stored in the log and written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class SpeculationRecord:
    """Drafted tokens of an answer and the joules of verifying them; joules are None if unmeasured.

    Attributes:
        batches, rows: Verified batches and their tokens: in each the last token of the answer
            and the drafted ones. A batch gives one token more than it accepts.
        drafted, accepted: Drafted tokens, and those of them that the model drew too.
        verify_seconds, draft_seconds: Durations of these batches, and of drafting by a model.
        accepted_joules, waste_joules: Shares of ``verify_joules``, split by the rows of each
            batch: those of accepted and those of rejected tokens. The remaining rows are the
            tokens that are computed without speculation too.

    Each ``_uncertainty`` is a half width in joules.
    """

    method: str  # `lookup`, `draft` or `mtp`; several are joined by `+`
    batches: int
    rows: int
    drafted: int
    accepted: int
    verify_seconds: float
    draft_seconds: float
    verify_joules: float | None  # Joules of these batches, a part of the decode phase
    verify_uncertainty: float | None
    draft_joules: float | None
    """Joules of drafting by a model, another part of it; 0.0 for ``lookup``."""
    draft_uncertainty: float | None
    accepted_joules: float | None
    accepted_uncertainty: float | None
    waste_joules: float | None
    waste_uncertainty: float | None

    @property
    def joules_per_accepted_token(self) -> float | None:
        """Joules of all drafted rows and of the drafting, per accepted token; None without one."""
        return self._per_accepted(self.accepted_joules, self.waste_joules, self.draft_joules)

    @property
    def joules_per_accepted_token_uncertainty(self) -> float | None:
        """Half width of ``joules_per_accepted_token``, as if its parts had the same cause."""
        return self._per_accepted(
            self.accepted_uncertainty, self.waste_uncertainty, self.draft_uncertainty
        )

    def _per_accepted(self, *parts: float | None) -> float | None:
        known = [part for part in parts if part is not None]
        return sum(known) / self.accepted if self.accepted and len(known) == len(parts) else None

    def to_json(self) -> dict[str, Any]:
        """Build the document ``speculation`` of ``etui ask --json``."""
        return {
            **asdict(self),
            "joules_per_accepted_token": self.joules_per_accepted_token,
            "joules_per_accepted_token_uncertainty": self.joules_per_accepted_token_uncertainty,
        }


def parse_speculation(document: Mapping[str, Any] | None) -> SpeculationRecord | None:
    """Parse the document of ``SpeculationRecord.to_json``, or None; derived values are ignored."""
    if document is None:
        return None
    return SpeculationRecord(**{f.name: document[f.name] for f in fields(SpeculationRecord)})
