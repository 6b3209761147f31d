"""Streaming decode: etui's session against llama-cpp-python's own ``Llama``, side by side.

The same GGUF, prompt, threads, context and greedy sampling; rounds alternate, so that whatever
else the machine does hits both. Time runs from the first token to the last, text included; the
overhead is the wall time outside ``llama_decode``. The ratio is the median over the rounds.

    python benchmarks/decode.py [MODEL.gguf] [--threads N] [--tokens N] [--rounds N] [--json]
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from sides import arguments, make_llama, make_session

from etui.arm import Sampling
from etui.engine.llama_session import LlamaSession
from etui.engine.text import TextStream

PROMPT = "Once upon a time in a small village by the sea there lived"
CONTEXT_TOKENS = 1024


def main() -> None:
    """Run the rounds and print the table."""
    chosen = arguments(__doc__, tokens=48, rounds=16).parse_args()
    session = make_session(chosen.model, chosen.threads, CONTEXT_TOKENS)
    llama = make_llama(chosen.model, chosen.threads, CONTEXT_TOKENS)
    _, reference = run_llama(llama, chosen.tokens)  # this round warms both up
    _, text, _ = run_session(session, chosen.tokens)
    if text != reference:
        print("the two wrote different texts", file=sys.stderr)
    ours, theirs, overheads = [], [], []
    for round_ in range(chosen.rounds):
        if round_ % 2:  # each goes first in turn: what a round leaves behind hits both
            seconds, _ = run_llama(llama, chosen.tokens)
        own_seconds, _, overhead = run_session(session, chosen.tokens)
        if not round_ % 2:
            seconds, _ = run_llama(llama, chosen.tokens)
        theirs.append(seconds)
        ours.append(own_seconds)
        overheads.append(overhead)
    ratio = statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
    report = {
        "model": chosen.model.stem,
        "threads": chosen.threads,
        "tokens": chosen.tokens,
        "rounds": chosen.rounds,
        "etui_ms_per_token": 1000 * statistics.median(ours),
        "llama_ms_per_token": 1000 * statistics.median(theirs),
        "python_ms_per_token": 1000 * statistics.median(overheads),
        "ratio": ratio,
        "same_text": text == reference,
    }
    if chosen.json:
        print(json.dumps(report))
        return
    print(f"{report['model']}, {chosen.threads} threads, {chosen.rounds} rounds of {chosen.tokens}")
    print(f"  Llama.create_completion  {report['llama_ms_per_token']:8.3f} ms/token")
    print(f"  etui session             {report['etui_ms_per_token']:8.3f} ms/token")
    print(f"  outside llama_decode     {report['python_ms_per_token']:8.3f} ms/token")
    print(f"  tokens/s, etui : Llama   {ratio:8.3f}  (to reach: >= 0.97)")


def run_llama(llama: Any, tokens: int) -> tuple[float, str]:
    """Seconds a token after the first, and the text."""
    pieces, times = [], []
    for chunk in llama.create_completion(PROMPT, max_tokens=tokens, temperature=0, stream=True):
        pieces.append(chunk["choices"][0]["text"])
        times.append(time.perf_counter())
    times = times[:tokens]  # the last chunk only says why it ended
    return (times[-1] - times[0]) / (len(times) - 1), "".join(pieces)


def run_session(session: LlamaSession, tokens: int) -> tuple[float, str, float]:
    """Seconds a token after the first, the text, and seconds a token outside the decode."""
    stream, decoding = TextStream(), 0
    pieces: list[str] = []
    times: list[float] = []
    sequence = session.open(session.tokenize(PROMPT, bos=True), Sampling(temperature=0))
    while len(times) < tokens:
        step = session.step([sequence])
        if step.sampled and step.sampled[0].ends:
            break
        if step.sampled:
            pieces.append(stream.push(step.sampled[0].piece))
            times.append(time.perf_counter())
            decoding += step.end_ns - step.start_ns if len(times) > 1 else 0
    session.close(sequence)
    seconds = (times[-1] - times[0]) / (len(times) - 1)
    return seconds, "".join(pieces), seconds - decoding / 1e9 / (len(times) - 1)


if __name__ == "__main__":
    main()
