"""Time to the first token of ``etui ask``, from a cold process.

Starts the command anew each round and waits for the first byte on its standard output.

    python benchmarks/first_token.py [--model NAME] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from etui.models.spec import STARTER

QUESTION = "What is the capital of France?"


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
    """Seconds from the start of the process to the first byte of the answer."""
    command = [sys.executable, "-m", "etui", "ask", QUESTION, "--model", model, "--max-tokens", "4"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.read(1)
    seconds = time.perf_counter() - start
    _, errors = process.communicate()
    if not first or process.returncode:
        sys.exit(f"etui ask failed: {errors.decode(errors='replace').strip()}")
    return seconds


if __name__ == "__main__":
    main()
