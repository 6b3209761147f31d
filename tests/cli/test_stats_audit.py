"""``etui stats --audit``: joules, agreement with its interval, and accuracies."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from etui.cli.main import run
from etui.cli.stats import summarise_audits
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
    assert pair.accuracy_fitted is None
    assert pair.accuracy_by_labels < pair.audit_accuracy
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
    assert pair["accuracy_fitted"] == pytest.approx(pair["accuracy_by_labels"], abs=0.1)
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


def test_audits_that_did_not_finish_are_counted_by_how_they_ended(
    fill: Callable[..., None], config: Config, capsys: Capture
) -> None:
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
    assert run(["stats", "--audit", "--days", "36000", "--json"]) == ExitCode.DONE
    document = json.loads(capsys.readouterr().out)
    names = ("unfinished", "cut_off", "stopped", "out_of_joules", "failed")
    assert [document[name] for name in names] == [7, 3, 2, 1, 1]


def test_grades_alone_are_not_audits_of_0_joules(
    fill: Callable[..., None], capsys: Capture
) -> None:
    fill([(True, None)])
    assert run(["stats", "--audit", "--days", "36000"]) == ExitCode.DONE
    assert capsys.readouterr().out.splitlines() == [
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
    fill: Callable[..., None],
    config: Config,
    capsys: Capture,
    tiny_starter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bad grades of an arm send its turns to the other one."""
    monkeypatch.setenv("ETUI_MODELS", str(tiny_starter.parent))
    fill([(False, None)] * 60 + [(None, False)] * 60, rule="all")
    (config.policies_dir / "mine.yaml").write_text(LEARNING, encoding="utf-8")
    before = summarise_audits(config, 36_000)
    assert before.changes == (), "there is no fit yet"
    assert run(["policy", "fit", "mine", "--log"]) == ExitCode.DONE
    capsys.readouterr()
    assert run(["stats", "--audit", "--days", "36000", "--json"]) == ExitCode.DONE
    (change,) = json.loads(capsys.readouterr().out)["changes"]
    assert change["policy"] == "mine"
    assert change["turns"] == 120, change
    assert not change["undecided"]
    assert change["moves"] == [{"before": "quick", "after": "large", "turns": 120}]
    assert change["accuracy_before"] < 0.3 < 0.5 < change["accuracy_after"]
    assert run(["stats", "--audit", "--days", "36000"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert "the last 120 turns before the fit of" in shown
    assert "120 would be routed otherwise now (quick to large 120)" in shown


def test_named_arms_are_no_decision_that_a_fit_changed(
    fill: Callable[..., None], config: Config, capsys: Capture
) -> None:
    fill([(number % 2 == 0, None) for number in range(40)], rule=None)
    assert run(["policy", "fit", "mine", "--log"]) == ExitCode.DONE
    assert summarise_audits(config, 36_000).changes == ()


def test_a_log_without_audits_says_so(config: Config, capsys: Capture) -> None:
    assert run(["stats", "--audit"]) == ExitCode.DONE
    assert capsys.readouterr().out == "no audit and no grade in the last 30 days\n"
    assert run(["stats", "--audit", "--idle"]) == ExitCode.USAGE
