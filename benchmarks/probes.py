"""Early exit and early stopping: what looks cost, and what a stop rule saves.

Looks: their share of decode time, from a thought with looks that never fire. Stopping: wall time of
a vote with ``flip`` on a question whose votes agree, against as many calls of ``Llama`` as there
are votes, with the same sampling and both prefix caches warm.

A rule can stop only where votes agree, and those of a model of 135M parameters seldom do. The
question was picked for that: of some twenty plain ones tried with the starter model at temperature
0.7 (capitals, counts, sums, opposites, yes or no; 48 votes on most of them) three came out with at
least three votes in four for one answer, and of these it has the longest answers. So this says what
stopping saves where votes agree, not how often they do. How many of the first votes agree is
printed, and ``--question`` asks another.

    python -m benchmarks.probes [MODEL.gguf] [--threads N] [--tokens N] [--every N] [--votes N]
                                [--question TEXT] [--rounds N] [--json]
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.figures import Figure, in_turn, median_of, ratio_of
from benchmarks.sides import (
    NeverStops,
    arguments,
    both_sides,
    joules_per_token,
    make_llama,
    make_session,
)
from etui.arm import VOTE_TEMPERATURE, Arm, EarlyExit, Sampling, VoteStop
from etui.chat import Message
from etui.config.config import load_config
from etui.energy.discovery import open_recorder
from etui.engine.llama_session import LlamaSession
from etui.events import Finished, Probe, Thought, Vote
from etui.reasoning.answer import answer
from etui.units import per_token_text

CONTEXT_TOKENS = 2048
LOOK_QUESTION = "Write a long story about a lighthouse keeper and the sea.\nA) sad\nB) funny"
"""Thought about for as long as it may be, by the starter model."""

VOTE_QUESTION = "How many days are in a week?"
"""36 of 48 votes of the starter model agree on it, all of the first eight."""

ANSWER_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Drawn:
    """The answers of one side: when, how many tokens, and of a vote how many it drew."""

    start_ns: int
    end_ns: int
    tokens: int
    votes: int = 0
    agreed: int = 0

    @property
    def seconds(self) -> float:
        """Wall time."""
        return (self.end_ns - self.start_ns) / 1e9


def quick() -> Iterator[Figure]:
    """Three looks and two votes of eight on the starter model."""
    votes = 8
    with both_sides(CONTEXT_TOKENS) as (session, llama):
        asked = (Message("user", VOTE_QUESTION),)
        prompt = session.tokenize(session.render(asked), bos=True)
        run_votes(session, asked, 2, VoteStop("all"), seed=0)  # warms both up
        run_calls(llama, prompt, 1, seed=0)
        shares = [100 * look_share(session, 96, 48) for _ in range(3)]
        yield median_of("looks every 48 tokens : decode time", shares, "%")
        pairs: list[tuple[Drawn, Drawn]] = []
        for number in range(2):
            seed = votes * number
            pairs += in_turn(
                partial(run_votes, session, asked, votes, VoteStop("flip"), seed=seed),
                partial(run_calls, llama, prompt, votes, seed=seed),
                1,
            )
    yield ratio_of(
        "wall time, a vote that stops early : eight calls of Llama",
        [(own.seconds, other.seconds) for own, other in pairs],
    )


def main() -> None:
    """Run the rounds and print the table."""
    parser = arguments(__doc__, tokens=96, rounds=3)
    parser.add_argument("--every", type=int, default=48)
    parser.add_argument("--votes", type=int, default=8)
    parser.add_argument("--question", default=VOTE_QUESTION)
    chosen = parser.parse_args()
    session = make_session(chosen.model, chosen.threads, CONTEXT_TOKENS)
    llama = make_llama(chosen.model, chosen.threads, CONTEXT_TOKENS)
    asked = (Message("user", chosen.question),)
    prompt = session.tokenize(session.render(asked), bos=True)
    every = run_votes(session, asked, chosen.votes, VoteStop("all"), seed=0)  # warms up, too
    run_calls(llama, prompt, 1, seed=0)
    shares: list[float] = []
    votes: list[Drawn] = []
    calls: list[Drawn] = []
    with open_recorder(load_config()) as recorder:
        for number in range(chosen.rounds):
            shares.append(look_share(session, chosen.tokens, chosen.every))
            seed = number * chosen.votes
            votes.append(run_votes(session, asked, chosen.votes, VoteStop("flip"), seed=seed))
            calls.append(run_calls(llama, prompt, chosen.votes, seed=seed))
        joules = {
            name: joules_per_token(
                recorder, [(d.start_ns, d.end_ns) for d in drawn], sum(d.tokens for d in drawn)
            )
            for name, drawn in (("flip", votes), ("calls", calls))
        }
    report = {
        "model": chosen.model.stem,
        "threads": chosen.threads,
        "rounds": chosen.rounds,
        "tokens": chosen.tokens,
        "every": chosen.every,
        "look_share": statistics.median(shares),
        "question": chosen.question,
        "votes": chosen.votes,
        "votes_that_agree": every.agreed,
        "votes_drawn": statistics.median(drawn.votes for drawn in votes),
        "flip_ratio": statistics.median(
            v.seconds / c.seconds for v, c in zip(votes, calls, strict=True)
        ),
        **{f"{name}_joules_per_token": joules[name][0] for name in joules},
        "kind": joules["flip"][1],
    }
    if chosen.json:
        print(json.dumps(report))
        return
    print(f"{report['model']}, {chosen.threads} threads, {chosen.rounds} rounds")
    print(
        f"  looks every {chosen.every} tokens  {report['look_share']:7.1%} of decode time"
        "  (to reach: <= 10 %)"
    )
    print(f"  {chosen.question!r}: {every.agreed} of {chosen.votes} votes agree")
    print(
        f"  flip, {report['votes_drawn']:g} of {chosen.votes} votes drawn : {chosen.votes} calls "
        f"{report['flip_ratio']:5.2f} of the wall time  (to reach: <= 0.35)"
    )
    for name, side in (("the vote", "flip"), ("the calls", "calls")):
        spent = per_token_text(report[f"{side}_joules_per_token"], report["kind"])
        print(f"  {name:10s} {spent}")


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
    for event in answer((Message("user", LOOK_QUESTION),), arm, session, NeverStops()):
        if isinstance(event, Probe):
            looking += event.t_ns - before
        if isinstance(event, Thought | Probe):
            before = event.t_ns
        if isinstance(event, Finished):
            return looking / max(1, event.end_ns - event.prefill_end_ns)
    raise AssertionError("an answer ends with Finished")


def run_votes(
    session: LlamaSession, asked: tuple[Message, ...], votes: int, stop: VoteStop, *, seed: int
) -> Drawn:
    """A vote as an arm runs it, without a thought."""
    arm = Arm(
        name="bench",
        model="bench",
        reasoning="vote",
        think_tokens=0,
        max_tokens=ANSWER_TOKENS,
        votes=votes,
        stop=stop,
        sampling=Sampling(temperature=VOTE_TEMPERATURE, seed=seed),
    )
    start_ns = time.monotonic_ns()
    events = list(answer(asked, arm, session, NeverStops()))
    end_ns = time.monotonic_ns()
    end = events[-1]
    assert isinstance(end, Finished)
    cast = [event.choice for event in events if isinstance(event, Vote)]
    agreed = max(cast.count(choice) for choice in cast if choice) if any(cast) else 0
    return Drawn(start_ns, end_ns, end.output_tokens, len(cast), agreed)


def run_calls(llama: Any, prompt: list[int], votes: int, *, seed: int) -> Drawn:
    """As many calls of ``Llama`` for answers of the same kind."""
    tokens = 0
    start_ns = time.monotonic_ns()
    for index in range(votes):
        reply = llama.create_completion(
            prompt, max_tokens=ANSWER_TOKENS, temperature=VOTE_TEMPERATURE, seed=seed + index
        )
        tokens += reply["usage"]["completion_tokens"]
    return Drawn(start_ns, time.monotonic_ns(), tokens)


if __name__ == "__main__":
    main()
