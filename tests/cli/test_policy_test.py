"""etui policy test: failures with their reasons, coverage, groups of paraphrases, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

POLICY = """version: 1
arms: {quick: {model: smollm2-135m}, deep: {model: smollm2-135m, max_tokens: 99}}
signals: {sums: {keywords: [add]}, lists: {keywords: [list]}}
rules:
  - {name: sums, priority: 9, when: sums, use: deep}
  - {name: lists, priority: 5, when: lists, use: quick}
  - {name: rest, use: quick}
"""


@pytest.fixture
def mine(etui_home):
    """Path of the cases of a policy ``mine`` of the user."""
    folder = etui_home / "policies"
    folder.mkdir()
    (folder / "mine.yaml").write_text(POLICY)
    return folder / "mine.cases.jsonl"


def write(path, *cases):
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))


def test_failures_coverage_and_groups(cli, mine):
    write(
        mine,
        {"query": "add 1", "rule": "sums", "group": "add"},
        {"query": "plus 1", "rule": "sums", "group": "add", "tags": ["paraphrase"]},
        {"id": "neg", "query": "\x1b[2J hello", "not_rule": "rest", "tags": ["negative"]},
    )
    out, err = cli.run("policy", "test", "mine", code=4)
    assert out.splitlines() == [
        "mine: 1 of 3 passed (0 probes, 3 cases), 2 of 3 rules and 2 of 2 arms reached, "
        "0 of 1 paraphrase group alike",
        "  no question reaches rule lists",
        "  group add is not routed alike: sums to deep (line 1), rest to quick (line 2)",
    ]
    assert err.splitlines() == [
        f"{mine}:2: 'plus 1': rule rest, expected sums",
        "  rest: no rule matched",
        "  sums did not match: sums (0, at least 1)",
        f"{mine}:3: '␛[2J hello': rule rest, expected any other",
        "  rest: no rule matched",
    ]
    document = cli.json("policy", "test", "mine", "--json", code=4)
    assert (document["passed"], document["failed"], document["errors"]) == (1, 2, [])
    row = document["probes"][1]
    assert (row["kind"], row["line"], row["tags"], row["group"]) == (
        "case",
        2,
        ["paraphrase"],
        "add",
    )
    assert row["because"] == ["rest: no rule matched", "sums did not match: sums (0, at least 1)"]
    (summary,) = document["policies"]
    assert summary["coverage"] == {
        "percent": 80.0,
        "rules": 3,
        "arms": 2,
        "missed_rules": ["lists"],
        "missed_arms": [],
    }
    assert summary["robustness"]["percent"] == 0.0
    assert summary["robustness"]["not_alike"][0]["routes"] == [
        {"rule": "sums", "arm": "deep", "lines": [1]},
        {"rule": "rest", "arm": "quick", "lines": [2]},
    ]


def test_tags_choose_cases(cli, mine):
    write(
        mine,
        {"query": "add 1", "rule": "rest", "tags": ["stress"]},
        {"query": "list", "rule": "lists", "tags": ["negative", "collision"]},
        {"query": "hm", "rule": "rest"},
    )
    out = cli.out("policy", "test", "mine", "--tag", "collision", "--tag", "negative")
    assert out.split(",")[0] == "mine: 1 of 1 passed (0 probes"
    out, err = cli.run("policy", "test", "mine", "--tag", "colision", code=2)
    assert out == ""
    assert "no case has the tag 'colision', did you mean 'collision'?" in err


@pytest.mark.parametrize(("percent", "code"), [("0", 0), ("80", 0), ("80.1", 4), ("100", 4)])
def test_least_coverage(cli, mine, percent, code):
    write(mine, {"query": "add", "rule": "sums"}, {"query": "hm", "rule": "rest"})
    out, err = cli.run("policy", "test", "mine", "--min-coverage", percent, code=code)
    assert "no question reaches rule lists" in out
    message = f"policy mine: 4 of 5 rules and arms are reached (80 %), less than {percent} %"
    assert (message in err) is bool(code)


def test_faulty_cases_do_not_hide_other_policies(cli, mine):
    mine.write_text('{"query": "x", "rule": "sum"}\n')
    out, err = cli.run("policy", "test", code=2)
    assert err.splitlines() == [f"{mine}:1:24: unknown rule 'sum', did you mean 'sums'?"]
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == ["balanced", "best", "frugal"]
    err = cli.err("policy", "test", "mine", "--tag", "mine-alone", code=2)
    assert "unknown rule 'sum'" in err, "the file's faults come first"
    out = cli.out("policy", "test", "mine", "--json", code=2)
    assert json.loads(out)["errors"] == [
        {
            "file": str(mine),
            "line": 1,
            "column": 24,
            "message": "unknown rule 'sum', did you mean 'sums'?",
        }
    ]


def test_check_warns_of_faulty_cases(cli, mine):
    mine.write_text('{"query": "x", "rule": "sum"}\n')
    err = cli.err("policy", "check", "mine")  # the policy can be used without its cases
    assert f"{mine}:1:24: warning: unknown rule 'sum', did you mean 'sums'?" in err


def test_no_engine_is_loaded(etui_home):
    watch = (
        "import sys; from etui.cli.main import run; code = run(['policy', 'test', 'balanced']);"
        "print(sorted({'llama_cpp', 'sklearn', 'scipy', 'textual'} & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr
