"""A scripted sequence draws its script at the cost of drawing freely."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from etui.engine.llama_session import LlamaSession
from etui.engine.sampler import Script
from etui.engine.session import Step
from tests.engine.driving import GREEDY, QUESTION, generate, prefill, prompt
from tests.engine.speculation.fakes import FakeDrafter, make_fake_session

REPEATED = "def add(first, second):\n    total = first + second\n    return total\n"


def _steps(session: LlamaSession, script: list[int] | None, count: int) -> list[Step]:
    """Steps of a new sequence, until it has drawn ``count`` tokens."""
    sequence = session.open(prompt(session, QUESTION), GREEDY, script)
    steps: list[Step] = []
    while sum(len(step.sampled) for step in steps) < count:
        steps.append(session.step([sequence]))
    session.close(sequence, keep=False)
    return steps


def _drawn(steps: list[Step]) -> list[int]:
    return [sampled.token for step in steps for sampled in step.sampled]


@given(
    start=st.integers(0, 50),
    tokens=st.lists(st.integers(0, 9), max_size=20).map(tuple),
    length=st.integers(0, 90),
)
def test_the_length_of_a_sequence_decides_what_it_draws(start, tokens, length):
    found = Script(start, tokens).find(length)
    inside = start <= length < start + len(tokens)
    assert found == (tokens[length - start] if inside else None)


def test_the_script_is_drawn_in_as_many_steps_and_batches_as_any_text(make_session):
    free = _steps(make_session(), None, 8)
    session = make_session()
    end = next(t for t in range(session.vocabulary.vocabulary) if session._model.piece(t)[1])
    script = [*session.tokenize(REPEATED)[:3], end, *session.tokenize(REPEATED)[:4]]
    scripted = _steps(session, script, 8)
    assert _drawn(scripted) == script
    assert not any(sampled.ends for step in scripted for sampled in step.sampled)

    def batches(steps: list[Step]) -> list[list[int]]:
        return [list(step.computed.values()) for step in steps]

    assert batches(scripted) == batches(free)


def test_logits_are_those_of_the_script(make_session):
    session = make_session()
    script = session.tokenize(REPEATED)[:6]
    scripted = [s.logprob for step in _steps(session, script, 6) for s in step.sampled]
    other = make_session()
    sequence = other.open(prompt(other, QUESTION), GREEDY)
    prefill(other, sequence)
    other.rollback(sequence, sequence.pending)
    expected = []
    for token in script:
        other.step([sequence], draw=False)
        expected.append(other.logprobs(sequence, [token])[0])
        other.extend(sequence, [token])
    assert max(abs(a - b) for a, b in zip(scripted, expected, strict=True)) < 0.01


def test_a_rolled_back_or_forked_sequence_draws_the_same_again(session):
    tokens = prompt(session, QUESTION)
    script = session.tokenize(REPEATED)[:9]
    sequence = session.open(tokens, GREEDY, script)
    assert generate(session, sequence, 9) == script
    session.rollback(sequence, len(sequence.tokens) - len(tokens) - 1)
    assert generate(session, sequence, 8) == script[1:]
    session.rollback(sequence, len(sequence.tokens) - len(tokens) - 1)
    fork = session.fork(sequence, GREEDY)
    for at in range(1, 9):
        sampled = session.step([sequence, fork]).sampled
        assert [each.token for each in sampled] == [script[at]] * 2


def test_after_the_script_the_sequence_draws_its_own(make_session):
    free = _drawn(_steps(make_session(), None, 8))
    session = make_session()
    sequence = session.open(prompt(session, QUESTION), GREEDY, free[:3])
    assert generate(session, sequence, 8) == free
    session.close(sequence)
    assert session.open(prompt(session, QUESTION), GREEDY).script is None


@given(
    script=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    wrong=st.integers(1, 9),
    longest=st.integers(1, 9),
)
def test_no_draft_changes_what_is_drawn(script, wrong, longest):
    """The fourth token ends a text, every ``wrong``-th drafted one is wrong."""
    tokens = [1, 2, 0]

    def drafts(so_far: Sequence[int], count: int) -> list[int]:
        done = len(so_far) - len(tokens)
        at = range(done, len(script))
        own = [script[i] if i % wrong else (script[i] + 1) % 5 for i in at]
        return (own or [0])[: min(count, longest)]

    session, context = make_fake_session(lambda so_far: [0.0, 1.0, 0.0, 0.0, 0.0], 5, end=4)
    session.speculator.add(FakeDrafter(drafts))
    sequence = session.open(tokens, GREEDY, script)
    drawn = list(session.step([sequence]).sampled)
    assert session.speculate(sequence, "draft") == ""
    while len(drawn) < len(script):
        drawn += session.step([sequence]).sampled
    session.settle(sequence)
    assert [sampled.token for sampled in drawn] == script
    assert not any(sampled.ends for sampled in drawn)
    assert sequence.tokens == [*tokens, *script]
    assert context.slots[sequence.slot] == sequence.tokens[: sequence.computed]


def test_drafts_that_equal_the_script_are_accepted(make_session):
    session = make_session()
    question = f"Write this function again:\n{REPEATED}"
    tokens = prompt(session, question)
    script = session.tokenize(REPEATED)
    sequence = session.open(tokens, GREEDY, script)
    prefill(session, sequence)
    assert session.speculate(sequence, "lookup") == ""
    drawn, batches, accepted = 1, 0, 0
    while drawn < len(script):
        step = session.step([sequence])
        batches += bool(step.computed)
        drawn += len(step.sampled)
        accepted += sum(verified.accepted for verified in step.verified)
    accepted += sum(verified.accepted for verified in session.settle(sequence))
    assert sequence.tokens == [*tokens, *script]
    assert accepted > 0
    assert batches < len(script) - 1
