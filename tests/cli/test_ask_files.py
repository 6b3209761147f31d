"""``etui ask`` with files and saved prompts."""

from __future__ import annotations

import json
import re
import sqlite3

import pytest

MODEL = ("--model", "smollm2-135m", "--max-tokens", "4", "--json")


@pytest.fixture(scope="module")
def models(tiny_starter):
    return tiny_starter.parent


def row(home):
    with sqlite3.connect(home / "etui.db") as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT * FROM turns").fetchone()


def test_files_stand_after_the_question_in_fenced_blocks(etui, models, etui_home, tmp_path):
    (tmp_path / "a.py").write_bytes(b"x = 1\r\n")
    (tmp_path / "my notes.md").write_text("Hello")
    files = ("-f", str(tmp_path / "a.py"), "--file", str(tmp_path / "my notes.md"))
    etui("ask", "Why?", *files, *MODEL, models=models, stdin=b"more")
    assert row(etui_home)["query"] == (
        f"Why?\n\nmore\n\nFile {tmp_path}/a.py:\n```py\nx = 1\n```\n\n"
        f"File {tmp_path}/my notes.md:\n```md\nHello\n```"
    )


def test_a_file_too_long_is_refused_with_both_numbers_and_a_part_of_it_is_answered(
    etui, models, etui_home, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # a path takes tokens, and the test's folder has a name of its own
    long = tmp_path / "long.txt"
    long.write_text("".join(f"line {number}\n" for number in range(9000)))
    done = etui("ask", "Why?", "-f", "long.txt", *MODEL, models=models, code=2)
    assert "the context of smollm2-135m holds 4,096" in done.stderr
    tokens = re.search(r"long\.txt has (\d\d),(\d{3}) tokens", done.stderr)
    assert tokens is not None
    assert 88_890 < int(tokens[1] + tokens[2]) < 89_200, "its path counts too"
    assert "--part head" in done.stderr
    assert not (etui_home / "etui.db").exists() or row(etui_home) is None
    # A prefill of 4,000 tokens takes seconds: a smaller context shows the same.
    (etui_home / "config.yaml").write_text("context_tokens: 256\n")
    done = etui("ask", "Why?", "-f", "long.txt", "--part", "ends", *MODEL, models=models)
    query = row(etui_home)["query"]
    assert "line 0\n" in query
    assert "line 8999\n" in query
    assert "lines left out" in query
    assert json.loads(done.stdout)["tokens"]["prompt"] <= 252


def test_a_saved_prompt_has_its_text_and_system_and_its_name_is_logged(etui, models, etui_home):
    (etui_home / "prompts").mkdir()
    (etui_home / "prompts" / "greet.yaml").write_text(
        "text: Greet {{who}}.\nsystem: You speak {{language}}.\n"
    )
    etui(
        *("ask", "Now.", "--prompt", "greet", "--set", "who=a=b", "--set", "language=French"),
        *MODEL,
        models=models,
    )
    turn = row(etui_home)
    assert turn["query"] == "Greet a=b.\n\nNow."
    assert turn["system"] == "You speak French."
    assert json.loads(turn["settings"])["prompt"] == "greet"


def test_the_arm_of_a_saved_prompt_answers_unless_another_is_named(etui, models, etui_home):
    (etui_home / "prompts").mkdir()
    (etui_home / "prompts" / "p.yaml").write_text("text: Hi\narm: no-such-arm\n")
    done = etui("ask", "--prompt", "p", models=models, code=2)
    assert "has no arm 'no-such-arm'" in done.stderr
    done = etui("ask", "--prompt", "p", *MODEL, models=models)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-f", "missing.txt"], "there is no file missing.txt"),
        (["-f", "."], "is a folder"),
        (["--prompt", "nothing"], "there is no prompt 'nothing'"),
        (["--prompt", "bad"], "bad.yaml:2:1: unknown key 'sytem', did you mean 'system'?"),
        (["--prompt", "good"], "needs a value for who"),
        (["--prompt", "good", "--set", "wo=x"], "did you mean 'who'?"),
        (["--prompt", "good", "--set", "who"], "no VAR=VALUE"),
        (["--prompt", "good", "--set", "who=1", "--set", "who=2"], "given twice"),
        (["--set", "who=1"], "no effect without --prompt"),
    ],
)
def test_wrong_usage_says_what_and_how_to_fix_it(etui, etui_home, args, message):
    (etui_home / "prompts").mkdir()
    (etui_home / "prompts" / "bad.yaml").write_text("text: x\nsytem: y\n")
    (etui_home / "prompts" / "good.yaml").write_text("text: Hi {{who}}\n")
    done = etui("ask", "Why?", *args, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") <= 2


def test_an_image_is_refused_with_a_sentence(etui, tmp_path):
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = etui("ask", "Who?", "-f", str(tmp_path / "cat.png"), code=2)
    assert "cat.png is damaged: it is cut off" in done.stderr
