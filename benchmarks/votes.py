"""Votes: one prefill and batched decoding against as many calls of llama-cpp-python's ``Llama``.

Seconds a token, all in: prompt, prefill, decode, sampling, text, and on our side the count of the
votes. ``warm`` calls reuse Llama's own prefix cache, ``cold`` ones begin with an empty cache, as a
new process would. No token ends an answer, on either side, so that all of them draw exactly the
tokens asked for: the ratios compare equal work. Joules a token stand beside each where anything
measures.

    python -m benchmarks.votes [MODEL.gguf] [--votes N] [--threads N] [--tokens N] [--rounds N]
                               [--json]
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.figures import Figure, in_turn, ratio_of
from benchmarks.sides import (
    NeverStops,
    TimedSession,
    arguments,
    both_sides,
    ignored_ends,
    joules_per_token,
    make_llama,
    make_session,
)
from etui.arm import VOTE_TEMPERATURE, Arm, Sampling, VoteStop
from etui.chat import Message
from etui.config.config import load_config
from etui.energy.discovery import open_recorder
from etui.events import Finished
from etui.reasoning.answer import answer
from etui.units import per_token_text

CONTEXT_TOKENS = 2048
PROMPT_TOKENS = 215
TALE = (
    "A farmer has seventeen sheep, nine goats and a dog. On Monday he sells four sheep at the "
    "market and buys two goats from his neighbour. On Tuesday a storm breaks the fence. "
) * 8


@dataclass(frozen=True, slots=True)
class Drawn:
    """One side's answers of a round; ``decoding_seconds`` is its time in ``llama_decode``."""

    start_ns: int
    end_ns: int
    tokens: int
    decoding_seconds: float | None = None

    @property
    def token_seconds(self) -> float:
        """Seconds a token, all in."""
        return (self.end_ns - self.start_ns) / 1e9 / self.tokens


QUICK_VOTES, QUICK_TOKENS, QUICK_ROUNDS = 4, 24, 3


def quick() -> Iterator[Figure]:
    """Three rounds of four votes of 24 tokens on the starter model."""
    with ignored_ends(), both_sides(CONTEXT_TOKENS) as (session, llama):
        run_votes(session, question(session, 0), 2, 4)  # warms both up
        run_calls(llama, prompt_of(session, question(session, 0)), 1, 4, cold=False)
        sides: dict[str, list[tuple[Drawn, Drawn]]] = {"warm": [], "cold": []}
        number = 0

        def votes() -> Drawn:
            return run_votes(session, question(session, number), QUICK_VOTES, QUICK_TOKENS)

        def calls(*, cold: bool) -> Drawn:
            prompt = prompt_of(session, question(session, number))
            return run_calls(llama, prompt, QUICK_VOTES, QUICK_TOKENS, cold=cold)

        for _ in range(QUICK_ROUNDS):
            for kind, pairs in sides.items():
                number += 1  # no side has this question in its cache
                pairs += in_turn(votes, partial(calls, cold=kind == "cold"), 1)
    for kind, pairs in sides.items():
        yield ratio_of(
            f"seconds a token, one batch : calls of Llama, cache {kind}",
            [(own.token_seconds, other.token_seconds) for own, other in pairs],
        )
    own = [own for pairs in sides.values() for own, _ in pairs]
    spent = [drawn.token_seconds * drawn.tokens for drawn in own]
    yield ratio_of(
        "time outside llama_decode : all",
        [(s - (d.decoding_seconds or 0.0), s) for s, d in zip(spent, own, strict=True)],
        "%",
    )


@ignored_ends()
def main() -> None:
    """Run the rounds and print the table."""
    parser = arguments(__doc__, tokens=100, rounds=3)
    parser.add_argument("--votes", type=int, default=8)
    chosen = parser.parse_args()
    session = make_session(chosen.model, chosen.threads, CONTEXT_TOKENS)
    llama = make_llama(chosen.model, chosen.threads, CONTEXT_TOKENS)
    run_votes(session, question(session, 0), 2, 4)  # warms the weights up
    run_calls(llama, prompt_of(session, question(session, 0)), 1, 4, cold=False)
    sides: dict[str, list[Drawn]] = {"etui": [], "warm": [], "cold": []}
    with open_recorder(load_config()) as recorder:
        for number in range(1, chosen.rounds + 1):
            asked = question(session, number)
            prompt = prompt_of(session, asked)
            sides["etui"].append(run_votes(session, asked, chosen.votes, chosen.tokens))
            for kind in ("warm", "cold"):
                calls = run_calls(llama, prompt, chosen.votes, chosen.tokens, cold=kind == "cold")
                sides[kind].append(calls)
        joules = {
            name: joules_per_token(
                recorder, [(d.start_ns, d.end_ns) for d in drawn], sum(d.tokens for d in drawn)
            )
            for name, drawn in sides.items()
        }
    tokens = {name: [drawn.tokens for drawn in rounds] for name, rounds in sides.items()}
    if any(counts != tokens["etui"] for counts in tokens.values()):
        raise SystemExit(f"the sides drew different numbers of tokens: {tokens}")
    own, warm, cold = (sides[name] for name in ("etui", "warm", "cold"))
    outside = [d.token_seconds - (d.decoding_seconds or 0) / d.tokens for d in own]
    report = {
        "model": chosen.model.stem,
        "threads": chosen.threads,
        "votes": chosen.votes,
        "tokens": chosen.tokens,
        "tokens_drawn": tokens["etui"][0],
        "prompt_tokens": len(prompt),
        **{f"{name}_ms_per_token": 1000 * seconds(rounds) for name, rounds in sides.items()},
        **{f"{name}_joules_per_token": joules[name][0] for name in sides},
        "kind": joules["etui"][1],
        "ratio_warm": ratio(own, warm),
        "ratio_cold": ratio(own, cold),
        "python_ms_per_token": 1000 * statistics.median(outside),
        "python_share": statistics.median(
            o / d.token_seconds for o, d in zip(outside, own, strict=True)
        ),
    }
    if chosen.json:
        print(json.dumps(report))
        return
    print(
        f"{report['model']}, {chosen.votes} votes of {chosen.tokens} tokens on "
        f"{len(prompt)} of prompt, {chosen.threads} threads, {chosen.rounds} rounds; "
        f"{report['tokens_drawn']} tokens a side"
    )
    for name, side in (
        ("etui, one batch", "etui"),
        ("Llama, cache warm", "warm"),
        ("Llama, cache cold", "cold"),
    ):
        spent = per_token_text(report[f"{side}_joules_per_token"], report["kind"])
        print(f"  {name:20s}  {report[f'{side}_ms_per_token']:7.2f} ms/token, {spent}")
    print(f"  etui : warm           {report['ratio_warm']:7.2f}  (to reach: <= 0.56)")
    print(f"  etui : cold           {report['ratio_cold']:7.2f}  (to reach: <= 0.36)")
    print(
        f"  outside llama_decode  {report['python_ms_per_token']:7.2f} ms/token, "
        f"{report['python_share']:.1%} of all  (to reach: <= 5 %)"
    )


def seconds(rounds: list[Drawn]) -> float:
    """Median seconds a token."""
    return statistics.median(drawn.token_seconds for drawn in rounds)


def ratio(own: list[Drawn], other: list[Drawn]) -> float:
    """Median over the rounds of our seconds a token over theirs."""
    pairs = zip(own, other, strict=True)
    return statistics.median(a.token_seconds / b.token_seconds for a, b in pairs)


def question(session: TimedSession, number: int) -> str:
    """A message that makes a prompt of so many tokens; its number keeps rounds apart."""
    words = TALE.split()
    count = 0
    while len(prompt_of(session, said(number, words[: count + 1]))) <= PROMPT_TOKENS:
        count += 1
    return said(number, words[:count])


def said(number: int, words: list[str]) -> str:
    """The tale, begun with a number."""
    return f"{number}. {' '.join(words)}"


def prompt_of(session: TimedSession, text: str) -> list[int]:
    """Tokens of the prompt, the same on both sides."""
    return session.tokenize(session.render([Message("user", text)]), bos=True)


def run_votes(session: TimedSession, text: str, votes: int, tokens: int) -> Drawn:
    """A vote as an arm runs it."""
    arm = Arm(
        name="bench",
        model="bench",
        reasoning="vote",
        think_tokens=0,
        max_tokens=tokens,
        votes=votes,
        batch=votes,
        stop=VoteStop("all"),
        sampling=Sampling(temperature=VOTE_TEMPERATURE),
    )
    session.decoding_ns = 0
    start_ns = time.monotonic_ns()
    *_, end = answer((Message("user", text),), arm, session, NeverStops())
    end_ns = time.monotonic_ns()
    assert isinstance(end, Finished)
    return Drawn(start_ns, end_ns, end.output_tokens, session.decoding_ns / 1e9)


def run_calls(llama: Any, prompt: list[int], votes: int, tokens: int, *, cold: bool) -> Drawn:
    """As many calls of ``Llama``, with the same sampling."""
    drawn = 0
    start_ns = time.monotonic_ns()
    for seed in range(votes):
        if cold:
            llama.reset()
        reply = llama.create_completion(
            prompt, max_tokens=tokens, temperature=VOTE_TEMPERATURE, seed=seed
        )
        drawn += reply["usage"]["completion_tokens"]
    return Drawn(start_ns, time.monotonic_ns(), drawn)


if __name__ == "__main__":
    main()
