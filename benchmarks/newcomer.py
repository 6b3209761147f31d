"""What a newcomer asks first: tokens, joules and repetition, before and after.

The README's first question and ten questions that a newcomer types, each asked twice in turn:
greedily without the loop guard, as etui once answered, and as it answers now by default. An answer
repeats itself if it has more than 150 tokens and a loop of three rounds, which is found by trying
every period (:func:`benchmarks.loops.label`), not by the guard. Joules are those of the turn, from
whatever this machine measures or estimates.

    python -m benchmarks.newcomer [--model NAME] [--max-tokens N] [--temperature T] [--json]

`--temperature` is that of the second answer. Threads and the like come from `config.yaml` in
`ETUI_HOME`. Nothing is written to the log.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace

from benchmarks.figures import Figure, ratio_of
from benchmarks.loops import label, split_words
from benchmarks.sides import starter
from etui.backends.local import LocalBackend
from etui.chat import Query
from etui.config.config import load_config, make_home
from etui.models.spec import STARTER
from etui.runtime.decide import choose
from etui.runtime.host import read_host
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import Runtime, open_runtime
from etui.turn.events import TurnFinished
from etui.turn.record import TurnRecord
from etui.units import energy_text

QUESTIONS = (
    "What is the capital of France?",
    "What is a joule?",
    "Hello, who are you?",
    "What can you do?",
    "Tell me a joke.",
    "Write a poem about the sea.",
    "How do I boil an egg?",
    "Why is the sky blue?",
    "Explain gravity to a child.",
    "Give me ideas for dinner.",
    "What should I visit in Rome?",
)
LONG_TOKENS = 150
QUICK_QUESTIONS = 3


@dataclass(frozen=True, slots=True)
class Side:
    """One answer.

    Attributes:
        tokens: Decoded tokens.
        joules: Joules of the turn; None if unmeasured.
        kind: How they were determined.
        ended: Why it ended early; empty if it did not.
        saved_joules: Estimate of what ending it early saved.
        shown_tokens: Words, digits and marks of the answer shown.
        repeats: Whether the answer shown is long and repeats itself.
        answer: The answer shown.
    """

    tokens: int
    joules: float | None
    kind: str | None
    ended: str
    saved_joules: float | None
    shown_tokens: int
    repeats: bool
    answer: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and its two answers."""

    question: str
    before: Side
    after: Side


def ask_all(
    model: str,
    max_tokens: int | None = None,
    temperature: float | None = None,
    count: int = len(QUESTIONS),
) -> Iterator[Asked]:
    """Ask the first ``count`` questions on both sides; nothing is reused from one to the next.

    Args:
        model: Name of the model.
        max_tokens: Most tokens of an answer; None is the default.
        temperature: Of the second side; None is the default.
        count: How many questions.
    """
    config = load_config()
    make_home(config)
    with open_runtime(config) as runtime:
        ask(runtime, "Hi", Overrides(model=model, max_tokens=2))  # loads the model
        for question in QUESTIONS[:count]:
            now = Overrides(model=model, max_tokens=max_tokens, temperature=temperature)
            before = replace(now, temperature=0.0, loop_guard=False)
            sides = []
            for overrides in (before, now):
                runtime.backend.forget()
                sides.append(build_side(ask(runtime, question, overrides)))
            yield Asked(question, *sides)


def ask(runtime: Runtime[LocalBackend], question: str, overrides: Overrides) -> TurnRecord:
    """Answer a question, without the log."""
    query = Query(question)
    choice = choose(query, overrides, runtime, lambda: read_host(runtime.config))
    with closing(runtime.turn(query, choice, save=lambda _record: None).run()) as events:
        return next(event.record for event in events if isinstance(event, TurnFinished))


def build_side(record: TurnRecord) -> Side:
    """Build one side from its turn."""
    shown = split_words(record.answer)
    found = label([token for token, _ in shown])
    return Side(
        tokens=record.tokens.output,
        joules=record.energy.joules,
        kind=record.energy.kind,
        ended=record.ended,
        saved_joules=record.loop.saved_joules if record.loop else None,
        shown_tokens=len(shown),
        repeats=len(shown) > LONG_TOKENS and found is not None,
        answer=record.answer,
    )


def quick() -> Iterator[Figure]:
    """The first questions with the starter: joules after : before, and answers that repeat."""
    starter()
    asked = list(ask_all(STARTER, count=QUICK_QUESTIONS))
    pairs = [
        (each.after.joules, each.before.joules)
        for each in asked
        if each.after.joules and each.before.joules
    ]
    if pairs:
        yield ratio_of("joules of an answer, after : before", pairs)
    repeating = sum(each.after.repeats for each in asked)
    yield Figure("answers that repeat : all", 100 * repeating / len(asked), "%", n=len(asked))


def main() -> None:
    """Ask all questions and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default=STARTER)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    asked = []
    for each in ask_all(chosen.model, chosen.max_tokens, chosen.temperature):
        asked.append(each)
        if not chosen.json:
            print(f"{each.question:<32} {_side(each.before)} -> {_side(each.after)}", flush=True)
    if chosen.json:
        print(json.dumps([asdict(each) for each in asked], indent=2, ensure_ascii=False))
        return
    for name, get in (("before", lambda one: one.before), ("after", lambda one: one.after)):
        print(f"{name}: {_sum(asked, get)}")


def _side(side: Side) -> str:
    marks = [side.ended, "repeats itself" if side.repeats else ""]
    text = f"{side.tokens:>4} tokens {energy_text(side.joules, None, side.kind)}"
    return " ".join([text, *(f"[{mark}]" for mark in marks if mark)])


def _sum(asked: list[Asked], get: Callable[[Asked], Side]) -> str:
    sides = [get(each) for each in asked]
    joules = [side.joules for side in sides if side.joules is not None]
    return (
        f"{sum(side.tokens for side in sides)} tokens, "
        f"{energy_text(sum(joules) if joules else None, None, sides[0].kind)}, "
        f"{sum(side.repeats for side in sides)} of {len(sides)} repeat themselves"
    )


if __name__ == "__main__":
    main()
