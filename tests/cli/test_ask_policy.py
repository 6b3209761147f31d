"""``etui ask`` under a policy of one's own: cascades and budgets, a process of its own."""

from __future__ import annotations

import json
import sqlite3

import pytest

POLICY = """
version: 1
arms:
  choose: {model: smollm2-135m, reasoning: direct, readout: choices}
  long: {model: smollm2-135m, reasoning: direct, max_tokens: 12}
rules:
  - {name: all, cascade: {arms: [choose, long], accept_at: ACCEPT}}
"""
QUESTION = "Which is a colour?\nA) red\nB) seven\nC) Monday"


@pytest.fixture(scope="module")
def models(tiny_starter):
    return tiny_starter.parent


@pytest.fixture
def policy(etui_home):
    """Write a policy, and return its path."""

    def write(text):
        path = etui_home / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_a_cascade_prints_the_answer_that_stands_and_tells_its_hops(etui, starter_model, policy):
    models = starter_model.parent
    path = policy(POLICY.replace("ACCEPT", "0.99"))
    done = etui("ask", QUESTION, "--policy", path, models=models)
    notes = done.stderr.splitlines()
    assert any(
        "choose on smollm2-135m:" in n and "(uncalibrated), 99 % required" in n for n in notes
    )
    assert any(n.startswith("hop 2: long (direct) on smollm2-135m") for n in notes)
    assert "2 hops: choose ≈" in done.stderr
    document = json.loads(etui("logs", "show", "last", "--json", models=models).stdout)
    assert done.stdout.strip() == document["answer"]
    first, second = document["hops"]
    assert second["tokens"]["cached"] > 0
    assert first["joules"] + second["joules"] == pytest.approx(document["energy"]["joules"])
    shown = etui("logs", "show", "last", models=models).stdout
    assert "hop 1" in shown
    assert "hop 2" in shown


def test_a_cascade_may_stop_at_its_first_hop(etui, models, policy):
    path = policy(POLICY.replace("ACCEPT", "0.01"))
    done = etui("ask", QUESTION, "--policy", path, "--json", models=models)
    document = json.loads(done.stdout)
    (hop,) = document["hops"]
    assert (hop["accepted"], hop["taken"], hop["arm"]) == (True, True, "choose")
    assert document["answer"] == hop["answer"]
    assert document["tokens"]["output"] == 0


SPENT = """
version: 1
arms: {long: {model: smollm2-135m, reasoning: direct, max_tokens: 4}}
rules: [{name: all, use: long}]
budgets: {hour: {joules: 0.001, when_exceeded: WAY}}
"""


def test_a_spent_hour_asks_refuses_or_degrades(etui, models, policy, etui_home):
    assert etui("ask", "Hi", "-m", "smollm2-135m", "--max-tokens", "2", models=models).stdout
    asked = policy(SPENT.replace("WAY", "ask"))
    refused = etui("ask", "Hi", "--policy", asked, models=models, code=4)
    assert refused.stdout == ""
    assert "the hourly budget is spent" in refused.stderr
    assert "--over-budget" in refused.stderr
    etui("ask", "Hi", "--policy", asked, "--over-budget", models=models)
    never = policy(SPENT.replace("WAY", "refuse"))
    etui("ask", "Hi", "--policy", never, "--over-budget", models=models, code=4)
    cheap = etui("ask", "Hi", "--policy", policy(SPENT.replace("WAY", "degrade")), models=models)
    assert "the cheapest arm, long, answers" in cheap.stderr
    with sqlite3.connect(etui_home / "etui.db") as connection:
        assert connection.execute("SELECT count(*) FROM turns").fetchone() == (3,)
