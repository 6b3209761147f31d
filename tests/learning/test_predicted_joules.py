"""A replay over a day of one-letter answers, whose audit arm has no turns of its own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from etui.arm import Arm
from etui.chat import Query
from etui.cli.main import run
from etui.errors import ExitCode
from etui.log.records import AuditRecord
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path
from etui.runtime.log_predictor import LogPredictor
from etui.turn.record import Seconds, Tokens

SMALL, LARGE = "smollm2-135m", "gemma-3-270m"
POLICY = f"""
version: 1
arms:
  small: {{model: {SMALL}, max_tokens: 32}}
  large: {{model: {LARGE}, max_tokens: 33}}
rules: [{{name: all, use: large}}]
"""


@pytest.fixture
def day(config, make_turn):
    """Save a day of 30 answers of one token, each audited."""
    catalogue = load_catalogue(config)
    for name in (SMALL, LARGE):
        file = model_path(catalogue.get(name), config)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    config.policies_dir.mkdir(parents=True, exist_ok=True)
    (config.policies_dir / "day.yaml").write_text(POLICY, encoding="utf-8")
    settings = {"max_tokens": 32, "think_tokens": 0, "votes": 0}
    with TurnWriter(config) as writer:
        for number in range(30):
            prompt = 50 + 10 * number
            turn = make_turn(
                number, query="x" * 4 * prompt, arm="small", model=SMALL, policy="day",
                model_sha256=catalogue.get(SMALL).sha256, reasoning="direct", system=None,
                chat_id=None, settings=settings, probes=(),
            )  # fmt: skip
            joules = 0.1 * prompt
            phases = {"load": 0.0, "prefill": joules, "decode": 0.0}
            writer.save_turn(
                replace(
                    turn,
                    tokens=Tokens(prompt, 0, prompt, 0, 1),
                    seconds=Seconds(0.0, prompt / 100, 0.0, prompt / 100, 0.1),
                    energy=replace(turn.energy, joules=joules, phases=phases, kind="counter"),
                )
            )
            writer.save_audit(
                AuditRecord(
                    audit_id=f"a{number}",
                    turn_id=turn.turn_id,
                    created_at=turn.created_at,
                    policy="day",
                    arm="large",
                    model=LARGE,
                    model_sha256=catalogue.get(LARGE).sha256,
                    audited_arm="small",
                    audited_model=SMALL,
                    status="complete",
                    answer="B",
                    agrees=True,
                    why="",
                    tokens_output=1,
                    seconds=1.0,
                    joules=3 * joules,
                    uncertainty=None,
                    kind="counter",
                    load_joules=0.0,
                )
            )


def test_joules_are_predicted_from_one_token_answers_and_from_audits(day, capsys):
    assert run(["policy", "replay", "day", "--json"]) == ExitCode.DONE
    joules = json.loads(capsys.readouterr().out)["joules"]
    measured = sum(0.1 * (50 + 10 * number) for number in range(30))
    assert joules["measured"] == pytest.approx(measured)
    assert joules["predicted_turns"] == 30
    assert joules["predicted_before"] == pytest.approx(measured, rel=0.02)
    assert joules["predicted_after"] == pytest.approx(3 * measured, rel=0.02)
    assert run(["policy", "replay", "day"]) == ExitCode.DONE
    assert "no data about the models" not in capsys.readouterr().out


def test_prompts_of_one_length_are_predicted_alike(day, config):
    predictor = LogPredictor(config, load_catalogue(config), resident=SMALL)
    arm = Arm("small", SMALL, max_tokens=32)
    texts = ("x" * 400, "y" * 400, "x" * 800)
    one, same, longer = (predictor.joules(arm, Query(text)).total for text in texts)
    assert one == same < longer
    other = predictor.joules(replace(arm, name="large", model=LARGE), Query("x" * 400))
    assert other.total == pytest.approx(3 * one, rel=0.05)


def test_the_phases_of_an_audit_are_unknown_and_not_0(day, capsys):
    question = ["policy", "explain", "--all", "--policy", "day", "x" * 400]
    assert run([*question, "--json"]) == ExitCode.DONE
    (candidate,) = json.loads(capsys.readouterr().out)["candidates"]
    joules = candidate["joules"]
    assert joules["total"] == pytest.approx(30.0, rel=0.05)
    assert (joules["prefill"], joules["decode"]) == (None, None)
    assert joules["source"].startswith("30 audits, by length of the prompt")
    assert run(question) == ExitCode.DONE
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("large"))
    assert row.count("unknown") == 3, "accuracy, prefill and decode"
