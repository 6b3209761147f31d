"""Cases made from the log: distinct questions, what the user corrected, and the command."""

from __future__ import annotations

import json
import random
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Query
from etui.cli.main import run
from etui.config.config import Config
from etui.learning import logged_cases as near_duplicates
from etui.learning.logged_cases import (
    LoggedCase,
    NearDuplicates,
    compute_likeness,
    count_trigrams,
    find_trigrams,
    read_logged_cases,
    spread_cases,
)
from etui.log.queries import LogReader
from etui.log.records import GradeRecord
from etui.log.writer import TurnWriter
from etui.routing.library import compile_text
from etui.routing.policy import Policy
from etui.routing.probes import parse_cases, run_probes
from etui.turn.record import REPLACES, TurnRecord
from tests.fixtures.turns import TURN

TEXT = st.text(alphabet="ab c.", max_size=24)


def keep_by_all_pairs(texts: list[str], threshold: float) -> list[bool]:
    kept: list[frozenset[str]] = []
    found = []
    for text in texts:
        shape = find_trigrams(text)
        found.append(all(compute_likeness(shape, other) < threshold for other in kept))
        if found[-1]:
            kept.append(shape)
    return found


@given(st.lists(TEXT, max_size=40), st.sampled_from([0.01, 0.3, 0.5, 0.8, 0.9, 1.0]))
def test_random_texts_are_kept_as_by_all_pairs(texts: list[str], threshold: float) -> None:
    expected = keep_by_all_pairs(texts, threshold)
    for frequencies in (count_trigrams(texts), count_trigrams(texts[:2]), Counter()):
        index = NearDuplicates(threshold, frequencies)
        assert [index.add(text) for text in texts] == expected


def test_edited_questions_are_kept_as_by_all_pairs() -> None:
    draw = random.Random(3)
    words = [f"word{draw.randrange(10**4)}" for _ in range(60)]
    texts: list[str] = []
    for _ in range(300):
        if texts and draw.random() < 0.6:
            asked = draw.choice(texts).split()
            asked[draw.randrange(len(asked))] = draw.choice(words)
        else:
            asked = draw.choices(words, k=draw.randint(1, 14))
        texts.append(" ".join(asked))
    index = NearDuplicates(0.8, count_trigrams(texts))
    expected = keep_by_all_pairs(texts, 0.8)
    assert [index.add(text) for text in texts] == expected
    assert 20 < expected.count(False) < 280


def test_few_texts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons grow with the number of texts, not with the number of pairs."""
    draw = random.Random(1)
    words = [f"{draw.randrange(10**6):x}" for _ in range(4000)]
    texts = [" ".join(draw.choices(words, k=12)) + "?" for _ in range(1500)]
    compared = 0

    def count(one: frozenset[str], other: frozenset[str]) -> float:
        nonlocal compared
        compared += 1
        return compute_likeness(one, other)

    monkeypatch.setattr(near_duplicates, "compute_likeness", count)
    index = NearDuplicates(0.8, count_trigrams(texts[:500]))
    for text in texts:
        index.add(text)
    assert compared < 100 * len(texts)


Capture = pytest.CaptureFixture[str]

POLICY = """version: 1
arms: {quick: {model: smollm2-135m}, deep: {model: smollm2-135m, max_tokens: 99}}
signals: {sums: {keywords: [add]}, chat: {turns: {at_least: 2}}}
rules:
  - {name: sums, priority: 9, when: sums, use: deep}
  - {name: chat, priority: 8, when: {all: [chat, {not: sums}]}, use: deep}
  - {name: rest, use: quick}
"""


@pytest.fixture(scope="module")
def policy() -> Policy:
    return compile_text(POLICY, "mine", ["smollm2-135m"])


def turn(number: int, query: str, **changes: Any) -> TurnRecord:
    plain = {"system": None, "arm": "quick", "rule": "rest", "hops": (), "settings": {}}
    time = f"2026-11-24T10:{number // 60:02}:{number % 60:02}.000+00:00"
    return replace(
        TURN, turn_id=f"id{number:04}", created_at=time, query=query, **{**plain, **changes}
    )


def save(
    config: Config, turns: Sequence[TurnRecord], grades: dict[int, bool] | None = None
) -> None:
    with TurnWriter(config) as writer:
        for each in turns:
            writer.save_turn(each)
        for number, good in (grades or {}).items():
            writer.save_grade(GradeRecord(f"id{number:04}", "2026-11-24T11:00:00.000Z", good))


def read(config: Config, policy: Policy, **options: Any) -> list[LoggedCase]:
    with LogReader(config) as log:
        return list(read_logged_cases(log, policy, **{"limit": 50, **options}).cases)


def test_each_question_once_newest_first(config: Config, policy: Policy) -> None:
    save(
        config,
        [
            turn(1, "What is a joule?"),
            turn(2, "add 1"),
            turn(3, "what  is a JOULE?"),
            turn(4, "What is a joule ?"),
            turn(5, "Name a river in the north of Europe that freezes in winter."),
            turn(6, "Name a river in the north of Europe that freezes in winters."),
        ],
    )
    found = read(config, policy)
    assert [(case.turn_id, case.route) for case in found] == [
        ("id0006", ("rest", "quick")),
        ("id0004", ("rest", "quick")),
        ("id0002", ("sums", "deep")),
    ]
    assert [case.query.text for case in read(config, policy, known=["ADD  1"])][-1] != "add 1"
    lines = "\n".join(json.dumps(case.document()) for case in found)
    cases = parse_cases(lines, policy, file="c")
    assert [outcome.failures for outcome in run_probes(policy, cases)] == [(), (), ()]


def test_a_chat_is_kept_only_if_the_decision_needs_it(config: Config, policy: Policy) -> None:
    save(
        config,
        [
            turn(1, "Who?", chat_id="c", answer="They.", system="Be brief."),
            turn(2, "add 2", chat_id="c", parent_id="id0001", answer="3", system="Be brief."),
            turn(3, "Why?", chat_id="c", parent_id="id0002", answer="So.", system="Be brief."),
        ],
    )
    why, sums, who = (case.document() for case in read(config, policy))
    assert "messages" not in who
    assert "messages" not in sums
    assert [message["content"] for message in why["messages"]] == [
        "Be brief.", "Who?", "They.", "add 2", "3", "Why?",
    ]  # fmt: skip
    (case,) = parse_cases(json.dumps(why), policy, file="c")
    assert run_probes(policy, [case])[0].failures == ()


def test_what_the_user_corrected_is_expected(config: Config, policy: Policy) -> None:
    again = {"arm": "deep", "rule": None}
    save(
        config,
        [
            turn(1, "asked again"),
            turn(2, "Asked  again", settings={REPLACES: "id0001"}, **again),
            turn(3, "edited"),
            turn(4, "edited to this", settings={REPLACES: "id0003"}, **again),
            turn(5, "bad"),
            turn(6, "good add"),
            turn(7, "of no arm of this policy", arm="gone"),
            turn(8, "asked again"),
            turn(9, "routed again by a rule"),
            turn(10, "routed again by a rule", settings={REPLACES: "id0009"}, arm="deep"),
        ],
        {5: False, 6: True, 7: False},
    )
    found = {case.query.text: case for case in read(config, policy)}
    expected = {text: (case.arm, case.not_arm) for text, case in found.items()}
    assert expected == {
        "Asked  again": ("deep", None),
        "edited": (None, None),
        "edited to this": (None, None),
        "bad": (None, "quick"),
        "good add": ("quick", None),
        "of no arm of this policy": (None, None),
        "routed again by a rule": (None, None),
    }
    corrected = found["Asked  again"].document()
    assert corrected["tags"] == ["log", "corrected"]
    assert (corrected["arm"], "rule" in corrected) == ("deep", False)
    (case,) = parse_cases(json.dumps(found["bad"].document()), policy, file="c")
    assert run_probes(policy, [case])[0].failures == ("arm quick, expected any other",)


def test_few_cases_are_spread_over_rules(config: Config, policy: Policy) -> None:
    words = ("lake", "moon", "stone", "bread", "violin", "tiger")
    asked = ["add apples to it", *(f"Tell me of a {word}" for word in words)]
    save(config, [turn(at, text) for at, text in enumerate([*asked, "x" * 20_001])])
    found = read(config, policy, limit=2)
    assert [case.query.text for case in found] == ["Tell me of a tiger", "add apples to it"]
    with LogReader(config) as log:
        whole = read_logged_cases(log, policy, limit=9)
    assert (whole.questions, whole.left_out, len(whole.cases)) == (8, 1, 7), "one is too long"


ROUTES = st.tuples(st.sampled_from("ab"), st.sampled_from("xy"))


@given(st.lists(st.tuples(st.text(max_size=8), ROUTES)), st.integers(1, 9))
def test_a_spread_keeps_its_limit_and_its_order(
    asked: list[tuple[str, tuple[str, str]]], limit: int
) -> None:
    cases = [LoggedCase(str(at), Query(text), route) for at, (text, route) in enumerate(asked)]
    chosen = spread_cases(cases, limit)
    places = [int(case.turn_id) for case in chosen]
    assert places == sorted(set(places))
    assert len(chosen) <= limit
    routes = {case.route for case in cases}
    assert len({case.route for case in chosen}) == min(limit, len(routes))


def test_the_command(capsys: Capture, config: Config, tmp_path: Path) -> None:
    config.policies_dir.mkdir(parents=True)
    (config.policies_dir / "mine.yaml").write_text(POLICY)
    own = config.policies_dir / "mine.cases.jsonl"
    args = ["policy", "cases", "mine", "--from-log"]

    def call(*more: str) -> tuple[int, str, str]:
        code = run([*args, *more])
        out, err = capsys.readouterr()
        return int(code), out, err

    code, out, err = call()
    assert (code, out) == (1, "")
    assert "no new case in 0 questions of the log" in err
    save(config, [turn(1, "add \x1b[2J"), turn(2, "hello"), turn(3, "é" * 20_001)])
    code, out, err = call()
    assert code == 0
    assert "\x1b" not in out
    assert [json.loads(line)["query"] for line in out.splitlines()] == ["hello", "add \x1b[2J"]
    assert err.splitlines()[-2:] == [
        "2 cases of 3 questions, 1 too long or undecided",
        "these lines hold your questions as you typed them: nothing has left this machine",
    ]
    assert call("-o", str(own))[0] == 0
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    assert run(["policy", "test", "mine"]) == 0
    assert "2 of 2 passed (0 probes, 2 cases)" in capsys.readouterr().out
    code, _, err = call("-o", str(own))
    assert code == 2
    assert "exists already" in err
    assert call()[0] == 1, "what is a case already is none again"
    own.write_text("")  # as the shell makes it for `>>`, before the command runs
    assert len(call()[1].splitlines()) == 2
    own.unlink()
    assert call("--since", "2099-01-01")[0] == 1
    assert call("--since", "soon")[0] == 2
    assert len(call("--limit", "1")[1].splitlines()) == 1
    assert call("-o", str(tmp_path / "no" / "file"))[0] == 1
    assert run(["policy", "cases", "mine"]) == 2
    assert "--from-log" in capsys.readouterr().err
