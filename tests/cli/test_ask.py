"""``etui ask`` as a user meets it: the starter model, a process of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from etui.cli import ask
from etui.errors import UsageError
from tests.contract.tiny_model import write_tiny_model
from tests.models.test_gguf import UNUSABLE, number

LONG = "Write a long story about a lighthouse and the sea."


def rows(home, columns="*"):
    with sqlite3.connect(home / "etui.db") as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(f"SELECT {columns} FROM turns ORDER BY created_at").fetchall()


@pytest.fixture(scope="module")
def models(starter_model, tmp_path_factory):
    """A models folder with the starter alone, whatever else lies beside it."""
    folder = tmp_path_factory.mktemp("models")
    (folder / starter_model.name).symlink_to(starter_model)
    return folder


def test_json_is_one_document_and_matches_the_row(etui, models, etui_home):
    done = etui(
        *("ask", "Name a colour.", "--model", "smollm2-135m", "--max-tokens", "12", "--json"),
        models=models,
    )
    assert done.stderr == ""
    document = json.loads(done.stdout)
    tokens, energy, seconds = document["tokens"], document["energy"], document["seconds"]
    assert document["status"] in ("complete", "truncated")
    assert document["answer"]
    assert tokens["prompt"] == tokens["cached"] + tokens["computed"] > 0
    assert 0 < tokens["output"] <= 12
    assert energy["kind"] == "estimate"
    assert energy["joules"] == pytest.approx(
        energy["phases"]["prefill"] + energy["phases"]["decode"], rel=1e-9
    )
    assert energy["joules_per_token"] == pytest.approx(energy["joules"] / tokens["output"])
    assert energy["uncertainty"] > 0
    assert seconds["total"] == pytest.approx(seconds["prefill"] + seconds["decode"])
    assert seconds["ttft"] <= seconds["total"]
    assert len(document["model_sha256"]) == 64
    (row,) = rows(etui_home)
    assert row["turn_id"] == document["turn_id"]
    assert row["answer"] == document["answer"]
    assert row["tokens_output"] == tokens["output"]
    assert row["energy_joules"] == pytest.approx(energy["joules"])
    assert row["energy_phases_prefill"] == pytest.approx(energy["phases"]["prefill"])
    assert row["seconds_ttft"] == pytest.approx(seconds["ttft"])


def test_the_answer_is_stdout_and_the_price_is_stderr(etui, models):
    done = etui("ask", "Name a colour.", "--max-tokens", "8", models=models)
    assert done.stdout.strip()
    price = done.stderr
    assert "balanced" in price
    assert "smollm2-135m" in price
    for part in ("tokens", "tok/s", "TTFT", "J (estimate)", "J/tok", "W"):
        assert part in price


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("form", ["-q", "--json"])
def test_an_answer_for_a_full_disk_is_in_the_log(models, etui_home, form):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "etui", "ask", "Name a colour.", "--max-tokens", "8", form],
            env={**os.environ, "ETUI_MODELS": str(models)},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=120,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "etui: cannot write to standard output: No space left on device\n"
    assert len(rows(etui_home)) == 1


def test_quiet_prints_the_answer_only_and_exits_with_4_if_it_was_cut(etui, models):
    cut = ("ask", "Name a colour.", "--max-tokens", "8", "--quiet")
    done = etui(*cut, models=models, code=4)
    assert done.stdout.strip()
    assert done.stderr == "etui: stopped at 8 tokens\n"
    done = etui("ask", "What is the capital of France?", "--quiet", models=models, code=None)
    assert (done.returncode, done.stderr) in ((0, ""), (4, "etui: stopped at 512 tokens\n"))


def test_the_same_question_twice_gives_the_same_answer(etui, models):
    asked = ("ask", "Name a colour.", "-t", "0.9", "--seed", "3", "--max-tokens", "16", "-q")
    first, second = (etui(*asked, models=models, code=None).stdout for _ in range(2))
    assert first == second


def test_thought_and_answer_are_kept_apart(etui, models):
    done = etui(
        *("ask", "What is 2+2?", "--reasoning", "cot", "--think-tokens", "24"),
        *("--max-tokens", "16", "--json", "--model", "smollm2-135m"),
        models=models,
    )
    document = json.loads(done.stdout)
    assert 0 < document["tokens"]["thinking"] <= 24
    assert document["tokens"]["output"] <= 24 + 16
    assert document["thinking"]
    assert "Answer:" not in document["thinking"]
    assert 0 < document["energy"]["thinking_joules"] <= document["energy"]["phases"]["decode"]


def test_standard_input_reaches_the_model_and_the_log(etui, models, etui_home):
    etui("ask", "Repeat:", "--max-tokens", "4", models=models, stdin=b"green\n")
    assert rows(etui_home)[0]["query"] == "Repeat:\n\ngreen"


def test_a_prompt_over_the_context_says_by_how_much_and_is_logged(etui, models, etui_home):
    done = etui("ask", "word " * 9000, "--model", "smollm2-135m", models=models, code=2)
    assert "tokens too long" in done.stderr
    assert rows(etui_home)[0]["status"] == "error"


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (["ask", ""], "the prompt is empty", 2),
        (["ask", "x", "--model", "smolm2-135m"], "did you mean smollm2-135m", 2),
        (["ask", "x", "--model", "smollm2-135m"], "etui models pull smollm2-135m", 1),
        (["ask", "x", "--policy", "frugl"], "frugal", 2),
        (["ask", "x"], "etui models pull smollm2-135m", 1),
        (["ask", "x", "--nonsense"], "No such option", 2),
        (["ask", "x", "--reasoning", "guess"], "'guess' is not one of", 2),
        (["ask", "x", "--max-tokens", "0"], "--max-tokens", 2),
        (["ask", "x", "--speculate", "fast"], "'fast' is not one of", 2),
        (
            [*("ask", "x", "-m", "smollm2-135m", "-r", "vote"), "--speculate", "auto"],
            "--speculate and votes exclude each other",
            2,
        ),
        (["asks"], "did you mean 'ask'", 2),
        ([], "the chat needs a terminal", 2),
    ],
)
def test_bad_input_has_a_message_and_an_exit_code(etui, args, message, code):
    done = etui(*args, code=code)
    assert message in done.stderr
    assert done.stdout == ""


def test_binary_standard_input_is_refused(etui):
    done = etui("ask", "What is this?", stdin=b"\x7fELF\x02\xff\xfe", code=2)
    assert "not text" in done.stderr


@pytest.mark.parametrize("damage", ["truncated", "no model", "empty"])
def test_a_damaged_model_is_refused_before_llama_cpp_sees_it(etui, starter_model, tmp_path, damage):
    whole = starter_model.read_bytes()
    data = {"truncated": whole[:5_000_000], "no model": b"PK\3\4" + whole[4:], "empty": b""}[damage]
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "smollm2-135m.gguf").write_bytes(data)
    done = etui("ask", "x", "--model", "smollm2-135m", models=folder, code=1)
    assert "smollm2-135m.gguf" in done.stderr


CRASHING = {**UNUSABLE, "experts": ({"llama.expert_count": number(2)}, "crashed")}


@pytest.mark.parametrize("name", CRASHING)
def test_a_model_that_aborts_llama_cpp_is_an_error_of_the_turn(etui, etui_home, tmp_path, name):
    changes, says = CRASHING[name]
    folder = tmp_path / "hostile"
    folder.mkdir()
    write_tiny_model(folder / "bad.gguf", changes=changes)
    done = etui("ask", "x", "--model", "bad", models=folder, code=1)
    assert says in done.stderr
    (row,) = rows(etui_home)
    assert row["status"] == "error"
    assert says in row["error"]


def test_bench_refuses_a_model_that_aborts_llama_cpp(etui, tmp_path):
    changes, says = CRASHING["experts"]
    write_tiny_model(tmp_path / "bad.gguf", changes=changes)
    done = etui(
        "bench", "--suite", "sample", "--limit", "1", "--model", "bad", models=tmp_path, code=1
    )
    assert says in done.stderr


def test_an_unwritable_home_is_said(etui, etui_home, tmp_path):
    file = tmp_path / "a-file"
    file.write_text("")
    done = etui("ask", "x", env=[f"ETUI_HOME={file}/below"], code=1)
    assert "ETUI_HOME" in done.stderr


def test_a_database_from_a_newer_etui_is_left_alone(etui, models, etui_home):
    etui("ask", "Hi", "--max-tokens", "2", models=models)
    with sqlite3.connect(etui_home / "etui.db") as connection:
        table = "_sqlite_migrations"
        connection.execute(
            f"INSERT INTO {table} (migration_set, name, applied_at) "
            "SELECT migration_set, 'm999_from_the_future', applied_at FROM "
            f"{table} LIMIT 1"
        )
    done = etui("ask", "Hi", "--max-tokens", "2", models=models, code=1)
    assert "newer" in done.stderr
    assert len(rows(etui_home)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_the_answer_and_its_joules(models, etui_home, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "etui", "ask", LONG, "--max-tokens", "2000", "-m", "smollm2-135m"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "ETUI_MODELS": str(models)},
    )
    first = process.stdout.read(20)
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    (row,) = rows(etui_home)
    assert row["status"] == "stopped"
    assert row["answer"].strip() == (first + rest).decode().strip()
    assert row["energy_joules"] > 0
    assert row["tokens_output"] > 0
    assert b"stopped" in errors


def read(prompt, data=None, *, is_terminal=False):
    stdin = None if data is None else io.BytesIO(data)
    return ask.read_question(prompt, stdin, is_terminal=is_terminal)


@pytest.mark.parametrize(
    ("prompt", "data", "question"),
    [
        ("Why?", b"", "Why?"),
        ("Why?", None, "Why?"),
        ("Explain:", b"E = mc2\n", "Explain:\n\nE = mc2"),
        (None, "Wie heißt das?".encode(), "Wie heißt das?"),
        (None, b"\xef\xbb\xbfWhy?", "Why?"),
    ],
)
def test_the_question_is_the_prompt_and_standard_input(prompt, data, question):
    assert read(prompt, data) == question


def test_a_terminal_is_not_read():
    assert read("Why?", b"never read", is_terminal=True) == "Why?"


@pytest.mark.parametrize(
    ("prompt", "data", "message"),
    [
        (None, b" \n", "empty"),
        ("  \n\t ", b" \n", "empty"),
        ("What is it?", b"abc\xff\xfe", "byte 0xff at position 3"),
        (None, b"a\0b", "NUL byte at position 1"),
        (None, b"x" * 1_000_001, "longer than 1 MB"),
    ],
)
def test_input_that_is_no_question_is_refused(monkeypatch, prompt, data, message):
    monkeypatch.setattr(ask, "MAX_INPUT_BYTES", 1_000_000)
    with pytest.raises(UsageError, match=message) as caught:
        read(prompt, data)
    assert caught.value.fix
