"""What ``etui models`` says of a model, as values: rows of ``list``, the facts of ``info``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class ModelRow:
    """What ``list`` says of one model.

    Attributes:
        bytes: Size of its file; None where it is not known before the pull.
        state: As in ``file_state.FileState``.
        fits: Whether the file fits into the free memory; None where its size is not known.
    """

    name: str
    size: str
    bytes: int | None
    on_disk: bool
    state: str
    path: str
    fits: bool | None
    origin: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """How a model thinks: its tags, and the variable that switches it."""

    open: str | None
    close: str | None
    switch: str | None


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What the header of a model's file says, and the memory that follows from it."""

    name: str | None
    architecture: str
    parameters: int
    quantisation: str
    context: int | None
    layers: int | None
    embedding_length: int | None
    vocabulary: int | None
    kv_bytes_per_token: int | None
    kv_bytes: int
    memory_bytes: int
    chat_template: str | None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What ``info`` says besides the row: the entry's settings; ``gguf`` is None without a file."""

    sha256: str | None
    context: int
    gpu_layers: Literal["auto", "all"] | int
    kv_type: str
    flash_attention: str
    split: str
    main_gpu: int
    tensor_split: tuple[float, ...]
    thinking: ThinkingTags | None
    stop: tuple[str, ...]
    gguf: GgufFacts | None


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that ``pull`` brought."""

    name: str
    path: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A model as ``verify`` found it; ``error`` says why it was refused, None if it was not."""

    name: str
    path: str
    ok: bool
    sha256: str | None
    expected: str | None
    error: str | None


def model_row(spec: ModelSpec, config: Config, free_bytes: int) -> ModelRow:
    """Look at the file of a model, without reading it."""
    from etui.models.files import file_state, model_path

    path, state = model_path(spec, config), file_state(spec, config)
    here = state != "absent"
    size = path.stat().st_size if here else spec.file_bytes
    return ModelRow(
        name=spec.name,
        size=spec.size,
        bytes=size,
        on_disk=here,
        state=state,
        path=str(path),
        fits=None if size is None else size <= free_bytes,
        origin=spec.origin,
        sources=tuple(str(source) for source in spec.sources),
    )


def model_facts(spec: ModelSpec, config: Config) -> ModelFacts:
    """Look at the entry of a model and, where it is on disk, at the header of its file.

    Raises:
        ModelUnavailable: The file is damaged.
    """
    from etui.models.files import model_path, recorded_sha256

    return ModelFacts(
        sha256=spec.sha256 or recorded_sha256(spec, config),
        context=spec.context,
        gpu_layers=spec.gpu_layers,
        kv_type=spec.kv_type,
        flash_attention=spec.flash_attention,
        split=spec.split,
        main_gpu=spec.main_gpu,
        tensor_split=spec.tensor_split,
        thinking=_thinking(spec),
        stop=spec.stop,
        gguf=_gguf_facts(spec, config) if model_path(spec, config).is_file() else None,
    )


def _thinking(spec: ModelSpec) -> ThinkingTags | None:
    if spec.think_open is None and spec.thinking_switch is None:
        return None
    return ThinkingTags(spec.think_open, spec.think_close, spec.thinking_switch)


def _gguf_facts(spec: ModelSpec, config: Config) -> GgufFacts:
    from etui.engine.offload import needs
    from etui.models.files import model_path
    from etui.models.gguf import check_gguf

    gguf = check_gguf(model_path(spec, config))
    need = needs(gguf, spec.context, spec.kv_type)
    return GgufFacts(
        name=gguf.name,
        architecture=gguf.architecture,
        parameters=gguf.parameters,
        quantisation=gguf.quantisation,
        context=gguf.context_tokens,
        layers=gguf.layers,
        embedding_length=gguf.embedding_length,
        vocabulary=gguf.vocabulary,
        kv_bytes_per_token=gguf.kv_bytes_per_token(spec.kv_type),
        kv_bytes=need.kv_bytes,
        memory_bytes=need.total_bytes,
        chat_template=gguf.chat_template,
    )
