"""A model with a LoRA adapter as a user meets it: pulled, shown, asked, benchmarked, removed."""

from __future__ import annotations

import json

import pytest

from etui.bench.folder import read_run
from etui.errors import ExitCode
from etui.models.catalogue import load_catalogue
from etui.models.files import FileRecord, read_record, write_record
from etui.models.spec import STARTER
from tests.support.tiny_adapters import write_adapter, write_letter_adapter

ASK = ("ask", "Which letter?", "--max-tokens", "4", "--json", "--reasoning", "direct")
SMALL = ("--suite", "sample", "--subjects", "logic", "--per-subject", "3", "--shots", "0")


@pytest.fixture
def models(config, tiny_starter):
    """The tiny model under the starter's name, and an adapter with which it answers C."""
    config.models_dir.mkdir()
    path = config.models_dir / tiny_starter.name
    path.write_bytes(tiny_starter.read_bytes())
    known = read_record(STARTER, tiny_starter.parent)
    state = path.stat()
    record = FileRecord(
        str(path), state.st_size, state.st_mtime_ns, known.sha256, pinned=True, source="pulled"
    )
    write_record(STARTER, config.models_dir, record)
    return write_letter_adapter(config.home / "letter.gguf")


def add(config, adapter, name="lettered", scale=1.0):
    path = config.models_dir / f"{STARTER}.gguf"
    config.models_file.write_text(
        f"models:\n  {name}:\n    size: tiny\n    sources: [{{path: {path}}}]\n"
        f"    adapter: {{path: {adapter}, scale: {scale}}}\n"
    )


def test_it_is_pulled_shown_asked_and_removed(config, models, cli, etui):
    pulled = cli.run("models", "pull", STARTER, "--adapter", f"{models}:0.5", "--name", "lettered")
    assert f"added lettered to {config.models_file}" in pulled.err
    spec = load_catalogue(config).get("lettered")
    assert [(each.path, each.scale) for each in spec.adapters] == [(models, 0.5)]
    shown = cli.json("models", "info", "lettered", "--json")
    assert shown["adapters"][0]["path"] == str(models)
    assert shown["adapters"][0]["scale"] == 0.5
    assert "letter.gguf × 0.5" in cli.out("models", "info", "lettered")
    assert cli.json("models", "info", STARTER, "--json")["adapters"] == []

    bare, turn = (
        json.loads(etui(*ASK, "--model", name, models=config.models_dir).stdout)
        for name in (STARTER, "lettered")
    )
    assert (bare["answer"], turn["answer"]) == ("B.", "C.")
    assert turn["model_sha256"] == shown["sha256"] != bare["model_sha256"]
    assert turn["settings"]["adapters"][0]["scale"] == 0.5
    assert "lettered uses it too" in cli.out("models", "rm", STARTER, "--dry-run")
    cli.run("models", "rm", "lettered")
    assert models.is_file()
    assert "lettered" not in load_catalogue(config)


@pytest.mark.parametrize("text", ["letter.gguf:nan", "letter.gguf:101", ":2"])
def test_a_scale_that_is_none_is_refused(models, cli, text):
    failed = cli.run("models", "pull", STARTER, "--adapter", text, code=ExitCode.USAGE)
    assert "names no adapter with a scale" in failed.err


def test_an_adapter_of_another_model_is_refused_before_an_entry_is_written(
    config, models, cli, etui
):
    write_adapter(models, {}, architecture="qwen2")
    failed = cli.run("models", "pull", STARTER, "--adapter", str(models), code=ExitCode.FAILED)
    assert "is for a model of the kind 'qwen2', not llama" in failed.err
    assert not config.models_file.exists()
    add(config, models)
    failed = etui(*ASK, "--model", "lettered", models=config.models_dir, code=None)
    assert "is for a model of the kind 'qwen2', not llama" in failed.stderr + failed.stdout
    assert "refused" in cli.out("models", "list")


def test_it_is_an_arm_of_a_policy_and_of_a_bench(config, models, etui, tmp_path):
    add(config, models)
    policy = tmp_path / "two.yaml"
    policy.write_text(
        "version: 1\ndescription: Bare and adapted.\narms:\n"
        f"  bare: {{model: {STARTER}, reasoning: direct}}\n"
        "  adapted: {model: lettered, reasoning: direct}\n"
        "rules: [{name: all, use: adapted}]\n"
    )
    words = ("Which?", "--policy", str(policy), "--max-tokens", "4", "--json")
    turn = json.loads(etui("ask", *words, models=config.models_dir).stdout)
    assert (turn["arm"], turn["model"], turn["answer"]) == ("adapted", "lettered", "C.")
    out = tmp_path / "run"
    etui("bench", *SMALL, "--policy", str(policy), "--arms", "bare,adapted", "--out", str(out),
         models=config.models_dir)  # fmt: skip
    run = read_run(out)
    answers = {arm: {sample.choice for sample in run.samples if sample.arm == arm}
               for arm in ("bare", "adapted")}  # fmt: skip
    assert answers == {"bare": {"B"}, "adapted": {"C"}}
    hashes = {model.name: model.sha256 for model in run.config.models}
    assert len(set(hashes.values())) == 2
    names = {model.name: model.adapters for model in run.config.models}
    assert names == {STARTER: None, "lettered": ("letter.gguf × 1",)}
