"""The two sides of the benchmarks: an etui session, and llama-cpp-python's ``Llama``.

Both put every layer on the GPU where llama.cpp sees one, and none elsewhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.figures import Skipped
from etui.config.config import load_config, make_home
from etui.energy.recorder import Recorder
from etui.engine.chat_prompt import ChatTemplate
from etui.engine.context import Context, ContextOptions
from etui.engine.library import Library, default_threads
from etui.engine.llama_session import LlamaSession
from etui.engine.model import ALL_LAYERS, Model
from etui.engine.session import ModelFacts, Step, TokenSequence
from etui.engine.session_loader import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS
from etui.engine.template_process import TemplateProcess
from etui.models.gguf import check_gguf
from etui.models.spec import STARTER


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


class TimedSession(LlamaSession):
    """A session that adds up its time in ``llama_decode``."""

    decoding_ns = 0

    def step(self, sequences: Sequence[TokenSequence], *, draw: bool = True) -> Step:
        """As the session's own."""
        step = super().step(sequences, draw=draw)
        self.decoding_ns += step.end_ns - step.start_ns
        return step


def starter() -> Path:
    """Return the starter model's file.

    Raises:
        Skipped: It is not there.
    """
    path = load_config().models_dir / f"{STARTER}.gguf"
    if not path.is_file():
        raise Skipped(f"no {path.name} in {path.parent}; pull it with: etui models pull {STARTER}")
    return path


@contextmanager
def opened_session(path: Path, context_tokens: int) -> Iterator[TimedSession]:
    """Open an etui session on the default threads, and free all of it at the end."""
    config = load_config()
    make_home(config)
    library = Library(config.log_dir)
    try:
        session = make_session(path, default_threads(), context_tokens, library)
        try:
            yield session
        finally:
            session.free()
    finally:
        library.close()  # last: llama.cpp logs until the model is freed


@contextmanager
def both_sides(context_tokens: int) -> Iterator[tuple[TimedSession, Any]]:
    """Open the two sides on the starter model: an etui session and a ``Llama``."""
    path = starter()
    with ExitStack() as stack:
        llama = stack.enter_context(closing(make_llama(path, default_threads(), context_tokens)))
        yield stack.enter_context(opened_session(path, context_tokens)), llama


def make_session(
    path: Path, threads: int, context_tokens: int, library: Library | None = None
) -> TimedSession:
    """An etui session as the residency makes it."""
    check_gguf(path)
    library = library or Library(load_config().log_dir)
    offloads = bool(library.gpus())
    model = Model(library, path, ALL_LAYERS if offloads else 0)
    options = ContextOptions(
        context_tokens,
        threads,
        batch_tokens=GPU_BATCH_TOKENS if offloads else CPU_BATCH_TOKENS,
        flash_attention="auto" if offloads else "off",
    )
    context = Context(library, model, options)
    source = model.metadata("tokenizer.chat_template")
    template = ChatTemplate(TemplateProcess(), "bench", source, model.bos_text, model.eos_text)
    facts = ModelFacts("bench", context_tokens, ())
    return TimedSession(model, context, facts, template)


def make_llama(path: Path, threads: int, context_tokens: int) -> Any:
    """``Llama`` on the same file, with the same threads and context."""
    from llama_cpp import Llama

    return Llama(
        str(path),
        n_ctx=context_tokens,
        n_threads=threads,
        n_threads_batch=threads,
        n_gpu_layers=ALL_LAYERS,
        verbose=False,
    )


@contextmanager
def ignored_ends() -> Iterator[None]:
    """Let no token end an answer, on either side: every one is as long as it may be.

    Enter it before a session is made, which remembers what ends an answer.
    """
    from llama_cpp import llama_cpp

    usual = llama_cpp.llama_vocab_is_eog
    llama_cpp.llama_vocab_is_eog = lambda *_: False
    try:
        yield
    finally:
        llama_cpp.llama_vocab_is_eog = usual


def joules_per_token(
    recorder: Recorder, intervals: Sequence[tuple[int, int]], tokens: int
) -> tuple[float | None, str | None]:
    """Joules of intervals (monotonic ns) over their tokens, and their kind; None if unmeasured."""
    recorder.settle(intervals[-1][1])
    energies = [recorder.energy(start_ns, end_ns) for start_ns, end_ns in intervals]
    joules = [energy.joules for energy in energies if energy.joules is not None]
    if len(joules) < len(intervals) or not tokens:
        return None, None
    return sum(joules) / tokens, energies[0].kind
