"""Earlier questions as a signal: likeness, the smoothed share, and what is not known."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Query
from etui.config.config import Config
from etui.log.database import open_for_writing
from etui.log.records import Row
from etui.log.writer import TurnWriter
from etui.routing import similarity
from etui.routing.decide import decide
from etui.routing.policy import Policy
from etui.routing.similarity import (
    EarlierQuestion,
    EarlierQuestions,
    NeighbourQuery,
    NeighbourTally,
    SimilarityIndex,
    smoothed_share,
)
from etui.routing.text_measures import BUCKETS, count_terms, split_question, tf_idf
from etui.runtime import log_predictor as similar_questions
from etui.runtime.log_predictor import NeighbourMemory, read_neighbours
from tests.fixtures.rows import answer_row, run_row
from tests.routing.conftest import Make
from tests.routing.seen import see_signals

POLICY = """
version: 1
arms: {quick: {model: tiny}, large: {model: large-8b}}
signals:
  like-large: {nearest: {of: log, by: large, k: 5}, at_least: 0.5}
  often-wrong: {nearest: {of: runs, by: quick, k: 5}, above: 0.4}
  often-right: {nearest: {of: runs, by: quick, was: correct, k: 5}, above: 0.4}
rules:
  - {name: like, when: {any: [like-large, often-wrong]}, use: large}
  - {name: rest, use: quick}
"""

LOG = [EarlierQuestion(f"prove the theorem number {n}", "large") for n in range(20)]
LOG += [EarlierQuestion(f"write a poem about flowers {n}", "quick") for n in range(20)]
RUNS = [EarlierQuestion(f"prove the theorem number {n}", "quick", False) for n in range(9)]
RUNS += [EarlierQuestion(f"the capital of country {n}", "quick", True) for n in range(9)]
RUNS += [EarlierQuestion(f"prove the theorem number {n}", "large", True) for n in range(9)]


def test_the_nearest_texts_share_the_rarest_words() -> None:
    texts = ["the cat sat", "the dog ran", "a theorem of Gauss", "the theorem of the cat", ""]
    likeness = SimilarityIndex(texts)
    assert likeness.nearest("Theorem, Gauss!", 2) == [2, 3]
    assert set(likeness.nearest("the", 10)) == {0, 1, 3}
    assert likeness.nearest("unheard words", 3) == []
    assert likeness.nearest("", 3) == []


@given(st.lists(st.text(max_size=30), max_size=12), st.text(max_size=30), st.integers(1, 8))
def test_any_texts(texts: list[str], asked: str, k: int) -> None:
    found = SimilarityIndex(texts).nearest(asked, k)
    assert len(found) <= k
    assert len(set(found)) == len(found)
    assert all(0 <= index < len(texts) for index in found)


WORDS = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "of", "Gauss", "Euler"]), max_size=8
)


@given(st.lists(WORDS, min_size=1, max_size=10), WORDS)
def test_the_order_is_that_of_the_cosine_of_tf_idf(
    texts: list[list[str]], asked: list[str]
) -> None:
    counts = [count_terms(split_question(" ".join(words))) for words in texts]
    idf = [
        math.log((1 + len(texts)) / (1 + sum(bucket in one for one in counts))) + 1
        for bucket in range(BUCKETS)
    ]
    rows = [tf_idf(one, idf) for one in counts]
    query = tf_idf(count_terms(split_question(" ".join(asked))), idf)
    cosines = [sum(value * row.get(bucket, 0.0) for bucket, value in query.items()) for row in rows]
    found = SimilarityIndex([" ".join(words) for words in texts]).nearest(" ".join(asked), 10)
    assert set(found) == {at for at, cosine in enumerate(cosines) if cosine > 0}
    assert [cosines[at] for at in found] == pytest.approx(
        sorted((cosine for cosine in cosines if cosine > 0), reverse=True), abs=1e-5
    )


def test_a_text_is_split_once_for_many_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    split: list[str] = []
    monkeypatch.setattr(
        similarity, "split_question", lambda text: split.append(text) or split_question(text)
    )
    similarity.weigh_terms.cache_clear()
    EarlierQuestions(LOG).tally(NeighbourQuery("log", "large", None, 5), "prove it")
    newer = [EarlierQuestion("a new question", "quick"), *LOG]
    EarlierQuestions(newer).tally(NeighbourQuery("log", "large", None, 5), "prove it")
    assert sorted(split) == sorted({row.text for row in newer} | {"prove it"})


def test_shares_are_drawn_to_the_share_of_all() -> None:
    assert smoothed_share(NeighbourTally(0, 0, 0.3, 100)) == pytest.approx(0.3)
    assert smoothed_share(NeighbourTally(10, 10, 0.0, 100)) == 0.5
    assert smoothed_share(NeighbourTally(50, 50, 0.5, 100)) == pytest.approx(55 / 60)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (("log", "large", None, 5), (5, 5, 0.5, 40)),
        (("log", "quick", None, 5), (0, 5, 0.5, 40)),
        (("runs", "quick", "wrong", 5), (5, 5, 0.5, 18)),
        (("runs", "large", "wrong", 5), (0, 5, 0.0, 9)),
        (("runs", None, "correct", 5), (1, 5, 18 / 27, 27)),
        (("runs", "other", "wrong", 5), None),
    ],
)
def test_what_is_counted(asked: tuple[Any, ...], found: tuple[Any, ...] | None) -> None:
    tally = EarlierQuestions(LOG, RUNS).tally(NeighbourQuery(*asked), "prove a theorem")
    if asked[1] is None:
        assert (tally.n, tally.base, tally.size) == found[1:]
    else:
        assert tally == (None if found is None else NeighbourTally(*found))
    assert EarlierQuestions().tally(NeighbourQuery(*asked), "prove a theorem") is None


def test_a_rule_by_what_became_of_like_questions(make: Make) -> None:
    policy = make(POLICY)
    known = EarlierQuestions(LOG, RUNS)
    available = {"tiny", "large-8b"}
    decision = decide(Query("prove my theorem"), policy, available=available, neighbours=known)
    assert decision.arm.name == "large"
    assert decision.why == (
        "like: like-large (5 of 5, 0.50 of all), often-wrong (5 of 5, 0.50 of all)"
    )
    decision = decide(Query("a poem"), policy, available=available, neighbours=known)
    assert decision.arm.name == "quick"
    rows = decision.trace()["signals"]
    assert (rows[1]["value"], rows[1]["detail"]) == (None, "no earlier question shares a word")
    row = rows[0]
    assert (row["name"], row["value"], row["detail"]) == (
        "like-large",
        pytest.approx(5 / 15),
        "0 of 5, 0.50 of all",
    )


def test_too_few_earlier_questions_are_not_known(make: Make) -> None:
    policy = make(POLICY)
    few = EarlierQuestions(LOG[:4])
    seen = see_signals(Query("prove"), policy, neighbours=few)["like-large"]
    assert (seen.holds, seen.value) == (False, None)
    assert seen.detail == "only 4 earlier questions, 5 are needed"
    seen = see_signals(Query("prove"), policy)["often-wrong"]
    assert (seen.value, seen.detail) == (None, "no earlier questions were read")


def test_they_are_read_from_the_log_and_from_runs(
    config: Config, make: Make, tmp_path: Path
) -> None:
    policy = make(POLICY)
    plain = "version: 1\narms: {a: {model: tiny}}\nrules: [{name: r, use: a}]\n"
    assert read_neighbours(make(plain), config) is None
    empty = read_neighbours(policy, config)
    assert empty is not None
    assert empty.tally(NeighbourQuery("log", "large", None, 5), "x") is None
    data = tmp_path / "mine.csv"
    data.write_text("Prove the theorem,a,b,c,d,A\nThe capital of France,a,b,c,d,B\n")
    told = {"suite": "mine", "split": "test", "data_path": str(data)}
    run = run_row(
        "r1", "2026", None, "done", "/runs/r1", "mine", "letters", 0, 1, None, None,
        2, 1, None, None, None, 0.0, ("quick",), told, {},
    )  # fmt: skip
    answers = [
        answer_row(
            "r1", "quick", "mine", row, "A", "A", correct, None, "complete", 1, 0, 0, 1,
            None, None, None, 0.1,
        )
        for row, correct in ((0, False), (1, True), (7, True))
    ]  # fmt: skip
    with TurnWriter(config) as log:
        log.save_rows("runs", [run])
        log.save_rows("answers", answers)
    with closing(open_for_writing(config)) as database, database:
        for number, (query, status) in enumerate((("prove it", "complete"), ("no", "error"))):
            columns = _turn(database, number) | {"query": query, "status": status, "arm": "large"}
            names, marks = ", ".join(columns), ", ".join("?" * len(columns))
            database.execute(f"INSERT INTO turns ({names}) VALUES ({marks})", [*columns.values()])
    known = read_neighbours(policy, config)
    assert known is not None
    assert known.tally(NeighbourQuery("log", "large", None, 5), "prove") == NeighbourTally(
        1, 1, 1.0, 1
    )
    assert known.tally(NeighbourQuery("runs", "quick", "wrong", 5), "prove") == NeighbourTally(
        1, 1, 0.5, 2
    )
    _read_again_from_memory(policy, config, answers[0])
    data.unlink()
    gone = read_neighbours(policy, config)
    assert gone is not None
    assert gone.tally(NeighbourQuery("runs", "quick", "wrong", 5), "prove") is None


def test_rows_of_a_file_of_several_subjects_count_across_them(
    config: Config, make: Make, tmp_path: Path
) -> None:
    data = tmp_path / "mine.jsonl"
    rows = [
        {"question": "Count the sheep", "answer": 1, "subject": "farm"},
        {"question": "Prove the theorem", "answer": 2, "subject": "proofs"},
    ]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    plan = {"suite": "mine", "split": "test", "data_path": str(data)}
    run = run_row(
        "r1", "2026", None, "done", "/runs/r1", "mine", "chat", 0, 1, None, None,
        1, 1, None, None, None, 0.0, ("quick",), plan, {},
    )  # fmt: skip
    answer = answer_row(
        "r1", "quick", "proofs", 1, "2", "3", False, None, "complete", 1, 0, 0, 1,
        None, None, None, 0.1,
    )  # fmt: skip
    with TurnWriter(config) as log:
        log.save_rows("runs", [run])
        log.save_rows("answers", [answer])
    known = read_neighbours(make(POLICY), config)
    assert known is not None
    assert known.tally(NeighbourQuery("runs", "quick", "wrong", 5), "prove") == NeighbourTally(
        1, 1, 1.0, 1
    )


def _read_again_from_memory(policy: Policy, config: Config, answer: Row) -> None:
    """Check that question files are read again only after other answers came into the log."""
    memory = NeighbourMemory()
    loads: list[str | None] = []
    load = similar_questions._load_run_suite

    def count_loads(name: str | None, *rest: object) -> object:
        loads.append(name)
        return load(name, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar_questions, "_load_run_suite", count_loads)
        for _ in range(2):
            known = read_neighbours(policy, config, memory=memory)
            assert known is not None
            tally = known.tally(NeighbourQuery("runs", "quick", "wrong", 5), "prove")
            assert tally == NeighbourTally(1, 1, 0.5, 2)
        assert loads == ["mine"]
        with TurnWriter(config) as log:
            log.save_rows("answers", [answer | {"arm": "other"}])
        assert read_neighbours(policy, config, memory=memory) is not None
        assert loads == ["mine", "mine"]


def _turn(database: sqlite3.Connection, number: int) -> dict[str, object]:
    """A row of ``turns`` with something in every column that must be filled."""
    columns = database.execute("PRAGMA table_info(turns)").fetchall()
    needed = [name for _, name, _, needed, default, key in columns if needed and not key]
    return {name: f"{name}{number}" for name in needed}
