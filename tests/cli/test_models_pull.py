"""`etui models` with a hub on this machine and with models of other programs, from the outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from etui.codec import to_document
from etui.config.machine import machine_name
from etui.errors import ExitCode
from etui.models.memory_speed import MemorySpeed, memory_speed_file, save_memory_speed
from etui.text import count_cells
from tests.contract.tiny_model import write_split_model, write_tiny_model
from tests.support.hub import SEARCH, Reply

REPO = "Someone/Tiny-GGUF"


@pytest.fixture
def hub(config, hub_server, tmp_path):
    data = write_tiny_model(tmp_path / "x.gguf").read_bytes()
    names = ("Tiny-Q8_0.gguf", "Tiny-Q5_K_M.gguf", "Tiny-BF16.gguf", "mmproj-Tiny-F16.gguf")
    save_memory_speed(config, MemorySpeed(machine_name(), 2, 20e9))
    hub_server.repos[REPO] = dict.fromkeys(names, data) | {"Tiny-draft-Q4_0.gguf": data}
    return hub_server


def test_a_pull_says_what_it_took_and_what_else_there_is(config, hub, cli):
    captured = cli.run("models", "pull", f"hf.co/{REPO}")
    assert captured.out == f"{config.models_dir / 'tiny-q8_0.gguf'}\n"
    for line in (
        f"{REPO}: licence apache-2.0, 1,234 downloads in 30 days",
        "Q8_0: there is no Q4_K_M; others: BF16 (1.46 MB), Q5_K_M (1.46 MB)",
        "mmproj-Tiny-F16.gguf is not pulled",
        f"pull {REPO}:Tiny-draft-Q4_0.gguf, then name it as `draft`",
        "tiny-q8_0 is on disk and checked: 1.46 MB",
        "ask it with: etui ask --model tiny-q8_0",
    ):
        assert line in captured.err
    found = cli.json("models", "pull", REPO, "--json", "--quiet")["models"][0]
    assert (found["name"], found["added"]) == ("tiny-q8_0", False)
    assert cli.json("models", "info", "tiny-q8_0", "--json")["origin"] == "user"
    out = cli.out("models", "rm", "tiny-q8_0")
    assert out == "tiny-q8_0: freed 1.46 MB, removed its entry from models.yaml\n"
    assert not (config.models_dir / "tiny-q8_0.gguf").exists()


def test_a_pull_says_where_it_resumes(hub, cli):
    hub.answer("/blobs/", Reply(cut=1_000_000), *[Reply(cut=0)] * 9)
    failed = cli.run("models", "pull", f"{REPO}:BF16", code=ExitCode.FAILED)
    assert failed.err.count("broke off") == 1
    hub.heal()
    assert "(resuming at 1.00 MB)" in cli.run("models", "pull", f"{REPO}:BF16").err


def test_an_entry_without_a_hash_is_checked_by_that_of_the_hub(config, hub, cli):
    source = f"[{{hf: {{repo: {REPO}, file: Tiny-Q8_0.gguf}}}}]"
    config.models_file.write_text(f"models:\n  tiny: {{size: tiny, sources: {source}}}\n")
    assert "the one that the hub publishes, checked by the pull" in cli.out(
        "models", "info", "tiny"
    )
    captured = cli.run("models", "pull", "tiny")
    assert "tiny is on disk: 1.46 MB, checked by the sha256 of the hub" in captured.err
    (config.models_dir / "tiny.gguf").unlink()
    data = hub.repos[REPO]["Tiny-Q5_K_M.gguf"]
    hub.repos[REPO]["Tiny-Q8_0.gguf"] = data[:-32] + b"\1" * 32  # another file of that name
    captured = cli.run("models", "pull", "tiny", code=ExitCode.FAILED)
    assert "is expected" in captured.err
    assert not (config.models_dir / "tiny.gguf").exists()


def test_info_shows_what_a_repository_offers(hub, cli):
    out = cli.out("models", "info", REPO)
    assert "licence     apache-2.0" in out
    assert [line.split()[:3] for line in out.splitlines() if "1.46 MB" in line] == [
        ["BF16", "1.46", "MB"], ["Q5_K_M", "1.46", "MB"], ["*", "Q8_0", "1.46"]
    ]  # fmt: skip
    document = cli.json("models", "info", REPO, "--json")
    assert document["name"] == REPO
    assert len(document["quantisations"]) == 3
    assert {each["prediction"]["fit"] for each in document["priced"]} == {"memory"}
    assert [ranged for _, ranged, _ in hub.requests("/blobs/")] == ["bytes=0-32767"]  # kept


def test_a_search_says_what_each_quantisation_costs_here(config, hub, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli.run("models", "search", "Tiny", "gguf")
    name, facts, head, *lines = shown.out.splitlines()
    assert name == REPO
    assert facts == "  licence apache-2.0, 1,234 downloads in 30 days"
    assert head.split() == ["QUANTISATION", "SIZE", "MEMORY", "FITS", "TOK/S", "J/TOKEN"]
    rows = [line.split() for line in lines[:3]]
    assert [row[0] for row in rows] == ["BF16", "Q5_K_M", "*"]  # what a pull takes
    assert rows[2][1:4] == ["Q8_0", "1.46", "MB"]
    assert rows[2][6] == "memory"
    assert (rows[2][8], rows[2][10]) == ("±50%", "±64%")
    text = " ".join(lines[4:])
    assert "TOK/S, of decode: estimated from memory bandwidth (20.0 GB/s)" in text
    assert "with a context of 4,096 tokens" in text
    assert max(map(count_cells, shown.out.splitlines())) <= 80
    assert "pull one with: etui models pull OWNER/REPO:QUANTISATION" in shown.err
    found = cli.json("models", "search", "tiny", "--json", "--limit", "1")
    (repository,) = found["repositories"]
    assert [each["reference"] for each in repository["quantisations"]][2] == f"{REPO}:Q8_0"
    assert repository["quantisations"][0]["prediction"]["fit"] == "memory"
    cli.run("models", "pull", repository["quantisations"][2]["reference"])
    assert "on disk" in cli.out("models", "search", "tiny")


def test_a_search_measures_the_memory_if_nothing_is_known(config, hub, cli, monkeypatch):
    memory_speed_file(config).unlink()
    speed = json.dumps(to_document(MemorySpeed(machine_name(), 2, 4e9)))
    monkeypatch.setattr(
        "etui.runtime.measure_memory.command", lambda _: [sys.executable, "-c", f"print({speed!r})"]
    )
    assert "estimated from memory bandwidth (4.00 GB/s)" in cli.out("models", "search", "tiny")
    monkeypatch.setattr("etui.runtime.measure_memory.command", lambda _: ["false"])
    assert "estimated from memory bandwidth (4.00 GB/s)" in cli.out("models", "search", "tiny")
    memory_speed_file(config).unlink()
    assert "not measured" in cli.out("models", "search", "tiny")


def test_a_search_can_leave_out_what_does_not_fit(hub, cli, monkeypatch):
    monkeypatch.setattr("etui.runtime.host._read_free_memory_gb", lambda: 0.1)
    assert "too large" in cli.out("models", "search", "tiny")
    shown = cli.run("models", "search", "tiny", "--fits")
    assert REPO not in shown.out
    assert "the hub has no model that fits with these words" in shown.err


def test_a_search_without_the_hub_shows_what_is_known(hub, cli, monkeypatch):
    hub.answer(SEARCH, Reply(503), times=9)
    shown = cli.run("models", "search", "qwen3", "4b", code=ExitCode.FAILED)
    assert "answers 503 for the list of models" in shown.err
    assert "try again later" in shown.err
    assert any(line.startswith("qwen3-4b ") for line in shown.out.splitlines())
    assert "qwen3-8b" not in shown.out
    monkeypatch.setenv("COLUMNS", "60")
    narrow = cli.run("models", "search", "qwen3", "4b", code=ExitCode.FAILED).out.splitlines()
    assert any(line.startswith("NAME") and line.endswith("J/TOKEN") for line in narrow)
    monkeypatch.delenv("COLUMNS")
    found = cli.json("models", "search", "qwen3", "--json", code=ExitCode.FAILED)
    assert found["repositories"] == []
    assert "qwen3-8b" in [model["name"] for model in found["local"]]


def test_a_name_belongs_to_one_model(hub, cli):
    captured = cli.run("models", "pull", REPO, "x/y", "--name", "mine", code=ExitCode.USAGE)
    assert "--name is for one new model" in captured.err
    captured = cli.run("models", "pull", "--name", "mine", code=ExitCode.USAGE)
    assert "etui models pull NAME --name" in captured.err
    cli.run("models", "pull", REPO)
    captured = cli.run("models", "pull", REPO, "--name", "mine", code=ExitCode.USAGE)
    assert f"{REPO} has a name already: tiny-q8_0" in captured.err


def test_what_can_be_no_repository_is_not_to_be_pulled(hub, cli):
    captured = cli.run("models", "pull", f"{REPO}/more/less", code=ExitCode.USAGE)
    assert "OWNER/REPO:QUANTISATION" in captured.err
    assert "add it with" not in captured.err


def test_an_adapter_is_read_before_its_base_is_pulled(hub, cli, tmp_path):
    words = tmp_path / "words.gguf"
    words.write_text("# not a model")
    for path in (words, tmp_path / "missing.gguf"):
        failed = cli.run("models", "pull", REPO, "--adapter", str(path), code=ExitCode.FAILED)
        assert path.name in failed.err
        assert "after --adapter" in failed.err
    assert not hub.asked


def test_found_models_are_listed_with_where_they_are(config, user_home, cli):
    folder = user_home / ".lmstudio" / "models" / "a" / "b"
    folder.mkdir(parents=True)
    path = write_tiny_model(folder / "Tiny.gguf")
    (folder / "cut.gguf").write_bytes(path.read_bytes()[:-1])
    captured = cli.run("models", "list", "--found")
    head, *lines = captured.out.splitlines()
    assert head.split() == ["NAME", "SIZE", "QUANTISATION", "USABLE", "FILE"]
    assert lines[0].split() == ["lmstudio:a/b/Tiny.gguf", "1.46", "MB", "F32", "yes", str(path)]
    assert "no: is truncated" in lines[1]
    assert cli.out("models", "pull", "lmstudio:a/b/Tiny.gguf", "--quiet") == f"{path}\n"
    document = cli.json("models", "list", "--found", "--json")
    assert {each["name"]: each["entry"] for each in document["found"]} == {
        "lmstudio:a/b/Tiny.gguf": "tiny", "lmstudio:a/b/cut.gguf": None
    }  # fmt: skip
    assert "in use as tiny" in cli.out("models", "list", "--found")
    assert cli.out("models", "rm", "tiny").endswith(f"its file stays (used in place): {path}\n")


def test_the_variable_of_the_hubs_library_names_the_hub(config, hub):
    """In a process of its own: the library reads its variables when it is loaded."""
    arguments = ("models", "pull", f"{REPO}:BF16", "--json", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "etui", *arguments],
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(config.home / "hf")},
        capture_output=True,
        text=True,
        check=True,
    )
    (model,) = json.loads(done.stdout)["models"]
    assert (model["name"], model["added"]) == ("tiny-bf16", True)
    assert f"# From {hub.address}/{REPO}" in config.models_file.read_text()
    # Nothing is told to the hub beyond what is pulled, and nothing is written beside etui's files.
    assert hub.requests("agent") == []
    assert not (config.home / "hf").exists()


def test_a_model_in_two_files_is_pulled_and_answers(config, hub, cli, etui, tmp_path):
    parts = write_split_model(tmp_path, "Split-Q4_K_M")
    hub.repos["a/Split-GGUF"] = {path.name: path.read_bytes() for path in parts}
    cli.run("models", "pull", "a/Split-GGUF")
    done = etui("ask", "--model", "split-q4_k_m", "Hi?", "--json", models=config.models_dir)
    assert json.loads(done.stdout)["answer"] == "B."
