"""What the audits of the log say of the joules of the model that audited."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.curves.operating_curve import Conditions
from etui.log.past_answers import read_model_facts
from etui.log.queries import LogReader
from etui.log.records import AuditRecord
from etui.log.writer import TurnWriter

NOW = Conditions("a machine", "llama-cpp-python 9", 2, ("gpu:GPU-1",), 300.0)
AUDIT = AuditRecord(
    audit_id="a", turn_id="t", created_at="", policy="mine", arm="large", model="big",
    model_sha256="ab", audited_arm="small", audited_model="little", status="complete", answer="B",
    agrees=True, why="", tokens_output=1, seconds=2.0, joules=20.0, uncertainty=None,
    kind="counter", load_joules=0.0,
)  # fmt: skip


@pytest.fixture
def read(config, make_turn):
    """Save a turn with an audit of each set of changes, oldest first; read the facts."""

    def save_and_read(*changes, machine="a machine"):
        with TurnWriter(config) as writer:
            for number, each in enumerate(changes):
                made = make_turn(number, model="little", settings={"machine": machine})
                writer.save_turn(made)
                ids = {"audit_id": f"a{number}", "turn_id": made.turn_id}
                writer.save_audit(replace(AUDIT, **ids, created_at=made.created_at, **each))
        with LogReader(config) as log:
            return read_model_facts(log, "big", "ab", NOW)

    return save_and_read


def test_audits_teach_the_joules_the_load_and_the_duration(read):
    facts = read({"load_joules": 18.0}, *({"joules": 20.0 + n, "seconds": 3.0} for n in range(4)))
    assert facts.curve is None
    assert facts.speed is None
    found = facts.audits["large"]
    assert found.measured == 5
    assert found.joules.compute_at(1.0) == pytest.approx((20 + 20 + 21 + 22 + 23) / 5)
    assert found.seconds.compute_at(1.0) == pytest.approx(2.8)
    assert (facts.load_joules, facts.load_seconds) == (18.0, None)


def test_audits_that_were_stopped_or_are_of_another_file_or_kind_do_not_count(read):
    facts = read(
        *[{"kind": "estimate"}] * 5,
        *[{}] * 5,
        *[{"status": "stopped"}, {"model_sha256": "cd"}, {"model": "other"}, {"arm": "huge"}],
        {"status": "truncated", "joules": 26.0},
    )
    assert facts.audits["large"].measured == 6
    assert facts.audits["large"].joules.compute_at(1.0) == pytest.approx(21.0)
    assert facts.audits["huge"].joules is None


def test_audits_of_another_machine_do_not_count(read):
    assert read(*[{}] * 6, machine="another one").audits == {}
