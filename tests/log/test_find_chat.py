"""Finding a chat by its id, its title, or the beginning of either."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.log.chat_queries import choose_chat, find_chat
from etui.log.queries import LogReader, UnknownId
from etui.log.records import ChatRecord
from etui.log.writer import TurnWriter


def chat(chat_id: str, name: str, hour: int = 9) -> ChatRecord:
    return ChatRecord(chat_id, f"2026-11-24T{hour:02}:00:00.000+00:00", name)


CHATS = (
    chat("aa11", "Python basics", 8),
    chat("aa22", "Python", 9),
    chat("bb33", "100% of [oceans]", 10),
    chat("cc44", "Primes", 11),
    chat("dd55", "Primes", 7),
    chat("ee66", "", 6),
)


@pytest.fixture
def log(config: Config) -> Iterator[LogReader]:
    with TurnWriter(config) as writer:
        for each in CHATS:
            writer.save_chat(each)
    with LogReader(config) as reader:
        yield reader


@pytest.mark.parametrize(
    ("name", "chat_id"),
    [("aa11", "aa11"), ("ee", "ee66"), ("python", "aa22"), ("Python b", "aa11"),
     ("  primes ", "cc44"), ("100%", "bb33"), ("last", "cc44")],
)  # fmt: skip
def test_a_chat_is_found_by_id_title_or_beginning(log, name, chat_id):
    assert find_chat(log, name).chat_id == chat_id


def test_several_beginnings_are_refused_with_the_titles(log):
    with pytest.raises(UnknownId, match="4 chats begin with 'P'") as refused:
        find_chat(log, "P")
    assert refused.value.nearest == (
        "cc44 (Primes)",
        "Python",
        "Python basics",
        "dd55 (Primes)",
    )


@pytest.mark.parametrize("name", ["", "%", "_", "oceans", "aa11x"])
def test_a_part_of_a_title_or_a_wildcard_is_no_beginning(log, name):
    with pytest.raises(UnknownId, match="no chat"):
        find_chat(log, name)


def test_an_empty_log_has_no_chats(config):
    with LogReader(config) as reader, pytest.raises(UnknownId) as refused:
        find_chat(reader, "last")
    assert refused.value.fix == "there are no chats yet"


@given(st.lists(st.sampled_from(CHATS), max_size=6), st.sampled_from([c.name for c in CHATS]))
def test_an_exact_title_is_never_ambiguous(found, wanted):
    same = [each for each in found if each.name == wanted]
    chosen = choose_chat(found, wanted)
    assert chosen == (same[0] if same else found[0] if len(found) == 1 else None)
