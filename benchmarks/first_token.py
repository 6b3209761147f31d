"""Time to the first token of ``etui ask``, from a cold process.

Starts the command anew each round and waits for the first byte on its standard output.

    python -m benchmarks.first_token [--model NAME] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, in_turn, median_of, ratio_of
from benchmarks.sides import starter
from etui.engine.library import default_threads
from etui.models.spec import STARTER

QUESTION = "What is the capital of France?"
BARE = """
import sys
from llama_cpp import Llama
llama = Llama(sys.argv[1], n_ctx=2048, n_threads=int(sys.argv[2]), verbose=False)
messages = [{"role": "user", "content": sys.argv[3]}]
for chunk in llama.create_chat_completion(messages, max_tokens=4, temperature=0, stream=True):
    print(chunk["choices"][0]["delta"].get("content", ""), end="", flush=True)
"""
"""The shortest program that answers: import, load, answer."""


def quick() -> Iterator[Figure]:
    """Four cold starts of ``etui ask`` and of a bare program around ``Llama``."""
    path = starter()
    first_token(STARTER)  # fills the disk's cache
    pairs = in_turn(lambda: first_token(STARTER), lambda: first_token_bare(path), 4)
    yield ratio_of("first token of a cold process, etui ask : a bare Llama program", pairs)
    yield median_of("first token of a cold `etui ask`", [own for own, _ in pairs], "s", "absolute")


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=STARTER)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    seconds = [first_token(chosen.model) for _ in range(chosen.rounds)]
    report = {
        "model": chosen.model,
        "rounds": chosen.rounds,
        "first_token_seconds": statistics.median(seconds),
        "best_seconds": min(seconds),
        "worst_seconds": max(seconds),
    }
    if chosen.json:
        print(json.dumps(report))
        return
    print(f"{chosen.model}, {chosen.rounds} cold starts of `etui ask`")
    print(f"  first token, median   {report['first_token_seconds']:6.2f} s  (to reach: < 1.5 s)")
    print(f"  best, worst           {min(seconds):6.2f} s, {max(seconds):.2f} s")


def first_token(model: str) -> float:
    """Seconds from the start of ``etui ask`` to the first byte of the answer."""
    return first_byte(
        [sys.executable, "-m", "etui", "ask", QUESTION, "--model", model, "--max-tokens", "4"]
    )


def first_token_bare(path: Path) -> float:
    """The same of a program that only imports ``Llama``, loads the model and asks it."""
    return first_byte([sys.executable, "-c", BARE, str(path), str(default_threads()), QUESTION])


def first_byte(command: list[str]) -> float:
    """Seconds from the start of a process to the first byte on its standard output."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.read(1)
    seconds = time.perf_counter() - start
    _, errors = process.communicate()
    if not first or process.returncode:
        sys.exit(f"no answer came: {errors.decode(errors='replace').strip()}")
    return seconds


if __name__ == "__main__":
    main()
