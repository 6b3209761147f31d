"""Load a model file with its context and its chat template, as a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.engine.chat_prompt import PLAIN_STOP, TOOL_TAGS, ChatTemplate, find_tool_format
from etui.engine.context import Context, ContextOptions
from etui.engine.library import Device, Library
from etui.engine.llama_session import LlamaSession
from etui.engine.model import ALL_LAYERS, Model, Split
from etui.engine.offload import Needs, choose_layers, fewer_layers, layers_that_fit, needs
from etui.engine.session import ModelFacts
from etui.engine.speculation.draft_model import DraftModel, check_same_vocabulary
from etui.engine.thread_control import ThreadControl
from etui.engine.thread_count import choose_thread_limits
from etui.engine.trial import try_model
from etui.errors import EngineFailed, EtuiError, ModelUnavailable
from etui.models.gguf import Gguf, check_usable
from etui.units import bytes_text

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.engine.template_process import TemplateProcess
    from etui.models.spec import FlashAttention, ModelSpec


CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 128, 512
"""Tokens of a batch: a cancel waits for one batch, and a CPU is no faster with longer ones."""


def session_key(spec: ModelSpec, path: Path) -> tuple[object, ...]:
    """Collect the settings a session depends on: a change to any of them requires a reload."""
    return (
        path,
        spec.context,
        spec.gpu_layers,
        spec.kv_type,
        spec.flash_attention,
        spec.split,
        spec.main_gpu,
        spec.tensor_split,
        spec.batch_tokens,
    )


def apply_settings(session: LlamaSession, spec: ModelSpec, config: Config) -> None:
    """Apply the settings of a model that need no load: its threads and the depth of its drafts."""
    limits = choose_thread_limits(spec, config, on_gpu=session.options.offload_kv)
    session.threads.set_limits(limits.decode, limits.prefill, adapt=limits.adapt, note=limits.note)
    session.speculator.draft_tokens = spec.draft_tokens


def check_split(spec: ModelSpec, gpus: Sequence[Device]) -> None:
    """Reject a split over missing GPUs; without any GPU there is nothing to split."""
    asked = max(spec.main_gpu + 1, len(spec.tensor_split))
    if gpus and asked > len(gpus):
        raise ModelUnavailable(
            f"{spec.name} is configured for {asked} GPUs, but llama.cpp sees {len(gpus)}",
            "fix its `main_gpu` or `tensor_split` in models.yaml",
        )


def choose_flash_attention(spec: ModelSpec, layers: int) -> FlashAttention:
    """Choose the flash attention: ``auto`` is off without layers on a GPU."""
    return "off" if spec.flash_attention == "auto" and not layers else spec.flash_attention


def resolve_flash_attention(asked: str, kv_type: str, *, on_gpu: bool) -> str:
    """Return the flash attention that a context uses; ``auto`` where llama.cpp chooses on a GPU.

    A quantised cache needs it.
    """
    if kv_type != "f16":
        return "on"
    return "off" if asked == "auto" and not on_gpu else asked


def choose_batch_tokens(spec: ModelSpec, layers: int) -> int:
    """Choose the most tokens of a batch: the model's own number, or the usual one by device."""
    return spec.batch_tokens or (GPU_BATCH_TOKENS if layers else CPU_BATCH_TOKENS)


def choose_context_tokens(config: Config, spec: ModelSpec, gguf: Gguf) -> int:
    """Limit the configured context by the trained context and the user's `context_tokens`."""
    bounds = [spec.context, gguf.context_tokens, config.context_tokens]
    return min(bound for bound in bounds if bound)


def read_process_seconds(pid: int | None) -> float:
    """Read the CPU seconds of a child process; 0 if there is none."""
    import psutil

    try:
        times = psutil.Process(pid).cpu_times() if pid is not None else None
    except psutil.Error:
        return 0.0
    return 0.0 if times is None else float(times.user + times.system)


class NoDraft(Exception):
    """Raised if the answer must do without the draft model; its text says why."""


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """The draft model to load.

    Attributes:
        spec, path: Its entry in models.yaml, and its file.
    """

    spec: ModelSpec
    path: Path
    target: str
    kv_type: str

    @property
    def name(self) -> str:
        """Name of the draft model in models.yaml."""
        return self.spec.name


def load_draft(
    request: DraftRequest,
    session: LlamaSession,
    library: Library,
    *,
    on_gpu: bool,
    trial: Callable[[ModelSpec, Path], None] | None = None,
) -> tuple[DraftModel, int]:
    """Load the draft model of a loaded model.

    With layers of the model on a GPU, the draft model goes there as a whole or is not loaded: a
    draft from the CPU takes longer than it saves.

    Args:
        trial: Loads a file that etui does not know in a process of its own first.

    Returns:
        The draft model, and the estimate of its bytes.

    Raises:
        NoDraft: It does not fit, or could not be loaded.
        ModelUnavailable: Its vocabulary differs from the model's.
    """
    options = replace(session.options, sequences=1, donors=0, verify_rows=1)
    try:
        if trial is not None:
            trial(request.spec, request.path)
        gguf = check_usable(request.path)
        need = needs(gguf, options.context_tokens, request.kv_type, options.batch_tokens)
        _check_room(need, request, library, on_gpu=on_gpu)
        model = Model(library, request.path, ALL_LAYERS if on_gpu else 0)
    except ModelUnavailable as error:
        raise NoDraft(f"the draft model {request.name} cannot be used: {error}") from error
    try:
        check_same_vocabulary(session.vocabulary, request.target, model, request.name)
        context = Context(library, model, options)
    except EngineFailed as error:
        model.free()
        raise NoDraft(f"the draft model {request.name} cannot be used: {error}") from error
    except EtuiError:
        model.free()
        raise
    share = model.size_bytes / max(1, session.size_bytes)
    drafter = DraftModel(model, context, session.vocabulary.vocabulary, share)
    return drafter, need.total_bytes


def _check_room(need: Needs, request: DraftRequest, library: Library, *, on_gpu: bool) -> None:
    """Raise NoDraft if the draft model does not fit into the memory that is free now."""
    import psutil

    if on_gpu:
        free = sum(gpu.free_bytes for gpu in library.gpus())
        fits = layers_that_fit(need, free) > need.layers
    else:
        free = psutil.virtual_memory().available
        fits = need.total_bytes <= free
    if not fits:
        raise NoDraft(
            f"the draft model {request.name} does not fit into memory with {request.target}: it "
            f"needs {bytes_text(need.total_bytes)}, and {bytes_text(free)} are free"
        )


SEQUENCES = 16
"""Sequences of a context: the votes of one batch, a probe, and prefix donors of other chats."""

RECURRENT_SEQUENCES = 4
"""The same for recurrent and hybrid models, which need one state per sequence."""


class SessionLoader:
    """Loads models for a :class:`etui.engine.residency.Residency`.

    Args:
        config: Threads, and how many answers run at a time.
        templates: The process that renders chat templates.
        trials: Load a draft model that etui does not know in a process of its own first.
    """

    def __init__(self, config: Config, templates: TemplateProcess, *, trials: bool) -> None:
        self._config = config
        self._templates = templates
        self._trials = trials

    def load(
        self,
        library: Library,
        spec: ModelSpec,
        path: Path,
        need: Needs,
        context_tokens: int,
        *,
        heads: bool,
    ) -> tuple[LlamaSession, int]:
        """Load with the configured GPU layers; ``auto`` retries with fewer after a failure.

        Args:
            library: llama.cpp.
            heads: Whether the file has heads for multi-token prediction.

        Raises:
            ModelUnavailable: llama.cpp rejected the file.
            EngineFailed: Memory ran out.
        """
        layers = choose_layers(library.gpus(), spec, need)
        while True:
            try:
                model, context = self._create_context(
                    library, spec, path, context_tokens, layers, heads=heads
                )
                break
            except (ModelUnavailable, EngineFailed):
                if layers == 0 or spec.gpu_layers != "auto":
                    raise
                layers = fewer_layers(layers)
        # A template fails with any number of layers.
        session = self._create_session(spec, model, context)
        session.open_heads(library)
        session.speculator.draft_tokens = spec.draft_tokens
        return session, layers

    def add_draft(
        self,
        library: Library,
        spec: ModelSpec,
        draft: tuple[ModelSpec, Path],
        session: LlamaSession,
        layers: int,
    ) -> int:
        """Load the draft model of a model; return its bytes, 0 if it was left out.

        One that cannot be loaded or does not fit into what is left is left out, and arms that ask
        for it say so: their answers are the same without it.

        Raises:
            ModelUnavailable: It has another vocabulary.
        """
        try:
            drafter, bytes_ = load_draft(
                DraftRequest(*draft, spec.name, spec.kv_type),
                session,
                library,
                on_gpu=layers > 0,
                trial=(lambda own, at: try_model(own, at, self._config)) if self._trials else None,
            )
        except NoDraft as missing:
            session.note_missing_draft(str(missing))
            return 0
        except EtuiError:
            session.free()
            raise
        session.add_drafter(drafter)
        return bytes_

    def _create_context(
        self,
        library: Library,
        spec: ModelSpec,
        path: Path,
        context_tokens: int,
        layers: int,
        *,
        heads: bool,
    ) -> tuple[Model, Context]:
        tags = [tag for tag in (spec.think_open, spec.think_close, *TOOL_TAGS) if tag]
        # Without a GPU there is nothing to split, and llama.cpp rejects a main GPU.
        split = Split(spec.split, spec.main_gpu, spec.tensor_split) if layers else None
        limits = choose_thread_limits(spec, self._config, on_gpu=layers > 0)
        threads = ThreadControl(limits.decode, limits.prefill, adapt=limits.adapt, note=limits.note)
        self._templates.start()  # it becomes ready while the weights are loaded
        helper_seconds = read_process_seconds(self._templates.pid)
        model = Model(library, path, layers, split, shown=tags, heads=heads)
        try:
            options = ContextOptions(
                context_tokens=context_tokens,
                threads=threads.limit,
                sequences=RECURRENT_SEQUENCES
                if model.recurrent
                else max(SEQUENCES, 2 * self._config.parallel),
                batch_tokens=choose_batch_tokens(spec, layers),
                kv_type=spec.kv_type,
                flash_attention=choose_flash_attention(spec, layers),
                offload_kv=layers > 0,
            )
            context = Context(library, model, options)
            context.threads = threads
            threads.loaded(read_process_seconds(self._templates.pid) - helper_seconds)
            return model, context
        except EtuiError:
            model.free()
            raise

    def _create_session(self, spec: ModelSpec, model: Model, context: Context) -> LlamaSession:
        source = model.metadata("tokenizer.chat_template")
        try:
            template = ChatTemplate(
                self._templates, spec.name, source, model.bos_text, model.eos_text
            )
        except EtuiError:
            context.free()
            model.free()
            raise
        facts = ModelFacts(
            name=spec.name,
            context_tokens=context.options.context_tokens,
            think_open=spec.think_open,
            think_close=spec.think_close,
            thinking_switch=spec.thinking_switch,
            stop=tuple(spec.stop) if source else (*spec.stop, *PLAIN_STOP),
            has_template=bool(source),
            batch_tokens=context.options.batch_tokens,
            vocabulary_tokens=model.vocabulary,
            tool_format=find_tool_format(source),
        )
        return LlamaSession(model, context, facts, template)
