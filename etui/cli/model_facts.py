"""The facts that ``etui models`` prints of a model: rows of ``list``, details of ``info``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from etui.cli.output import table_lines
from etui.codec import pick
from etui.curves.prediction import (
    DecodeForecast,
    MachineFacts,
    Prediction,
    joules_text,
    speed_text,
    value_cell,
)
from etui.engine.chat_formats import ChatFormat, ThoughtForm, choose_format
from etui.engine.offload import Needs, Placement, choose_placement, gpu_bytes, needs, ram_bytes
from etui.engine.placement_speeds import PlacementSpeeds
from etui.log.text import list_usage
from etui.models.adapters import size_adapters
from etui.models.cache_size import cache_size
from etui.models.files import (
    content_sha256,
    file_size,
    file_state,
    find_draft_problem,
    find_file_problem,
    model_path,
)
from etui.models.gguf import Gguf, check_gguf
from etui.models.recommend import FIT_TEXTS
from etui.models.spec import ModelSampling, ModelSpec, describe_sources
from etui.models.tuned import TunedUse, describe_use
from etui.text import count_cells, fit_cells, join_lines
from etui.units import UNKNOWN, bytes_text, count_text, seconds_text, significant, tokens_text

if TYPE_CHECKING:
    from etui.backends.remote.backend import RemoteStatus
    from etui.config.backend_spec import BackendSpec
    from etui.config.config import Config
    from etui.engine.library import Device
    from etui.log.model_usage import ModelUsage
    from etui.models.catalogue import Catalogue
    from etui.models.recommend import Fit
    from etui.models.update import CatalogueUpdate

_SHOWN = 8

STATES = {
    "absent": "no",
    "unchecked": "not checked",
    "refused": "refused",
    "checked": "yes",
    "remote": "remote",
}
PREDICTED = ("FITS", "TOK/S", "J/TOKEN")
_LEAST_GOOD_FOR = 12  # Cells of a column that is cut
_GROUPS_GB = (1, 2, 4, 8, 16, 32)
"""Memory by which ``list`` groups the models."""
_ADAPTED = " (of the file and its adapters)"
_FACTS = {"kv_bytes_per_token": "KV cache"}


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model in ``list``."""

    name: str
    size: str
    bytes: int | None = None  # Size of its file; None if it is not known before the download
    on_disk: bool = False
    state: str = "remote"
    """See :data:`etui.models.files.FileState`; a file that cannot be used is refused too."""
    problem: str = ""  # Why the file cannot be used; empty if it can, or if there is none
    path: str = ""
    fits: bool | None = None  # Whether it fits here with its whole context; None if not known
    origin: str = ""
    sources: tuple[str, ...] = ()
    tuned_by: str | None = None
    """Id of the sweep whose settings are used; None if they are those of the entry."""
    backend: str | None = None
    """Name of the remote backend that serves it; None for a model of this machine."""
    remote_name: str | None = None  # Its name at the backend; None for a model of this machine
    same_as: str | None = None  # The model that it is another place of; None for a model of its own
    served: bool | None = None
    """Whether the backend says that it serves it; None if it was not asked, or said nothing."""
    good_for: str = ""  # What it is good for, in a few words; empty if its entry does not say
    licence: str = ""  # As its entry says
    need_bytes: int | None = None
    """Memory with its whole context, by its header or its entry; None if its size is not known."""
    fit: Fit = "unknown"  # Where it fits
    expected: DecodeForecast | None = None
    """What a token costs here, measured or predicted; None for a remote model."""

    @property
    def group(self) -> tuple[int, str]:
        """The group of ``list``: its place among the groups, and its title."""
        if self.backend is not None:
            return 98, "on other machines"
        if self.need_bytes is None:
            return 99, "memory not known before the pull"
        for place, gb in enumerate(_GROUPS_GB):
            if self.need_bytes <= gb * 10**9:
                return place, f"up to {gb} GB of memory"
        return len(_GROUPS_GB), f"more than {_GROUPS_GB[-1]} GB of memory"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What ``info`` adds to the row: the entry, and what is known of the file and the drafts."""

    spec: ModelSpec
    sha256: str | None
    gguf: Gguf | None  # Header of the file; None without a file
    needs: Needs | None  # Memory of the model; None without a file
    gpus: tuple[Device, ...]
    placement: Placement | None  # What a load would put on the GPUs now; None without a file
    by_speed: bool  # Whether that was measured to be faster than what memory alone would give
    sampling: ModelSampling | None  # How the model asks to be sampled; None: the defaults
    sampling_from: Literal["models.yaml", "gguf"] | None
    draft_problem: str | None
    """Why the draft model cannot be used; None if the headers show no reason."""
    tuned: TunedUse | None  # None without a sweep that was applied
    format: ChatFormat  # How it thinks and calls tools, by its entry and its chat template


def build_model_row(
    spec: ModelSpec,
    config: Config,
    prediction: Prediction,
    backends: Mapping[str, RemoteStatus] | None = None,
) -> ModelRow:
    """Describe a model by its entry, the size of its file, and the check of its header."""
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
        fits=prediction.fits,
        origin=spec.origin,
        sources=tuple(str(source) for source in spec.sources),
        tuned_by=None if spec.tuned is None else spec.tuned.sweep,
        good_for=spec.good_for,
        licence=spec.licence,
        need_bytes=prediction.need_bytes,
        fit=prediction.fit,
        expected=prediction.forecast,
    )


def _build_remote_row(spec: ModelSpec, backend: str, status: RemoteStatus | None) -> ModelRow:
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
        problem=problem,
        origin=spec.origin,
        sources=(f"backend {backend}",),
        backend=backend,
        remote_name=spec.remote_name or spec.name,
        same_as=spec.same_as,
        served=served,
        good_for=spec.good_for,
        licence=spec.licence,
    )


def read_model_facts(spec: ModelSpec, config: Config, catalogue: Catalogue) -> ModelFacts:
    """Read the entry of a model and, if it is on disk, the header of its file."""
    from etui.engine.library import list_gpus
    from etui.engine.session_loader import GPU_BATCH_TOKENS

    path = model_path(spec, config)
    gguf = check_gguf(path) if spec.backend is None and path.is_file() else None
    sampling = spec.sampling
    origin: Literal["models.yaml", "gguf"] | None = None if sampling is None else "models.yaml"
    if sampling is None and gguf is not None and (sampling := gguf.sampling) is not None:
        origin = "gguf"
    batch_tokens = spec.batch_tokens or GPU_BATCH_TOKENS
    need = placement = rule = None
    gpus: tuple[Device, ...] = ()
    if gguf is not None:
        extra = size_adapters(spec)
        need = needs(gguf, spec.context, spec.kv_type, batch_tokens, adapter_bytes=extra)
        gpus = list_gpus(config)
        rule = choose_placement(gpus, spec, need)
        placement = choose_placement(gpus, spec, need, PlacementSpeeds(config).read(gguf, gpus))
    return ModelFacts(
        spec,
        content_sha256(spec, config),
        gguf,
        need,
        gpus,
        placement,
        placement != rule,
        sampling,
        origin,
        None if spec.draft is None else find_draft_problem(spec, spec.draft, config, catalogue),
        catalogue.tuned.get(spec.name),
        choose_format(spec, None if gguf is None else gguf.chat_template),
    )


def build_facts_document(facts: ModelFacts) -> dict[str, Any]:
    """Build what ``info --json`` adds to the row."""
    spec, use = facts.spec, facts.tuned
    thinking = tuned = None
    form = facts.format
    if form.thought is not None:
        thinking = {
            "open": form.thought.open.strip(),
            "close": form.thought.close,
            "switch": form.switch,
        }
    if use is not None:
        tuned = {"used": use.values, **pick(use, "why_not", "edited", "settings")}
    return {
        "sha256": facts.sha256,
        **pick(spec, "context", "gpu_layers", "cpu_moe", "kv_type", "flash_attention"),
        **pick(spec, "split", "main_gpu", "tensor_split"),
        "thinking": thinking,
        "tool_calls": form.tools or None,
        "format_note": form.note or None,
        "stop": spec.stop,
        "gguf": _build_gguf_document(facts),
        "placement": _build_placement_document(facts),
        "mmproj": str(spec.mmproj) if spec.mmproj is not None else None,
        "adapters": [
            {"path": str(each.path), **pick(each, "scale", "sha256")} for each in spec.adapters
        ],
        **pick(spec, "draft", "speculate"),
        **pick(facts, "sampling", "sampling_from", "draft_problem"),
        **pick(spec, "threads", "prefill_threads", "batch_tokens", "draft_tokens"),
        "tuned": tuned,
        "fact_sources": dict(spec.fact_sources),
    }


def _build_gguf_document(facts: ModelFacts) -> dict[str, Any] | None:
    gguf, needs = facts.gguf, facts.needs
    if gguf is None or needs is None:
        return None

    size = cache_size(gguf, facts.spec.kv_type)
    return {
        **pick(gguf, "name", "architecture", "parameters", "active_parameters", "active_bytes"),
        **pick(gguf, "experts", "experts_used", "quantisation"),
        "context": gguf.context_tokens,
        **pick(gguf, "layers", "embedding_length", "vocabulary"),
        "kv_bytes_per_token": None if size is None else size.bytes_per_token,
        "kv_bytes": needs.kv_bytes,
        "sliding_window": None if size is None else size.window_tokens or None,
        "state_bytes": 0 if size is None else size.state_bytes,
        "memory_bytes": needs.total_bytes,
        "chat_template": gguf.chat_template,
    }


def _build_placement_document(facts: ModelFacts) -> dict[str, Any] | None:
    """Build where the model would be if it was loaded now; None without a file."""
    need, placement = facts.needs, facts.placement
    if need is None or placement is None:
        return None
    experts = need.experts_on_gpu(placement)
    return {
        "gpus": [gpu.description for gpu in facts.gpus],
        "gpu_layers": placement.gpu_layers,
        "layers": need.whole.gpu_layers,
        "cpu_moe": placement.cpu_moe,
        "measured": facts.by_speed,
        "gpu_bytes": gpu_bytes(need, placement),
        "ram_bytes": ram_bytes(need, placement),
        "expert_gpu_bytes": experts,
        "expert_ram_bytes": sum(need.expert_bytes) - experts,
    }


def _format_placement(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    """Yield the settings of the placement, and what a load would make of them now."""
    found, spec = _build_placement_document(facts), facts.spec
    layers, experts = str(spec.gpu_layers), str(spec.cpu_moe)
    if found is None or not found["gpus"]:
        yield "gpu layers", layers
        return
    on_gpu = f"{found['gpu_layers']} of {found['layers']}"
    why = ", by measured speed" if found["measured"] else ""
    yield "gpu layers", f"{layers}: {on_gpu} now, {bytes_text(found['gpu_bytes'])}{why}"
    if facts.gguf is not None and facts.gguf.experts:
        in_ram = f"{bytes_text(found['expert_ram_bytes'])} of experts in RAM"
        blocks = f"{found['cpu_moe']} of {found['layers'] - 1} blocks"
        yield "cpu moe", f"{experts}: {blocks} now, {in_ram}"
    yield "in RAM", f"{bytes_text(found['ram_bytes'])} with buffers"


def _format_prediction(row: ModelRow, machine: MachineFacts) -> Iterator[tuple[str, str]]:
    on_gpu = row.fit == "gpu"
    free = bytes_text(machine.gpu_bytes if on_gpu else machine.ram_bytes)
    yield "fits", f"{FIT_TEXTS[row.fit]}: needs {bytes_text(row.need_bytes)}, {free} free"
    if row.expected is not None:
        yield "expected", speed_text(row.expected, machine, on_gpu=on_gpu)
        yield "", joules_text(row.expected, machine)
        if (speed := row.expected.prefill_tokens_per_second) is not None:
            yield "", f"prompts at about {significant(speed, 2)} tok/s"


def format_facts(
    row: ModelRow, facts: ModelFacts, machine: MachineFacts, usage: Mapping[str | None, ModelUsage]
) -> Iterator[str]:
    """Yield the lines of ``info`` for a model of this machine."""
    spec, gguf, needs, state = facts.spec, facts.gguf, facts.needs, STATES[row.state]
    lines = [
        ("model", row.name),
        ("size", row.size),
        *_format_entry(spec),
        ("on disk", state if gguf is None else f"{state}, {row.path}"),
        *([("problem", row.problem)] if row.problem else []),
        ("file", bytes_text(row.bytes)),
        ("sha256", f"{facts.sha256 or _missing_hash_text(row)}{_ADAPTED if spec.adapters else ''}"),
        *_format_prediction(row, machine),
        *list_usage(usage, facts.sha256),
        ("context used", tokens_text(spec.context)),
        *_format_placement(facts),
    ]
    form, threads, prefill = facts.format, spec.threads, spec.prefill_threads
    if threads or prefill:
        decode = "as in config.yaml" if threads is None else str(threads)
        lines.append(("threads", decode + (f", prefill {prefill}" if prefill else "")))
    switch = f", switched by {form.switch}" if form.switch else ""
    unusable = f" (cannot be used: {facts.draft_problem})" if facts.draft_problem else ""
    known = [
        ("batch", count_text(spec.batch_tokens, "token") if spec.batch_tokens else ""),
        ("thinking", f"{_tags_text(form.thought)}{switch}" if form.thought is not None else ""),
        ("tool calls", form.tools),
        ("format note", form.note),
        *(("adapter", f"{adapter}, {adapter.path.parent}") for adapter in spec.adapters),
        ("pictures", f"read by {spec.mmproj}" if spec.mmproj is not None else ""),
        ("draft model", f"{spec.draft}{unusable}" if spec.draft else ""),
        ("speculate", spec.speculate),
        ("draft depth", count_text(spec.draft_tokens, "token") if spec.draft_tokens else ""),
    ]
    lines += [(label, text) for label, text in known if text]
    if facts.sampling is not None:
        lines.append(("sampling", f"{_sampling_text(facts.sampling)} ({facts.sampling_from})"))
    if spec.own is not None:
        prompt = "; a system prompt" if spec.own.system else ""
        lines.append(("your settings", f"sampling {_sampling_text(spec.own.sampling)}{prompt}"))
    if gguf is None or needs is None:
        lines += [("source", source) for source in describe_sources(spec)]
    else:
        template = gguf.chat_template
        lines += [
            ("architecture", gguf.architecture),
            ("parameters", f"{gguf.parameters:,}{_active_text(gguf)}"),
            ("quantisation", gguf.quantisation),
            ("trained context", tokens_text(gguf.context_tokens)),
            ("layers", str(gguf.layers or UNKNOWN)),
            ("vocabulary", tokens_text(gguf.vocabulary)),
            ("KV cache", f"{bytes_text(needs.kv_bytes)} at the context used ({spec.kv_type})"),
            ("memory", f"about {bytes_text(needs.total_bytes)} with cache and buffers"),
            ("chat template", count_text(len(template), "character") if template else "none"),
        ]
    lines += [(f"{_FACTS.get(fact, fact)} from", page) for fact, page in spec.fact_sources]
    if facts.tuned is not None:
        lines += zip(("tuned", *[""] * 99), describe_use(facts.tuned), strict=False)
    yield from align(lines)


def format_remote_facts(
    row: ModelRow,
    facts: ModelFacts,
    backend: BackendSpec,
    found: Mapping[str, RemoteStatus],
    usage: Mapping[str | None, ModelUsage],
) -> Iterator[str]:
    """Yield the lines of ``info`` for a model of a remote backend."""
    status, spec = found.get(backend.name), facts.spec
    served = {True: "yes", False: "no", None: UNKNOWN}[row.served]
    lines = [
        ("model", row.name),
        ("size", row.size),
        *_format_entry(spec),
        ("backend", f"{backend.name}, {backend.kind} at {backend.url}"),
        ("name there", row.remote_name or row.name),
        ("served", served),
        *([("problem", row.problem)] if row.problem else []),
        *([("same as", row.same_as)] if row.same_as else []),
        ("server", (status.server if status else None) or UNKNOWN),
        ("latency", seconds_text(status.latency_seconds if status else None)),
        ("meter", backend.meter or "none: its joules are not measured"),
        *list_usage(usage, facts.sha256),
        ("context used", tokens_text(spec.context)),
    ]
    if facts.format.thought is not None:
        lines.append(("thinking", _tags_text(facts.format.thought)))
    yield from align(lines)


def _format_entry(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    if spec.good_for:
        yield "good for", spec.good_for
    if spec.licence:
        yield "licence", spec.licence


def format_update(update: CatalogueUpdate) -> Iterator[str]:
    """Yield what a newer catalogue changes, and which file it is."""
    for spec in update.added:
        yield join_lines(f"+ {spec.name}: {spec.size}; {spec.good_for}".rstrip("; "))
    for name, changes in update.changed.items():
        yield from (join_lines(f"~ {name}: {c.fact}: {c.was} → {c.is_now}") for c in changes)
    counts = f"{len(update.added)} new, {len(update.changed)} changed, {update.same} as before"
    yield f"catalogue of {update.released}: {counts}; sha256 {update.sha256}"


def format_models(rows: Sequence[ModelRow], width: int | None) -> list[str]:
    """Format a head and a line for each model, in at most so many cells; None for any number."""
    head = ["NAME", "SIZE", "ON DISK", *PREDICTED]
    cells = [
        [row.name, bytes_text(row.bytes), STATES[row.state],
         *(["–"] * 3 if row.expected is None else predicted_cells(row.fit, row.expected))]
        for row in rows
    ]  # fmt: skip
    if width is None:
        good_for = [[*line, row.good_for] for line, row in zip(cells, rows, strict=True)]
        return table_lines([*head, "GOOD FOR"], good_for)
    for kept in (head, head[:1] + head[2:], head[:1] + head[3:]):  # of long names
        at = [head.index(title) for title in kept]
        lines = table_lines(kept, [[line[column] for column in at] for line in cells])
        room = width - max(map(count_cells, lines)) - len("  ")
        if room >= _LEAST_GOOD_FOR:
            texts = [[*line, fit_cells(row.good_for, room)]
                     for line, row in zip(cells, rows, strict=True)]  # fmt: skip
            return table_lines([*head, "GOOD FOR"], texts)
        if room >= -len("  "):
            break
    return cut(lines, width)


def cut(lines: Sequence[str], width: int | None) -> list[str]:
    """Cut lines to so many cells; None leaves them."""
    return [line if width is None else fit_cells(line, width) for line in lines]


def predicted_cells(fit: Fit, forecast: DecodeForecast) -> list[str]:
    """Format the cells below :data:`PREDICTED`."""
    return [
        FIT_TEXTS[fit],
        value_cell(forecast.tokens_per_second, forecast.speed_share),
        value_cell(forecast.joules_per_token, forecast.joules_share),
    ]


def format_backends(found: Sequence[RemoteStatus], catalogue: Catalogue) -> Iterator[str]:
    """Yield a line for each backend: how fast it answered, what it is, and what it serves."""
    for status in found:
        if not status.reachable:
            yield f"backend {status.name}: not reached: {join_lines(status.problem)}"
            continue
        entries = {m.remote_name or m.name for m in catalogue if m.backend == status.name}
        names = sorted(status.models, key=lambda name: (name not in entries, name))
        facts = [
            f"answers in {seconds_text(status.latency_seconds)}" if status.latency_seconds else "",
            join_lines(status.server or ""),
            f"serves {_list_names(names)}" if names else "",
            join_lines(status.problem),
        ]
        yield f"backend {status.name}: {', '.join(fact for fact in facts if fact)}"


def _list_names(names: Sequence[str]) -> str:
    shown = ", ".join(join_lines(name) for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


def align(lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield labels with their texts, the texts in one column."""
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        yield f"{label:{width}}  {join_lines(text)}"


def _active_text(gguf: Gguf) -> str:
    if not gguf.experts:
        return ""
    used = f"{gguf.experts_used} of {gguf.experts} experts"
    return f", {gguf.active_parameters:,} active per token ({used})"


def _tags_text(thought: ThoughtForm) -> str:
    return f"{thought.open.strip()} ... {thought.close}"


def _sampling_text(sampling: ModelSampling) -> str:
    """Write the values that a model asks for: ``temperature 0.7, top_p 0.8; thinking: ...``."""
    values = {name: value for name, value in asdict(sampling).items() if name != "thinking"}
    given = ", ".join(f"{name} {value:g}" for name, value in values.items() if value is not None)
    if sampling.thinking is not None:
        given += f"; thinking: {_sampling_text(sampling.thinking)}"
    return given or "the defaults"


def _missing_hash_text(row: ModelRow) -> str:
    if row.on_disk:
        return f"not computed yet; run: etui models verify {row.name}"
    return "the one that the hub publishes, checked by the pull"
