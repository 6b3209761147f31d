"""Usage by model and file: hops, loads, audits and bench runs, and what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.log import model_usage
from etui.log.model_usage import ModelUsage, Spent, read_model_usage
from etui.log.queries import LogReader
from etui.log.records import AuditRecord
from etui.log.text import format_usage, list_usage
from etui.log.writer import TurnWriter
from etui.turn.record import HopRecord, LoadRecord, Tokens
from tests.fixtures.rows import answer_row, run_row
from tests.fixtures.turns import ENERGY, UNMEASURED

DAY = "2026-11-2{}T10:00:00.000+00:00"


def hop(model: str, joules: float | None, sha256: str | None = None) -> HopRecord:
    return HopRecord(
        *("quick", model, sha256, "direct", "4", "complete", None, None, None, False, False),
        Tokens(1, 0, 1, 0, 3), joules, 0.5, 0.0, 1.0, "",
    )  # fmt: skip


def test_files_of_one_name_are_apart_and_estimates_too(fill, make_turn):
    estimate = replace(ENERGY, joules=7.0, uncertainty=2.8, kind="estimate")
    log = fill(
        make_turn(1, joules=10.0, model="m", model_sha256="q4"),
        make_turn(2, joules=None, model="m", model_sha256="q4"),
        make_turn(3, model="m", model_sha256="q4", energy=estimate),
        make_turn(4, joules=20.0, model="m", model_sha256="q8"),
    )
    files = read_model_usage(log)["m"]
    assert files["q4"].uses == {"answers": Spent(3, 10.0, 0.41, "counter", 7.0, 1, 60)}
    assert files["q8"].uses == {"answers": Spent(1, 20.0, 0.41, "counter", None, 0, 20)}
    both = sum(files.values(), ModelUsage())
    assert (both.answers, both.last_used) == (4, "2026-11-24T10:04:00.000+00:00")
    assert both.total == Spent(4, 30.0, pytest.approx(0.82), "counter", 7.0, 1, 80)


def test_hops_loads_and_audits_are_charged_to_their_model(config: Config, make_turn):
    energy = replace(ENERGY, joules=12.0)
    load = LoadRecord("l1", DAY.format(5), "big", "b", None, 1.0, 30.0, 1.0, "model", 0, 100)
    audit = AuditRecord(
        audit_id="a", turn_id="aaaa00000001", created_at=DAY.format(6), policy="p", arm="large",
        model="huge", model_sha256=None, audited_arm="x", audited_model="big", status="complete",
        answer="B", agrees=True, why="", tokens_output=2, seconds=2.0, joules=20.0,
        uncertainty=1.0, kind="counter", load_joules=0.0,
    )  # fmt: skip
    with TurnWriter(config) as writer:
        writer.save_turn(
            make_turn(
                1, model="big", energy=energy, hops=(hop("small", 2.0), hop("big", 10.0, "b"))
            )
        )
        writer.save_turn(make_turn(2, model="big", energy=UNMEASURED, hops=(hop("small", 9.0),)))
        writer.save_load(load)
        writer.save_load(replace(load, load_id="l2", joules=None, uncertainty=None, kind=None))
        writer.save_audit(audit)
        writer.save_audit(replace(audit, audit_id="b", load_joules=5.0))
        writer.save_audit(replace(audit, audit_id="c", load_joules=None))
    with LogReader(config) as log:
        usage = read_model_usage(log)
    small, big, huge = usage["small"][None], usage["big"]["b"], usage["huge"][None]
    assert small.uses == {"answers": Spent(2, 2.0, 0.5, "counter", None, 1, 6)}
    assert big.uses == {
        "answers": Spent(1, 10.0, 0.5, "counter", None, 0, 3),
        "loads": Spent(2, 30.0, 1.0, "model", None, 1, 0),
    }
    assert big.total == Spent(3, 40.0, 1.5, "model", None, 1, 3)
    assert big.last_used == DAY.format(5)
    # The half width of a load for an audit is not recorded, so the sum has none.
    assert huge.uses == {"audits": Spent(3, 45.0, None, "counter", None, 1, 6)}
    assert huge.answers == 0


def test_failed_turns_are_no_answers_but_their_joules_are_spent(fill, make_turn):
    broken = replace(hop("small", 2.0), status="error")
    log = fill(
        make_turn(1, joules=10.0, model="m"),
        make_turn(2, joules=4.0, model="m", status="error"),
        make_turn(3, joules=1.0, model="m", status="stopped"),
        make_turn(4, model="big", hops=(broken, hop("big", 10.0))),
        make_turn(5, model="big", hops=(hop("small", 2.0), hop("big", 10.0)), status="error"),
    )
    usage = {
        name: sum(files.values(), ModelUsage()) for name, files in read_model_usage(log).items()
    }
    answers = {name: each.uses["answers"] for name, each in usage.items()}
    assert {name: (each.count, each.failed) for name, each in answers.items()} == {
        "m": (2, 1), "small": (0, 2), "big": (1, 1),
    }  # fmt: skip
    assert answers["m"].joules == pytest.approx(15.0)
    assert usage["m"].answers == 2
    used = read_model_usage(log)
    assert ": 2 answers, 1 failed: 15" in format_usage(used["m"])
    assert ": 0 answers, 2 failed: " in format_usage(used["small"])
    assert "2 answers, 1 failed" in dict(list_usage(used["m"], None))
    assert model_usage.build_document(used["m"])["uses"]["answers"]["failed"] == 1


def test_bench_answers_count_once_and_for_the_model_of_their_arm(config: Config):
    arms = {'odd "arm".x': {"model": "m"}, "other": {"model": "n"}}
    run = run_row(
        "r1", DAY.format(1), DAY.format(7), "complete", "/runs/r1", "sample", "letters", 5, 1, None,
        None, 60, 0, None, None, None, 0.0, tuple(arms),
        {"arms": arms, "models": [{"name": "n"}, {"name": "m", "sha256": "q4"}]}, {},
    )  # fmt: skip
    answer = answer_row(
        "r1", 'odd "arm".x', "anatomy", 3, "B", "B", True, 0.9, "complete", 90, 10, 0, 1,
        2.5, 0.2, "counter", 0.4, None,
    )  # fmt: skip
    merged = run | {"run_id": "r2", "config": run["config"] | {"merged": ["r1"]}}
    with TurnWriter(config) as writer:
        writer.save_rows("runs", [run, merged])
        others = [answer | each for each in ({"row": 4}, {"run_id": "r2"}, {"arm": "other"})]
        writer.save_rows("answers", [answer, *others])
    with LogReader(config) as log:
        usage = read_model_usage(log)
    bench = {"bench": Spent(2, 5.0, 0.4, "counter", None, 0, 2)}
    assert usage["m"] == {"q4": ModelUsage(DAY.format(7), bench)}
    assert usage["n"][None].total.joules == 2.5


def test_no_wide_row_is_read(fill, make_turn):
    log = fill(make_turn(1))
    plain = next(source for use, source in model_usage._SOURCES if use == "answers")
    plan = log.select(f"EXPLAIN QUERY PLAN {model_usage._SUMS.format(source=plain)}")
    steps = [row["detail"] for row in plan]
    assert any("COVERING INDEX turns_by_file" in step for step in steps)
    assert not any("TEMP B-TREE" in step for step in steps)


def test_a_log_without_anything(config: Config):
    with LogReader(config) as log:
        assert read_model_usage(log) == {}


NUMBER = st.none() | st.floats(0, 1e9)
SPENT = st.builds(
    Spent,
    st.integers(0, 9),
    NUMBER,
    NUMBER,
    st.none() | st.sampled_from(["counter", "model"]),
    NUMBER,
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
)


@given(SPENT, SPENT)
def test_what_is_missing_never_counts_as_zero(left: Spent, right: Spent):
    both = left + right
    assert (both.joules is None) == (left.joules is None and right.joules is None)
    assert both.count == left.count + right.count
    assert both.failed == left.failed + right.failed
    unknown = any(s.joules is not None and s.uncertainty is None for s in (left, right))
    assert not (unknown and both.uncertainty is not None)
    assert (both.kind == "model") == any(
        s.kind == "model" for s in (left, right) if s.joules is not None
    )
