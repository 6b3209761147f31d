"""Streaming decode: etui's session against llama-cpp-python's own ``Llama``, side by side.

The same GGUF, prompt, threads, context and greedy sampling; rounds alternate, so that whatever
else the machine does hits both. Time runs from the first token to the last, text included; the
overhead is the wall time outside ``llama_decode``. The ratio is the median over the rounds. Joules
a token stand beside each where anything measures.

    python -m benchmarks.decode [MODEL.gguf] [--threads N] [--tokens N] [--rounds N] [--json]
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Figure, in_turn, ratio_of
from benchmarks.sides import (
    arguments,
    both_sides,
    joules_per_token,
    make_llama,
    make_session,
)
from etui.arm import Sampling
from etui.config.config import load_config
from etui.energy.discovery import open_recorder
from etui.engine.llama_session import LlamaSession
from etui.engine.special_tokens import TextStream
from etui.units import per_token_text

PROMPT = "Once upon a time in a small village by the sea there lived"
CONTEXT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Span:
    """A run from its first token to its last; ``tokens`` are those behind the first."""

    start_ns: int
    end_ns: int
    tokens: int

    @property
    def token_seconds(self) -> float:
        """Seconds a token."""
        return (self.end_ns - self.start_ns) / 1e9 / self.tokens


def quick() -> Iterator[Figure]:
    """The two sides on the starter model, 10 rounds of 24 tokens."""
    with both_sides(CONTEXT_TOKENS) as (session, llama):
        run_session(session, 8)  # warms both up
        run_llama(llama, 8)
        rounds = in_turn(lambda: run_session(session, 24), lambda: run_llama(llama, 24)[0], 10)
    yield ratio_of(
        "seconds a token, etui : Llama",
        [(own.token_seconds, other.token_seconds) for (own, _, _), other in rounds],
    )
    yield ratio_of(
        "time outside llama_decode : all",
        [(outside, own.token_seconds) for (own, _, outside), _ in rounds],
        "%",
    )


def main() -> None:
    """Run the rounds and print the table."""
    chosen = arguments(__doc__, tokens=48, rounds=16).parse_args()
    session = make_session(chosen.model, chosen.threads, CONTEXT_TOKENS)
    llama = make_llama(chosen.model, chosen.threads, CONTEXT_TOKENS)
    _, reference = run_llama(llama, chosen.tokens)  # this round warms both up
    _, text, _ = run_session(session, chosen.tokens)
    if text != reference:
        print("the two wrote different texts", file=sys.stderr)
    with open_recorder(load_config()) as recorder:
        rounds = in_turn(
            lambda: run_session(session, chosen.tokens),
            lambda: run_llama(llama, chosen.tokens)[0],
            chosen.rounds,
        )
        ours = [own for (own, _, _), _ in rounds]
        overheads = [overhead for (_, _, overhead), _ in rounds]
        theirs = [other for _, other in rounds]
        joules = {
            name: joules_per_token(
                recorder, [(s.start_ns, s.end_ns) for s in spans], sum(s.tokens for s in spans)
            )
            for name, spans in (("etui", ours), ("llama", theirs))
        }
    ratio = statistics.median(
        t.token_seconds / o.token_seconds for t, o in zip(theirs, ours, strict=True)
    )
    report = {
        "model": chosen.model.stem,
        "threads": chosen.threads,
        "tokens": chosen.tokens,
        "rounds": chosen.rounds,
        "etui_ms_per_token": 1000 * statistics.median(span.token_seconds for span in ours),
        "llama_ms_per_token": 1000 * statistics.median(span.token_seconds for span in theirs),
        "etui_joules_per_token": joules["etui"][0],
        "llama_joules_per_token": joules["llama"][0],
        "kind": joules["etui"][1],
        "python_ms_per_token": 1000 * statistics.median(overheads),
        "ratio": ratio,
        "same_text": text == reference,
    }
    if chosen.json:
        print(json.dumps(report))
        return
    print(f"{report['model']}, {chosen.threads} threads, {chosen.rounds} rounds of {chosen.tokens}")
    for name, side in (("Llama.create_completion", "llama"), ("etui session", "etui")):
        spent = per_token_text(report[f"{side}_joules_per_token"], report["kind"])
        print(f"  {name:23s}  {report[f'{side}_ms_per_token']:8.3f} ms/token, {spent}")
    print(
        f"  outside llama_decode     {report['python_ms_per_token']:8.3f} ms/token"
        "  (to reach: <= 0.3)"
    )
    print(f"  tokens/s, etui : Llama   {ratio:8.3f}  (to reach: >= 0.97)")


def run_llama(llama: Any, tokens: int) -> tuple[Span, str]:
    """The run behind its first token, and the text."""
    pieces, times = [], []
    for chunk in llama.create_completion(PROMPT, max_tokens=tokens, temperature=0, stream=True):
        pieces.append(chunk["choices"][0]["text"])
        times.append(time.monotonic_ns())
    times = times[:tokens]  # the last chunk only says why it ended
    return Span(times[0], times[-1], len(times) - 1), "".join(pieces)


def run_session(session: LlamaSession, tokens: int) -> tuple[Span, str, float]:
    """The run behind its first token, the text, and seconds a token outside the decode."""
    stream, decoding = TextStream(), 0
    pieces: list[str] = []
    times: list[int] = []
    sequence = session.open(session.tokenize(PROMPT, bos=True), Sampling(temperature=0))
    while len(times) < tokens:
        step = session.step([sequence])
        if step.sampled and step.sampled[0].ends:
            break
        if step.sampled:
            pieces.append(stream.push(step.sampled[0].piece))
            times.append(time.monotonic_ns())
            decoding += step.end_ns - step.start_ns if len(times) > 1 else 0
    session.close(sequence)
    span = Span(times[0], times[-1], len(times) - 1)
    return span, "".join(pieces), span.token_seconds - decoding / 1e9 / span.tokens


if __name__ == "__main__":
    main()
