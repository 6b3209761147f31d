"""What the models screen shows of each model, and the predictions for those never loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from etui.config.machine import machine_name
from etui.curves.operating_curve import OperatingCurve
from etui.engine.offload import Needs
from etui.log.totals import Total
from etui.models.files import FileState
from etui.models.gguf import Gguf
from etui.models.recommend import (
    Candidate,
    Fit,
    find_fit,
)
from etui.models.spec import ModelSpec
from etui.models.tuned import TunedUse
from etui.runtime.forecast import (
    DecodeForecast,
    MachineFacts,
    MeasuredModel,
    forecast_decode,
)
from etui.runtime.keep_warm import (
    ModelIdle,
)
from etui.tui.models.last_sweep import LastSweep
from etui.turn.record import LoadRecord, UnloadRecord


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of models.yaml and everything known about it on this machine.

    Attributes:
        gguf, need: Header of the file and its memory need; None without a valid file.
    """

    spec: ModelSpec
    path: Path  # Location of the file, whether it exists or not
    state: FileState  # Whether the file exists and was checked
    file_bytes: int | None  # Size of the file, or of the one to pull; None if unknown
    kept_bytes: int = 0  # Bytes kept from an interrupted pull
    gguf: Gguf | None = None
    need: Needs | None = None
    fault: str = ""  # Why the header of an existing file cannot be used; empty if it can
    curve: OperatingCurve | None = None  # The newest operating curve of this file
    total: Total | None = None  # Totals of its turns in the log
    loads: tuple[LoadRecord | UnloadRecord, ...] = ()  # Its last loads and unloads, newest first
    idle: ModelIdle | None = None
    """What keeping it warm costs; None if nothing was measured or logged."""
    tuned: TunedUse | None = None
    """The settings that a sweep chose, and what of them is used; None without any."""
    sweep: LastSweep | None = None  # Its newest sweep; None without one
    expected_bytes: int | None = None
    """Memory need by its entry, before its header can be read; None if unknown."""
    fit: Fit = "unknown"
    forecast: DecodeForecast = field(default_factory=DecodeForecast)
    """Its tokens per second and joules per token, measured or predicted."""

    @property
    def can_apply(self) -> bool:
        """Whether its newest sweep has a better setting that is not in use yet."""
        if self.sweep is None or not self.sweep.is_better:
            return False
        return self.tuned is None or self.tuned.settings.sweep != self.sweep.id

    @property
    def has_file(self) -> bool:
        """Whether the file exists, valid or not."""
        return self.state != "absent"

    @property
    def need_bytes(self) -> int | None:
        """Memory need in bytes; without a readable header that of its entry, or its file size."""
        if self.need is not None:
            return self.need.total_bytes
        return self.file_bytes if self.expected_bytes is None else self.expected_bytes


@dataclass(frozen=True, slots=True)
class Cards:
    """All models, and the free memory of the machine in bytes; None if unknown.

    ``gpu_bytes`` is None for a GPU that this build of llama.cpp cannot use. ``cool_down`` says
    whether the machine went back to cold after the last unload; empty without one. ``problem`` is
    why no settings of sweeps are used; empty if they are. ``machine`` is what the predictions of
    models that were never loaded rest on, and ``recommended`` the model to begin with.
    """

    models: tuple[ModelCard, ...]
    ram_bytes: float | None = None
    gpu_bytes: float | None = None
    cool_down: str = ""
    problem: str = ""
    machine: MachineFacts = field(default_factory=MachineFacts)
    recommended: str | None = None

    def find(self, name: str) -> ModelCard | None:
        """Return the card of a model; None if there is none."""
        return next((card for card in self.models if card.spec.name == name), None)


def add_forecast(
    card: ModelCard, machine: MachineFacts, ram_bytes: float | None, gpu_bytes: float | None
) -> ModelCard:
    """Return the card with where it fits, its speed and its joules; a remote one has none.

    Args:
        ram_bytes: Free memory; None if unknown.
        gpu_bytes: Free memory of the GPU; None without one that can be used.
    """
    if card.spec.backend is not None:
        return card
    fit = find_fit(card.need_bytes, ram_bytes, gpu_bytes)
    curve = card.curve
    if curve is not None and machine_name() != curve.conditions.machine:
        curve = None
    forecast = forecast_decode(card.file_bytes, machine, curve, card.total, on_gpu=fit == "gpu")
    return replace(card, fit=fit, forecast=forecast)


def list_measured(cards: Iterable[ModelCard], machine: str) -> tuple[MeasuredModel, ...]:
    """List the models whose curve was measured on a machine, to predict others from them."""
    found = []
    for card in cards:
        curve = card.curve
        if curve is None or card.file_bytes is None or curve.conditions.machine != machine:
            continue
        if (rate := curve.speed.decode_tokens_per_second) is not None:
            found.append(
                MeasuredModel(
                    card.spec.name,
                    card.file_bytes,
                    rate,
                    curve.speed.decode_watts,
                    on_gpu=bool(curve.gpu_layers),
                )
            )
    return tuple(found)


def build_candidates(cards: Iterable[ModelCard]) -> list[Candidate]:
    """Build what a recommendation looks at, for each model of this machine of a known size."""
    return [
        Candidate(
            card.spec.name,
            card.file_bytes,
            card.need_bytes,
            card.forecast.tokens_per_second,
            card.spec.recommend,
        )
        for card in cards
        if card.spec.backend is None and card.file_bytes is not None and card.need_bytes is not None
    ]
