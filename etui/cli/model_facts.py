"""The facts that ``etui models`` prints: rows of ``list``, details of ``info``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from etui.backends.remote.probe import RemoteStatus
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSampling, ModelSpec, TunedKey, TunedSettings, TunedValue
    from etui.models.tuned import TunedUse


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model in ``list``."""

    name: str
    size: str
    bytes: int | None  # Size of its file; None if it is not known before the download
    on_disk: bool
    state: str  # See :data:`etui.models.files.FileState`; a file that cannot be used is refused too
    problem: str  # Why the file cannot be used; empty if it can, or if there is none
    path: str
    fits: bool | None  # Whether the file fits into the free memory; None if its size is not known
    origin: str
    sources: tuple[str, ...]
    tuned_by: str | None = None
    """Id of the sweep whose settings are used; None if they are those of the entry."""
    backend: str | None = None
    """Name of the remote backend that serves it; None for a model of this machine. The state of a
    remote model is ``remote``."""
    remote_name: str | None = None  # Its name at the backend; None for a model of this machine
    same_as: str | None = None  # The model that it is another place of; None for a model of its own
    served: bool | None = None
    """Whether the backend says that it serves it; None if it was not asked, or said nothing."""


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """The tags around a model's thinking, and the template variable that switches it."""

    open: str | None
    close: str | None
    switch: str | None


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """Facts from the header of a model's file, and the memory that it needs."""

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
class TunedFacts:
    """The settings that a sweep chose for a model, and what of them is used."""

    used: Mapping[TunedKey, TunedValue]
    """Key of models.yaml -> the value that replaces that of the entry."""
    why_not: str  # Why none of the values is used; empty if they can be
    edited: Mapping[TunedKey, TunedValue]
    """Key -> the later value of models.yaml or config.yaml, which is used instead."""
    settings: TunedSettings  # What the sweep chose


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What ``info`` adds to the row: settings of the entry; ``gguf`` is None without a file.

    ``sampling`` is how the model asks to be sampled; None leaves it to the defaults.
    ``draft_problem`` is why the draft model cannot be used; None if the headers show no reason.
    ``tuned`` is None without a sweep that was applied.
    """

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
    draft: str | None = None
    speculate: str | None = None
    sampling: ModelSampling | None = None
    sampling_from: Literal["models.yaml", "gguf"] | None = None
    draft_problem: str | None = None
    threads: int | None = None
    prefill_threads: int | None = None
    batch_tokens: int | None = None
    draft_tokens: int | None = None
    tuned: TunedFacts | None = None


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that ``pull`` downloaded."""

    name: str
    path: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """The result of ``verify``; ``error`` is why the file was refused, None if it was not."""

    name: str
    path: str
    ok: bool
    sha256: str | None
    expected: str | None
    error: str | None


def build_model_row(
    spec: ModelSpec,
    config: Config,
    free_bytes: int,
    backends: Mapping[str, RemoteStatus] | None = None,
) -> ModelRow:
    """Describe a model by its entry, the size of its file, and the check of its header.

    Args:
        backends: What the remote backends answered; None if they were not asked.
    """
    from etui.models.files import file_size, file_state, find_file_problem, model_path

    if spec.backend is not None:
        return _build_remote_row(spec, spec.backend, (backends or {}).get(spec.backend))
    path, state = model_path(spec, config), file_state(spec, config)
    problem = find_file_problem(spec, config)
    on_disk = state != "absent"
    size = file_size(path) if on_disk else spec.file_bytes
    return ModelRow(
        name=spec.name,
        size=spec.size,
        bytes=size,
        on_disk=on_disk,
        state="refused" if problem else state,
        problem=problem,
        path=str(path),
        fits=None if size is None else size <= free_bytes,
        origin=spec.origin,
        sources=tuple(str(source) for source in spec.sources),
        tuned_by=None if spec.tuned is None else spec.tuned.sweep,
    )


def _build_remote_row(spec: ModelSpec, backend: str, status: RemoteStatus | None) -> ModelRow:
    """Describe a model of a remote backend by its entry, and by what the backend answered."""
    from etui.runtime.remote_models import find_model_problem

    problem, served = "", None
    if status is not None and (not status.reachable or status.key_accepted is False):
        problem = f"{backend}: {status.problem}"
    elif status is not None and status.models:
        missing = find_model_problem(spec, status)
        served = missing is None
        problem = missing.problem if missing is not None else ""
    return ModelRow(
        name=spec.name,
        size=spec.size,
        bytes=None,
        on_disk=False,
        state="remote",
        problem=problem,
        path="",
        fits=None,
        origin=spec.origin,
        sources=(f"backend {backend}",),
        backend=backend,
        remote_name=spec.remote_name or spec.name,
        same_as=spec.same_as,
        served=served,
    )


def read_model_facts(spec: ModelSpec, config: Config, catalogue: Catalogue) -> ModelFacts:
    """Read the entry of a model and, if it is on disk, the header of its file.

    Raises:
        ModelUnavailable: The file is damaged.
    """
    from etui.models.files import find_draft_problem, model_path, recorded_sha256
    from etui.models.gguf import check_gguf

    path = model_path(spec, config)
    has_file = spec.backend is None and path.is_file()
    sampling = spec.sampling
    origin: Literal["models.yaml", "gguf"] | None = None if sampling is None else "models.yaml"
    if sampling is None and has_file and (sampling := check_gguf(path).sampling) is not None:
        origin = "gguf"
    return ModelFacts(
        sha256=spec.sha256 or (recorded_sha256(spec, config) if has_file else None),
        context=spec.context,
        gpu_layers=spec.gpu_layers,
        kv_type=spec.kv_type,
        flash_attention=spec.flash_attention,
        split=spec.split,
        main_gpu=spec.main_gpu,
        tensor_split=spec.tensor_split,
        thinking=_read_thinking(spec),
        stop=spec.stop,
        gguf=_read_gguf_facts(spec, config) if has_file else None,
        draft=spec.draft,
        speculate=spec.speculate,
        sampling=sampling,
        sampling_from=origin,
        draft_problem=None
        if spec.draft is None
        else find_draft_problem(spec, spec.draft, config, catalogue),
        threads=spec.threads,
        prefill_threads=spec.prefill_threads,
        batch_tokens=spec.batch_tokens,
        draft_tokens=spec.draft_tokens,
        tuned=_build_tuned(catalogue.tuned.get(spec.name)),
    )


def _build_tuned(use: TunedUse | None) -> TunedFacts | None:
    return None if use is None else TunedFacts(use.values, use.why_not, use.edited, use.settings)


def _read_thinking(spec: ModelSpec) -> ThinkingTags | None:
    if spec.think_open is None and spec.thinking_switch is None:
        return None
    return ThinkingTags(spec.think_open, spec.think_close, spec.thinking_switch)


def _read_gguf_facts(spec: ModelSpec, config: Config) -> GgufFacts:
    from etui.engine.offload import needs
    from etui.engine.session_loader import GPU_BATCH_TOKENS
    from etui.models.files import model_path
    from etui.models.gguf import check_gguf

    gguf = check_gguf(model_path(spec, config))
    need = needs(gguf, spec.context, spec.kv_type, spec.batch_tokens or GPU_BATCH_TOKENS)
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
