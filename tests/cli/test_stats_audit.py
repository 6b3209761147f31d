"""``etui stats --audit``: joules, agreement with its interval, and accuracies."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from etui.cli.main import run
from etui.cli.stats_audit import summarise_audits
from etui.config.config import Config
from etui.errors import ExitCode
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from tests.cli.test_policy_fit_log import fill, make_audit, mine

__all__ = ["fill", "mine"]

Capture = pytest.CaptureFixture[str]


def test_audits_are_summed_and_agreement_has_an_interval(
    fill: Callable[..., None], config: Config
) -> None:
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
    assert pair.accuracy_before is None
    assert pair.accuracy_after < pair.audit_accuracy
    assert not pair.fitted_from_log
    assert summarise_audits(config, 1, datetime(2100, 1, 1, tzinfo=UTC)).audits == 0


def test_the_text_and_the_fit_that_follows(fill: Callable[..., None], capsys: Capture) -> None:
    fill([(None, number % 4 > 0) for number in range(40)])
    assert run(["stats", "--audit", "--days", "36000"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert "40 audits in the last 36,000 days: 360 J" in shown
    assert "30 of 40" in shown
    assert "run: etui policy fit mine --log" in shown
    assert run(["policy", "fit", "mine", "--log"]) == ExitCode.DONE
    capsys.readouterr()
    assert run(["stats", "--audit", "--days", "36000", "--json"]) == ExitCode.DONE
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["fitted_from_log"]
    assert pair["accuracy_before"] == pytest.approx(pair["accuracy_after"], abs=0.1)
    assert run(["policy", "check", "mine"]) == ExitCode.DONE
    assert "of log" in capsys.readouterr().out


def test_unmeasured_audits_are_not_0_joules(fill: Callable[..., None], config: Config) -> None:
    fill([(None, None)])
    with TurnWriter(config) as writer, LogReader(config) as log:
        (turn,) = log.list_turns(limit=1)
        writer.save_audit(make_audit(turn, True, joules=None, kind=None))
        writer.flush()
    found = summarise_audits(config, 36_000)
    assert (found.audits, found.joules, found.unmeasured) == (1, None, 1)
    assert run(["stats", "--audit", "--days", "36000"]) == ExitCode.DONE


def test_grades_alone_are_not_audits_of_0_joules(
    fill: Callable[..., None], capsys: Capture
) -> None:
    fill([(True, None)])
    assert run(["stats", "--audit", "--days", "36000"]) == ExitCode.DONE
    assert capsys.readouterr().out.splitlines() == [
        "no audit in the last 36,000 days",
        "1 grade: 1 good, 0 bad",
    ]


def test_a_log_without_audits_says_so(config: Config, capsys: Capture) -> None:
    assert run(["stats", "--audit"]) == ExitCode.DONE
    assert capsys.readouterr().out == "no audit and no grade in the last 30 days\n"
    assert run(["stats", "--audit", "--idle"]) == ExitCode.USAGE
