"""The ``audit`` of a policy: what is refused, and how it is compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from etui.routing.library import CheckedPolicy
from etui.routing.policy import AuditPlan
from etui.routing.schema.policy_file import json_schema

TEXT = """\
version: 1
arms:
  quick: {model: tiny}
  large: {model: tiny, max_tokens: 900}
rules: [{name: all, use: quick}]
audit: """


@pytest.mark.parametrize(
    ("audit", "faults"),
    [
        (
            "{share: 0, arm: large, joules: {day: 9}}",
            ["a share of 0 audits nothing; write `audit: off`"],
        ),
        (
            "{share: 2, arm: large, joules: {day: 9}}",
            ["the share of audited turns is above 0 and at most 1, not 2"],
        ),
        (
            "{share: -0.1, arm: large, joules: {day: 9}}",
            ["the share of audited turns is above 0 and at most 1, not -0.1"],
        ),
        ("{share: 1, arm: lage, joules: {day: 9}}", ["unknown arm 'lage', did you mean 'large'?"]),
        ("{share: 1, arm: large}", ["missing key 'joules'"]),
        ("{share: 1, arm: large, joules: {}}", ["missing key 'day'"]),
        ("{share: 1, arm: large, joules: {day: 0}}", ["day: must be greater than 0.0, found 0"]),
        (
            "{share: 1, arm: large, joules: {day: 9, reserve: 9}}",
            ["`reserve` (9 J) must be less than `day` (9 J), or no audit begins"],
        ),
        ("no", ["audit is `off`, or {share: 0.02, arm: ARM, joules: {day: 2000}}"]),
        ("on", ["audit is `off`, or {share: 0.02, arm: ARM, joules: {day: 2000}}"]),
        ("", ["audit is `off`, or {share: 0.02, arm: ARM, joules: {day: 2000}}"]),
        ("0.02", ["audit is `off`, or {share: 0.02, arm: ARM, joules: {day: 2000}}"]),
    ],
)  # fmt: skip
def test_faults_have_one_message(
    check: Callable[[str], CheckedPolicy], audit: str, faults: list[str]
) -> None:
    assert [problem.message for problem in check(TEXT + audit).errors] == faults


def test_an_audit_uses_its_arm(check: Callable[[str], CheckedPolicy]) -> None:
    checked = check(f"{TEXT}{{share: 1, arm: large, joules: {{day: 2000}}}}")
    assert checked.policy is not None
    assert checked.policy.audit == AuditPlan(1.0, "large", 2000.0, 1000.0)
    assert not checked.warnings


def test_an_arm_that_answers_every_turn_audits_nothing(
    check: Callable[[str], CheckedPolicy],
) -> None:
    checked = check(f"{TEXT}{{share: 1, arm: quick, joules: {{day: 2000}}}}")
    assert [problem.message for problem in checked.warnings] == [
        "arm 'large' is unused",
        "nothing is audited: 'quick' answers every turn itself; name another arm",
    ]


@pytest.mark.parametrize("text", [f"{TEXT}off", TEXT.removesuffix("audit: ")])
def test_no_audit_is_the_default(check: Callable[[str], CheckedPolicy], text: str) -> None:
    checked = check(text)
    assert checked.policy is not None
    assert checked.policy.audit is None
    assert [problem.message for problem in checked.warnings] == ["arm 'large' is unused"]


def test_the_schema_has_both_forms() -> None:
    forms = json_schema()["properties"]["audit"]["oneOf"]
    assert {"const": "off", "type": "string"} in forms
    assert any("$ref" in form for form in forms)
