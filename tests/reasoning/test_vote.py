"""Majority vote on a scripted session: who wins, when it stops, what it costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm, VoteStop
from etui.chat import Message, OutputOptions
from etui.errors import ContextOverflow
from etui.events import Answer, Prefilled, Thought, Vote
from etui.reasoning.answer import answer
from tests.reasoning.scripted import GO_ON, FakeControl, FakeSession, plain_facts

QUESTION = (Message("user", "Which?\nA) one\nB) two\nC) three"),)


def vote_arm(**changes):
    values = {"reasoning": "vote", "think_tokens": 0, "votes": 7, "stop": VoteStop("all")}
    return Arm(name="t", model="fake", **{**values, **changes})


def voters(*texts: str, after: str = "[assistant]"):
    """A model whose vote of seed n writes ``texts[n]``."""

    def says(so_far: str, seed: int) -> str:
        _, asked, written = so_far.rpartition(after)
        text = texts[seed] if asked else "?"
        return text[len(written) :] if text.startswith(written) else ""

    return says


def run(session, arm, control=GO_ON):
    events = list(answer(QUESTION, arm, session, control))
    return events, events[-1], [e for e in events if isinstance(e, Vote)]


def drawn_tokens(session) -> int:
    """Tokens that went into forks behind the prompt, as the session saw them."""
    base = session.opened[0]
    return sum(len(s.tokens) - len(base.tokens) for s in session.opened[1:])


def test_the_answer_most_votes_agree_on_wins(fake):
    session = fake(voters("A", "(B) two", "C", "B", "The answer is B."), seeded=True)
    events, end, votes = run(session, vote_arm(votes=5))
    assert (end.answer, end.status) == ("(B) two", "complete")
    assert [v.choice for v in votes] == ["A", "B", "C", "B", "B"]
    assert end.confidence == pytest.approx(3 / 5)
    assert end.margin == pytest.approx(2 / 5)
    assert end.why == "all: 3 of 5 votes agree"
    assert "".join(e.text for e in events if isinstance(e, Answer)) == "(B) two"


def test_the_prompt_is_computed_once_and_kept(fake):
    session = fake(voters(*"AAAAAAA"), seeded=True)
    events, end, _ = run(session, vote_arm())
    prompt = len(session.opened[0].tokens)
    assert end.prompt_tokens == prompt
    assert session.opened[0].computed == prompt - 1
    assert [s.cached for s in session.opened[1:]] == [prompt - 1] * 7
    assert [s.sampling.seed for s in session.opened[1:]] == list(range(7))
    assert session.kept == [0]
    assert session.live == []
    prefilled = next(e for e in events if isinstance(e, Prefilled))
    assert prefilled.end_ns == end.prefill_end_ns <= end.first_token_ns <= end.end_ns


def test_every_decoded_token_is_counted(fake):
    session = fake(voters("A", "B) two", "C", "B is it", "A", "A", "A"), seeded=True)
    events, end, votes = run(session, vote_arm())
    assert end.output_tokens == drawn_tokens(session) == sum(v.tokens for v in votes)
    assert sum(e.tokens for e in events if isinstance(e, Answer | Thought)) == end.output_tokens


@pytest.mark.parametrize(
    ("stop", "texts", "batch", "counted", "why"),
    [
        (
            VoteStop("flip"), "B" * 8, 8, "BBB",
            "flip: 3 of 3 votes agree, 4 % chance to flip; 5 votes saved",
        ),
        (
            VoteStop("lead"), "BBABBAA", 1, "BBABB",
            "lead: 4 of 5 votes agree, the remaining votes cannot change it; 2 votes saved",
        ),
        (
            VoteStop("adaptive", threshold=0.93), "B" * 7, 2, "BBB",
            "adaptive: 3 of 3 votes agree, 94 % probability of a majority; 4 votes saved",
        ),
    ],
)  # fmt: skip
def test_a_rule_stops_early_and_says_what_it_saved(fake, stop, texts, batch, counted, why):
    session = fake(voters(*texts), seeded=True)
    _, end, votes = run(session, vote_arm(votes=len(texts), stop=stop, batch=batch))
    assert "".join(v.choice for v in votes) == counted
    assert end.why == why
    assert session.widest <= 3  # no vote is begun that three of one mind make needless


def test_votes_think_and_hand_over(fake):
    def says(so_far: str, seed: int) -> str:
        tail = so_far.rpartition("[assistant")[2]
        if "\nAnswer:" not in tail:
            return (f"thought {seed} goes on " * 20)[len(tail.removeprefix("]")) :]
        return f" {'ABB'[seed]}"[len(tail.rpartition("\nAnswer:")[2]) :]

    session = fake(says, seeded=True)
    _, end, votes = run(session, vote_arm(votes=3, think_tokens=20))
    assert (end.answer, end.thinking_tokens) == ("B", 60)
    assert all("That is enough thinking" in v.thinking for v in votes)
    assert [v.thinking[:9] for v in votes] == ["thought 0", "thought 1", "thought 2"]
    assert end.prefill_end_ns < end.thinking_end_ns < end.end_ns
    hand_over = 3 * len("\n\nThat is enough thinking; here is the result.\nAnswer:")
    assert drawn_tokens(session) == end.output_tokens + hand_over


def test_no_answer_is_not_truncated_and_neither_wins(fake):
    texts = ("Who knows.", "It could be anything at all", "C", "Who?")
    _, end, votes = run(fake(voters(*texts), seeded=True), vote_arm(votes=4, max_tokens=12))
    assert [v.status for v in votes] == ["no_answer", "truncated", "answered", "no_answer"]
    assert end.answer == "C"
    assert end.confidence == pytest.approx(1 / 4)
    _, _, votes = run(fake(voters(*"AB"), seeded=True), vote_arm(votes=2, weight="probability"))
    assert [v.weight for v in votes] == [pytest.approx(0.60653, abs=1e-4)] * 2


def test_when_nobody_answers_it_says_so(fake):
    texts = ("Who knows.", "Not me.")
    _, end, _ = run(fake(voters(*texts), seeded=True), vote_arm(votes=2))
    assert (end.answer, end.status, end.confidence) == ("Who knows.", "complete", None)
    assert end.why == "all: none of 2 votes gave an answer"
    _, end, _ = run(fake(voters(*texts), seeded=True), vote_arm(votes=2, max_tokens=3))
    assert end.status == "truncated"


TEXTS = st.lists(
    st.tuples(st.sampled_from(["A", "B", "C", "none"]), st.integers(0, 30)), min_size=7, max_size=7
).map(lambda drawn: [f"{'so ' * n}the answer is {key}" for key, n in drawn])


@given(
    texts=TEXTS,
    rule=st.sampled_from(["all", "lead", "flip", "adaptive"]),
    batch=st.integers(1, 8),
    capacity=st.integers(300, 900),
    sequences=st.integers(2, 9),
)
def test_the_result_does_not_depend_on_what_fits(texts, rule, batch, capacity, sequences):
    arm = vote_arm(stop=VoteStop(rule), batch=batch)
    wide = FakeSession(plain_facts(), voters(*texts), seeded=True)
    narrow = FakeSession(
        plain_facts(), voters(*texts), seeded=True, capacity=capacity, sequences=sequences
    )
    results = []
    for session in (wide, narrow):
        _, end, votes = run(session, arm)
        counted = [(v.index, v.choice) for v in votes if v.status not in ("uncounted", "abandoned")]
        results.append((end.answer, end.confidence, end.margin, end.status, counted))
        assert session.live == []
        assert session.widest <= batch
        assert end.output_tokens == drawn_tokens(session)
    assert results[0] == results[1]


def test_a_cache_that_fills_up_begins_the_last_vote_anew(fake):
    texts = ["so " * 60 + "the answer is B"] * 4
    prompt = len("^[user][assistant]") + len(QUESTION[0].content)
    session = fake(voters(*texts), seeded=True, capacity=prompt + 2 * 65 + 160)
    _, end, votes = run(session, vote_arm(votes=4))
    assert session.widest > 1
    assert len(session.opened) > 1 + 4
    assert [v.choice for v in votes] == list("BBBB")
    assert end.output_tokens == drawn_tokens(session) > sum(v.tokens for v in votes)


@pytest.mark.parametrize(
    ("flag", "status", "why"),
    [
        ("cancelled_when", "stopped", "stopped after 1 of 3"),
        ("spent_when", "budget", "the budget ended the vote after 1 of 3"),
    ],
)
def test_ending_in_the_middle_counts_what_is_in(fake, flag, status, why):
    session = fake(voters("B", "so " * 50 + "A", "so " * 50 + "A"), seeded=True)
    control = FakeControl(**{flag: lambda: session.steps > 20})
    _, end, votes = run(session, vote_arm(votes=3), control)
    assert (end.status, end.answer) == (status, "B")
    assert [v.status for v in votes] == ["answered", "abandoned", "abandoned"]
    assert end.why.startswith(why)
    assert end.output_tokens == drawn_tokens(session)
    assert session.live == []
    assert session.kept == [0]


def test_an_abandoned_vote_keeps_all_of_its_looping_thinking(fake):
    loop = "We should check the units and the signs again. "

    def says(so_far: str, seed: int) -> str:
        tail = so_far.rpartition("[assistant")[2]
        if "\nAnswer:" not in tail:
            return loop[len(tail) % len(loop) :]
        return " so so"[len(tail.rpartition(":")[2]) :] or " so"

    session = fake(says, seeded=True)
    arm = vote_arm(votes=1, think_tokens=900, loop_guard=True)

    def answering() -> bool:
        return "Answer: so so" in session.opened[-1].text.rpartition("[assistant")[2]

    _, end, (vote,) = run(session, arm, FakeControl(answering))
    assert (end.status, vote.status, vote.ended) == ("stopped", "abandoned", "thinking_repeats")
    assert vote.raw_thinking.count("We should") > vote.thinking.count("We should")
    assert vote.saved_tokens > 0


def test_stopping_before_any_vote_is_in_leaves_no_answer(fake):
    session = fake(voters(*["so " * 50] * 3), seeded=True)
    _, end, votes = run(session, vote_arm(votes=3), FakeControl(lambda: session.steps > 5))
    assert (end.status, end.answer, end.confidence) == ("stopped", "", None)
    assert {v.status for v in votes} == {"abandoned"}
    assert end.output_tokens > 0


def test_stopping_in_the_prefill(fake):
    session = fake(voters(*"AAA"), seeded=True, batch_tokens=8)
    _, end, votes = run(session, vote_arm(votes=3), FakeControl(lambda: session.steps == 2))
    assert (end.status, end.computed_tokens, votes) == ("stopped", 16, [])


def test_spent_joules_bring_one_thought_to_its_answer(fake):
    def says(so_far: str, seed: int) -> str:
        tail = so_far.rpartition("[assistant")[2]
        return "on and on " if "\nAnswer:" not in tail else " C"[len(tail.rpartition(":")[2]) :]

    session = fake(says, seeded=True)
    control = FakeControl(spent_when=lambda: session.steps > 15)
    _, end, votes = run(session, vote_arm(votes=3, think_tokens=300), control)
    assert (end.status, end.answer) == ("budget", "C")
    assert sorted(v.status for v in votes) == ["abandoned", "abandoned", "answered"]
    assert "That is enough thinking" in end.thinking


def test_models_that_refuse_rollback_vote_as_well(fake):
    session = fake(voters(*"ABB"), seeded=True, refuses_rollback=True)
    assert run(session, vote_arm(votes=3))[1].answer == "B"


def test_a_prompt_over_the_context_is_refused(fake):
    with pytest.raises(ContextOverflow):
        run(fake(voters("A"), seeded=True, context_tokens=40), vote_arm())


def test_votes_over_numbers_are_counted_by_value_whatever_the_question_says(fake):
    asked = (Message("user", "Tell me about the ducks.\nA) some\nB) many"),)
    texts = ("$18.00", "It is 18 dollars.", "17", "18", "I do not know.")
    session = fake(voters(*texts), seeded=True)
    options = OutputOptions(number=True)
    events = list(answer(asked, vote_arm(votes=5), session, GO_ON, options=options))
    votes = [event for event in events if isinstance(event, Vote)]
    assert [vote.choice for vote in votes] == ["18", "18", "17", "18", None]
    assert (events[-1].answer, events[-1].why) == ("$18.00", "all: 3 of 5 votes agree")
    assert votes[-1].status == "no_answer"
