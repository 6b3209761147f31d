"""The two sides of the benchmarks: an etui session, and llama-cpp-python's ``Llama``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from etui.config import load_config
from etui.engine.context import Context, ContextOptions
from etui.engine.gguf import check_gguf
from etui.engine.library import Library, default_threads
from etui.engine.llama_session import LlamaSession
from etui.engine.model import Model
from etui.engine.session import ModelFacts
from etui.engine.template import ChatTemplate
from etui.models import STARTER


def arguments(doc: str | None, *, tokens: int, rounds: int) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    default = load_config().models_dir / f"{STARTER}.gguf"
    parser.add_argument("model", nargs="?", type=Path, default=default)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--tokens", type=int, default=tokens)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", action="store_true")
    return parser


class NeverStops:
    """A control that lets every answer come to its end."""

    def cancelled(self) -> bool:
        """Nobody stops it."""
        return False

    def spent(self) -> bool:
        """It may cost what it costs."""
        return False


def make_session(path: Path, threads: int, context_tokens: int) -> LlamaSession:
    """An etui session as the residency makes it on a CPU."""
    check_gguf(path)
    library = Library(load_config().log_dir)
    model = Model(library, path)
    context = Context(library, model, ContextOptions(context_tokens, threads, batch_tokens=128))
    source = model.metadata("tokenizer.chat_template")
    template = ChatTemplate("bench", source, model.bos_text, model.eos_text)
    facts = ModelFacts("bench", context_tokens, None, None, None, (), bool(source))
    return LlamaSession(model, context, facts, template)


def make_llama(path: Path, threads: int, context_tokens: int) -> Any:
    """``Llama`` on the same file, with the same threads and context."""
    from llama_cpp import Llama

    return Llama(
        str(path), n_ctx=context_tokens, n_threads=threads, n_threads_batch=threads, verbose=False
    )
