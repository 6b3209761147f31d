"""etui policy new, edit and diff."""

from __future__ import annotations

import re
import stat
import sys

import pytest

from etui.config.config import shipped_dir

FRUGAL = (shipped_dir() / "policies" / "frugal.yaml").read_text()


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Sets EDITOR to a program that replaces one text by another."""

    def set_to(old, new):
        script = tmp_path / "editor.py"
        script.write_text(
            "import pathlib, sys\n"
            "path = pathlib.Path(sys.argv[1])\n"
            f"path.write_text(path.read_text().replace({old!r}, {new!r}))\n"
        )
        monkeypatch.setenv("VISUAL", f"'{sys.executable}' '{script}'")

    return set_to


def test_new_copies_once(cli, etui_home):
    mine = etui_home / "policies" / "mine.yaml"
    out = cli.out("policy", "new", "mine", "--from", "frugal")
    assert out == f"{mine}\n"
    assert mine.read_text() == FRUGAL
    assert (mine.parent / "policy.schema.json").is_file()
    mine.write_text("changed")
    out, err = cli.run("policy", "new", "mine", code=2)
    assert (out, mine.read_text()) == ("", "changed")
    assert "policy 'mine' already exists" in err


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x.yaml", "a b"])
def test_new_refuses_names_that_are_paths(cli, etui_home, name):
    err = cli.err("policy", "new", name, code=2)
    assert "is not a valid policy name" in err
    assert not (etui_home / "policies").exists()


def test_edit_of_a_shipped_policy_makes_it_ones_own(cli, etui_home, editor):
    editor("max_tokens: 384", "max_tokens: 100")
    out = cli.out("policy", "edit", "frugal")
    mine = etui_home / "policies" / "frugal.yaml"
    assert out == f"{mine}\n"
    assert mine.read_text() == FRUGAL.replace("max_tokens: 384", "max_tokens: 100")
    assert stat.S_IMODE(mine.stat().st_mode) & 0o044 == 0o044
    assert sorted(p.name for p in mine.parent.iterdir()) == ["frugal.yaml", "policy.schema.json"]


def test_edit_keeps_the_old_one_when_the_new_one_is_broken(cli, etui_home, editor):
    cli.run("policy", "new", "mine", "--from", "frugal")
    mine = etui_home / "policies" / "mine.yaml"
    editor("use: careful", "use: carefull")
    out, err = cli.run("policy", "edit", "mine", code=2)
    assert out == ""
    assert f"{mine}:" in err
    assert "unknown arm 'carefull', did you mean 'careful'?" in err
    assert mine.read_text() == FRUGAL
    (draft,) = mine.parent.glob("mine-draft-*")
    assert str(draft) in err
    assert "carefull" in draft.read_text()


def test_edit_says_when_nothing_changed_or_no_editor_runs(cli, etui_home, editor, monkeypatch):
    editor("no such text", "")
    err = cli.err("policy", "edit", "frugal")
    assert "nothing changed" in err
    monkeypatch.setenv("VISUAL", str(etui_home / "no-editor"))
    err = cli.err("policy", "edit", "frugal", code=2)
    assert "cannot run the editor" in err
    assert not (etui_home / "policies" / "frugal.yaml").exists()


def test_edit_tells_of_probes_that_fail_now(cli, editor):
    editor("    use: code", "    use: quick")
    editor('Write a Python function that reverses a list.", rule: code}', 'Hm?", rule: code}')
    err = cli.err("policy", "edit", "frugal")
    assert "warning: 1 of 7 probes fail; see `etui policy test frugal`" in err


def test_edit_tells_of_cases_that_fail_now(cli, etui_home, editor):
    folder = etui_home / "policies"
    folder.mkdir()
    cases = folder / "frugal.cases.jsonl"
    cases.write_text('{"query": "Hm?", "arm": "careful"}\n')
    editor("max_tokens: 384", "max_tokens: 385")
    err = cli.err("policy", "edit", "frugal")
    assert "warning: 1 of 8 probes and cases fail; see" in err
    cases.write_text('{"query": "Hm?", "arm": "carefull"}\n')
    editor("max_tokens: 385", "max_tokens: 386")
    err = cli.err("policy", "edit", "frugal")
    assert "warning: 1 fault in its cases; see" in err


def test_diff(cli, etui_home, tmp_path):
    cli.run("policy", "new", "mine", "--from", "frugal")
    mine = etui_home / "policies" / "mine.yaml"
    changed = FRUGAL.replace("reasoning: direct, max_tokens: 768", "reasoning: direct")
    changed = changed.replace("at_least: 300", "at_least: 30").replace("[python, ", "[")
    mine.write_text(changed)
    questions = tmp_path / "questions.txt"
    questions.write_text("\ufeff" + "word " * 40 + "\r\n\r\nHello?\r\n", encoding="utf-8")
    out = cli.out("policy", "diff", "frugal", "mine", "--questions", str(questions))
    assert out.splitlines()[:4] == [
        "- arms.code.max_tokens: 768",
        "~ signals.code_names.keywords: -python",
        "~ signals.long.tokens.at_least: 300 -> 30",
        "3 of 9 questions are answered differently",
    ]
    assert "    - everything-else -> quick: qwen3-0.6b, direct" in out
    assert "    + long-text -> careful: qwen3-4b, direct" in out
    assert "\ufeff" not in out, "the mark of a file is no part of its first question"
    document = cli.json("policy", "diff", "frugal", "mine", "--json")
    assert [change["path"] for change in document["changes"]] == [
        "arms.code.max_tokens",
        "signals.code_names.keywords",
        "signals.long.tokens.at_least",
    ]
    assert document["questions"] == 7
    assert {answer["after"]["rule"] for answer in document["other_answers"]} == {"everything-else"}


def test_diff_of_one_with_itself_and_with_a_broken_one(cli, tmp_path):
    out = cli.out("policy", "diff", "best", "best", "--logged", "5")
    same, cases = out.splitlines()
    assert same == "0 of 4 questions are answered differently"
    assert re.fullmatch(r"0 of \d+ cases are decided differently", cases)
    broken = tmp_path / "broken.yaml"
    broken.write_text("version: 1\n")
    out, err = cli.run("policy", "diff", "best", str(broken), code=2)
    assert out == ""
    assert "missing key 'arms'" in err


PAIR = """
version: 1
arms: {small: {model: smollm2-135m}, large: {model: smollm2-135m, max_tokens: 900}}
signals: {code: {keywords: [python]}}
rules:
  - {name: code, when: code, use: large}
  - {name: rest, use: small}
"""


@pytest.fixture
def pair(tmp_path):
    """Two policies: the second sends code to the small arm, and has no signal of it."""
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text(PAIR)
    after.write_text(
        PAIR.replace("signals: {code: {keywords: [python]}}\n", "").replace(
            "  - {name: code, when: code, use: large}\n", ""
        )
    )
    (tmp_path / "before.cases.jsonl").write_text(
        '{"id": "sort", "query": "Sort in python.", "rule": "code", "signals": {"code": true}}\n'
        '{"query": "Hello", "arm": "small"}\n'
        '{"query": "python?", "not_arm": "large"}\n'
    )
    (tmp_path / "after.cases.jsonl").write_text('{"query": "Hello", "arm": "small"}\n')
    return before, after


def test_diff_runs_the_cases_of_both(cli, pair):
    before, after = map(str, pair)
    out, err = cli.run("policy", "diff", before, after)
    assert err == ""
    at = out.splitlines().index("2 of 3 cases are decided differently: 1 fail now, 1 pass now")
    assert out.splitlines()[at + 1 :] == [
        "  Sort in python.",
        "    before.cases.jsonl:1 (sort) expects rule code, signal code holds",
        "    - code -> large: smollm2-135m, direct; passes",
        "    + rest -> small: smollm2-135m, direct; fails",
        "  python?",
        "    before.cases.jsonl:3 expects not arm large",
        "    - code -> large: smollm2-135m, direct; fails",
        "    + rest -> small: smollm2-135m, direct; passes",
    ]
    document = cli.json("policy", "diff", before, after, "--json")
    first, second = document["other_cases"]
    assert (document["cases"], first["id"], first["line"], second["id"]) == (3, "sort", 1, None)
    assert first["expected"] == {
        "rule": "code", "not_rule": None, "arm": None, "not_arm": None, "signals": {"code": True},
    }  # fmt: skip
    assert (first["before"]["passed"], first["after"]["passed"]) == (True, False)
    assert first["after"]["failures"] == ["rule rest, expected code", "there is no signal code"]


def test_diff_leaves_out_faulty_cases_and_says_so(cli, pair):
    before, after = map(str, pair)
    cases = pair[0].with_name("before.cases.jsonl")
    cases.write_text('{"query": "Hello", "rule": "cod"}\n')
    out, err = cli.run("policy", "diff", before, after)
    assert "unknown rule 'cod', did you mean 'code'?" in err
    assert "the cases of before are left out until they are fixed" in err
    assert "0 of 1 cases are decided differently" in out
    cases.unlink()
    cases.with_name("after.cases.jsonl").unlink()
    out = cli.out("policy", "diff", before, after)
    assert "cases" not in out
