"""A chat of ten turns: etui's session against llama-cpp-python's ``Llama``, its prefix cache on.

Both hold the same questions and their own greedy answers; every turn renders the whole chat, so
what is reused of it shows in the time to the first token. The turn named by ``--look`` is held to
the prefill of its new tokens alone, measured beside it: ``behind`` the history already in the
cache, which tells what finding and reusing it costs, and in an ``empty`` cache, where the new
tokens have nothing to look back on: attention to the history is in that ratio, too, and no reuse
can spare it. Joules of a turn over its output tokens stand beside each where anything measures.

    python -m benchmarks.chat [MODEL.gguf] [--turns N] [--look N] [--history N] [--threads N]
                              [--tokens N] [--rounds N] [--json]
"""

from __future__ import annotations

import json
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Figure, ratio_of
from benchmarks.sides import (
    NeverStops,
    arguments,
    both_sides,
    joules_per_token,
    make_llama,
    make_session,
    opened_session,
    starter,
)
from etui.arm import Arm, Sampling
from etui.chat import Message
from etui.config.config import load_config
from etui.energy.discovery import open_recorder
from etui.energy.recorder import Recorder
from etui.engine.llama_session import LlamaSession
from etui.events import Finished
from etui.reasoning.answer import answer
from etui.units import per_token_text

CONTEXT_TOKENS = 4096
SIDES = ("etui", "llama")
MADE_ALONE = 3
TALE = (
    "a farmer has seventeen sheep nine goats and one dog on monday he sells four sheep at the "
    "market and buys two goats from his neighbour on tuesday a storm breaks the fence"
)
WORDS = TALE.split()


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a side; ``cached`` tokens of the prompt were reused (Llama does not say)."""

    answer: str
    prompt: int
    cached: int
    output: int
    start_ns: int
    first_ns: int
    end_ns: int

    @property
    def first_seconds(self) -> float:
        """Seconds to the first token."""
        return (self.first_ns - self.start_ns) / 1e9


def quick() -> Iterator[Figure]:
    """Three chats of four short turns on the starter model."""
    chosen = Namespace(turns=4, look=4, history=300, tokens=12)
    with (
        both_sides(CONTEXT_TOKENS) as (session, llama),
        opened_session(starter(), CONTEXT_TOKENS) as empty,
    ):
        for side in (session, empty):
            prefill(side, [], side.tokenize(TALE))  # brings the weights into memory
        llama.create_completion(TALE, max_tokens=2)
        rounds = [chat(session, empty, llama, Recorder([]), chosen, n) for n in range(3)]
    last = [made["turns"][-1] for made in rounds]
    yield ratio_of(
        "first token of the fourth turn, etui : Llama",
        [(turn["etui_ms"], turn["llama_ms"]) for turn in last],
    )
    yield ratio_of(
        "first token of the fourth turn, etui : its new tokens behind the history",
        [(turn["etui_ms"], made["behind_ms"]) for turn, made in zip(last, rounds, strict=True)],
    )


def main() -> None:
    """Run the rounds and print the table."""
    parser = arguments(__doc__, tokens=96, rounds=3)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--look", type=int, default=8, help="turn whose first token is judged")
    parser.add_argument("--history", type=int, default=1500, help="tokens before that turn")
    chosen = parser.parse_args()
    if not 2 <= chosen.look <= chosen.turns:
        parser.error("--look is a turn after the first, at most --turns")
    session = make_session(chosen.model, chosen.threads, CONTEXT_TOKENS)
    empty = make_session(chosen.model, chosen.threads, CONTEXT_TOKENS)
    llama = make_llama(chosen.model, chosen.threads, CONTEXT_TOKENS)
    for side in (session, empty):
        prefill(side, [], side.tokenize(TALE))  # brings the weights into memory
    llama.create_completion(TALE, max_tokens=2)
    with open_recorder(load_config()) as recorder:
        start_ns = time.monotonic_ns()
        rounds = [
            chat(session, empty, llama, recorder, chosen, number) for number in range(chosen.rounds)
        ]
        kind = recorder.energy(start_ns, time.monotonic_ns()).kind
    report = {
        "model": chosen.model.stem,
        "threads": chosen.threads,
        "rounds": chosen.rounds,
        "kind": kind,
        "turn": chosen.look,
        "turns": [across([made["turns"][i] for made in rounds]) for i in range(chosen.turns)],
        **across([{k: v for k, v in made.items() if k != "turns"} for made in rounds]),
    }
    if chosen.json:
        print(json.dumps(report))
        return
    print(f"{report['model']}, {chosen.threads} threads, {chosen.rounds} chats, first token in ms")
    print("  turn  history  new tokens      etui     Llama   etui : Llama   etui, Llama: J/token")
    for number, turn in enumerate(report["turns"], 1):
        spent = [per_token_text(turn[f"{side}_joules_per_token"], kind) for side in SIDES]
        print(
            f"  {number:4d}  {turn['history']:7.0f}  {turn['new']:10.0f}"
            f"  {turn['etui_ms']:8.1f}  {turn['llama_ms']:8.1f}  {turn['ratio']:8.2f}"
            f"       {', '.join(spent)}"
        )
    print(f"  new tokens of turn {chosen.look}, behind   {report['behind_ms']:8.1f} ms")
    print(f"  the same, empty cache       {report['empty_ms']:8.1f} ms")
    print(f"  etui : behind               {report['ratio_behind']:8.2f}  (to reach: <= 1.15)")
    print(f"  etui : empty                {report['ratio_empty']:8.2f}")


def across(rows: list[dict[str, float | None]]) -> dict[str, float | None]:
    """The median of every figure over the rounds; None where a round has none."""
    medians: dict[str, float | None] = {}
    for name in rows[0]:
        known = [value for row in rows if (value := row[name]) is not None]
        medians[name] = statistics.median(known) if len(known) == len(rows) else None
    return medians


def chat(
    session: LlamaSession,
    empty: LlamaSession,
    llama: Any,
    recorder: Recorder,
    chosen: Any,
    number: int,
) -> dict[str, Any]:
    """One chat on both sides; the round's number begins it, so that no other round's is reused."""
    llama.reset()
    ours: list[Message] = []
    theirs: list[Message] = []
    figures: dict[str, Any] = {"turns": []}
    held = 0
    for turn in range(1, chosen.turns + 1):
        wanted = chosen.history * turn // (chosen.look - 1) - held - chosen.tokens
        question = Message("user", said(number, turn, max(8, wanted)))
        ours.append(question)
        theirs.append(question)
        made = run_session(session, ours, chosen.tokens)
        other = run_llama(llama, theirs, chosen.tokens)
        if turn == chosen.look:
            figures |= judged(session, empty, ours, made)
        ours.append(Message("assistant", made.answer))
        theirs.append(Message("assistant", other.answer))
        held = made.prompt + made.output
        figures["turns"].append(
            {
                "history": made.cached,
                "new": made.prompt - made.cached,
                "etui_ms": 1000 * made.first_seconds,
                "llama_ms": 1000 * other.first_seconds,
                "ratio": made.first_seconds / other.first_seconds,
                **{
                    f"{side}_joules_per_token": joules_per_token(
                        recorder, [(ran.start_ns, ran.end_ns)], ran.output
                    )[0]
                    for side, ran in zip(SIDES, (made, other), strict=True)
                },
            }
        )
    return figures


def said(number: int, turn: int, words: int) -> str:
    """A message of about so many tokens; a word is little more than one."""
    told = [WORDS[(turn + i) % len(WORDS)] for i in range(words - 6)]
    return f"{number + 1}.{turn} {' '.join(told)}. What comes next?"


def run_session(session: LlamaSession, messages: list[Message], tokens: int) -> Turn:
    """One turn as the app runs it: render, tokenize, reuse, prefill, decode."""
    arm = Arm("bench", "bench", max_tokens=tokens, sampling=Sampling(temperature=0))
    start_ns = time.monotonic_ns()
    events = list(answer(tuple(messages), arm, session, NeverStops()))
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.first_token_ns is not None
    return Turn(
        end.answer,
        end.prompt_tokens,
        end.cached_tokens,
        end.output_tokens,
        start_ns,
        end.first_token_ns,
        end.end_ns,
    )


def run_llama(llama: Any, messages: list[Message], tokens: int) -> Turn:
    """One turn of ``Llama``: it streams a piece of text a token."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    start_ns = time.monotonic_ns()
    first_ns: int | None = None
    pieces: list[str] = []
    for chunk in llama.create_chat_completion(
        chat, max_tokens=tokens, temperature=0, repeat_penalty=1.0, stream=True
    ):
        text = chunk["choices"][0]["delta"].get("content")
        if text:
            first_ns = first_ns or time.monotonic_ns()
            pieces.append(text)
    end_ns = time.monotonic_ns()
    return Turn("".join(pieces), 0, 0, len(pieces), start_ns, first_ns or end_ns, end_ns)


def judged(
    session: LlamaSession, empty: LlamaSession, messages: list[Message], made: Turn
) -> dict[str, float]:
    """The turn's time to the first token beside that of its new tokens without the chat."""
    prompt = session.tokenize(session.render(messages), bos=True)
    new = prompt[made.cached :]
    history = prompt[: made.cached]
    bare = statistics.median(prefill(empty, [], new) for _ in range(MADE_ALONE))
    behind = statistics.median(prefill(empty, history, new) for _ in range(MADE_ALONE))
    return {
        "empty_ms": 1000 * bare,
        "behind_ms": 1000 * behind,
        "ratio_empty": made.first_seconds / bare,
        "ratio_behind": made.first_seconds / behind,
    }


def prefill(session: LlamaSession, history: list[int], new: list[int]) -> float:
    """Seconds from the new tokens to the first one drawn; the history lies in the cache."""
    sampling = Sampling(temperature=0)
    sequence = session.open(history or new, sampling)
    if history:
        while not session.step([sequence]).sampled:
            pass
        session.rollback(sequence, len(sequence.tokens) - len(history))
        session.extend(sequence, new)
    start = time.perf_counter()
    while not session.step([sequence]).sampled:
        pass
    seconds = time.perf_counter() - start
    session.close(sequence, keep=False)
    return seconds


if __name__ == "__main__":
    main()
