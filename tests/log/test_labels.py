"""Grades and audits in the log: saved, replaced, removed, read and summed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from etui.log.labels import read_audits, read_grades, read_labelled, sum_audits_since
from etui.log.queries import LogReader
from etui.log.records import AuditRecord, GradeRecord
from etui.log.writer import TurnWriter
from etui.turn.record import TurnRecord

MakeTurn = Callable[..., TurnRecord]

NOW = "2026-07-01T10:00:00.000000Z"


def make_audit(turn_id: str, **changes: object) -> AuditRecord:
    audit = AuditRecord(
        audit_id=f"a-{turn_id}", turn_id=turn_id, created_at=NOW, policy="mine", arm="large",
        model="big", model_sha256=None, audited_arm="quick", audited_model="small",
        status="complete", answer="Paris", agrees=True, why="", tokens_output=3, seconds=1.0,
        joules=30.0, uncertainty=1.0, kind="measured", load_joules=12.0,
    )  # fmt: skip
    return replace(audit, **changes)  # type: ignore[arg-type]


def test_a_grade_is_replaced_and_removed(config, make_turn):
    turn = make_turn(1)
    with TurnWriter(config) as writer:
        writer.save_turn(turn)
        writer.save_grade(GradeRecord(turn.turn_id, NOW, True))
        writer.flush()
        with LogReader(config) as log:
            assert read_grades(log, [turn.turn_id, "other"]) == {turn.turn_id: True}
        writer.save_grade(GradeRecord(turn.turn_id, NOW, False))
        writer.flush()
        with LogReader(config) as log:
            assert read_grades(log, [turn.turn_id]) == {turn.turn_id: False}
            (labelled,) = read_labelled(log)
            assert labelled.good is False
            assert labelled.audits == ()
        writer.clear_grade(turn.turn_id)
        writer.flush()
        with LogReader(config) as log:
            assert read_grades(log, [turn.turn_id]) == {}
            assert read_labelled(log) == []


def test_audits_have_joules_of_their_own(config, make_turn):
    first, second = make_turn(1), replace(make_turn(2), turn_id="second")
    with TurnWriter(config) as writer:
        for turn in (first, second):
            writer.save_turn(turn)
        writer.save_audit(make_audit(first.turn_id))
        writer.save_audit(make_audit("second", agrees=None, why="no answer", joules=None))
    with LogReader(config) as log:
        day = datetime(2026, 7, 1, tzinfo=UTC)
        spent = sum_audits_since(log, day)
        assert spent.joules == pytest.approx(30 + 12 + 12)
        assert spent.unmeasured_turns == 1
        assert sum_audits_since(log, datetime(2026, 7, 2, tzinfo=UTC)).joules == 0
        assert log.totals("all")[0].joules == pytest.approx(
            sum(turn.energy.joules or 0 for turn in (first, second))
        )
        assert [audit.agrees for audit in read_audits(log)] == [True, None]
        assert [turn.turn_id for turn in read_labelled(log)] == [first.turn_id]
        assert len(read_audits(log, turn_id="second")) == 1
        assert read_audits(log, day.replace(day=2)) == []


def test_a_deleted_chat_takes_its_labels_along(config, make_turn):
    turn = make_turn(1, chat_id="chat")
    with TurnWriter(config) as writer:
        writer.save_turn(turn)
        writer.save_grade(GradeRecord(turn.turn_id, NOW, True))
        writer.save_audit(make_audit(turn.turn_id))
        writer.delete_chat("chat")
    with LogReader(config) as log:
        assert read_audits(log) == []
        assert read_grades(log, [turn.turn_id]) == {}
