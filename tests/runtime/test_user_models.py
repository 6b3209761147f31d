"""Models that the user names: the entry that is written, its name, and what `rm` leaves."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import replace

import pytest

from etui.errors import EtuiError, InvalidFile, UsageError
from etui.models.catalogue import load_catalogue
from etui.models.files import file_size, require
from etui.models.spec import ModelSampling
from etui.runtime.user_models import open_user_models
from tests.contract.tiny_model import write_split_model, write_tiny_model

REPO = "Someone/Tiny-GGUF"
FILE = "Tiny-Q8_0.gguf"
THINKS = (
    "{% if enable_thinking %}<think>{% endif %}</think>{% for m in messages %}{{ m.content }}"
    "{% endfor %}"
)


def text(value):
    return (8, struct.pack("<Q", len(value.encode())) + value.encode())


def number(value):
    return (6, struct.pack("<f", value))


@pytest.fixture
def hub(hub_server, tmp_path):
    path = write_tiny_model(tmp_path / FILE)
    hub_server.repos[REPO] = {FILE: path.read_bytes()}
    return hub_server


def serve(hub, tmp_path, changes, repo=REPO):
    path = write_tiny_model(tmp_path / FILE, changes=changes)
    hub.repos[repo] = {FILE: path.read_bytes()}


def pull(config, what=f"hf.co/{REPO}", name=""):
    models = open_user_models(config)
    new = models.find(what, name)
    models.add(new)
    return load_catalogue(config).models[new.spec.name]


def test_an_entry_has_the_facts_of_its_file(config, hub, tmp_path):
    serve(hub, tmp_path, {"tokenizer.chat_template": text(THINKS), "general.name": text("Tiny\n1")})
    hub.facts[REPO] = {"cardData": {"license": "mit", "base_model": ["Someone/Tiny"]}}
    generation = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": None, "top_a": 1}
    hub.repos["Someone/Tiny"] = {"generation_config.json": json.dumps(generation).encode()}
    spec = pull(config)
    data = hub.repos[REPO][FILE]
    assert spec.name == "tiny-q8_0"
    assert spec.origin == "user"
    assert spec.sha256 == hashlib.sha256(data).hexdigest()
    assert spec.file_bytes == len(data)
    assert spec.context == 4096
    assert spec.kv_bytes_per_token == 128
    assert spec.licence == "mit"
    assert spec.fact_sources == (("licence", f"{hub.address}/{REPO}"),)
    assert spec.think_open is None  # read from its chat template at each load
    assert spec.sampling == ModelSampling(temperature=0.6, top_p=0.95, top_k=20)
    written = config.models_file.read_text()
    assert f"# From {hub.address}/{REPO}, licence mit; added " in written
    assert "    size: 0.4M parameters, F32, 1.46 MB\n" in written
    assert f"      - hf: {{repo: {REPO}, file: {FILE}}}" in written
    assert "# Tiny 1: llama, 1 layer; trained for 4,096 tokens." in written
    assert "thinks between <think> and </think>, switched by enable_thinking" in written
    assert "# generation_config.json of Someone/Tiny" in written
    assert require(spec, config).read_bytes() == data


def test_the_sampling_of_the_file_itself_is_not_repeated(config, hub, tmp_path):
    serve(hub, tmp_path, {"general.sampling.temp": number(0.3)})
    assert pull(config).sampling is None
    assert "# sampling: as the file itself says" in config.models_file.read_text()


def test_what_nobody_says_is_said_to_be_assumed(config, hub):
    assert pull(config).sampling is None
    assert "# sampling: etui's defaults, assumed" in config.models_file.read_text()


def test_a_long_context_is_cut_with_its_cost(config, hub, tmp_path):
    serve(hub, tmp_path, {"llama.context_length": (4, struct.pack("<I", 131072))})
    assert pull(config).context == 8192
    assert "context: 8192 # assumed: a longer one takes 128 B a token" in (
        config.models_file.read_text()
    )


def test_a_base_model_is_not_recommended(config, hub, tmp_path):
    serve(hub, tmp_path, {"tokenizer.chat_template": text("")})
    assert not pull(config).recommend


def test_texts_of_the_hub_cannot_write_other_keys(config, hub, tmp_path):
    evil = "x\n    context: 64\n  other: {size: x, sources: [{path: /etc/passwd}]}"
    serve(hub, tmp_path, {"general.name": text(evil), "general.license": text(evil)})
    hub.facts[REPO] = {"cardData": {"license": evil, "base_model": evil}}
    assert pull(config).context == 4096
    own = [spec.name for spec in load_catalogue(config) if spec.origin == "user"]
    assert own == ["tiny-q8_0"]


def test_comments_and_style_of_the_users_file_stay(config, hub):
    mine = (
        "# mine\nmodels:\n    own: # best\n        size:   1 GB\n"
        "        sources: [ {path: /x.gguf} ]\n    # end\n"
    )
    config.models_file.write_text(mine)
    pull(config)
    assert config.models_file.read_text().startswith(mine)
    models = open_user_models(config)
    models.remove(models.find("tiny-q8_0").spec)
    assert config.models_file.read_text() == mine


def test_a_file_that_is_not_valid_is_not_made_worse(config, hub):
    config.models_file.write_text("models: {own: {size: 1}}\n")
    with pytest.raises(InvalidFile):
        pull(config)
    assert config.models_file.read_text() == "models: {own: {size: 1}}\n"


def test_a_link_to_the_users_file_stays_a_link(config, hub, tmp_path):
    real = tmp_path / "dotfiles.yaml"
    real.write_text("models: {}\n")
    config.models_file.symlink_to(real)
    pull(config)
    assert config.models_file.is_symlink()
    assert "tiny-q8_0" in real.read_text()


def test_the_same_model_is_pulled_once(config, hub):
    assert pull(config) == pull(config)
    assert pull(config, f"{hub.address}/{REPO}/resolve/main/{FILE}") == pull(config, "tiny-q8_0")


def test_a_pulled_quantisation_is_found_without_the_hub(config, hub, monkeypatch):
    spec = pull(config)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    for text in (f"{REPO}:q8_0", f"hf.co/{REPO}:{FILE}"):
        assert open_user_models(config).find(text).spec == spec
        assert load_catalogue(config).get(text) == spec
    assert load_catalogue(config).get(REPO) == spec
    with pytest.raises(UsageError, match="no model is called") as caught:
        load_catalogue(config).get(f"{REPO}:Q4_0")
    assert caught.value.fix == f"add it with: etui models pull {REPO}:Q4_0"


def test_two_pulls_of_one_model_write_one_entry(config, hub):
    first, second = open_user_models(config), open_user_models(config)
    new, same = first.find(REPO), second.find(REPO)
    first.add(new)
    before = config.models_file.read_text()
    second.add(same)
    assert config.models_file.read_text() == before


def test_a_model_of_the_catalogue_is_recognised(config, hub):
    hub.repos["Qwen/Qwen3-4B-GGUF"] = {"Qwen3-4B-Q4_K_M.gguf": b"x"}
    new = open_user_models(config).find("hf.co/Qwen/Qwen3-4B-GGUF")
    assert new.is_known
    assert new.spec.name == "qwen3-4b"


def test_names_are_free_or_asked_for(config, hub, tmp_path):
    serve(hub, tmp_path, {"general.name": text("other")}, "Else/Tiny-GGUF")
    hub.repos["New/Tiny-GGUF"] = hub.repos["Else/Tiny-GGUF"]
    assert pull(config).name == "tiny-q8_0"
    assert pull(config, "Else/Tiny-GGUF").name == "tiny-q8_0-else"
    with pytest.raises(UsageError, match="is another model"):
        open_user_models(config).find(f"{tmp_path / FILE}", "tiny-q8_0")
    assert pull(config, f"{tmp_path / FILE}", "mine").name == "mine"
    with pytest.raises(UsageError, match="cannot name a model"):
        open_user_models(config).find("New/Tiny-GGUF", "a/b")


def test_two_new_models_of_one_call_have_two_names(config, hub, tmp_path):
    serve(hub, tmp_path, {"general.name": text("other")}, "Else/Tiny-GGUF")
    models = open_user_models(config)
    found = [models.find(repo) for repo in (REPO, "Else/Tiny-GGUF")]
    assert [new.spec.name for new in found] == ["tiny-q8_0", "tiny-q8_0-else"]
    for new in found:
        models.add(new)
    assert {"tiny-q8_0", "tiny-q8_0-else"} <= load_catalogue(config).models.keys()


def test_a_pull_that_ended_before_its_entry_is_finished(config, hub, monkeypatch):
    models = open_user_models(config)
    new = models.find(REPO)

    def fail(*_: object) -> None:
        raise EtuiError("full")

    with monkeypatch.context() as patched:
        patched.setattr("etui.runtime.user_models.edit_models_file", fail)
        with pytest.raises(EtuiError, match="full"):
            models.add(new)
    assert load_catalogue(config).models["tiny-q8_0"].origin == "found"
    hub.asked.clear()
    assert pull(config).origin == "user"
    assert hub.requests("/blobs/") == []


def test_a_split_model_is_one_model(config, hub, tmp_path):
    parts = write_split_model(tmp_path, "Tiny-Q4_K_M")
    hub.repos[REPO] |= {path.name: path.read_bytes() for path in parts}
    spec = pull(config, f"{REPO}:Q4_K_M")
    content = b"".join(path.read_bytes() for path in parts)
    path = require(spec, config)
    assert path.name == "tiny-q4_k_m-00001-of-00002.gguf"
    assert spec.sha256 == hashlib.sha256(content).hexdigest()
    assert spec.file_bytes == file_size(path) == len(content)
    names = [each.name for each in load_catalogue(config) if each.origin != "shipped"]
    assert names == ["tiny-q4_k_m"]
    path.with_name("tiny-q4_k_m-00002-of-00002.gguf").unlink()
    with pytest.raises(EtuiError, match="lacks file 2 of 2"):
        require(spec, config)
    models = open_user_models(config)
    assert models.remove(spec).freed_bytes > 0
    assert list(config.models_dir.glob("*.gguf*")) == []


def test_removing_frees_what_was_pulled_and_keeps_what_was_not(config, hub, tmp_path):
    spec = pull(config)
    models = open_user_models(config)
    removed = models.remove(spec)
    assert removed.freed_bytes == spec.file_bytes
    assert list(config.models_dir.iterdir()) == [config.models_dir / ".pull"]
    own = write_tiny_model(config.models_dir / "own.gguf")
    models = open_user_models(config)
    removed = models.remove(models.find("own").spec)
    assert (removed.freed_bytes, removed.kept_path) == (0, str(own))
    assert own.exists()


def test_a_model_that_others_need_is_not_removed(config, hub):
    pull(config)
    with config.models_file.open("a") as file:
        file.write("  big: {size: 1 GB, draft: tiny-q8_0, sources: [{path: /big.gguf}]}\n")
    models = open_user_models(config)
    with pytest.raises(UsageError, match="big names tiny-q8_0 as its `draft`"):
        models.remove(models.find("tiny-q8_0").spec)
    assert (config.models_dir / "tiny-q8_0.gguf").exists()


def test_only_what_no_other_link_keeps_is_counted_as_freed(config, hub, tmp_path):
    spec = pull(config)
    os.link(config.models_dir / "tiny-q8_0.gguf", tmp_path / "second.gguf")
    removed = open_user_models(config).remove(spec)
    assert removed.freed_bytes == 0
    assert not (config.models_dir / "tiny-q8_0.gguf").exists()
    assert (tmp_path / "second.gguf").exists()


def test_every_file_of_a_split_model_and_what_an_interrupted_pull_left_is_counted(
    config, hub, tmp_path
):
    parts = write_split_model(tmp_path, "Tiny-Q4_K_M")
    hub.repos[REPO] |= {part.name: part.read_bytes() for part in parts}
    spec = pull(config, f"{REPO}:Q4_K_M")
    partial = config.models_dir / ".pull" / spec.name / "x" / "y.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"12345")
    models = open_user_models(config)
    expected = sum(part.stat().st_size for part in parts) + 5
    assert models.remove(spec, dry_run=True).freed_bytes == expected
    assert partial.exists()
    assert models.remove(spec).freed_bytes == expected
    assert not partial.exists()


def test_a_file_that_another_model_uses_stays(config, hub):
    pull(config)
    path = config.models_dir / "tiny-q8_0.gguf"
    with config.models_file.open("a") as file:
        file.write(f"  twin: {{size: 1 kB, sources: [{{path: {path}}}]}}\n")
    models = open_user_models(config)
    removed = models.remove(models.find("tiny-q8_0").spec)
    assert (removed.freed_bytes, removed.kept_why) == (0, "twin uses it too")
    assert path.exists()
    assert "  tiny-q8_0:" not in config.models_file.read_text()


def test_what_still_names_a_model_is_said(config, hub):
    pull(config)
    config.policies_dir.mkdir()
    (config.policies_dir / "mine.yaml").write_text(
        "version: 1\nmodels: {small: [tiny-q8_0, smollm2-135m]}\n"
        "arms: {quick: {model: tiny-q8_0}, think: {model: small}, other: {model: smollm2-135m}}\n"
        "rules: [{name: rest, use: quick}]\n"
    )
    (config.policies_dir / "broken.yaml").write_text("arms: [")
    with config.models_file.open("a") as file:
        file.write("  big: {size: 1 GB, draft: smollm2-135m, sources: [{path: /big.gguf}]}\n")
    config = replace(config, model="tiny-q8_0")
    models = open_user_models(config)
    removed = models.remove(models.find("tiny-q8_0").spec, dry_run=True)
    assert removed.named_by == {
        "policy mine": ("arm quick", "arm think (by its role small)"),
        "config.yaml": ("model",),
    }
    shipped = models.remove(models.find("smollm2-135m").spec, dry_run=True)
    assert shipped.named_by["model big"] == ("draft",)
    assert "policy balanced" in shipped.named_by
