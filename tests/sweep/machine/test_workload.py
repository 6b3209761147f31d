"""The questions of a sweep, and the tokens that every setting computes of them."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Message
from etui.errors import ContextOverflow, EtuiError, InvalidFile, UsageError
from etui.log.writer import TurnWriter
from etui.multiple_choice import parse_options
from etui.sweep.config import PLAIN_WORK, WorkShape
from etui.sweep.workload import (
    LOGGED_QUESTIONS,
    MOST_ITEMS,
    NAMES,
    RecordedAnswer,
    WorkItem,
    Workload,
    build_jobs,
    count_recorded,
    hash_items,
    load_recorded,
    load_workload,
    record_answers,
    save_recorded,
    write_scripts,
)
from tests.reasoning.scripted import FakeSession, plain_facts, script


def questions(workload: Workload) -> list[str]:
    return [item.messages[-1].content for item in workload.items]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "log"])
def test_the_shipped_texts_are_there(config, name):
    workload = load_workload(name, config)
    assert workload.items
    assert workload == load_workload(name, config)
    assert all(question.strip() == question for question in questions(workload))


def test_chat_is_short_questions_and_long_is_one_passage(config):
    chat, long = load_workload("chat", config), load_workload("long", config)
    assert 3 <= len(chat.items) <= 8
    assert max(len(question.split()) for question in questions(chat)) < 40
    assert len(long.items) == 1
    assert 1100 < len(questions(long)[0].split()) < 1900
    assert questions(long)[0].splitlines()[-1].startswith("Question:")


def test_the_answers_of_code_quote_the_code(config):
    for item in load_workload("code", config).items:
        before = item.messages[-1].content.split("```")[1].splitlines()
        assert item.answer is not None
        after = item.answer.splitlines()
        quoted = sum(line in after for line in before)
        assert quoted >= 0.8 * len(before)
        assert item.answer.count("```") == 2
        compile(item.answer.split("```")[1].removeprefix("python\n"), "answer", "exec")


def test_letters_computes_prompts_with_options_alone(config):
    workload = load_workload("letters", config)
    assert workload.output_tokens == 0
    for item in workload.items:
        assert (item.output_tokens, item.reads_letters) == (0, True)
        assert [each.letter for each in parse_options(item.messages[-1].content)] == list("ABCD")


def test_the_length_of_the_answers_can_be_set(config):
    workload = load_workload("chat", config, output_tokens=7)
    assert workload.output_tokens == 7
    assert {item.output_tokens for item in workload.items} == {7}
    assert workload.sha256 != load_workload("chat", config).sha256


def test_letters_have_no_length(config):
    with pytest.raises(UsageError, match="output tokens"):
        load_workload("letters", config, output_tokens=5)


def test_an_unknown_name_suggests_the_nearest(config):
    with pytest.raises(UsageError, match="did you mean 'code'"):
        load_workload("cdoe", config)
    with pytest.raises(UsageError, match=r"there is no workload 'x\.jsonl'"):
        load_workload("x.jsonl", config)


def test_a_text_file_has_a_prompt_per_line(config, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffWhy is the sky blue?\r\n\r\n  Und das Meer, Müller?  \n".encode())
    workload = load_workload(str(path), config)
    assert questions(workload) == ["Why is the sky blue?", "Und das Meer, Müller?"]
    assert workload.name == str(path)
    assert {item.answer for item in workload.items} == {None}


def test_a_jsonl_file_may_give_answers(config, tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [{"prompt": "Two lines\nof text"}, {"prompt": "b", "answer": "It is b."}]
    path.write_text("\n".join([*map(json.dumps, lines), "", '{"prompt": "c", "answer": null}']))
    workload = load_workload(str(path), config, output_tokens=9)
    assert questions(workload) == ["Two lines\nof text", "b", "c"]
    assert [item.answer for item in workload.items] == [None, "It is b.", None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', ":2:15: is not JSON"),
        ('"a"', ":2:1: is not a JSON object"),
        ('{"promt": "a"}', "did you mean 'prompt'"),
        ('{"answer": "a"}', "there is no `prompt`"),
        ('{"prompt": 3}', "`prompt` is not text"),
        ('{"prompt": "  "}', "`prompt` is empty"),
        ('{"prompt": "a", "answer": []}', "`answer` is not text"),
        ('{"prompt": "a", "answer": ""}', "`answer` is empty"),
        ('{"prompt": "\\ud800"}', "surrogate"),
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_broken_line_is_named(config, tmp_path, line, message):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(InvalidFile) as caught:
        load_workload(str(path), config)
    assert message in caught.value.what


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"fine\n\xff\xfe\x00", ":2:1: is not UTF-8"),
        (b"GGUF\n\x00\x01\x02", ":2:1: contains NUL bytes"),
        (b"a\n" * (MOST_ITEMS + 1), f"has {MOST_ITEMS + 1} prompts"),
        (b"a" * 5_000_000, "has 5 MB"),
    ],
)
def test_a_file_that_is_no_list_of_prompts_is_refused(config, tmp_path, data, message):
    path = tmp_path / "mine.txt"
    path.write_bytes(data)
    with pytest.raises(UsageError if message.startswith(("is", "has")) else InvalidFile) as caught:
        load_workload(str(path), config)
    assert message in caught.value.what


def test_a_folder_is_refused(config, tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        load_workload(str(tmp_path), config)


@given(data=st.binary(max_size=200), suffix=st.sampled_from([".txt", ".jsonl"]))
def test_no_file_is_a_traceback(tmp_path_factory, config, data, suffix):
    path = tmp_path_factory.mktemp("workload") / f"mine{suffix}"
    path.write_bytes(data)
    try:
        workload = load_workload(str(path), config)
    except (UsageError, InvalidFile):
        return
    assert all(question.strip() for question in questions(workload))


@given(
    st.lists(st.tuples(st.text(), st.none() | st.text(), st.integers(0, 9)), max_size=4),
    st.lists(st.tuples(st.text(), st.none() | st.text(), st.integers(0, 9)), max_size=4),
)
def test_equal_hashes_are_equal_workloads(first, second):
    one, other = (
        [WorkItem((Message("user", text),), answer, tokens) for text, answer, tokens in rows]
        for rows in (first, second)
    )
    assert (hash_items(one) == hash_items(other)) == (one == other)


def log(config, turns):
    with TurnWriter(config) as writer:
        for turn in turns:
            writer.save_turn(turn)


def test_the_log_gives_its_latest_distinct_questions(config, make_turn):
    turns = [
        make_turn(number, query=f"Question {number % 8}?", answer=f"Answer {number}.", system=None)
        for number in range(1, 17)
    ]
    turns.append(make_turn(20, query="Stopped?", answer="No", status="stopped"))
    turns.append(make_turn(21, query="Empty?", answer="  "))
    log(config, turns)
    workload = load_workload("log", config)
    expected = [11, 12, 13, 14, 15, 16][-LOGGED_QUESTIONS:]
    assert questions(workload) == [f"Question {number % 8}?" for number in expected]
    assert [item.answer for item in workload.items] == [f"Answer {n}." for n in expected]


def test_the_log_keeps_the_system_message_and_can_be_read_as_it_was(config, make_turn):
    log(config, [make_turn(1, query="First?", system="Be brief."), make_turn(2, query="Second?")])
    item = load_workload("log", config).items[0]
    assert item.messages == (Message("system", "Be brief."), Message("user", "First?"))
    before = datetime.fromisoformat("2026-11-24T10:01:30+00:00")
    assert questions(load_workload("log", config, until=before)) == ["First?"]


def test_a_log_without_an_answer_is_refused(config, make_turn):
    with pytest.raises(EtuiError, match="no answered question"):
        load_workload("log", config)
    log(config, [make_turn(1, status="error", answer="")])
    with pytest.raises(EtuiError, match="no answered question"):
        load_workload("log", config)


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
