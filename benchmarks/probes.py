"""Early exit and early stopping: what looks cost, and what a stop rule saves.

Looks: their share of decode time, from a thought with looks that never fire. Stopping: wall time of
a vote with ``flip`` on a question whose votes agree, against as many calls of ``Llama`` as there
are votes, its prefix cache warm.

    python benchmarks/probes.py [MODEL.gguf] [--threads N] [--tokens N] [--every N] [--votes N]
                                [--rounds N] [--json]
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from sides import arguments, make_llama, make_session

from etui.arm import Arm, EarlyExit, Sampling, VoteStop
from etui.engine.events import Finished, Probe, Thought
from etui.engine.llama_session import LlamaSession
from etui.query import Message
from etui.reasoning.answer import answer
from etui.reasoning.prompts import with_instruction

CONTEXT_TOKENS = 2048
LOOK_QUESTION = "Write a long story about a lighthouse keeper and the sea.\nA) sad\nB) funny"
"""Thought about for as long as it may be, by the starter model."""

VOTE_QUESTION = "What is 7 + 5? Show each step of the sum."
"""Thought about at length, and answered alike by most of the starter model's votes."""


class _GoOn:
    """Nobody stops the answer."""

    def cancelled(self) -> bool:
        return False

    def spent(self) -> bool:
        return False


def main() -> None:
    """Run the rounds and print the table."""
    parser = arguments(__doc__, tokens=96, rounds=3)
    parser.add_argument("--every", type=int, default=48)
    parser.add_argument("--votes", type=int, default=8)
    chosen = parser.parse_args()
    session = make_session(chosen.model, chosen.threads, CONTEXT_TOKENS)
    llama = make_llama(chosen.model, chosen.threads, CONTEXT_TOKENS)
    shares, ratios, drawn = [], [], []
    run_votes(session, 1, 4)  # warms the weights up
    for _ in range(chosen.rounds):
        shares.append(look_share(session, chosen.tokens, chosen.every))
        own, votes = run_votes(session, chosen.votes, chosen.tokens)
        drawn.append(votes)
        ratios.append(own / run_calls(session, llama, chosen.votes, chosen.tokens))
    report = {
        "model": chosen.model.stem,
        "threads": chosen.threads,
        "tokens": chosen.tokens,
        "every": chosen.every,
        "votes": chosen.votes,
        "votes_drawn": statistics.median(drawn),
        "look_share": statistics.median(shares),
        "flip_ratio": statistics.median(ratios),
    }
    if chosen.json:
        print(json.dumps(report))
        return
    print(f"{report['model']}, {chosen.threads} threads, {chosen.rounds} rounds")
    print(
        f"  looks every {chosen.every} tokens  {report['look_share']:7.1%} of decode time (<= 10 %)"
    )
    print(
        f"  flip, {report['votes_drawn']:g} of {chosen.votes} votes drawn : {chosen.votes} calls "
        f"{report['flip_ratio']:5.2f} of the wall time (<= 0.35)"
    )


def look_share(session: LlamaSession, tokens: int, every: int) -> float:
    """Share of decode time that goes into looks, by the clock around each of them."""
    arm = Arm(
        name="bench",
        model="bench",
        reasoning="cot",
        think_tokens=tokens,
        max_tokens=4,
        early_exit=EarlyExit(every, 1.0, 10_000),
    )
    looking, before = 0, 0
    for event in answer((Message("user", LOOK_QUESTION),), arm, session, _GoOn()):
        if isinstance(event, Probe):
            looking += event.t_ns - before
        if isinstance(event, Thought | Probe):
            before = event.t_ns
        if isinstance(event, Finished):
            return looking / max(1, event.end_ns - event.prefill_end_ns)
    raise AssertionError("an answer ends with Finished")


def run_votes(session: LlamaSession, votes: int, tokens: int) -> tuple[float, int]:
    """Seconds of a vote whose answers agree, and how many were drawn.

    A tiny temperature makes them agree: what is measured is the stopping, not the model.
    """
    arm = Arm(
        name="bench",
        model="bench",
        reasoning="vote",
        think_tokens=tokens,
        max_tokens=8,
        votes=votes,
        stop=VoteStop("flip"),
        sampling=Sampling(temperature=0.01),
    )
    start = time.perf_counter()
    events = list(answer((Message("user", VOTE_QUESTION),), arm, session, _GoOn()))
    seconds = time.perf_counter() - start
    return seconds, sum(type(event).__name__ == "Vote" for event in events)


def run_calls(session: LlamaSession, llama: Any, votes: int, tokens: int) -> float:
    """Seconds of as many calls of ``Llama`` with the same tokens to draw."""
    asked = with_instruction([Message("user", VOTE_QUESTION)], "plain")
    prompt = session.tokenize(session.render(asked), bos=True)
    llama.reset()
    start = time.perf_counter()
    for seed in range(votes):
        llama.create_completion(prompt, max_tokens=tokens + 8, temperature=0.8, seed=seed)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
