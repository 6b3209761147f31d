"""The questions of a sweep: those of the project, of a file, of the log."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Message
from etui.errors import EtuiError, InvalidFile, UsageError
from etui.log.writer import TurnWriter
from etui.multiple_choice import parse_options
from etui.sweep.workload import (
    LOGGED_QUESTIONS,
    MOST_ITEMS,
    NAMES,
    WorkItem,
    Workload,
    hash_items,
    load_workload,
)


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
