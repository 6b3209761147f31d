"""Load a model file with its context and its chat template, as a session."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.engine.chat_formats import choose_format
from etui.engine.chat_prompt import PLAIN_STOP, ChatTemplate
from etui.engine.context import Context, ContextOptions
from etui.engine.cpu_limits import FreeCpus
from etui.engine.kv_folder import FORMAT
from etui.engine.library import Device, Library
from etui.engine.llama_session import LlamaSession
from etui.engine.model import ALL_LAYERS, Model, Split
from etui.engine.offload import (
    Needs,
    Placement,
    choose_placement,
    choose_sequences,
    fits_on_gpus,
    needs,
    split_layers,
    step_down,
)
from etui.engine.pictures import PictureReader
from etui.engine.placement_speeds import PlacementSpeeds
from etui.engine.session import ModelFacts
from etui.engine.speculation.draft_model import DraftModel, check_same_vocabulary
from etui.engine.speculation.heads import EAGLE, MtpDrafter, load_eagle, load_heads
from etui.engine.template_process import TemplateProcess
from etui.engine.thread_count import ThreadControl, choose_thread_limits
from etui.engine.trial import try_model
from etui.errors import EngineFailed, EtuiError, ModelUnavailable
from etui.models.adapters import size_adapters
from etui.models.cache_size import cache_size
from etui.models.files import recorded_sha256
from etui.models.gguf import Gguf, check_usable
from etui.units import bytes_text

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.spec import FlashAttention, ModelSpec

Draft = tuple["ModelSpec", Path]
"""The model that drafts tokens for another, and its file."""

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 128, 512
"""Tokens of a batch: a cancel waits for one batch, and a CPU is no faster with longer ones."""


def session_key(spec: ModelSpec, path: Path) -> tuple[object, ...]:
    """Collect the settings a session depends on: a change to any of them requires a reload."""
    return (
        path,
        spec.adapters,
        spec.mmproj,
        spec.context,
        spec.gpu_layers,
        spec.cpu_moe,
        spec.kv_type,
        spec.flash_attention,
        spec.split,
        spec.main_gpu,
        spec.tensor_split,
        spec.batch_tokens,
    )


def apply_settings(session: LlamaSession, spec: ModelSpec, config: Config) -> None:
    """Apply the settings of a model that need no load: its threads and the depth of its drafts."""
    session.threads.set_limits(
        choose_thread_limits(spec, config, on_gpu=session.options.offload_kv)
    )
    session.speculator.draft_tokens = spec.draft_tokens


def check_split(spec: ModelSpec, gpus: Sequence[Device]) -> None:
    """Reject a split over missing GPUs; without any GPU there is nothing to split."""
    asked = max(spec.main_gpu + 1, len(spec.tensor_split))
    if gpus and asked > len(gpus):
        raise ModelUnavailable(
            f"{spec.name} is configured for {asked} GPUs, but llama.cpp sees {len(gpus)}",
            "fix its `main_gpu` or `tensor_split` in models.yaml",
        )


def choose_flash_attention(spec: ModelSpec, layers: int, parallel: int = 1) -> FlashAttention:
    """Choose the flash attention: on a CPU, ``auto`` is off for one answer at a time.

    Several answers in one batch move the last bits of each other's logits anyway, and with it the
    masked tokens of other clients cost nothing: beside 2,000 of them a token takes half the time.
    """
    repeats = not layers and parallel == 1
    return "off" if spec.flash_attention == "auto" and repeats else spec.flash_attention


def resolve_flash_attention(asked: str, kv_type: str, *, on_gpu: bool) -> str:
    """Return the flash attention that a context uses; ``auto`` where llama.cpp chooses on a GPU.

    A quantised cache needs it.
    """
    if kv_type != "f16":
        return "on"
    return "off" if asked == "auto" and not on_gpu else asked


def choose_batch_tokens(spec: ModelSpec, layers: int) -> int:
    """Choose the most tokens of a batch: the model's own number, or the usual one by device."""
    whole = layers or spec.mmproj is not None  # some models read a picture in one batch
    return spec.batch_tokens or (GPU_BATCH_TOKENS if whole else CPU_BATCH_TOKENS)


def choose_context_tokens(config: Config, spec: ModelSpec, gguf: Gguf) -> int:
    """Limit the configured context by the trained context and the user's `context_tokens`."""
    bounds = [spec.context, gguf.context_tokens, config.context_tokens]
    return min(bound for bound in bounds if bound)


def describe_model(
    model: Model, spec: ModelSpec, context_tokens: int, batch_tokens: int | None = None
) -> ModelFacts:
    """Describe a loaded model, or its vocabulary alone, to reasoning."""
    source = model.metadata("tokenizer.chat_template")
    format_ = choose_format(spec, source)
    return ModelFacts(
        name=spec.name,
        context_tokens=context_tokens,
        stop=(*spec.stop, *(format_.stop if source else PLAIN_STOP)),
        batch_tokens=batch_tokens,
        vocabulary_tokens=model.vocabulary,
        format=format_,
        fill=model.fill_tokens(),
    )


def open_template(templates: TemplateProcess, model: Model, name: str) -> ChatTemplate:
    """Open the chat template of a model; ModelUnavailable if it is not a valid one."""
    source = model.metadata("tokenizer.chat_template")
    return ChatTemplate(templates, name, source, model.bos_text, model.eos_text)


def _read_state(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


class SessionLoader:
    """Loads models for a :class:`etui.engine.residency.Residency`, which closes it.

    Args:
        parent: Process id of the etui for which this process computes; None if it does all itself.

    Attributes:
        trials: Whether a file that etui does not know is loaded in a process of its own first.
        templates: The process that renders chat templates.
        opened: llama.cpp; None before the first load.
    """

    def __init__(self, config: Config, *, trials: bool, parent: int | None = None) -> None:
        self.templates = TemplateProcess()
        self._config = config
        self._parent = parent
        self.trials = trials
        self._speeds = PlacementSpeeds(config)
        self.opened: Library | None = None

    @property
    def library(self) -> Library:
        """llama.cpp, which the first access imports; EngineFailed if it is missing."""
        if self.opened is None:
            self.opened = Library(self._config.log_dir, self._config.engines_dir)
        return self.opened

    def note_speed(self, gguf: Gguf, placement: Placement, session: LlamaSession) -> None:
        """Keep how fast a mixture of experts decoded, where there was a choice of its placement."""
        speed = session.decode_clock.best_tokens_per_second
        if speed and gguf.experts and (gpus := self.library.gpus()):
            self._speeds.add(gguf, gpus, placement, speed)

    def close(self) -> None:
        """End the processes; every model must be freed before."""
        self.templates.close()
        if self.opened is not None:
            self.opened.close()
            self.opened = None

    def state_key(self, spec: ModelSpec, path: Path, session: LlamaSession) -> str:
        """Return a hash of all that a saved KV cache of a session depends on.

        Another build or device computes other last bits, and a longer context may turn positions
        by other angles.
        """
        options = asdict(session.options)
        for name in ("threads", "batch_tokens", "donors", "verify_rows", "pooling"):
            del options[name]  # which decide how it is computed, not what is stored
        parts = (
            recorded_sha256(spec, self._config) or _read_state(path),
            [(each.sha256 or _read_state(each.path), each.scale) for each in spec.adapters],
            *([] if spec.mmproj is None else [_read_state(spec.mmproj)]),
            self.library.version,
            session.vocabulary.offloaded,
            sorted(options.items()),
            FORMAT,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def estimate(self, spec: ModelSpec, gguf: Gguf) -> Needs:
        """Estimate the memory that a model needs with its settings."""
        return needs(
            gguf,
            choose_context_tokens(self._config, spec, gguf),
            spec.kv_type,
            spec.batch_tokens or GPU_BATCH_TOKENS,
            parallel=self._config.parallel,
            adapter_bytes=size_adapters(spec),
        )

    def load(
        self, spec: ModelSpec, path: Path, gguf: Gguf, need: Needs
    ) -> tuple[LlamaSession, Placement]:
        """Load as configured; ``auto`` retries with less on the GPUs after a failure.

        Raises:
            ModelUnavailable: llama.cpp rejected the file.
            EngineFailed: Memory ran out.
        """
        if gguf.architecture == EAGLE:
            raise ModelUnavailable(
                f"{path.name} is an EAGLE-3 head, which drafts for another model",
                "name it as `draft` of that model in models.yaml, and ask that one",
            )
        return self.library.compute.run(self._load, spec, path, gguf, need)

    def _load(
        self, spec: ModelSpec, path: Path, gguf: Gguf, need: Needs
    ) -> tuple[LlamaSession, Placement]:
        gpus = self.library.gpus()
        speeds = self._speeds.read(gguf, gpus) if need.expert_bytes and gpus else ()
        placement = choose_placement(gpus, spec, need, speeds)
        while True:
            split = self._choose_split(spec, need, placement, gpus)
            try:
                model, context = self._create_context(spec, path, gguf, placement.gpu_layers, split)
                break
            except (ModelUnavailable, EngineFailed):
                lower = step_down(placement, spec, need)
                if lower is None:
                    raise
                placement = lower
        # A template fails with any number of layers.
        session = self._create_session(spec, model, context)
        heads = load_heads(self.library, model, context)
        if heads is not None:
            session.drafts.add_heads(heads)
        session.speculator.draft_tokens = spec.draft_tokens
        return session, placement

    def add_draft(self, spec: ModelSpec, draft: Draft, session: LlamaSession, layers: int) -> int:
        """Load the draft model of a model; return its bytes, 0 if it was left out.

        One that cannot be loaded or does not fit into what is left is left out, and arms that ask
        for it say so: their answers are the same without it.

        Raises:
            ModelUnavailable: It has another vocabulary; the session is freed.
        """
        try:
            loaded = self.library.compute.run(
                self._load_draft, spec, draft, session, on_gpu=layers > 0
            )
        except EtuiError:
            session.free()
            raise
        if isinstance(loaded, str):
            session.drafts.missing_draft = loaded
            return 0
        drafter, bytes_ = loaded
        if isinstance(drafter, DraftModel):
            session.speculator.add(drafter)
        else:
            session.drafts.add_heads(drafter)
        return bytes_

    def _load_draft(
        self, spec: ModelSpec, draft: Draft, session: LlamaSession, *, on_gpu: bool
    ) -> tuple[DraftModel | MtpDrafter, int] | str:
        """Load a draft model; return it with the estimate of its bytes, or why there is none.

        With layers of the model on a GPU, the draft model goes there as a whole or is not loaded: a
        draft from the CPU takes longer than it saves.
        """
        own, path = draft
        options = replace(session.options, sequences=1, donors=0, verify_rows=1, full_window=True)
        try:
            gguf = check_usable(path)
            is_head = gguf.architecture == EAGLE
            if self.trials and not is_head:  # it cannot be computed without its model
                try_model(own, path, self._config)
            need = needs(gguf, options.context_tokens, spec.kv_type, options.batch_tokens)
            if lack := self._find_lack(need, on_gpu=on_gpu):
                what = f"the draft model {own.name} does not fit into memory with {spec.name}"
                return f"{what}: {lack}"
            model = Model(self.library, path, ALL_LAYERS if on_gpu else 0)
        except ModelUnavailable as error:
            return f"the draft model {own.name} cannot be used: {error}"
        try:
            check_same_vocabulary(session.vocabulary, spec.name, model, own.name)
            if is_head:
                head = load_eagle(self.library, model, session.vocabulary, session.cache)
                if isinstance(head, str):
                    raise EngineFailed(head)
                return head, need.total_bytes
            context = Context(self.library, model, options, session.threads, drafts=True)
        except EngineFailed as error:
            model.free()
            return f"the draft model {own.name} cannot be used: {error}"
        except EtuiError:
            model.free()
            raise
        vocabulary = session.vocabulary
        share = model.size_bytes / max(1, vocabulary.size_bytes)
        return DraftModel(model, context, vocabulary.vocabulary, share), need.total_bytes

    def _find_lack(self, need: Needs, *, on_gpu: bool) -> str:
        """Return why a draft model does not fit into free memory; empty if it does."""
        import psutil

        if on_gpu:
            free = sum(gpu.free_bytes for gpu in self.library.gpus())
            fits = fits_on_gpus(need, need.whole, free)
        else:
            free = psutil.virtual_memory().available
            fits = need.total_bytes <= free
        if fits:
            return ""
        return f"it needs {bytes_text(need.total_bytes)}, and {bytes_text(free)} are free"

    def _choose_split(
        self, spec: ModelSpec, need: Needs, placement: Placement, gpus: Sequence[Device]
    ) -> Split | None:
        """Choose how to split a model; without a GPU llama.cpp rejects a main GPU."""
        if not placement.gpu_layers:
            return None
        shares = spec.tensor_split
        if spec.split == "layer" and not shares:
            shares = split_layers(need, placement, [gpu.free_bytes for gpu in gpus])
        return Split(spec.split, spec.main_gpu, shares, placement.cpu_moe)

    def _create_context(
        self, spec: ModelSpec, path: Path, gguf: Gguf, layers: int, split: Split | None
    ) -> tuple[Model, Context]:
        tags = choose_format(spec, gguf.chat_template).shown
        threads = ThreadControl(
            choose_thread_limits(spec, self._config, on_gpu=layers > 0),
            FreeCpus(relatives=self._list_relatives),
        )
        self.templates.start()  # it becomes ready while the weights are loaded
        heads = gguf.nextn_layers > 0
        model = Model(self.library, path, layers, split, shown=tags, heads=heads)
        try:
            model.add_adapters(spec.adapters)
            options = ContextOptions(
                context_tokens=choose_context_tokens(self._config, spec, gguf),
                threads=threads.limits.decode,
                sequences=choose_sequences(cache_size(gguf), self._config.parallel),
                batch_tokens=choose_batch_tokens(spec, layers),
                kv_type=spec.kv_type,
                flash_attention=choose_flash_attention(spec, layers, self._config.parallel),
                offload_kv=layers > 0,
            )
            context = Context(self.library, model, options, threads)
            threads.restart()
            return model, context
        except EtuiError:
            model.free()
            raise

    def _list_relatives(self) -> list[int]:
        """List the ids of the other processes of etui that work for the answers."""
        return [pid for pid in (self._parent, self.templates.pid) if pid is not None]

    def _create_session(self, spec: ModelSpec, model: Model, context: Context) -> LlamaSession:
        pictures = None
        try:
            template = open_template(self.templates, model, spec.name)
            if spec.mmproj is not None:
                pictures = PictureReader(self.library, model, spec.mmproj, context)
        except EtuiError:
            context.free()
            model.free()
            raise
        options = context.options
        facts = describe_model(model, spec, options.context_tokens, options.batch_tokens)
        return LlamaSession(model, context, facts, template, pictures)
