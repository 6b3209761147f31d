"""``etui policy fit --log``: grades and audits of the log, and logs that cannot be fitted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from etui.errors import ExitCode
from etui.log.records import AuditRecord, GradeRecord
from etui.log.writer import TurnWriter
from etui.turn.record import TurnRecord

MakeTurn = Callable[..., TurnRecord]

POLICY = """\
version: 1
arms:
  quick: {model: smollm2-135m}
  large: {model: smollm2-135m, max_tokens: 900}
rules: [{name: all, use: quick}]
audit: {share: 1, arm: large, joules: {day: 2000}}
"""


@pytest.fixture
def mine(config):
    config.policies_dir.mkdir(parents=True, exist_ok=True)
    (config.policies_dir / "mine.yaml").write_text(POLICY, encoding="utf-8")


def make_audit(turn, agrees, **changes):
    audit = AuditRecord(
        audit_id=f"a{turn.turn_id}", turn_id=turn.turn_id, created_at=turn.created_at,
        policy="mine", arm="large", model="smollm2-135m", model_sha256=None, audited_arm=turn.arm,
        audited_model=turn.model, status="complete", answer="x", agrees=agrees, why="",
        tokens_output=1, seconds=1.0, joules=9.0, uncertainty=None, kind="counter", load_joules=0.0,
    )  # fmt: skip
    return replace(audit, **changes)


@pytest.fixture
def fill(config, mine, make_turn):
    """Save turns of the arm quick: each with a grade or None, and an agreement or None."""

    def save(labels, **changes):
        settings = {"arm": "quick", "model": "smollm2-135m", "policy": "mine"} | changes
        with TurnWriter(config) as writer:
            for number, (good, agrees) in enumerate(labels):
                kind = "river" if number % 2 else "stone"
                turn = replace(
                    make_turn(1, query=f"Which {kind} is number {number}?", **settings),
                    turn_id=f"t{number:05}",
                )
                writer.save_turn(turn)
                if good is not None:
                    writer.save_grade(GradeRecord(turn.turn_id, turn.created_at, good))
                if agrees is not None:
                    writer.save_audit(make_audit(turn, agrees))

    return save


FIT = ("policy", "fit", "mine", "--log", "--json")


def test_grades_and_audits_are_fitted(fill, cli):
    fill([(number % 2 == 0, None) for number in range(60)] + [(None, True)] * 90)
    document = cli.json(*FIT)
    arms = document["arms"]
    assert set(arms) == {"quick", "large"}
    assert arms["quick"]["n"] == 105  # 60 grades, 90 audits of half weight
    assert 0.5 < arms["quick"]["rate"] < arms["large"]["rate"] < 1
    assert document["provenance"]["source"] == ["log"]
    assert "of the log: 60 grades, 90 audits" in document["notes"]
    assert document["provenance"]["n"] == 150, "a label of an audit is no question more"
    assert any("is unknown and taken as 80 %" in note for note in document["notes"])
    assert any("every audit of quick agrees (90 audits)" in note for note in document["notes"])


PRIOR = POLICY.replace(
    "{name: all, use: quick}",
    "{name: all, objective: {maximize: accuracy, prior: {large: 0.43}}, arms: [quick, large]}",
)


def test_the_prior_of_the_policy_comes_before_the_assumed_accuracy(fill, config, cli):
    fill([(None, number % 2 == 0) for number in range(80)])
    (config.policies_dir / "mine.yaml").write_text(PRIOR, encoding="utf-8")
    document = cli.json(*FIT)
    assert document["arms"]["large"]["rate"] == pytest.approx(0.43, abs=0.03)
    (note,) = (note for note in document["notes"] if "taken" in note)
    assert note.startswith(
        "large is taken to be right on 43 %, the `prior` of the policy: grade 20"
    )
    (pair,) = cli.json("stats", "--audit", "--days", "36000", "--json")["pairs"]
    assert pair["audit_accuracy"] == pytest.approx(0.43)
    assert pair["audit_accuracy_from"] == "prior"


def test_grades_of_the_audit_arm_come_before_its_prior(fill, config, make_turn, cli):
    fill([(None, number % 2 == 0) for number in range(80)])
    (config.policies_dir / "mine.yaml").write_text(PRIOR, encoding="utf-8")
    with TurnWriter(config) as writer:
        for number in range(38):
            own = make_turn(number, arm="large", model="smollm2-135m", policy="mine")
            own = replace(own, turn_id=f"g{number}")
            writer.save_turn(own)
            writer.save_grade(GradeRecord(own.turn_id, own.created_at, number % 4 > 0))
    document = cli.json(*FIT)
    assert "large is right on 73 %, by the grades of its answers" in document["notes"]


def test_a_log_without_a_label_says_how_to_get_one(fill, cli):
    error = cli.err(*FIT, code=ExitCode.USAGE)
    assert "the log has no graded turn of policy 'mine'" in error
    assert "etui logs grade" in error
    fill([(None, True)] * 15)
    error = cli.err(*FIT, code=ExitCode.USAGE)
    assert "too few to fit anything" in error


def test_turns_of_other_policies_arms_and_models_are_left_out(fill, config, cli):
    fill([(True, None)] * 30, policy="another")
    cli.run(*FIT, code=ExitCode.USAGE)
    fill([(True, None)] * 30, arm="gone")
    cli.run(*FIT, code=ExitCode.USAGE)
    fill([(number % 3 == 0, None) for number in range(40)])
    document = cli.json(*FIT)
    assert list(document["arms"]) == ["quick"]


@pytest.mark.parametrize("agrees", [True, False])
def test_labels_that_all_agree_fit_a_rate_alone(fill, cli, agrees):
    fill([(None, agrees)] * 250)
    document = cli.json(*FIT)
    quick, large = document["arms"]["quick"], document["arms"]["large"]
    assert quick["rate"] <= large["rate"] + 1e-9
    if agrees:  # no better than the audit arm is taken to be
        assert quick["rate"] <= 0.81
    word = "agrees" if agrees else "differs"
    assert any(f"every audit of quick {word} (250 audits)" in note for note in document["notes"])


def test_the_log_is_added_to_a_table_of_outcomes(fill, tmp_path, cli):
    fill([(True, None)] * 3)
    table = f"{tmp_path}/outcomes.csv"
    rows = "".join(f"anatomy,{n},{n % 2},1\n" for n in range(40))
    with open(table, "w", encoding="utf-8") as file:
        file.write("subject,row,quick,large\n" + rows)
    error = cli.err(*FIT, "--outcomes", table, code=ExitCode.USAGE)
    assert "--data" in error


def test_a_fit_that_has_become_worse_is_set_aside_with_a_notice(fill, config, cli):
    from etui.chat import Query
    from etui.runtime.decide import collect_knowledge, decide_query
    from etui.runtime.runtime import Runtime

    path = config.policies_dir / "mine.yaml"
    text = POLICY.replace("use: quick", "objective: {maximize: accuracy}, arms: [quick, large]")
    path.write_text(text, encoding="utf-8")
    fill([(number % 2 == 0, None) for number in range(300)])
    cli.run(*FIT)
    fitted = config.policies_dir / "mine.fitted.json"
    document = json.loads(fitted.read_text(encoding="utf-8"))
    document["provenance"]["fitted_at"] = "2000-01-01T00:00:00Z"
    fitted.write_text(json.dumps(document), encoding="utf-8")

    def find_notices():
        runtime = Runtime(config, lambda _: None)
        try:
            policy = runtime.load_policy("mine")
            known = collect_knowledge(policy, runtime, available=lambda _model: True)
            choice = decide_query(Query("Which river is it?"), policy, knowledge=known)
            return choice.decision.notices
        finally:
            runtime.close()

    assert find_notices() == ()
    fill([(number % 2 == 1, None) for number in range(300)])  # the opposite is true now
    (notice,) = find_notices()
    assert notice.startswith("the fit of quick is worse than its rate")
    assert "quick: set aside" in cli.out("policy", "check", "mine")


@pytest.fixture
def fitted(fill, config, cli):
    """The fit of the policy mine, by 60 grades of its arm quick."""
    fill([(number % 2 == 0, None) for number in range(60)], reasoning="direct")
    cli.run(*FIT)
    return config.policies_dir / "mine.fitted.json"


def test_check_tells_age_scope_and_what_is_not_covered(fitted, cli):
    lines = [line.strip() for line in cli.out("policy", "check", "mine").splitlines()[1:]]
    assert lines[0].endswith(", today: 60 questions of log")
    assert lines[1:3] == ["fitted: quick (smollm2-135m)", "not fitted: large"]
    assert "no graded or audited turn since, so drift is not watched" in lines
    (checked,) = cli.json("policy", "check", "mine", "--json")["policies"]
    health = checked["fit"]
    assert (health["questions"], health["source"], health["graded"]) == (60, ["log"], 0)
    assert (health["missing"], health["gone"], health["changed"]) == (["large"], [], [])
    assert cli.json("policy", "check", "frugal", "--json")["policies"][0]["fit"] is None


def test_explain_tells_the_health_of_the_fit(fitted, fill, cli):
    document = json.loads(fitted.read_text(encoding="utf-8"))
    document["provenance"]["fitted_at"] = "2000-01-01T00:00:00Z"
    fitted.write_text(json.dumps(document), encoding="utf-8")
    health = cli.json("policy", "explain", "Why?", "--policy", "mine", "--json")["fit"]
    assert (health["graded"], health["arms"][0]["labels"]) == (60, 60)
    assert health["days"] > 9_000
    shown = cli.out("policy", "explain", "--all", "Why?", "--policy", "mine")
    assert "fit        of 2000-01-01, " in shown
    assert "fit        60 graded or audited turns since" in shown
    assert "fit        quick: holds; " in shown


def test_a_fit_of_other_arms_and_models_is_told(fitted, config, cli):
    path = config.policies_dir / "mine.yaml"
    path.write_text(POLICY.replace("smollm2-135m}", "qwen3-0.6b}"), encoding="utf-8")
    out, err = cli.run("policy", "check", "mine")
    told = "the fit of arm 'quick' is of smollm2-135m, so nothing is predicted for it until you run"
    assert f"mine.yaml:3:18: warning: {told} `etui policy fit`" in err
    assert "quick was fitted with smollm2-135m and is qwen3-0.6b now: nothing is predicted" in out
    path.write_text(POLICY.replace("quick", "swift"), encoding="utf-8")
    out = cli.out("policy", "check", "mine")
    assert "no arm of the policy is in this fit, so nothing is predicted" in out
    assert "fitted arms that the policy no longer has, ignored: quick" in out
    assert "arm        swift" in cli.out("policy", "explain", "--all", "Why?", "--policy", "mine")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: "", "is empty; run"),
        (lambda text: " \n", "is empty; run"),
        (lambda text: text[: len(text) // 2], "is not valid JSON, or truncated: "),
        (lambda text: "no: json", "is not valid JSON, or truncated: "),
        (lambda text: "[" * 100_000, "is not valid JSON, or truncated: "),
        (lambda text: "[]", "is not a fitted model"),
        (lambda text: "{}", "is not a fitted model"),
        (
            lambda text: text.replace('"version":3', '"version":4'),
            "has version 4 of a newer etui, this etui reads 3; update etui, or",
        ),
        (lambda text: text.replace('"version":3', '"version":null'), "has version null, this etui"),
        (
            lambda text: text.replace('"n":60', '"n":"many"'),
            "arms.quick.n: Input should be a valid integer",
        ),
        (lambda text: "\udcff" + text, "cannot be read: not UTF-8 text"),
    ],
)
def test_a_damaged_fit_is_an_error_of_the_check(fitted, damage, told, cli):
    text = damage(fitted.read_text(encoding="utf-8"))
    fitted.write_bytes(text.encode("utf-8", "surrogateescape"))
    out, err = cli.run("policy", "check", "mine", code=ExitCode.USAGE)
    assert out == ""
    assert f"{fitted}: {told}" in err
    assert "run `etui policy fit` again, or delete the file" in err
    assert len(err) < 900
    (checked,) = cli.json("policy", "check", "mine", "--json", code=ExitCode.USAGE)["policies"]
    assert (checked["valid"], checked["fit"]) == (False, None)
    assert checked["errors"][0]["file"] == str(fitted)
    assert f"{fitted}: {told.partition(';')[0]}" in cli.err(
        "policy", "explain", "Why?", "--policy", "mine", code=ExitCode.USAGE
    )
