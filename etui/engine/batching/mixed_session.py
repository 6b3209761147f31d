"""The interface of a session whose batches serve several requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from etui.arm import Sampling
from etui.engine.session import Session, Step, TokenSequence


class MixedSession(Session, Protocol):
    """A session that several requests share; see ``LlamaSession``."""

    @property
    def planned(self) -> Mapping[int, int]:
        """Number of tokens in the last batch by sequence id, even if the batch failed."""

    def open(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        script: Sequence[int] | None = None,
        *,
        owner: str = "",
    ) -> TokenSequence:
        """Open a sequence that reuses nothing of other owners."""

    def step_mixed(
        self, wanted: Sequence[tuple[TokenSequence, bool]], *, prompt_limit: int | None
    ) -> Step:
        """Compute one batch for several owners, with a flag for each sequence that draws."""

    def count_cells(self, sequences: Iterable[TokenSequence]) -> int:
        """Count the cells that sequences hold; shared ones count once."""
