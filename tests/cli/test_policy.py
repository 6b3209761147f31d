"""etui policy: what goes to stdout, what to stderr, and the exit codes."""

from __future__ import annotations

import json

import pytest

from etui.config.config import shipped_dir


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(
        "version: 1\nmodels: {small: [smollm2-135]}\narms: {quick: {model: small}}\n"
        "rules:\n  - {name: a, when: calc, use: quick}\n  - {name: b, use: quik}\n"
    )
    return path


def test_check_of_the_shipped_ones(cli):
    out, err = cli.run("policy", "check", "frugal", "balanced", "best")
    assert [": ok, " in line for line in out.splitlines()] == [True] * 3
    assert all(": warning: " in line for line in err.splitlines())
    document = cli.json("policy", "check", "--json")
    assert [entry["valid"] for entry in document["policies"]] == [True] * 3


def test_check_names_every_fault(cli, broken):
    out, err = cli.run("policy", "check", str(broken), "frugal", code=2)
    assert out.count("\n") == 1, "the sound one is still said to be"
    assert [line for line in err.splitlines() if "warning" not in line] == [
        f"{broken}:2:18: unknown model 'smollm2-135', did you mean 'smollm2-135m'?",
        f"{broken}:5:21: unknown signal 'calc'; the file has none",
        f"{broken}:6:20: unknown arm 'quik', did you mean 'quick'?",
    ]
    document = cli.json("policy", "check", str(broken), "--json", code=2)
    assert document["policies"][0]["errors"][2] == {
        "file": str(broken),
        "line": 6,
        "column": 20,
        "message": "unknown arm 'quik', did you mean 'quick'?",
    }


def test_unknown_names(cli):
    out, err = cli.run("policy", "check", "frugl", code=2)
    assert out == ""
    assert "unknown policy 'frugl'" in err
    assert "did you mean 'frugal'?" in err
    err = cli.err("policy", "check", "nowhere.yaml", code=2)
    assert "nowhere.yaml: no such file" in err


def test_explain_before_any_model_is_here(cli):
    out, err = cli.run("policy", "explain", "--all", "What is 17*23?")
    assert "symbols-think" in out
    assert "qwen3-4b (not on this machine)" in out
    assert "etui models pull qwen3-4b" in err
    document = cli.json("policy", "explain", "What is 17*23?", "--policy", "frugal", "--json")
    assert document["on_disk"] is False
    assert (document["policy"], document["rule"], document["arm"]) == (
        "frugal",
        "everything-else",
        "quick",
    )
    assert document["predicted"] == {"joules": None, "range": None, "accuracy": None}
    assert document["models"][-1] == {"model": "smollm2-135m", "on_disk": False}
    assert [rule["matched"] for rule in document["rules"]] == [False, False, False, False, True]
    assert all({"name", "holds", "value", "boundary"} <= set(s) for s in document["signals"])


def test_explain_takes_what_is_on_disk(cli, etui_home):
    (etui_home / "models").mkdir()
    (etui_home / "models" / "smollm2-135m.gguf").write_bytes(b"GGUF")
    document = cli.json("policy", "explain", "Hello", "--json")
    assert (document["model"], document["on_disk"]) == ("smollm2-135m", True)
    assert "qwen3-0.6b is not on disk: smollm2-135m answers instead" in document["why"]


ENDS = """
version: 1
arms:
  quick: {model: smollm2-135m}
  think: {model: smollm2-135m, reasoning: cot}
signals: {sums: {keywords: [add], at_least: 1}}
rules:
  - name: sums
    when: sums
    cascade: {arms: [quick, think], accept_at: 0.75, max_joules: 300}
  - name: rest
    objective: {maximize: accuracy, prior: {quick: 0.5, think: 0.6}}
    arms: [quick, think]
budgets: {turn: {joules: 400, seconds: 60}, hour: {joules: 20000, when_exceeded: ask}}
fallbacks: {load_failed: quick}
"""


def test_explain_of_a_cascade_an_objective_and_budgets(cli, tmp_path):
    path = tmp_path / "ends.yaml"
    path.write_text(ENDS)
    out = cli.out("policy", "explain", "--all", "add", "--policy", str(path))
    lines = out.splitlines()
    assert "cascade    quick -> think, accepted at 0.75 or more, at most 300 J" in lines
    budget = "400 J or 60 s per turn, then it answers with what it has; 20,000 J per hour, then ask"
    assert f"budget     {budget}" in lines
    assert "fallbacks  load failed: quick" in lines
    out = cli.out("policy", "explain", "--all", "hello", "--policy", str(path))
    assert "predicted  accuracy 0.60" in out
    assert "based on the stated prior, no accuracy was fitted" in out
    document = cli.json("policy", "explain", "hello", "--policy", str(path), "--json")
    assert (document["arm"], document["predicted"]["accuracy"]) == ("think", 0.6)
    assert [(c["arm"], c["accuracy"]["source"]) for c in document["candidates"]] == [
        ("quick", "prior"),
        ("think", "prior"),
    ]
    assert document["signals"][0]["distance"] == 1
    assert document["period_budgets"] == [
        {"period": "hour", "joules": 20000.0, "when_exceeded": "ask"}
    ]
    unfitted = ENDS.replace(", prior: {quick: 0.5, think: 0.6}", "")
    path.write_text(unfitted + "probes: [{query: add, rule: sums}, {query: x, rule: rest}]\n")
    out, err = cli.run("policy", "explain", "hello", "--policy", str(path), code=1)
    assert out == ""
    assert "etui policy fit ends --outcomes FILE" in err
    out, err = cli.run("policy", "test", str(path), code=4)
    assert out.splitlines()[0].startswith("ends: 1 of 2 passed (2 probes, 0 cases)")
    assert "no accuracy was fitted" in err


def test_explain_refuses_an_empty_question_and_a_broken_policy(cli, broken):
    err = cli.err("policy", "explain", "  ", code=2)
    assert "the prompt is empty" in err
    err = cli.err("policy", "explain", "caf\udce9?", code=2)
    assert "not UTF-8" in err
    out, err = cli.run("policy", "explain", "x", "--policy", str(broken), code=2)
    assert out == ""
    assert f"{broken}:2:18: unknown model" in err


def test_probes(cli, tmp_path):
    out, err = cli.run("policy", "test", "frugal", "balanced", "best")
    assert err == ""
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == ["frugal", "balanced", "best"]
    passed, of, total, _ = out.splitlines()[-1].split()
    assert of == "of"
    assert passed == total
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: 1\narms: {quick: {model: smollm2-135m}}\n"
        "signals: {sums: {keywords: [add]}}\n"
        "rules:\n  - {name: sums, when: sums, use: quick}\n  - {name: rest, use: quick}\n"
        "probes:\n  - {query: add, rule: sums}\n"
        "  - {query: plus, rule: sums, not_arm: quick, signals: {sums: true}}\n"
    )
    out, err = cli.run("policy", "test", str(path), code=4)
    assert out == "p: 1 of 2 passed (2 probes, 0 cases), 2 of 2 rules and 1 of 1 arm reached\n"
    assert err.splitlines() == [
        f"{path}:9: 'plus': rule rest, expected sums; arm quick, expected any other; "
        "signal sums does not hold",
        "  rest: no rule matched",
        "  sums did not match: sums (0, at least 1)",
    ]
    document = cli.json("policy", "test", str(path), "--json", code=4)
    assert (document["passed"], document["failed"]) == (1, 1)


def test_what_a_file_says_cannot_steer_the_terminal(cli, etui_home):
    (etui_home / "policies").mkdir()
    (etui_home / "policies" / "evil.yaml").write_text(
        'version: 1\ndescription: "\\e[2J"\narms: {q: {model: smollm2-135m}}\n'
        'signals: {k: {keywords: ["\\e[2J x"]}}\n'
        "rules: [{name: a, when: k, use: q}, {name: r, use: q}]\n"
        'probes: [{query: "\\e[2J x", rule: r}]\n'
    )
    for args in (["list"], ["explain", "\x1b[2J x", "--policy", "evil"], ["test", "evil"]):
        out, err = cli.run("policy", *args, code=None)
        assert "\x1b" not in out + err
        assert "␛[2J" in out + err


def test_list_show_schema(cli, etui_home, broken):
    (etui_home / "policies").mkdir()
    (etui_home / "policies" / "mine.yaml").write_text(broken.read_text())
    out = cli.out("policy", "list")
    assert "balanced (default)" in out
    assert "invalid; see `etui policy check mine`" in out
    document = cli.json("policy", "list", "--json")
    assert [row["name"] for row in document["policies"]] == ["balanced", "best", "frugal", "mine"]
    out = cli.out("policy", "show", "best")
    assert out == (shipped_dir() / "policies" / "best.yaml").read_text()
    out = cli.out("policy", "schema")
    assert json.loads(out) == json.loads(
        (shipped_dir() / "policies" / "policy.schema.json").read_text()
    )


def test_explain_tries_the_metadata_of_a_request(cli, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "version: 1\narms: {quick: {model: smollm2-135m}, deep: {model: smollm2-135m}}\n"
        "signals: {lab: {metadata: {key: team, equals: lab}}}\n"
        "rules: [{name: lab, when: lab, use: deep}, {name: rest, use: quick}]\n"
    )
    for given, arm in ((("team=lab",), "deep"), (("team=lab", "team=a=b"), "quick"), ((), "quick")):
        options = [part for entry in given for part in ("--metadata", entry)]
        document = cli.json("policy", "explain", "hi", "--policy", str(path), *options, "--json")
        assert document["arm"] == arm
    for bad in ("team", "=lab"):
        err = cli.run(
            "policy", "explain", "hi", "--policy", str(path), "--metadata", bad, code=2
        ).err
        assert "KEY=VALUE" in err
