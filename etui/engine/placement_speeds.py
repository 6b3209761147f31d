"""How fast mixtures of experts decode on this machine, by what of them was on the GPUs.

Every answer, sweep and calibration of such a model adds to it, so that a load can prefer what was
measured to be faster (:func:`etui.engine.offload.choose_placement`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from etui.atomic import write_text
from etui.codec import from_document, to_document
from etui.config.machine import machine_name
from etui.engine.offload import Placement, PlacementSpeed

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.engine.library import Device
    from etui.models.gguf import Gguf

_WINDOW_TOKENS = 64
_MOST_KEPT = 500


class DecodeClock:
    """The decode of one token at a time, whose fastest stretch shows what a placement can do.

    Other programs and long contexts slow a stretch down; nothing makes one too fast.
    """

    def __init__(self) -> None:
        self.best_tokens_per_second = 0.0
        self._tokens = self._ns = 0

    def add(self, ns: int) -> None:
        """Add the duration of a batch of one token."""
        self._tokens, self._ns = self._tokens + 1, self._ns + ns
        if self._tokens == _WINDOW_TOKENS:
            speed = _WINDOW_TOKENS * 1e9 / max(1, self._ns)
            self.best_tokens_per_second = max(speed, self.best_tokens_per_second)
            self._tokens = self._ns = 0


@dataclass(frozen=True, slots=True)
class _Measured:
    machine: str
    gpus: tuple[str, ...]
    model: str  # Name of the file
    model_bytes: int
    gpu_layers: int
    cpu_moe: int
    tokens_per_second: float


class PlacementSpeeds:
    """The speeds that are kept in ``placement_speeds.json`` of ``ETUI_HOME``.

    A damaged file counts as none, and one that cannot be written loses what is new: nothing but a
    choice depends on it.
    """

    def __init__(self, config: Config) -> None:
        self._path = config.home / "placement_speeds.json"

    def read(self, gguf: Gguf, gpus: Sequence[Device]) -> tuple[PlacementSpeed, ...]:
        """Return the speeds of a model with these GPUs."""
        found = (
            (one, PlacementSpeed(Placement(one.gpu_layers, one.cpu_moe), one.tokens_per_second))
            for one in self._load()
        )
        return tuple(speed for one, speed in found if _build(gguf, gpus, speed) == one)

    def add(
        self, gguf: Gguf, gpus: Sequence[Device], placement: Placement, tokens_per_second: float
    ) -> None:
        """Keep a speed, unless this placement was faster before."""
        new = _build(gguf, gpus, PlacementSpeed(placement, tokens_per_second))
        every = self._load()
        same = [one for one in every if replace(one, tokens_per_second=tokens_per_second) == new]
        if any(one.tokens_per_second >= tokens_per_second for one in same):
            return
        kept = [*(one for one in every if one not in same), new][-_MOST_KEPT:]
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(to_document(kept), indent=1) + "\n")

    def _load(self) -> tuple[_Measured, ...]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            every = from_document(tuple[_Measured, ...], document, extra="ignore")
        except (OSError, ValueError):
            return ()
        return tuple(one for one in every if one.tokens_per_second > 0)


def _build(gguf: Gguf, gpus: Sequence[Device], speed: PlacementSpeed) -> _Measured:
    return _Measured(
        machine_name(),
        tuple(gpu.description or gpu.name for gpu in gpus),
        gguf.path.name,
        gguf.size_bytes,
        speed.placement.gpu_layers,
        speed.placement.cpu_moe,
        speed.tokens_per_second,
    )
