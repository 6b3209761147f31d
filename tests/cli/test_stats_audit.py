"""``etui stats --audit``: joules, agreement with its interval, and accuracies."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from etui.cli.main import run
from etui.cli.stats_audits import summarise_audits
from etui.errors import ExitCode
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from tests.cli.test_policy_fit_log import fill, make_audit, mine

__all__ = ["fill", "mine"]


def test_audits_are_summed_and_agreement_has_an_interval(fill, config):
    fill([(None, number % 4 > 0) for number in range(40)] + [(False, None), (True, None)])
    found = summarise_audits(config, 36_000)
    assert (found.audits, found.compared, found.agreed) == (40, 40, 30)
    assert found.joules == pytest.approx(40 * 9.0)
    assert (found.good, found.bad) == (1, 1)
    (pair,) = found.pairs
    assert (pair.policy, pair.arm, pair.audit_arm) == ("mine", "quick", "large")
    assert pair.agreement == 0.75
    assert pair.low == pytest.approx(0.598, abs=0.002)
    assert pair.high == pytest.approx(0.858, abs=0.002)
    assert pair.accuracy_fitted is None
    assert pair.accuracy_by_labels < pair.audit_accuracy
    assert not pair.fitted_from_log
    assert summarise_audits(config, 1, datetime(2100, 1, 1, tzinfo=UTC)).audits == 0


def test_the_text_and_the_fit_that_follows(fill, cli):
    fill([(None, number % 4 > 0) for number in range(40)])
    shown = cli.out("stats", "--audit", "--days", "36000")
    assert "40 audits in the last 36,000 days: 360 J" in shown
    assert "30 of 40" in shown
    assert "run: etui policy fit mine --log" in shown
    cli.run("policy", "fit", "mine", "--log")
    (pair,) = cli.json("stats", "--audit", "--days", "36000", "--json")["pairs"]
    assert pair["fitted_from_log"]
    assert pair["accuracy_fitted"] == pytest.approx(pair["accuracy_by_labels"], abs=0.1)
    assert "of log" in cli.out("policy", "check", "mine")


def test_unmeasured_audits_are_not_0_joules(fill, config):
    fill([(None, None)])
    with TurnWriter(config) as writer, LogReader(config) as log:
        (turn,) = log.list_turns(limit=1)
        writer.save_audit(make_audit(turn, True, joules=None, kind=None))
        writer.flush()
    found = summarise_audits(config, 36_000)
    assert (found.audits, found.joules, found.unmeasured) == (1, None, 1)
    assert run(["stats", "--audit", "--days", "36000"]) == ExitCode.DONE


def test_audits_that_did_not_finish_are_counted_by_how_they_ended(fill, config, capsys, cli):
    fill([(None, None)] * 8)
    ends = ["complete", "truncated", "truncated", "truncated", "stopped", "stopped", "budget"]
    with TurnWriter(config) as writer, LogReader(config) as log:
        for turn, status in zip(log.list_turns(limit=8), [*ends, "error"], strict=True):
            writer.save_audit(make_audit(turn, None, status=status))
        writer.flush()
    assert run(["stats", "--audit", "--days", "36000"]) == ExitCode.DONE
    line = (
        "7 audits not finished: 3 cut off at the token limit, 2 stopped for a question or at exit, "
        "1 out of joules for the day, 1 failed"
    )
    assert line in capsys.readouterr().out.splitlines()
    document = cli.json("stats", "--audit", "--days", "36000", "--json")
    names = ("unfinished", "cut_off", "stopped", "out_of_joules", "failed")
    assert [document[name] for name in names] == [7, 3, 2, 1, 1]


def test_grades_alone_are_not_audits_of_0_joules(fill, cli):
    fill([(True, None)])
    assert cli.out("stats", "--audit", "--days", "36000").splitlines() == [
        "no audit in the last 36,000 days",
        "1 grade: 1 good, 0 bad",
    ]


LEARNING = """\
version: 1
arms:
  quick: {model: smollm2-135m}
  large: {model: smollm2-135m, max_tokens: 900}
rules:
  - name: all
    objective: {maximize: accuracy}
    arms: [quick, large]
    otherwise: quick
audit: {share: 1, arm: large, joules: {day: 2000}}
"""


def test_what_a_fit_of_audits_changed_is_shown_for_the_turns_before_it(
    fill, config, tiny_starter, monkeypatch, cli
):
    """Bad grades of an arm send its turns to the other one."""
    monkeypatch.setenv("ETUI_MODELS", str(tiny_starter.parent))
    fill([(False, None)] * 60 + [(None, False)] * 60, rule="all")
    (config.policies_dir / "mine.yaml").write_text(LEARNING, encoding="utf-8")
    before = summarise_audits(config, 36_000)
    assert before.changes == (), "there is no fit yet"
    cli.run("policy", "fit", "mine", "--log")
    (change,) = cli.json("stats", "--audit", "--days", "36000", "--json")["changes"]
    assert change["policy"] == "mine"
    assert change["turns"] == 120, change
    assert not change["undecided"]
    assert change["moves"] == [{"before": "quick", "after": "large", "turns": 120}]
    assert change["accuracy_before"] < 0.3 < 0.5 < change["accuracy_after"]
    shown = cli.out("stats", "--audit", "--days", "36000")
    assert "the last 120 turns before the fit of" in shown
    assert "120 would be routed otherwise now (quick to large 120)" in shown


def test_named_arms_are_no_decision_that_a_fit_changed(fill, config):
    fill([(number % 2 == 0, None) for number in range(40)], rule=None)
    assert run(["policy", "fit", "mine", "--log"]) == ExitCode.DONE
    assert summarise_audits(config, 36_000).changes == ()


def test_a_log_without_audits_says_so(config, cli):
    assert cli.out("stats", "--audit") == "no audit and no grade in the last 30 days\n"
    assert run(["stats", "--audit", "--idle"]) == ExitCode.USAGE
