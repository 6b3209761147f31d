"""Run one model with all, none or some of its layers on the GPU, and report what it computed.

``python -m etui.runtime.gpu_run`` is one of the three runs of ``etui doctor --try-gpu``: a process
of its own, so that a crash of the driver ends only this run, and the memory of the device is free
before the next one. It reads an :class:`Order` as a line of JSON from standard input, writes a line
for each stage and one for the result, and exits when its standard input is closed. For an order
that is ``null`` it reports what llama.cpp sees, since a driver keeps memory for every process that
has looked at its devices.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, Literal

from etui.arm import Sampling
from etui.chat import Message
from etui.codec import from_document, to_document
from etui.errors import EtuiError

if TYPE_CHECKING:
    from pathlib import Path

    from etui.config.config import Config
    from etui.engine.llama_session import LlamaSession
    from etui.engine.residency import Residency
    from etui.events import Loaded
    from etui.models.spec import ModelSpec

Layers = Literal["none", "all", "auto"]

PROMPTS = (
    "What is the capital of France?",
    "Count from one to ten in words.",
    "Write one sentence about the sea.",
)
"""Questions that are answered greedily, to compare the answers."""

QUESTIONS = (
    "Which planet is closest to the Sun?\nA. Venus\nB. Mercury\nC. Mars\nD. Earth",
    "How many legs does a spider have?\nA. 6\nB. 10\nC. 8\nD. 12",
    "What is 7 times 8?\nA. 54\nB. 64\nC. 48\nD. 56",
    "Which gas do plants take up from the air?\nA. Carbon dioxide\nB. Oxygen\nC. Neon\nD. Helium",
)
"""Multiple-choice questions whose letters are scored."""

LETTERS = "ABCD"

PASSAGE = (
    "The harbour lay still in the early light. Two boats came in with the tide, and the men on "
    "the quay counted the crates as they were lifted out: forty of herring, twelve of crab, and "
    "one of ice that nobody had asked for. A clerk wrote each number down, added the column twice, "
    "and found that the sums did not agree. "
)
"""Text whose tokens are computed to measure the speed; what the model makes of it is not used."""

ANSWER_TOKENS = 24
PREFILL_TOKENS, SHORT_TOKENS = 512, 16
"""Tokens of the prompt, and of the one that shows how long it would take."""
DECODE_TOKENS = 128
LEAST_DECODED = 4
"""Tokens that are decoded even on a device that is far too slow."""

_GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Order:
    """What one run has to do."""

    model: str  # Name of the model, or the path of its file
    layers: Layers  # `none`, `all` or `auto`: the `gpu_layers` of this run
    reference: tuple[tuple[int, ...], ...] = ()
    """Tokens of the greedy answers to compare with; empty in the first run."""
    part_seconds: float = 20.0
    """Longest time of each part (prefill, decode, letters, answers), after which a slow device is
    asked no more questions."""
    busy_seconds: float = 2.0
    """Time that prefill and decode are repeated for, so that a meter sees them."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Tokens computed in an interval of the monotonic clock, nanoseconds."""

    tokens: int
    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Length of the interval in seconds."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second; 0 for an empty interval."""
        return self.tokens / self.seconds if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """A greedy answer."""

    tokens: tuple[int, ...]  # Its tokens, the end token included
    logprobs: tuple[float, ...]  # Log-probability of each, nats
    text: str = ""
    reference_logprobs: tuple[float, ...] = ()
    """Log-probabilities, computed here, of the reference's tokens, up to and including the first
    that differs from ``tokens``."""


@dataclass(frozen=True, slots=True)
class FreeBytes:
    """Free memory of all GPUs before the load, with the model in memory, and after unloading."""

    before: int
    loaded: int
    unloaded: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run computed, and how fast."""

    gpu_layers: int  # Layers that etui put on the GPU; the output matrix counts as one
    placed: int | None  # Layers that llama.cpp put there, by its log; None if it does not say
    layers: int  # Layers of the model, the output matrix included
    load_seconds: float
    prefill: Timed
    decode: Timed
    letters: tuple[tuple[float, ...], ...]
    """For each question that was asked the log-probability of each letter, nats."""
    answers: tuple[GreedyAnswer, ...]
    free: FreeBytes | None
    """Free memory of the GPUs; None without any, and where it is that of the machine."""
    cpu_moe: int = 0  # Blocks whose experts llama.cpp kept in RAM, by its log


def run(
    order: Order, config: Config, residency: Residency, report: Callable[[str], None]
) -> RunResult:
    """Load the model as ordered, measure it, and unload it; the residency is empty before, too.

    Raises:
        ModelUnavailable: The model cannot be loaded.
        EngineFailed: llama.cpp failed.
    """
    from etui.models.catalogue import load_catalogue
    from etui.models.files import require
    from etui.models.gguf import check_usable

    report("load")
    spec = load_catalogue(config).get(order.model)
    path = require(spec, config)
    spec = replace(spec, gpu_layers=0 if order.layers == "none" else order.layers)
    before = _free_bytes(residency)
    session, loaded = _load(spec, path, residency)
    in_memory = _free_bytes(residency)
    passage = _fill(session.tokenize(PASSAGE, bos=True, special=False), PREFILL_TOKENS)
    report("prefill")
    prefill = time_prefill(session, passage, order)
    report("decode")
    decode = time_decode(session, passage, order)
    report("letters")
    start_ns = time.monotonic_ns()
    letters = tuple(
        score_letters(session, question)
        for question in QUESTIONS
        if not _is_late(start_ns, QUESTIONS[0] == question, order)
    )
    report("answers")
    start_ns = time.monotonic_ns()
    answers = tuple(
        answer_greedily(session, prompt, order.reference[i] if order.reference else (), order)
        for i, prompt in enumerate(PROMPTS)
        if not _is_late(start_ns, i == 0, order)
    )
    report("unload")
    placed, cpu_moe = residency.gpu_layers_placed, residency.cpu_moe_placed
    list(residency.unload(spec.name))
    unloaded = _free_bytes(residency)
    free = None
    if before is not None and in_memory is not None and unloaded is not None:
        free = FreeBytes(before, in_memory, unloaded)
    return RunResult(
        gpu_layers=loaded.gpu_layers,
        placed=placed,
        layers=(check_usable(path).layers or 1) + 1,
        load_seconds=(loaded.end_ns - loaded.start_ns) / 1e9,
        prefill=prefill,
        decode=decode,
        letters=letters,
        answers=answers,
        free=free,
        cpu_moe=cpu_moe or 0,
    )


def _load(spec: ModelSpec, path: Path, residency: Residency) -> tuple[LlamaSession, Loaded]:
    from etui.events import Loaded

    loading, loaded = residency.session(spec, path), None
    while True:
        try:
            event = next(loading)
        except StopIteration as stop:
            assert loaded is not None, "the residency was not empty"
            return stop.value, loaded
        loaded = event if isinstance(event, Loaded) else loaded


def _free_bytes(residency: Residency) -> int | None:
    gpus = residency.gpus()
    if not gpus or any(gpu.integrated or "llvmpipe" in gpu.description for gpu in gpus):
        return None  # its memory is the machine's, which every program changes
    return sum(gpu.free_bytes for gpu in gpus)


def _is_late(start_ns: int, first: bool, order: Order) -> bool:
    """Return whether a part has taken its time; the first question is always asked."""
    return not first and time.monotonic_ns() - start_ns > order.part_seconds * 1e9


def _fill(tokens: Sequence[int], count: int) -> list[int]:
    return (list(tokens) * (count // len(tokens) + 1))[:count]


def time_prefill(session: LlamaSession, passage: Sequence[int], order: Order) -> Timed:
    """Compute a prompt again and again, without reuse, until the time is over.

    The first passes compile the kernels of the device and do not count. On a very slow device the
    prompt is shortened: a batch cannot be interrupted.
    """
    _prefill_once(session, passage[:SHORT_TOKENS], order.part_seconds)
    short = _prefill_once(session, passage[:SHORT_TOKENS], order.part_seconds)
    room = max(SHORT_TOKENS, int(short.tokens_per_second * order.part_seconds / 2))
    if room < len(passage):
        return _prefill_once(session, passage[:room], order.part_seconds)
    _prefill_once(session, passage, order.part_seconds)
    start_ns = time.monotonic_ns()
    tokens = 0
    while not tokens or time.monotonic_ns() - start_ns < order.busy_seconds * 1e9:
        tokens += _prefill_once(session, passage, order.part_seconds).tokens
    return Timed(tokens, start_ns, time.monotonic_ns())


def _prefill_once(session: LlamaSession, passage: Sequence[int], seconds: float) -> Timed:
    room = min(len(passage), session.facts.context_tokens)
    sequence = session.open(passage[:room], _GREEDY)
    start_ns = time.monotonic_ns()
    tokens = 0
    try:
        while sequence.pending and time.monotonic_ns() - start_ns < seconds * 1e9:
            tokens += sum(session.step([sequence], draw=False).computed.values())
        return Timed(tokens, start_ns, time.monotonic_ns())
    finally:
        session.close(sequence, keep=False)


def time_decode(session: LlamaSession, passage: Sequence[int], order: Order) -> Timed:
    """Compute given tokens one at a time, as an answer does, until there are enough of them."""
    room = session.facts.context_tokens - 9
    sequence = session.open(passage[:8], _GREEDY)
    try:
        session.step([sequence], draw=False)
        _decode_one(session, sequence, passage[0])  # the first one compiles kernels
        start_ns = time.monotonic_ns()
        tokens, seconds = 0, 0.0
        while tokens < room and not _is_enough(tokens, seconds, order):
            _decode_one(session, sequence, passage[tokens % len(passage)])
            tokens += 1
            seconds = (time.monotonic_ns() - start_ns) / 1e9
        return Timed(tokens, start_ns, time.monotonic_ns())
    finally:
        session.close(sequence, keep=False)


def _decode_one(session: LlamaSession, sequence: object, token: int) -> None:
    session.extend(sequence, [token])  # type: ignore[arg-type]
    session.step([sequence], draw=False)  # type: ignore[list-item]


def _is_enough(tokens: int, seconds: float, order: Order) -> bool:
    if seconds >= order.part_seconds:
        return tokens >= LEAST_DECODED
    return tokens >= DECODE_TOKENS and seconds >= order.busy_seconds


def score_letters(session: LlamaSession, question: str) -> tuple[float, ...]:
    """Return the log-probabilities of the letters as the answer to a question, nats."""
    text = f"Question: {question}\nAnswer:"
    whole = [session.tokenize(f"{text} {letter}", bos=True, special=False) for letter in LETTERS]
    sequence = session.open(whole[0][:-1], _GREEDY)
    try:
        while sequence.pending:
            session.step([sequence], draw=False)
        return tuple(session.logprobs(sequence, [tokens[-1] for tokens in whole]))
    finally:
        session.close(sequence, keep=False)


def answer_greedily(
    session: LlamaSession, prompt: str, reference: Sequence[int], order: Order
) -> GreedyAnswer:
    """Answer greedily, and score the tokens of a reference as long as both agree."""
    rendered = session.render([Message("user", prompt)], think_tokens=0)
    sequence = session.open(session.tokenize(rendered, bos=True), _GREEDY)
    start_ns = time.monotonic_ns()
    tokens: list[int] = []
    logprobs: list[float] = []
    scored: list[float] = []
    pieces: list[bytes] = []
    agree = True
    try:
        while len(tokens) < ANSWER_TOKENS:
            sampled = session.step([sequence]).sampled
            if not sampled:
                continue  # the prompt takes more than one batch
            drawn = sampled[0]
            if agree and len(tokens) < len(reference):
                expected = reference[len(tokens)]
                scored.extend(session.logprobs(sequence, [expected]))
                agree = expected == drawn.token
            tokens.append(drawn.token)
            logprobs.append(drawn.logprob)
            pieces.append(drawn.piece)
            seconds = (time.monotonic_ns() - start_ns) / 1e9
            slow = seconds > order.part_seconds and len(tokens) >= LEAST_DECODED
            if drawn.ends or slow:
                break
        text = b"".join(pieces).decode("utf-8", "replace")
        return GreedyAnswer(tuple(tokens), tuple(logprobs), text, tuple(scored))
    finally:
        session.close(sequence, keep=False)


def main() -> None:
    """Do what the first line of standard input orders, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(**line: object) -> None:
        os.write(replies, json.dumps(line).encode() + b"\n")

    ordered = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, args=(sys.stdin.buffer,), daemon=True).start()
    with suppress(BrokenPipeError):
        try:
            from etui.config.config import load_config
            from etui.engine.residency import Residency
            from etui.runtime.doctor import check_offload

            config = load_config()
            if ordered is None:
                send(offload=to_document(check_offload(config)))
                return
            residency = Residency(config)
            order = from_document(Order, ordered)
            result = run(order, config, residency, lambda stage: send(stage=stage))
            residency.close()
            send(result=to_document(result))
        except EtuiError as error:
            send(error=error.what, fix=error.fix)


def _end_with_parent(requests: BinaryIO) -> None:
    requests.read()
    os._exit(0)


if __name__ == "__main__":
    main()
