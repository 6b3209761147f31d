"""Models of other programs: all are found, none of their files is changed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from etui.errors import EtuiError, ModelUnavailable
from etui.models.files import model_path, require
from etui.models.found import FoundModel, Stores
from etui.runtime.user_models import open_user_models
from tests.contract.tiny_model import write_split_model, write_tiny_model


def snapshot(home: Path) -> dict[str, tuple[object, ...]]:
    """Every file of a home: its kind, bytes, time of change, permissions."""
    found = {}
    for path in sorted(home.rglob("*")):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() else os.readlink(path) if (
            path.is_symlink()) else None  # fmt: skip
        found[str(path)] = (stat.st_mode, stat.st_mtime_ns, stat.st_size, content)
    return found


@pytest.fixture
def content(tmp_path) -> bytes:
    return write_tiny_model(tmp_path / "source.gguf").read_bytes()


@pytest.fixture
def home(user_home, content, tmp_path) -> Path:
    """A home in which Ollama, LM Studio, llama.cpp and the hub's library keep models."""
    digest = hashlib.sha256(content).hexdigest()
    ollama = user_home / ".ollama" / "models"
    params = json.dumps({"temperature": 0.6, "top_k": 20, "num_ctx": 8192, "stop": ["x"]}).encode()
    layers = {
        "model": (content, "application/vnd.ollama.image.model"),
        "params": (params, "application/vnd.ollama.image.params"),
        "tensor": (b"tensor", "application/vnd.ollama.image.tensor"),
    }
    (ollama / "blobs").mkdir(parents=True)
    documents = {}
    for name, (data, kind) in layers.items():
        sha256 = hashlib.sha256(data).hexdigest()
        (ollama / "blobs" / f"sha256-{sha256}").write_bytes(data)
        documents[name] = {"mediaType": kind, "digest": f"sha256:{sha256}", "size": len(data)}
    gone = documents["model"] | {"digest": f"sha256:{'0' * 64}"}
    for place, chosen in (
        ("registry.ollama.ai/library/tiny/3b", [documents["model"], documents["params"]]),
        ("registry.ollama.ai/me/own/latest", [documents["model"]]),
        ("hf.co/someone/Tiny-GGUF/Q8_0", [documents["model"]]),
        ("registry.ollama.ai/library/gone/1b", [gone]),
        ("registry.ollama.ai/library/mlx/1b", [documents["tensor"]]),
    ):
        manifest = ollama / "manifests" / place
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps({"schemaVersion": 2, "layers": chosen}))
    (ollama / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "bad").write_text("{")
    studio = user_home / ".lmstudio" / "models" / "someone" / "Tiny-GGUF"
    studio.mkdir(parents=True)
    (studio / "Tiny-Q8_0.gguf").write_bytes(content)
    (studio / "Cut-Q8_0.gguf").write_bytes(content[:-5])
    clip = (8, b"\x04\0\0\0\0\0\0\0clip")
    write_tiny_model(studio / "mmproj-Tiny.gguf", changes={"general.architecture": clip})
    write_split_model(studio, "Split")
    older = user_home / ".cache" / "lm-studio" / "models" / "a" / "b"
    older.mkdir(parents=True)
    (older / "old.gguf").write_bytes(content)
    llama = user_home / ".cache" / "llama.cpp"
    llama.mkdir(parents=True)
    (llama / "someone_Tiny-GGUF_Tiny-Q8_0.gguf").write_bytes(content)
    (llama / "someone_Tiny-GGUF_Tiny-Q8_0.gguf.downloadInProgress").write_bytes(content[:9])
    repository = user_home / ".cache" / "huggingface" / "hub" / "models--someone--Tiny--GGUF"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / digest).write_bytes(content)
    commit = repository / "snapshots" / ("c" * 40)
    commit.mkdir(parents=True)
    (commit / "Tiny-Q8_0.gguf").symlink_to(Path("../../blobs") / digest)
    return user_home


EXPECTED = {
    "ollama:tiny:3b": "",
    "ollama:me/own:latest": "",
    "ollama:hf.co/someone/Tiny-GGUF:Q8_0": "",
    "ollama:gone:1b": "cannot read the model file",
    "ollama:mlx:1b": "is not stored as a GGUF file",
    "lmstudio:someone/Tiny-GGUF/Tiny-Q8_0.gguf": "",
    "lmstudio:someone/Tiny-GGUF/Cut-Q8_0.gguf": "is truncated",
    "lmstudio:someone/Tiny-GGUF/mmproj-Tiny.gguf": "reads pictures or sound",
    "lmstudio:someone/Tiny-GGUF/Split-00001-of-00002.gguf": "",
    "lmstudio:a/b/old.gguf": "",
    "llama.cpp:someone_Tiny-GGUF_Tiny-Q8_0.gguf": "",
    "hub:someone/Tiny--GGUF/Tiny-Q8_0.gguf": "",
}


def find(home: Path) -> dict[str, FoundModel]:
    return {model.name: model for model in Stores.of(dict(os.environ), home).find()}


def test_all_are_found_with_the_reason_of_those_that_cannot_be_used(home, content):
    found = find(home)
    assert found.keys() == EXPECTED.keys()
    for name, problem in EXPECTED.items():
        assert problem in found[name].problem
        assert bool(problem) == bool(found[name].problem)
    tiny = found["ollama:tiny:3b"]
    assert (tiny.size_bytes, tiny.quantisation) == (len(content), "F32")
    assert tiny.sampling is not None
    assert (tiny.sampling.temperature, tiny.sampling.top_k) == (0.6, 20)
    digest = hashlib.sha256(content).hexdigest()
    for name in ("ollama:tiny:3b", "hub:someone/Tiny--GGUF/Tiny-Q8_0.gguf"):
        assert found[name].sha256 == digest
    split = found["lmstudio:someone/Tiny-GGUF/Split-00001-of-00002.gguf"]
    assert split.size_bytes is not None
    assert split.size_bytes > len(content)


def test_folders_are_those_of_the_environment(home, tmp_path):
    moved = tmp_path / "elsewhere"
    (home / ".cache" / "llama.cpp").rename(moved)
    environ = {"LLAMA_CACHE": str(moved), "OLLAMA_MODELS": str(tmp_path / "none")}
    names = [model.name for model in Stores.of(environ, home).find()]
    assert "llama.cpp:someone_Tiny-GGUF_Tiny-Q8_0.gguf" in names
    assert not [name for name in names if name.startswith("ollama:")]
    (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(moved)}))
    assert "lmstudio:someone_Tiny-GGUF_Tiny-Q8_0.gguf" in find(home)


@pytest.mark.parametrize("name", [name for name, problem in EXPECTED.items() if not problem])
def test_a_found_model_is_used_in_place_and_nothing_there_changes(config, home, content, name):
    before = snapshot(home)
    models = open_user_models(config)
    new = models.find(name)
    path = models.add(new)
    assert home in path.parents
    assert not list(config.models_dir.glob("*.gguf"))
    models = open_user_models(config)
    added = models.find(new.spec.name).spec
    assert added.origin == "user"
    assert require(added, config) == path == model_path(added, config)
    assert models.find(name).is_known
    assert models.find(str(path)).is_known
    if "Split" not in name:
        assert added.sha256 == hashlib.sha256(content).hexdigest()
    removed = models.remove(added)
    assert (removed.freed_bytes, removed.forgotten, removed.kept_path) == (0, True, str(path))
    assert added.name not in config.models_file.read_text()
    assert snapshot(home) == before


@pytest.mark.parametrize("name", [name for name, problem in EXPECTED.items() if problem])
def test_one_that_cannot_be_used_is_refused_with_its_reason(config, home, name):
    before = snapshot(home)
    with pytest.raises(ModelUnavailable) as caught:
        open_user_models(config).find(name)
    assert EXPECTED[name] in caught.value.what
    assert snapshot(home) == before
    assert not config.models_file.exists()


def test_a_blob_that_is_not_what_its_name_says_is_refused(config, home, content):
    blob = find(home)["ollama:tiny:3b"].path
    blob.write_bytes(content[:-1] + b"?")
    models = open_user_models(config)
    new = models.find("ollama:tiny:3b")
    with pytest.raises(EtuiError, match="is expected"):
        models.add(new)
    assert not config.models_file.exists()


def test_the_sampling_of_ollama_is_taken(config, home):
    models = open_user_models(config)
    models.add(models.find("ollama:tiny:3b"))
    spec = open_user_models(config).find("tiny-3b").spec
    assert spec.sampling is not None
    assert (spec.sampling.temperature, spec.sampling.top_k) == (0.6, 20)
    text = config.models_file.read_text()
    assert "# From Ollama (tiny:3b), used in place" in text
    assert "# as that program samples it" in text


def test_a_home_without_other_programs_has_none(user_home):
    assert find(user_home) == {}


def test_a_store_that_cannot_be_read_is_left_out(home, monkeypatch):
    (home / ".ollama" / "models" / "manifests" / "registry.ollama.ai").chmod(0)
    try:
        assert "llama.cpp:someone_Tiny-GGUF_Tiny-Q8_0.gguf" in find(home)
    finally:
        (home / ".ollama" / "models" / "manifests" / "registry.ollama.ai").chmod(0o755)
