"""Audits of a server: in idle time, with a part of the books of their own, ended by a request."""

from __future__ import annotations

import pytest

from etui.config.config import Config
from etui.log.labels import read_audits
from etui.log.queries import LogReader
from etui.models.spec import STARTER
from etui.runtime.overrides import Overrides
from tests.runtime.pool.pool_stage import WATTS, Stage

POLICY = f"""
version: 1
arms:
  quick: {{model: {STARTER}, max_tokens: 20}}
  large: {{model: {STARTER}, max_tokens: 90}}
rules:
  - {{name: all, use: quick}}
audit: {{share: 1, arm: large, joules: {{day: 100000}}}}
"""


@pytest.fixture
def stage(here: Config) -> Stage:
    here.policies_dir.mkdir(parents=True, exist_ok=True)
    (here.policies_dir / "mine.yaml").write_text(POLICY, encoding="utf-8")
    return Stage(here)


def test_an_audit_is_a_part_of_the_books_of_its_own(stage: Stage) -> None:
    heard, turn = stage.submit(overrides=Overrides(policy="mine"))
    record = heard.record
    stage.wait_idle()
    before = stage.pool.status().books
    assert before.audits == 0
    for seconds, function in list(stage.later):
        if seconds == 10.0:
            function()
    stage.advance(2)
    books = stage.pool.status().books
    stage.pool.close(1)
    with LogReader(stage.config) as log:
        (audit,) = read_audits(log)
        assert log.count_turns() == 1
    assert audit.turn_id == turn.turn_id == record.turn_id
    assert audit.audited_arm == "quick"
    assert books.audits == pytest.approx(WATTS, rel=0.5)
    assert books.turns == pytest.approx(before.turns)
    assert None not in (books.turns, books.loads, books.idle, books.audits, books.total)
    assert books.total == pytest.approx(
        books.turns + books.loads + books.idle + books.audits  # type: ignore[operator]
    )
    assert set(books.turns_by_model) == {STARTER}


def test_a_request_that_waits_comes_before_any_audit(stage: Stage) -> None:
    first, _ = stage.submit(overrides=Overrides(policy="mine"))
    assert first.record
    stage.wait_idle()
    (due,) = [function for seconds, function in stage.later if seconds == 10.0]
    second, _ = stage.submit(overrides=Overrides(policy="mine"))
    assert second.record
    stage.wait_idle()
    due()  # of the pause before the second request
    stage.pool.close(1)
    with LogReader(stage.config) as log:
        assert read_audits(log) == []
