"""Scoring over a model of characters: sharing, groups, endings, the context."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench._tokens import (
    TokenizedPrompt,
    build_subject_prompts,
    group_prompts,
    single_letters,
)
from etui.bench.formats import FORMATS, prompt_text
from etui.bench.scoring import Scored, Scorer, ScoringArm, Shared, SubjectWork, split_charges
from etui.datasets.questions import Question
from etui.energy.types import Energy, Kind
from etui.engine.context import ContextOptions
from etui.errors import ContextOverflow
from etui.measure.run import StopRequested
from tests.bench.fake_engine import FakeSession, believed, expected

S = 1_000_000_000


def energy(joules, uncertainty=1.0, kind=Kind.COUNTER, seconds=2):
    known = joules is not None
    return Energy(
        0, seconds * S, joules, uncertainty if known else None, kind if known else None, 1.0
    )


@given(st.floats(0, 1e6), st.lists(st.integers(1, 900), min_size=1, max_size=9))
def test_the_parts_of_a_group_sum_to_it(joules, tokens):
    parts = split_charges(energy(joules), tokens, None, None)
    assert math.fsum(part.joules for part in parts) == pytest.approx(joules)
    assert math.fsum(part.seconds for part in parts) == pytest.approx(2)
    assert math.fsum(part.uncertainty for part in parts) == pytest.approx(1.0)
    assert all(part.prefix_tokens == 0 for part in parts)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=9))
def test_a_subjects_charges_sum_to_what_it_took_with_its_examples(sizes):
    shared = Shared(0, 3 * S, 500, sum(sizes))
    found = [
        part
        for size in sizes
        for part in split_charges(energy(10.0), [7] * size, shared, energy(30.0, 2.0, seconds=3))
    ]
    assert math.fsum(part.joules for part in found) == pytest.approx(30 + 10 * len(sizes))
    assert math.fsum(part.prefix_tokens for part in found) == pytest.approx(500)
    assert math.fsum(part.seconds for part in found) == pytest.approx(3 + 2 * len(sizes))
    assert math.fsum(part.uncertainty for part in found) == pytest.approx(2 + len(sizes))


@pytest.mark.parametrize(("group", "shared"), [(None, 5.0), (5.0, None), (None, None)])
def test_a_sum_that_lacks_a_part_is_unmeasured(group, shared):
    (part,) = split_charges(energy(group), [10], Shared(0, S, 5, 1), energy(shared))
    assert (part.joules, part.uncertainty, part.kind) == (None, None, None)
    assert part.seconds > 0


def test_the_weaker_kind_is_told():
    (part,) = split_charges(energy(1.0), [10], Shared(0, S, 5, 1), energy(1.0, kind=Kind.ESTIMATE))
    assert part.kind == "estimate"


QUESTIONS = [
    Question("s", row, f"Question {row}{'?' * row}", ("a", "bb", f"c{row}", "d"), "A")
    for row in range(9)
]
EXAMPLES = [Question("s", row, f"Shown {row}?", ("w", "x", "y", "z"), "B") for row in range(3)]


def work(questions=QUESTIONS, done=(), examples=EXAMPLES) -> SubjectWork:
    return SubjectWork("s", questions, frozenset(done), examples)


def prompts(session, format_="letters", **options):
    return build_subject_prompts(
        FORMATS[format_],
        QUESTIONS,
        EXAMPLES,
        lambda text: session.tokenize(text, bos=True),
        session.facts.context_tokens,
        **options,
    )


def scored(session, format_="letters", reuse=True, **changes) -> dict[int, Scored]:
    arm = ScoringArm("arm", lambda: session, FORMATS[format_], reuse=reuse)
    return {
        one.prompt.question.row: one
        for group in arm.answer(work(**changes))
        for one in group.scored
        if one.prompt.question.row in group.kept
    }


@pytest.mark.parametrize("format_", ["letters", "letters-original"])
@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("whole_only", [True, False])
def test_letters_are_those_of_the_whole_prompt(format_, reuse, whole_only):
    found = scored(FakeSession(whole_only=whole_only), format_, reuse)
    for question in QUESTIONS:
        text = prompt_text(FORMATS[format_], question, EXAMPLES).text
        # " A" is two characters here, so the letters are scored as sequences.
        want = {letter: expected(text, f" {letter}") for letter in "ABCD"}
        assert found[question.row].logprobs == pytest.approx(want)
        assert found[question.row].mass is None


COUNTS = (4, 10, 10, 2, 3, 10)
MIXED = [
    Question("s", row, f"Which of {row}?", tuple(f"{x}{row}" for x in "abcdefghij"[:count]), "A")
    for row, count in enumerate(COUNTS)
]


@pytest.mark.parametrize(("format_", "questions"), [("cloze", QUESTIONS), ("arc", MIXED)])
@pytest.mark.parametrize("sequences", [3, 7, 16])
def test_texts_are_scored_token_by_token_and_weighed_by_characters(sequences, format_, questions):
    session = FakeSession(ContextOptions(4096, 1, sequences=sequences, batch_tokens=64))
    found = scored(session, format_, questions=questions)
    for question in questions:
        text = prompt_text(FORMATS[format_], question, EXAMPLES).text
        choices = dict(zip(question.letters, question.choices, strict=True))
        want = {letter: expected(text, f" {choice}") for letter, choice in choices.items()}
        one = found[question.row]
        assert one.logprobs == pytest.approx(want)
        assert one.choice == max(want, key=lambda letter: want[letter] / len(choices[letter]))
    assert session.live == {}
    assert session.held_most <= sequences


class LettersSession(FakeSession):
    """One token for " A" to " J", as real vocabularies have it."""

    def tokenize(self, text, *, bos=False, special=True):
        if len(text) > 2 and text[-2] == " " and text[-1] in "ABCDEFGHIJ":
            return [*super().tokenize(text[:-2], bos=bos), ord(text[-1])]
        return super().tokenize(text, bos=bos)


def test_single_letters_are_read_off_the_prompt_and_nothing_else_is_computed():
    session = LettersSession()
    found = scored(session)
    made = prompts(session)
    assert single_letters(made.prompts) == {letter: ord(letter) for letter in "ABCD"}
    assert sum(sum(batch.values()) for batch in session.batches) == made.computed_tokens
    for one in found.values():
        assert one.mass == pytest.approx(math.fsum(map(math.exp, one.logprobs.values())))
        assert one.cached + one.computed == len(one.prompt.tokens)


def test_the_examples_are_computed_once_and_shared_up_to_the_question():
    session = LettersSession()
    made = prompts(session)
    text = prompt_text(FORMATS["letters"], QUESTIONS[0], EXAMPLES)
    # The begin token and every character: the line breaks are two tokens before a word.
    assert len(made.prefix) == 1 + len(text.shared)
    assert all(prompt.shared == len(made.prefix) for prompt in made.prompts)
    assert {one.cached for one in scored(session).values()} == {len(made.prefix)}


def test_without_reuse_every_prompt_is_computed_whole():
    session = LettersSession()
    assert {one.cached for one in scored(session, reuse=False).values()} == {0}
    assert prompts(session, reuse=False).prefix == []


def test_what_was_interrupted_is_grouped_as_before():
    whole, after = LettersSession(), LettersSession()
    everything = scored(whole)
    rest = scored(after, done={0, 1, 4})
    assert sorted(rest) == [2, 3, 5, 6, 7, 8]
    assert all(everything[row].logprobs == one.logprobs for row, one in rest.items())
    assert [sorted(b.values()) for b in after.batches[-3:]] == [
        sorted(b.values()) for b in whole.batches[-3:]
    ]


def test_nothing_left_computes_no_question():
    session = LettersSession()
    assert scored(session, done=range(9)) == {}


def test_examples_that_do_not_fit_are_dropped_one_by_one():
    session = LettersSession()
    full = max(len(prompt.tokens) for prompt in prompts(session).prompts)
    session.options = replace(session.options, context_tokens=full - 5)
    made = prompts(session)
    shots = [prompt.shots for prompt in made.prompts]
    assert shots == sorted(shots, reverse=True)
    assert shots[0] == 3
    assert shots[-1] == 2
    assert all(len(prompt.tokens) <= full - 5 for prompt in made.prompts)
    found = scored(session)
    text = prompt_text(FORMATS["letters"], QUESTIONS[8], EXAMPLES[:2])
    assert found[8].prompt.sha == text.sha
    assert found[8].logprobs == pytest.approx(
        {letter: believed(text.text, ord(letter)) for letter in "ABCD"}
    )


def test_a_question_that_never_fits_is_told():
    session = LettersSession(ContextOptions(40, 1, sequences=8, batch_tokens=64))
    with pytest.raises(ContextOverflow):
        prompts(session)


def test_a_stop_gives_up_what_is_under_way():
    session = LettersSession()
    made = prompts(session)
    allowed = math.ceil(len(made.prefix) / session.options.batch_tokens) + 1
    scorer = Scorer(session, lambda: len(session.batches) == allowed)
    scorer.begin(made.prefix)
    with pytest.raises(StopRequested):
        scorer.score(made.prompts[:6])
    scorer.end()
    assert session.live == {}


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=30), st.integers(1, 128), st.integers(1, 8)
)
def test_groups_keep_the_order_and_fit_a_batch(lengths, most_tokens, most_questions):
    made = [
        TokenizedPrompt(replace(QUESTIONS[0], row=row), range(length), 0, (), 0, "")
        for row, length in enumerate(lengths)
    ]
    found = list(group_prompts(made, most_tokens, most_questions))
    assert [prompt.question.row for group in found for prompt in group] == list(range(len(made)))
    for group in found:
        assert len(group) <= most_questions
        assert len(group) == 1 or sum(p.own_tokens for p in group) <= most_tokens


def test_each_question_has_as_many_log_probabilities_as_options():
    found = scored(LettersSession(), questions=MIXED)
    for question, count in zip(MIXED, COUNTS, strict=True):
        letters = list("ABCDEFGHIJ"[:count])
        one = found[question.row]
        text = prompt_text(FORMATS["letters"], question, EXAMPLES).text
        assert list(one.logprobs) == letters
        want = {letter: believed(text, ord(letter)) for letter in letters}
        assert one.logprobs == pytest.approx(want)
        mass = math.fsum(map(math.exp, want.values()))  # the fake model's is not normalised
        assert one.mass == pytest.approx(min(1.0, mass))


def test_a_group_has_room_for_all_its_endings():
    session = FakeSession()
    made = build_subject_prompts(
        FORMATS["arc"], MIXED, [], lambda text: session.tokenize(text, bos=True), 4096
    ).prompts
    cells = [prompt.total_tokens - prompt.shared for prompt in made]
    groups = list(group_prompts(made, 4096, 9, max(cells)))
    assert [prompt for group in groups for prompt in group] == list(made)
    assert len(groups) > 1
    for group in groups:
        assert sum(prompt.total_tokens - prompt.shared for prompt in group) <= max(cells)
    assert len(list(group_prompts(made, 4096, 9))) == 1
