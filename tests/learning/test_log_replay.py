"""A policy over a real log."""

from __future__ import annotations

from dataclasses import replace

from etui.errors import EtuiError
from etui.learning.log_replay import replay_turns
from etui.log.records import LoggedQuestion
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.routing import text_measures
from etui.routing.library import check_text, find_policy
from etui.routing.text_measures import TextFacts, count_history_tokens
from etui.runtime.replay import replay_log
from etui.runtime.runtime import open_runtime
from tests.fixtures.turns import TURN

POLICY = """
version: 1
description: d
models: {small: [smollm2-135m]}
arms: {quick: {model: small}}
rules: [{name: all, use: quick}]
"""


def _policy(config):
    catalogue = load_catalogue(config)
    policy = check_text(POLICY, find_policy("balanced", config), catalogue.models).policy
    assert policy is not None
    return policy


def _save(config, count):
    with TurnWriter(config) as writer:
        for number in range(count):
            time = f"2026-11-24T10:{number // 60:02}:{number % 60:02}.000+00:00"
            writer.save_turn(replace(TURN, turn_id=f"id{number:010}", created_at=time))


class Nothing:
    """Predicts nothing."""

    def joules(self, arm, query):
        return None

    def accuracy(self, arm, query, confidence):
        return None


def test_a_turn_is_decided_with_the_history_of_its_own_branch():
    seen = []

    def decide(query):
        seen.append([message.content for message in query.history if message.role == "user"])
        assert query.history_tokens == count_history_tokens(query.history)
        raise EtuiError("no arm", "")

    parents = [None, "0", "1", "0", "3", "2", None, "gone"]
    questions = [
        LoggedQuestion(
            *(str(number), "c", f"q{number}", None, f"a{number}", "quick", "m", "direct"),
            *(1.0, "counter", {}, None, parent),
        )
        for number, parent in enumerate(parents)
    ]
    replay_turns(questions, decide, Nothing())
    assert seen == [
        [], ["q0"], ["q0", "q1"], ["q0"], ["q0", "q3"], ["q0", "q1", "q2"], [], ["q6"],
    ]  # fmt: skip


def test_each_message_of_a_long_chat_is_measured_once(monkeypatch):
    measured = []
    estimate = text_measures.estimate_tokens
    monkeypatch.setattr(
        text_measures, "estimate_tokens", lambda text: measured.append(text) or estimate(text)
    )

    def decide(query):
        assert TextFacts(query).chat_tokens >= len(query.history)
        raise EtuiError("no arm", "")

    questions = [
        LoggedQuestion(
            *(str(number), "c", f"q{number}", None, f"a{number}", "quick", "m", "direct"),
            *(1.0, "counter", {}, None, str(number - 1) if number else None),
        )
        for number in range(200)
    ]
    replay_turns(questions, decide, Nothing())
    assert sum(text.startswith("a") for text in measured) == 200


def test_a_replay_looks_once_for_each_model_and_reports_page_by_page(config, monkeypatch):
    asked, reports = [], []

    def on_disk(config, catalogue):
        return lambda name: not asked.append(name)

    monkeypatch.setattr("etui.runtime.runtime.models_on_disk", on_disk)
    monkeypatch.setattr("etui.runtime.replay.models_on_disk", on_disk)
    monkeypatch.setattr("etui.log.queries._PAGE_ROWS", 2)
    _save(config, 5)
    policy, runtime = _policy(config), open_runtime(config)
    replayed = replay_log(policy, runtime, report=lambda *counts: reports.append(counts))
    assert {again.after for again in replayed} == {("quick", "smollm2-135m")}
    assert asked == ["smollm2-135m"]
    assert reports == [(2, 5), (4, 5), (5, 5)]
    newest = replay_log(policy, runtime, newest=2)
    assert [again.turn_id for again in newest] == ["id0000000003", "id0000000004"]
