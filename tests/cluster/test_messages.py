"""Texts between driver and nodes come back as they were, and anything else is an error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.cluster.messages import (
    Answers,
    Command,
    Facts,
    Failed,
    Finished,
    Line,
    Note,
    Opened,
    Opening,
    Task,
    Wasted,
    read_command,
    read_message,
    read_opening,
    read_task,
    write_message,
    write_request,
)
from etui.codec import DocumentError
from tests.cluster.fake_node import make_sample

MESSAGES = [
    Facts("desk", {"etui": "0.1.0", "ray": None}, 7),
    Note("loading"),
    Opened({"run_id": "x"}),
    Answers((make_sample("a", "s", 0), make_sample("a", "s", 1, None))),
    Answers(()),
    Wasted(1.5, 0.1, "counter"),
    Wasted(None, None),
    Line('{"event": "block"}'),
    Finished(3, "etui: stopped\n", {"blocks.jsonl": "\udcff"}),
    Failed("no room", "", 1),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: type(each).__name__)
def test_messages_come_back(message):
    text = write_message(message)
    assert "\n" not in text
    assert read_message(text) == message


def test_a_later_field_of_another_version_is_ignored():
    document = {**json.loads(write_message(Note("x"))), "later": 1}
    assert read_message(json.dumps(document)) == Note("x")


@given(st.text(max_size=40))
def test_other_text_is_refused(text):
    with pytest.raises(DocumentError):
        read_message(text)


@pytest.mark.parametrize(
    "document", [[], {"message": "x"}, {"message": "note"}, {"message": []}, 3]
)
def test_other_documents_are_refused(document):
    with pytest.raises(DocumentError):
        read_message(json.dumps(document))


def test_requests_come_back():
    task = Task("a", "s", (0, 1, 2), (1,))
    assert read_task(write_request(task)) == task
    opening = Opening({"run_id": "x"}, {"m": None, "n": "ab"})
    assert read_opening(write_request(opening)) == opening
    command = Command(("sweep", "--jsonl", "--", "m"), collect=True)
    assert read_command(write_request(command)) == command
