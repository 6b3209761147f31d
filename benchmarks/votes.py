"""Votes: one prefill and batched decoding against as many calls of llama-cpp-python's ``Llama``.

Seconds a token, all in: prefill, decode, sampling. ``warm`` calls reuse Llama's own prefix cache,
``cold`` ones begin with an empty cache, as a new process would. A vote of ours that
would end goes on, so that no batch runs half empty; how many tokens Llama drew is printed.

    python benchmarks/votes.py [MODEL.gguf] [--votes N] [--threads N] [--tokens N] [--rounds N]
                               [--json]
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from sides import arguments, make_llama, make_session

from etui.arm import Sampling
from etui.engine.llama_session import LlamaSession

CONTEXT_TOKENS = 2048
PROMPT_TOKENS = 215
TEMPERATURE = 0.2
"""Low, so that the repeating prompt goes on and no call of Llama ends early."""

PROMPT = (
    "A farmer has seventeen sheep, nine goats and a dog. On Monday he sells four sheep at the "
    "market and buys two goats from his neighbour. On Tuesday a storm breaks the fence. "
) * 8


def main() -> None:
    """Run the rounds and print the table."""
    parser = arguments(__doc__, tokens=100, rounds=3)
    parser.add_argument("--votes", type=int, default=8)
    chosen = parser.parse_args()
    session = make_session(chosen.model, chosen.threads, CONTEXT_TOKENS)
    llama = make_llama(chosen.model, chosen.threads, CONTEXT_TOKENS)
    prompt = session.tokenize(PROMPT, bos=True)[:PROMPT_TOKENS]
    sides: dict[str, list[float]] = {"etui": [], "warm": [], "cold": []}
    shares: list[float] = []
    run_votes(session, prompt, 2, 4)  # warms the weights up
    for round_ in range(chosen.rounds):
        fresh = [*prompt[:-1], prompt[round_]]  # so that no prefix is left from the last round
        sides["etui"].append(run_votes(session, fresh, chosen.votes, chosen.tokens))
        for kind in ("warm", "cold"):
            seconds, drawn = run_calls(
                llama, fresh, chosen.votes, chosen.tokens, cold=kind == "cold"
            )
            sides[kind].append(seconds)
            shares.append(drawn / (chosen.votes * chosen.tokens))
    own, warm, cold = (sides[name] for name in ("etui", "warm", "cold"))
    report = {
        "model": chosen.model.stem,
        "threads": chosen.threads,
        "votes": chosen.votes,
        "tokens": chosen.tokens,
        "prompt_tokens": len(prompt),
        "llama_drew_share": statistics.mean(shares),
        **{f"{name}_ms_per_token": 1000 * statistics.median(v) for name, v in sides.items()},
        "ratio_warm": statistics.median(a / b for a, b in zip(own, warm, strict=True)),
        "ratio_cold": statistics.median(a / b for a, b in zip(own, cold, strict=True)),
    }
    if chosen.json:
        print(json.dumps(report))
        return
    print(
        f"{report['model']}, {chosen.votes} votes of {chosen.tokens} tokens on "
        f"{len(prompt)} of prompt, {chosen.threads} threads, {chosen.rounds} rounds"
    )
    print(f"  etui, one batch       {report['etui_ms_per_token']:7.2f} ms/token")
    print(f"  Llama, cache warm     {report['warm_ms_per_token']:7.2f} ms/token")
    print(f"  Llama, cache cold     {report['cold_ms_per_token']:7.2f} ms/token")
    print(f"  Llama drew            {100 * report['llama_drew_share']:7.0f} % of the tokens")
    print(f"  etui : warm           {report['ratio_warm']:7.2f}  (to reach: <= 0.56)")
    print(f"  etui : cold           {report['ratio_cold']:7.2f}  (to reach: <= 0.36)")


def run_votes(session: LlamaSession, prompt: list[int], votes: int, tokens: int) -> float:
    """Seconds a token of votes drawn in one batch over one prefill."""
    start = time.perf_counter()
    parent = session.open(prompt, Sampling(temperature=TEMPERATURE))
    while not session.step([parent]).sampled:
        pass
    session.rollback(parent, 1)  # each vote draws its own first token
    forks = [
        session.fork(parent, Sampling(temperature=TEMPERATURE, seed=seed)) for seed in range(votes)
    ]
    left = {fork.id: tokens for fork in forks}
    by_id = {fork.id: fork for fork in forks}
    drawn = 0
    while forks:
        for sampled in session.step(forks).sampled:
            drawn += 1
            left[sampled.sequence_id] -= 1
            if sampled.ends:
                session.extend(by_id[sampled.sequence_id], prompt[1:2])
        for fork in forks:
            if left[fork.id] <= 0:
                session.close(fork, keep=False)
        forks = [fork for fork in forks if left[fork.id] > 0]
    session.close(parent, keep=False)
    return (time.perf_counter() - start) / drawn


def run_calls(
    llama: Any, prompt: list[int], votes: int, tokens: int, *, cold: bool
) -> tuple[float, int]:
    """Seconds a token of as many calls of ``Llama``, and how many tokens they drew."""
    llama.reset()
    drawn = 0
    start = time.perf_counter()
    for seed in range(votes):
        if cold:
            llama.reset()
        reply = llama.create_completion(
            prompt, max_tokens=tokens, temperature=TEMPERATURE, seed=seed
        )
        drawn += reply["usage"]["completion_tokens"]
    return (time.perf_counter() - start) / drawn, drawn


if __name__ == "__main__":
    main()
