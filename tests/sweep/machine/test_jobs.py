"""The tokens that every setting computes: prompts, recorded and given answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Message
from etui.errors import ContextOverflow
from etui.sweep.config import PLAIN_WORK, WorkShape
from etui.sweep.workload import (
    RecordedAnswer,
    WorkItem,
    build_jobs,
    count_recorded,
    load_recorded,
    record_answers,
    save_recorded,
    write_scripts,
)
from tests.reasoning.scripted import FakeSession, plain_facts, script


class OtherTokens(FakeSession):
    """A model with another tokenizer: two characters a token."""

    def tokenize(self, text, *, bos=False, special=True):
        whole = "^" + text if bos else text
        return [1000 + ord(whole[i]) for i in range(0, len(whole), 2)]


def session(text="It is blue.", cls=FakeSession, **facts):
    return cls(plain_facts(**facts), script("[assistant]", text))


def item(prompt="Why?", answer=None, output_tokens=40, **changes):
    return WorkItem((Message("user", prompt),), answer, output_tokens, **changes)


def text_of(tokens):
    return "".join(map(chr, tokens))


def test_an_answer_goes_on_after_its_end_to_the_fixed_length():
    model = session("It is blue.")
    (recorded,) = record_answers(model, [item(output_tokens=60)], PLAIN_WORK)
    assert recorded.text == text_of(recorded.tokens)
    assert recorded.text.startswith("It is blue.\n\nIn other words,\n\nOne more point:")
    assert 40 < len(recorded.tokens) <= 60
    assert not model.live
    assert not model.kept


def test_an_answer_that_is_long_enough_is_cut():
    (recorded,) = record_answers(session("blue " * 99), [item(output_tokens=23)], PLAIN_WORK)
    assert text_of(recorded.tokens) == ("blue " * 5)[:23]


def test_a_model_that_says_nothing_still_has_an_answer():
    (recorded,) = record_answers(session(""), [item(output_tokens=3)], PLAIN_WORK)
    assert len(recorded.tokens) == 3


@given(length=st.integers(1, 200), words=st.text("ab .", max_size=80))
def test_no_recorded_answer_is_longer_than_asked(length, words):
    (recorded,) = record_answers(session(words), [item(output_tokens=length)], PLAIN_WORK)
    assert 1 <= len(recorded.tokens) <= length
    assert len(recorded.tokens) >= min(length, len(words))


@pytest.mark.parametrize(
    ("work", "shape", "tokens"),
    [
        (item(), PLAIN_WORK, 40),
        (item(), WorkShape(think_tokens=9), 49),
        (item(), WorkShape(think_tokens=9, answer_tokens=5), 14),
        (item(), WorkShape(answer_tokens=99), 40),
        (item(answer="given"), PLAIN_WORK, 0),
        (item(answer="given"), WorkShape(think_tokens=9), 9),
        (item(), WorkShape(reads_letters=True), 0),
        (item(output_tokens=0, reads_letters=True), WorkShape(think_tokens=9), 0),
    ],
)
def test_only_what_is_not_given_is_recorded(work, shape, tokens):
    assert count_recorded(work, shape) == tokens


def test_a_given_answer_is_replayed_up_to_the_length():
    items = [item(answer="Blue it is."), item(answer="x" * 100)]
    model = session()
    (jobs, note) = build_jobs(
        model, items, PLAIN_WORK, write_scripts(model, items, PLAIN_WORK, [None, None])
    )
    assert [text_of(job.output) for job in jobs] == ["Blue it is.", "x" * 40]
    assert {text_of(job.prompt) for job in jobs} == {"^[user]Why?[assistant]"}
    assert note == ""


def test_letters_are_prompts_alone_that_end_where_the_letter_follows():
    items = [item("Which? A) a B) b", output_tokens=0, reads_letters=True)]
    model = session()
    scripts = write_scripts(model, items, PLAIN_WORK, record_answers(model, items, PLAIN_WORK))
    ((job,), _) = build_jobs(model, items, PLAIN_WORK, scripts)
    assert job.output == ()
    assert text_of(job.prompt).endswith("of the right option alone.[assistant]Answer:")


def test_an_arm_that_thinks_has_the_prompt_and_the_text_of_thinking():
    tags = {"think_open": "<think>", "think_close": "</think>", "thinking_switch": "enable"}
    shape, items = WorkShape(think_tokens=8, answer_tokens=4), [item(answer="Blue it is.")]
    model = FakeSession(plain_facts(**tags), script("<think>\n", "hmm, the sky is"))
    scripts = write_scripts(model, items, shape, record_answers(model, items, shape))
    assert text_of(scripts[0].prompt).endswith("[assistant]<think>\n")
    assert scripts[0].text == "hmm, theBlue"
    assert text_of(scripts[0].output) == scripts[0].text
    plain = session()
    whole = write_scripts(plain, items, shape, record_answers(plain, items, shape))
    assert "Think it through" in text_of(whole[0].prompt)


def test_a_model_with_other_tokens_replays_the_same_text():
    items = [item(answer="Blue it is.")]
    scripts = write_scripts(session(), items, PLAIN_WORK, [None])
    ((job,), note) = build_jobs(session(cls=OtherTokens), items, PLAIN_WORK, scripts)
    assert (len(job.prompt), len(job.output)) == (11, 6)
    assert note == (
        "the same texts in this model's own tokens: 11 instead of 22 prompt tokens, 6 instead of "
        "11 output tokens; compare its joules per answer, not per token"
    )


def test_a_model_with_the_same_tokens_replays_the_recorded_ones():
    # "b" and "lue" may have been drawn where the tokenizer would write "blue".
    recorded = [RecordedAnswer((98, 5_000, 46), "blue.")]
    items = [item()]
    scripts = write_scripts(session(), items, PLAIN_WORK, recorded)
    ((job,), note) = build_jobs(session("other"), items, PLAIN_WORK, scripts)
    assert (job.output, note) == ((98, 5_000, 46), "")


def test_what_does_not_fit_into_the_context_is_refused():
    short = session(context_tokens=30)
    for work in (item(), item(answer="x" * 9)):
        with pytest.raises(ContextOverflow):
            write_scripts(short, [work], PLAIN_WORK, record_answers(short, [work], PLAIN_WORK))
    scripts = write_scripts(session(), [item(answer="x" * 9)], PLAIN_WORK, [None])
    with pytest.raises(ContextOverflow, match="1 tokens too long"):
        build_jobs(short, [item(answer="x" * 9)], PLAIN_WORK, scripts)


recordings = st.lists(
    st.none() | st.builds(RecordedAnswer, st.lists(st.integers(0, 2**31)).map(tuple), st.text()),
    max_size=4,
).map(tuple)


@given(recordings, st.text(max_size=5))
def test_a_saved_recording_is_read_as_it_was(tmp_path_factory, recorded, key):
    path = tmp_path_factory.mktemp("sweep") / "answers.json"
    save_recorded(path, key, recorded)
    assert load_recorded(path, key, len(recorded)) == recorded
    assert load_recorded(path, key + "x", len(recorded)) is None
    assert load_recorded(path, key, len(recorded) + 1) is None
