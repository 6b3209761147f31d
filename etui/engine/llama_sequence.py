"""One sequence of a session over llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.engine.constraint import Constraint
from etui.engine.sampler import Sampler, Script
from etui.engine.speculation.speculator import Speculation
from etui.events import Verified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Following:
    """A wait for a prefix that another sequence is about to compute."""

    leader: LlamaSequence
    length: int  # Tokens of the prefix


class LlamaSequence:
    """One sequence: ``tokens[:computed]`` are in the cache, the rest is queued."""

    __slots__ = (
        "cached",
        "cells",
        "computed",
        "constraint",
        "epoch",
        "following",
        "id",
        "kept_logits",
        "label",
        "owner",
        "rest",
        "row",
        "sampler",
        "script",
        "slot",
        "speculation",
        "tokens",
        "verified",
    )

    def __init__(
        self,
        id_: int,
        slot: int,
        tokens: list[int],
        sampler: Sampler,
        owner: str = "",
        label: str = "",
    ) -> None:
        self.id = id_
        self.slot = slot
        self.tokens = tokens
        self.sampler = sampler
        self.owner = owner
        self.label = label
        self.rest: tuple[int, ...] = ()  # drawn before it was closed, and not computed
        self.computed = 0
        self.cached = 0
        self.cells: list[
            int
        ] = []  # one number per computed token; shared cells have the same number
        self.row = 0
        self.epoch = -1  # the decode whose output ``row`` holds the logits after tokens[:computed]
        self.kept_logits: tuple[int, NDArray[np.float32]] | None = None  # and the decode after
        self.script: Script | None = None
        self.constraint: Constraint | None = None
        self.speculation: Speculation | None = None
        self.verified: list[Verified] = []  # settled, and not yet reported
        self.following: Following | None = None

    @property
    def pending(self) -> int:
        """Tokens queued and not yet computed."""
        return len(self.tokens) - self.computed
