"""KV caches that stay: a chat that comes back from memory or disk, against computing its prompt.

Each round computes a chat as a whole, goes on with it in the context, returns to it after other
chats (memory), and goes on with it in a new context with an empty memory (disk). Each of the three
asks a question of 16 tokens: what that takes in the context is what the tiers cannot save. Seconds
are those up to the first token, the load of the model excluded; joules stand beside them where
anything measures.

    python -m benchmarks.kv [MODEL.gguf] [--threads N] [--tokens N] [--rounds N] [--chats N]
                            [--json]
    python -m benchmarks.kv replay [--seed N] [--joules-per-token J] [--json]

``replay`` plays a day of 300 turns through the tiers: chats that go on, are left and returned to,
files that are attached, an app that is closed and opened again. It sums the joules that each tier
saves, and what keeping took.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, ratio_of
from benchmarks.sides import arguments, make_session, starter
from etui.arm import Sampling
from etui.config.config import load_config
from etui.energy.discovery import open_recorder
from etui.engine.kv_folder import KvFolder
from etui.engine.kv_store import KvStore, SavedSequence
from etui.engine.library import Library, default_threads
from etui.engine.llama_session import LlamaSession

KEY = "benchmark".ljust(64, "-")
GREEDY = Sampling(temperature=0)
QUESTION_TOKENS = 16
CHATS = 10


@dataclass(frozen=True, slots=True)
class Timed:
    """One prompt up to its first token."""

    start_ns: int
    opened_ns: int  # When what could be reused was in the context
    end_ns: int
    cached: int

    @property
    def seconds(self) -> float:
        """Seconds up to the first token."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def opening_seconds(self) -> float:
        """Seconds of leaving the other chat and of bringing this one back."""
        return (self.opened_ns - self.start_ns) / 1e9


def make_chat(number: int, count: int) -> list[int]:
    """Tokens that no other chat begins with; any token is as much work as any other."""
    draw = random.Random(number)
    return [draw.randrange(300, 20_000) for _ in range(count)]


def ask(session: LlamaSession, tokens: list[int], label: str) -> Timed:
    """Compute a prompt, and close its sequence as an answer does."""
    start_ns = time.monotonic_ns()
    sequence = session.open(tokens, GREEDY, label=label)
    opened_ns = time.monotonic_ns()
    while not session.step([sequence]).sampled:
        pass
    end_ns = time.monotonic_ns()
    session.close(sequence)
    return Timed(start_ns, opened_ns, end_ns, sequence.cached)


def run_rounds(
    path: Path, threads: int, tokens: int, rounds: int, chats: int
) -> Iterator[dict[str, Timed]]:
    """Yield the prompts of each round by name: whole, context, memory, disk."""
    library = Library(load_config().log_dir)
    with tempfile.TemporaryDirectory() as name, closing(library):
        folder = KvFolder(Path(name), 1 << 40)
        for number in range(rounds):
            store = KvStore(lambda _held: 1 << 40, folder)
            session = make_session(path, threads, tokens + 256, library)
            session.keep_in(store, KEY)
            ask(session, make_chat(-1, 32), "warm-up")
            base = number * chats
            found = {"whole": ask(session, make_chat(base, tokens), "chat")}

            def go_on(session: LlamaSession, turn: int, chat: int = base) -> Timed:
                question = make_chat(1_000_000 + turn, QUESTION_TOKENS)
                return ask(session, [*make_chat(chat, tokens), *question], f"turn {turn}")

            found["context"] = go_on(session, 1)
            for other in range(1, chats):
                ask(session, make_chat(base + other, tokens), f"chat {other}")
            found["memory"] = go_on(session, 2)
            session.free()
            store.spill(60.0)
            again = make_session(path, threads, tokens + 256, library)
            again.keep_in(KvStore(lambda _held: 1 << 40, folder), KEY)
            ask(again, make_chat(-1, 32), "warm-up")
            found["disk"] = go_on(again, 3)
            again.keep_in(KvStore(lambda _held: 1 << 40), KEY)
            again.free()
            folder.clear()
            for tier in ("context", "memory", "disk"):
                assert found[tier].cached >= tokens - 1, f"nothing was reused: {tier}"
            yield found


def quick() -> Iterator[Figure]:
    """Two rounds with three chats of 400 tokens on the starter model."""
    rounds = list(run_rounds(starter(), default_threads(), 400, 2, 3))
    for tier in ("memory", "disk"):
        pairs = [(each[tier].opening_seconds, each["whole"].seconds) for each in rounds]
        yield ratio_of(f"bringing back from {tier} : computing", pairs, "%")


def measure(path: Path, threads: int, tokens: int, rounds: int, chats: int) -> dict[str, Any]:
    """Measure some rounds; joules are None where nothing measures."""
    recorder = open_recorder(load_config())
    recorder.start()
    try:
        found = list(run_rounds(path, threads, tokens, rounds, chats))
        recorder.settle(found[-1]["disk"].end_ns)

        def joules(one: Timed) -> float | None:
            return recorder.energy(one.start_ns, one.end_ns).joules

        spent = [{name: joules(one) for name, one in each.items()} for each in found]
        kind = recorder.energy(found[0]["whole"].start_ns, found[0]["whole"].end_ns).kind
    finally:
        recorder.close()
    whole = [each["whole"].seconds for each in found]
    document: dict[str, Any] = {
        "model": path.stem,
        "tokens": tokens,
        "chats": chats,
        "rounds": rounds,
        "whole_seconds": sorted(whole)[len(whole) // 2],
        "energy_kind": kind,
    }
    for tier in ("context", "memory", "disk"):
        opening = ratio_of("", [(e[tier].opening_seconds, e["whole"].seconds) for e in found], "%")
        first = ratio_of("", [(e[tier].seconds, e["whole"].seconds) for e in found], "%")
        pairs = [(e[tier], e["whole"]) for e in spent]
        known = [(mine, all_) for mine, all_ in pairs if mine is not None and all_]
        energy = ratio_of("", known, "%") if len(known) == len(pairs) else None
        document[tier] = {
            "bringing_back_percent": (opening.value, opening.low, opening.high),
            "first_token_percent": (first.value, first.low, first.high),
            "joules_percent": None if energy is None else (energy.value, energy.low, energy.high),
        }
    return document


@dataclass
class Day:
    """A day of one user at the app, replayed through the tiers.

    Sizes are a thousandth of the real ones, and so are the budgets, so that no gigabytes are
    written.
    """

    joules_per_token: float
    bytes_per_token: int = 28  # A thousandth of a model of 1.5B with grouped queries, in f16
    memory_bytes: int = 1_600_000  # A tenth of 16 GB free
    disk_bytes: int = 2_000_000
    joules_per_byte: dict[str, float] = field(
        default_factory=lambda: {"save": 5e-9, "memory": 5e-9, "disk": 4e-8}
    )
    """Joules of copying a real byte: 20 W at 4 GB/s; reading, checking and copying at 0.5 GB/s."""

    def replay(self, seed: int, turns: int = 300) -> dict[str, Any]:
        """Replay the turns; return tokens and joules by tier."""
        draw = random.Random(seed)
        clock = [time.time()]  # of the files, too
        chats: list[list[int]] = []
        tiers = {tier: {"turns": 0, "tokens": 0, "joules": 0.0} for tier in self._tiers()}
        cost, context = 0.0, list[int]()
        with tempfile.TemporaryDirectory() as name:
            folder = KvFolder(Path(name), self.disk_bytes)
            store = self._open(folder, lambda: clock[0])
            for turn in range(turns):
                clock[0] += draw.expovariate(1 / 90.0)
                if turn and turn % 60 == 0:  # the app is closed, and opened again later
                    cost += self._leave(store, context, f"{turn}", clock[0])
                    store.spill(60.0)
                    context = []
                    clock[0] += 3600.0
                    store = self._open(folder, lambda: clock[0])
                which = self._choose(draw, len(chats))
                if which == len(chats):
                    attached = draw.randrange(800, 4000) if draw.random() < 0.3 else 0
                    chats.append([*make_chat(1, 120), *make_chat(seed + 99 * turn, attached)])
                prompt = [*chats[which], *make_chat(7 * turn + seed, draw.randrange(12, 120))]
                tier, reused = "context", _shared(context, prompt)
                saved = store.find(KEY, "", prompt, reused)
                if saved is not None:
                    tier = "disk" if saved.state is None else "memory"
                    if store.load(saved) is not None:
                        reused = saved.gives(array("i", prompt))
                        cost += 1000 * saved.size_bytes * self.joules_per_byte[tier]
                if reused < len(context) and context:
                    cost += self._leave(store, context, f"{turn}", clock[0])
                tiers[tier]["turns"] += reused > 0
                tiers[tier]["tokens"] += reused
                tiers[tier]["joules"] += reused * self.joules_per_token
                tiers["computed"]["turns"] += 1
                tiers["computed"]["tokens"] += len(prompt) - reused
                tiers["computed"]["joules"] += (len(prompt) - reused) * self.joules_per_token
                context = [*prompt, *make_chat(13 * turn + seed, draw.randrange(40, 500))]
                chats[which] = context
        return {"turns": turns, "chats": len(chats), "tiers": tiers, "keeping_joules": cost}

    @staticmethod
    def _tiers() -> tuple[str, ...]:
        return "context", "memory", "disk", "computed"

    def _open(self, folder: KvFolder, now_seconds: Any) -> KvStore:
        return KvStore(lambda _held: self.memory_bytes, folder, now_seconds)

    @staticmethod
    def _choose(draw: random.Random, count: int) -> int:
        """Mostly the latest chat, at times an earlier one or a new one."""
        if count == 0 or draw.random() < 0.12:
            return count
        if draw.random() < 0.7:
            return count - 1
        return max(0, count - 1 - int(draw.paretovariate(0.9)))

    def _leave(self, store: KvStore, context: list[int], label: str, now: float) -> float:
        size = self.bytes_per_token * len(context)
        state = np.zeros(size, dtype=np.uint8)
        joules = self.joules_per_token * len(context)
        tokens = array("i", context)
        store.put(SavedSequence(KEY, "", label, tokens, (), False, joules, size, now, state))
        return 1000 * size * self.joules_per_byte["save"]


def _shared(first: list[int], second: list[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second) - 1))


def main() -> None:
    """Print the figures."""
    if sys.argv[1:2] == ["replay"]:
        parser = argparse.ArgumentParser(prog="python -m benchmarks.kv replay")
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--joules-per-token", type=float, default=0.35)
        parser.add_argument("--json", action="store_true")
        options = parser.parse_args(sys.argv[2:])
        found = Day(options.joules_per_token).replay(options.seed)
        if options.json:
            print(json.dumps(found))
            return
        print(f"{found['turns']} turns in {found['chats']} chats")
        for tier, sums in found["tiers"].items():
            verb = "spent" if tier == "computed" else "saved"
            print(
                f"{tier:<9} {sums['turns']:4} turns {sums['tokens']:9,} tokens "
                f"{verb} {sums['joules']:9,.0f} J"
            )
        print(f"keeping cost {found['keeping_joules']:,.0f} J")
        return
    parser = arguments(__doc__, tokens=2000, rounds=3)
    parser.add_argument("--chats", type=int, default=CHATS)
    options = parser.parse_args()
    result = measure(options.model, options.threads, options.tokens, options.rounds, options.chats)
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{result['model']}: {result['tokens']} tokens computed in "
        f"{result['whole_seconds']:.2f} s, {result['chats']} chats, {result['rounds']} rounds"
    )
    for tier in ("context", "memory", "disk"):
        print(f"{tier:<8}", *(f"{name} {value}" for name, value in result[tier].items()))


if __name__ == "__main__":
    main()
