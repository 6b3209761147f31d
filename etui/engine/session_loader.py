"""Load a model file with its context and its chat template, as a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from etui.engine.chat_prompt import TOOL_TAGS, find_tool_format
from etui.engine.context import Context, ContextOptions
from etui.engine.llama_session import LlamaSession
from etui.engine.load_settings import (
    choose_batch_tokens,
    choose_flash_attention,
    read_process_seconds,
)
from etui.engine.model import Model, Split
from etui.engine.offload import Needs, choose_layers, fewer_layers
from etui.engine.session import ModelFacts
from etui.engine.speculation.load_draft import DraftRequest, NoDraft, load_draft
from etui.engine.template import PLAIN_STOP, ChatTemplate
from etui.engine.thread_control import ThreadControl
from etui.engine.thread_limits import choose_thread_limits
from etui.engine.trial import try_model
from etui.errors import EngineFailed, EtuiError, ModelUnavailable

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.engine.library import Library
    from etui.engine.template_process import TemplateProcess
    from etui.models.spec import ModelSpec

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
