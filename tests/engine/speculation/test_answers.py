"""Whole answers with speculation end as those without it: budgets, stop strings, cancels."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from etui.arm import Arm, EarlyExit, Sampling, Speculate
from etui.chat import Message
from etui.engine.llama_session import LlamaSession
from etui.events import Answer, Event, Finished, Probe, Thought, Verified
from etui.reasoning.answer import answer
from tests.engine.speculation.fakes import FakeContext, FakeDrafter, make_fake_session, written

END = 255
ROUND = "the cat sat on the mat and the dog sat on the log; "
QUESTION = "Which letter? A) cat B) dog"
ANSWER = ROUND * 3 + "END of it"
THINKING = f"<think>{ROUND * 3}</think>So: {ROUND}it is A. {ROUND}"


@dataclass
class Flags:
    """A control whose flags are set once so many tokens have been shown."""

    cancel_after: int | None = None
    spent_after: int | None = None
    seen: int = 0

    def cancelled(self) -> bool:
        return self.cancel_after is not None and self.seen >= self.cancel_after

    def spent(self) -> bool:
        return self.spent_after is not None and self.seen >= self.spent_after


def ask(
    text: str,
    arm: Arm,
    *,
    flags: Callable[[], Flags] = Flags,
    **session: Any,
) -> tuple[list[Event], FakeContext, LlamaSession]:
    """The events of an answer of a model that writes ``text``."""
    own, context = make_fake_session(written("[assistant]", text, END), 256, end=END, **session)
    if arm.speculate == "draft":
        own.speculator.add(FakeDrafter(lambda tokens, count: foresee(text, tokens, count)))
    own.speculator.cost.observe(1, 1_000)
    control, events = flags(), []
    for event in answer((Message("user", QUESTION),), arm, own, control):
        events.append(event)
        if isinstance(event, Thought | Answer):
            control.seen += event.tokens
    return events, context, own


def foresee(text: str, tokens: Any, count: int) -> list[int]:
    """Drafts what the model writes next; now and then it errs."""
    _, _, done = "".join(map(chr, tokens)).rpartition("[assistant]")
    drafted = [ord(c) for c in text[len(done) : len(done) + count]]
    if len(done) % 5 == 0 and len(drafted) > 3:
        drafted[3] = ord("#")
    return drafted or [ord("#")]


def told(events: list[Event]) -> list[object]:
    """The events without times, and without what speculation adds or saves."""
    untimed: list[object] = []
    for event in events:
        if isinstance(event, Thought | Answer):
            untimed.append((type(event), event.text, event.tokens))
        elif isinstance(event, Probe):
            untimed.append((event.thinking_tokens, event.probabilities))
        elif isinstance(event, Finished):
            zero = dict.fromkeys(
                ("start_ns", "prefill_end_ns", "thinking_end_ns", "end_ns", "first_token_ns"), 0
            )
            untimed.append(replace(event, **zero))
    return untimed


DIRECT = Arm("arm", "fake", max_tokens=200)
COT = Arm("arm", "fake", reasoning="cot", think_tokens=400, max_tokens=200, style="native")

CASES: dict[str, tuple[str, Arm, dict[str, Any]]] = {
    "direct": (ANSWER, DIRECT, {}),
    "max_tokens in a batch": (ANSWER, replace(DIRECT, max_tokens=93), {}),
    "stop string in a batch": (ANSWER, DIRECT, {"stop": ("log; the cat sat on the mat a",)}),
    "context fills": (ANSWER, DIRECT, {"context_tokens": 140}),
    "cancel in a verify": (ANSWER, DIRECT, {"flags": lambda: Flags(cancel_after=77)}),
    "budget in a verify": (ANSWER, DIRECT, {"flags": lambda: Flags(spent_after=81)}),
    "thinking": (THINKING, COT, {"thinking": True}),
    "thinking budget": (THINKING, replace(COT, think_tokens=101), {"thinking": True}),
    "thinking cancelled": (
        THINKING,
        COT,
        {"thinking": True, "flags": lambda: Flags(cancel_after=111)},
    ),
    "thinking over budget": (
        THINKING,
        COT,
        {"thinking": True, "flags": lambda: Flags(spent_after=111)},
    ),
    "loop": (ROUND * 9, replace(DIRECT, max_tokens=900, loop_guard=True), {}),
    "loop that the stop string ends": (
        ROUND * 2 + "the end" + ROUND * 9,
        replace(DIRECT, max_tokens=900, loop_guard=True),
        {"stop": ("the end",)},
    ),
    "thinking in a loop": (
        f"<think>{ROUND * 20}",
        replace(COT, think_tokens=900, loop_guard=True),
        {"thinking": True, "context_tokens": 2048},
    ),
    "early exit": (
        THINKING,
        replace(COT, early_exit=EarlyExit(every=37, min_p=0.99, stable=9)),
        {"thinking": True},
    ),
    "early exit that ends": (
        THINKING,
        replace(COT, early_exit=EarlyExit(every=37, min_p=0.0, stable=2)),
        {"thinking": True},
    ),
}


@pytest.mark.parametrize("method", ["lookup", "draft", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_an_answer_is_the_same_with_speculation(case, method):
    text, arm, options = CASES[case]
    expected, plain, _ = ask(text, arm, **options)
    events, context, session = ask(text, replace(arm, speculate=method), **options)
    assert told(events) == told(expected)
    batches = [event for event in events if isinstance(event, Verified)]
    assert sum(batch.accepted for batch in batches) > 10, "nothing was speculated"
    assert len(context.decodes) < len(plain.decodes)
    assert isinstance(events[-1], Finished)
    assert not session._sequences.live
    for donor in session._sequences.closed:  # the cache holds what the sequence says
        assert context.slots[donor.slot] == donor.tokens
        assert len(donor.cells) == donor.computed == len(donor.tokens)


def test_a_looping_thought_is_removed_with_its_drafts():
    text, arm, options = CASES["thinking in a loop"]
    *_, finished = ask(text, replace(arm, speculate="draft"), **options)[0]
    assert isinstance(finished, Finished)
    assert finished.raw_thinking.count("cat") > finished.thinking.count("cat") > 0
    assert finished.saved_tokens > 0


def test_without_speculation_nothing_is_verified():
    events, context, _ = ask(ANSWER, DIRECT)
    assert not [event for event in events if isinstance(event, Verified)]
    assert max(context.decodes[2:]) == 1


@pytest.mark.parametrize("arm", [DIRECT, COT], ids=["direct", "cot"])
def test_an_arm_that_asks_for_a_method_learns_why_it_is_not_used(arm):
    text = ANSWER if arm is DIRECT else THINKING
    options = {} if arm is DIRECT else {"thinking": True}
    *_, finished = ask(text, replace(arm, speculate="mtp"), **options)[0]
    assert isinstance(finished, Finished)
    assert finished.why.startswith("no speculation: the file has no heads")
    *_, plain = ask(text, replace(arm, speculate="auto"), **options)[0]
    assert isinstance(plain, Finished)
    assert plain.why == ""


def test_the_next_question_reuses_all_of_a_speculated_answer():
    _, context, session = ask(ANSWER, replace(DIRECT, speculate="lookup"))
    (donor,) = session._sequences.closed
    said = "".join(map(chr, donor.tokens))
    assert said.endswith((ANSWER, ANSWER[:-1]))
    longer = session.tokenize(said + "[user]And now?[assistant]")
    sequence = session.open(longer, Sampling())
    assert sequence.cached == len(said)
    session.step([sequence])
    assert context.slots[sequence.slot][: len(longer)] == longer


@pytest.mark.parametrize("think", [0, 40])
def test_an_answer_survives_a_cache_that_refuses_to_remove_a_part(think):
    """All tokens are then computed again, which takes several batches after a long prompt."""
    text = f"<think>{ROUND * 3}</think>{ANSWER}" if think else ANSWER * 2
    arm = Arm("a", "m", "cot" if think else "direct", max_tokens=200, think_tokens=think)

    class Refusing(Flags):
        def cancelled(self) -> bool:
            contexts[-1].refuses_removal = True
            return False

    contexts: list[FakeContext] = []

    def finished(speculate: Speculate) -> Finished:
        own, context = make_fake_session(
            written("[assistant]", text, END), 256, end=END, thinking=bool(think)
        )
        contexts.append(context)
        own.speculator.add(FakeDrafter(lambda tokens, count: foresee(text, tokens, count)))
        own.speculator.cost.observe(1, 1_000)
        question = (Message("user", "word " * 30 + QUESTION),)
        events = list(answer(question, replace(arm, speculate=speculate), own, Refusing()))
        assert isinstance(events[-1], Finished)
        return events[-1]

    drafted, plain = finished("draft"), finished("off")
    assert (drafted.answer, drafted.thinking) == (plain.answer, plain.thinking)
    assert (drafted.output_tokens, drafted.status) == (plain.output_tokens, plain.status)


def test_an_answer_stops_drafts_that_cost_more_than_they_save_and_says_so():
    text = "".join(chr(97 + number * 7 % 26) for number in range(190))
    own, _ = make_fake_session(written("[assistant]", text, END), 256, end=END)
    own.speculator.add(FakeDrafter(lambda tokens, count: [*foresee(text, tokens, 1), ord("#")]))
    own.speculator.cost.observe(1, 1_000_000)
    clock = itertools.count(0, 40_000_000)  # drafting takes as long as 40 tokens
    own.speculator._clock_ns = clock.__next__
    arm = replace(DIRECT, speculate="draft")

    def ask_again() -> tuple[list[Verified], Finished]:
        events = list(answer((Message("user", QUESTION),), arm, own, Flags()))
        last = events[-1]
        assert isinstance(last, Finished)
        return [event for event in events if isinstance(event, Verified)], last

    batches, last = ask_again()
    assert last.answer == text
    assert len(batches) == 16
    assert [event.stopped for event in batches[:-1]] == [""] * 15
    assert batches[-1].stopped.startswith("drafts by draft cost the time of ")
    batches, last = ask_again()
    assert (batches, last.answer) == ([], text)
    assert "no speculation: drafts by draft cost the time of " in last.why
