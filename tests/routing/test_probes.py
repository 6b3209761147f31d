"""Cases of a policy: how their file is read, and what is said of lines that are not cases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Message, Query
from etui.config.config import Config
from etui.errors import InvalidFile
from etui.routing.library import compile_text, load_policy
from etui.routing.policy import Policy
from etui.routing.probes import (
    CASES_ENDING,
    ProbeOutcome,
    explain_failure,
    group_paraphrases,
    load_cases,
    measure_coverage,
    measure_robustness,
    parse_cases,
    run_probes,
)

COVERED = """
version: 1
arms:
  quick: {model: m}
  large: {model: n}
  huge: {model: m, max_tokens: 999}
  spare: {model: m}
  stated: {model: m}
signals: {a: {keywords: [a]}, b: {keywords: [b]}, c: {keywords: [c]}}
rules:
  - {name: a, when: a, cascade: {arms: [quick, large], accept_at: 0.7}}
  - name: b
    when: b
    objective: {minimize: joules, accuracy: {at_least: 0.5}}
    arms: [quick, huge]
    otherwise: quick
  - name: c
    when: c
    objective: {maximize: accuracy, prior: {quick: 0.4, stated: 0.6}}
    arms: [quick, stated]
  - {name: rest, use: quick}
fallbacks: {load_failed: spare}
"""


def run(*questions: tuple[str, str]) -> tuple[ProbeOutcome, ...]:
    lines = [json.dumps({"query": q, "not_rule": "c", "group": g}) for q, g in questions]
    policy = compile_text(COVERED, "p", ["m", "n"])
    return run_probes(policy, parse_cases("\n".join(lines), policy, file="f"))


def test_a_cascade_reaches_all_its_arms_and_fallbacks_are_not_counted() -> None:
    policy = compile_text(COVERED, "p", ["m", "n"])
    nothing = measure_coverage(policy, ())
    assert nothing.rules == nothing.missed_rules == ("a", "b", "c", "rest")
    assert nothing.arms == nothing.missed_arms == ("quick", "large", "stated")
    assert nothing.percent == 0
    some = measure_coverage(policy, run(("a", "g"), ("x", "g")))
    assert (some.missed_rules, some.missed_arms) == (("b", "c"), ("stated",))
    assert some.percent == 100 * 4 / 7
    every = measure_coverage(policy, run(*((question, "g") for question in "abcx")))
    assert every.percent == 100


def test_groups_that_are_not_routed_alike() -> None:
    groups = group_paraphrases(run(("a", "g"), ("b", "g"), ("b b", "g"), ("x", "h"), ("y", "h")))
    assert [(group.name, group.size, group.is_alike) for group in groups] == [
        ("g", 3, False),
        ("h", 2, True),
    ]
    assert groups[0].routes == ((("b", "quick"), (2, 3)), (("a", "quick"), (1,)))
    assert measure_robustness(groups) == 50
    assert measure_robustness(group_paraphrases(run(("a", "alone")))) is None


@given(st.lists(st.tuples(st.sampled_from("abx"), st.sampled_from("gh")), min_size=1, max_size=12))
def test_shares_are_within_bounds_and_grow_with_questions(asked: list[tuple[str, str]]) -> None:
    policy = compile_text(COVERED, "p", ["m", "n"])
    outcomes = run(*asked)
    percents = [measure_coverage(policy, outcomes[:n]).percent for n in range(len(outcomes) + 1)]
    assert percents == sorted(percents)
    assert 0 <= percents[-1] <= 100
    groups = group_paraphrases(outcomes)
    assert sum(group.size for group in groups) <= len(asked)
    robust = measure_robustness(groups)
    assert robust is None or 0 <= robust <= 100


POLICY = """
version: 1
arms: {quick: {model: m}, careful: {model: m}}
signals:
  sums: {keywords: [add, plus]}
  hot: {host: gpu_temperature, above: 80}
  lab: {metadata: {key: team, equals: lab}}
rules:
  - {name: cool-down, priority: 20, when: hot, use: quick}
  - {name: sums, priority: 10, when: {any: [sums, lab]}, use: careful}
  - {name: rest, use: quick}
"""


@pytest.fixture(scope="module")
def policy() -> Policy:
    return compile_text(POLICY, "mine", ["m"])


def problems(text: str, policy: Policy) -> list[str]:
    with pytest.raises(InvalidFile) as caught:
        parse_cases(text, policy, file="c")
    return [str(problem) for problem in caught.value.problems]


def test_a_case_is_a_probe_with_tags_and_a_group(policy: Policy) -> None:
    lines = [
        {"id": "a", "query": "add 1", "rule": "sums", "tags": ["paraphrase"], "group": "g"},
        {"query": "add 1", "host": {"gpu_temperature": 90}, "rule": "cool-down", "tags": ["host"]},
        {"query": "1", "metadata": {"team": "lab"}, "arm": "careful", "signals": {"lab": True}},
    ]
    text = "\ufeff" + "\r\n\n".join(map(json.dumps, lines)) + "\n"
    cases = parse_cases(text, policy, file="c")
    assert [case.line for case in cases] == [1, 3, 5]
    first = cases[0]
    assert (first.id, first.tags, first.group, first.is_case) == ("a", ("paraphrase",), "g", True)
    assert [outcome.failures for outcome in run_probes(policy, cases)] == [(), (), ()]


def test_a_chat_ends_with_its_question(policy: Policy) -> None:
    texts = {"system": "Be brief.", "user": "add", "assistant": "What?"}
    chat = [{"role": role, "content": text} for role, text in texts.items()]
    chat.append({"role": "user", "content": "Hm"})
    (case,) = parse_cases(json.dumps({"messages": chat, "rule": "rest"}), policy, file="c")
    history = (Message("user", "add"), Message("assistant", "What?"))
    assert case.query == Query("Hm", "Be brief.", history)
    assert run_probes(policy, [case])[0].failures == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "x", "rule": "sumz"}', "c:1:24: unknown rule 'sumz', did you mean 'sums'?"),
        ('{"query": "x", "not_arm": "quik"}', "c:1:27: unknown arm 'quik', did you mean 'quick'?"),
        (
            '{"query": "x", "signals": {"sum": true}}',
            "c:1:35: unknown signal 'sum', did you mean 'sums'?",
        ),
        (
            '{"query": "x", "rules": "sums", "arm": "quick"}',
            "c:1:16: unknown key 'rules', did you mean 'rule'?",
        ),
        ('{"query": "x", "rule": "sums"', "c:1:30: broken JSON: Expecting ',' delimiter"),
        ('{"query": "x", "query": "y", "rule": "a"}', "c:1:1: the key 'query' is there twice"),
        ('{"query": "x", "rule": NaN}', "c:1:1: NaN is not a JSON number"),
        ('{"query": 3, "rule": "sums"}', "c:1:11: query: expected text, found 3"),
        ("[1]", "c:1:1: expected a mapping {key: value}, found a list"),
        ("3", "c:1:1: expected a mapping {key: value}, found 3"),
        ("[" * 100_000, "c:1:1: nested too deeply"),
        (
            '{"query": "x"}',
            "c:1:1: a probe needs an expectation: rule, not_rule, arm, not_arm or signals",
        ),
        ('{"rule": "sums"}', "c:1:1: a probe needs either query or messages"),
        (
            '{"messages": [{"role": "assistant", "content": "x"}], "rule": "sums"}',
            "c:1:14: the last message is the question, so its role is user",
        ),
        ('{"query": "x", "rule": "sums", "tags": ["a b"]}', "does not have the form"),
    ],
)
def test_faults_are_named_with_their_place(line: str, message: str, policy: Policy) -> None:
    (found,) = problems(line, policy)
    assert message in found


def test_every_faulty_line_is_named(policy: Policy) -> None:
    good = '{"id": "a", "query": "x", "rule": "rest"}'
    text = "\n".join([good, "{", good, '{"query": "\\ud83d\\ude42", "rule": "rst"}'])
    assert problems(text, policy) == [
        "c:2:2: broken JSON: Expecting property name enclosed in double quotes",
        "c:3:8: duplicate id 'a'; the first is on line 1",
        "c:4:1: unknown rule 'rst', did you mean 'rest'?",
    ]
    many = problems("{\n" * 500, policy)
    assert len(many) == 101
    assert "400 more problems" in many[-1]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_any_question_keeps_its_text(text: str) -> None:
    policy = compile_text(POLICY, "mine", ["m"])
    for line in (json.dumps({"query": text, "not_arm": "careful"}, ensure_ascii=a) for a in (0, 1)):
        (case,) = parse_cases(line, policy, file="c")
        assert case.query.text == text


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    policy = compile_text(POLICY, "mine", ["m"])
    if not text.removeprefix("\ufeff").strip():  # an empty file has no cases
        assert parse_cases(text, policy, file="c") == ()
        return
    with pytest.raises(InvalidFile) as caught:
        parse_cases(text, policy, file="c")
    assert caught.value.problems


def test_cases_lie_beside_their_policy(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(POLICY.replace("model: m", "model: smollm2-135m"))
    policy = load_policy(str(path), config, ["smollm2-135m"])
    assert load_cases(policy, config) == ()
    cases = tmp_path / f"mine{CASES_ENDING}"
    cases.write_text('{"query": "add", "arm": "quick"}\n')
    (case,) = load_cases(policy, config)
    assert (case.file, case.line) == (str(cases), 1)
    (outcome,) = run_probes(policy, [case])
    assert outcome.failures == ("arm careful, expected quick",)
    assert explain_failure(outcome, policy) == (
        "sums: sums (add)",
        "cool-down did not match: hot (unknown)",
        "rest was not tried: sums comes before it",
    )
    cases.write_bytes(b'{"query": "caf\xe9", "arm": "quick"}\n')
    with pytest.raises(InvalidFile, match="not UTF-8"):
        load_cases(policy, config)
    cases.unlink()
    cases.mkdir()
    with pytest.raises(InvalidFile, match="not a file"):
        load_cases(policy, config)


def test_a_user_adds_cases_to_a_shipped_policy(config: Config) -> None:
    from etui.models.catalogue import load_catalogue

    policy = load_policy("frugal", config, load_catalogue(config).models)
    shipped = load_cases(policy, config)
    config.policies_dir.mkdir()
    own = config.policies_dir / f"frugal{CASES_ENDING}"
    own.write_text('{"query": "add", "arm": "quick"}\n')
    assert len(load_cases(policy, config)) == len(shipped) + 1
    own_policy = replace(policy, path=config.policies_dir / "frugal.yaml")
    assert len(load_cases(own_policy, config)) == 1, "one's own policy has only one's own cases"
