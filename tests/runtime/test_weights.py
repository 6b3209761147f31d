"""Quantisations of the models on this machine."""

from __future__ import annotations

from etui.config.config import Config
from etui.runtime.provenance import read_weights


def test_a_model_file_with_a_known_hash_is_read(tmp_path, make_gguf) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "mine.gguf").write_bytes(make_gguf(1))
    (models / "broken.gguf").write_bytes(b"GGUF")
    entry = "  {name}:\n    size: tiny\n    sha256: {digit}{zeros}\n    context: 512\n"
    entry += "    sources: [{{path: {path}}}]\n"
    text = "models:\n" + "".join(
        entry.format(
            name=name, digit="abc"[digit - 1], zeros="0" * 63, path=models / f"{name}.gguf"
        )
        for name, digit in (("mine", 1), ("broken", 2), ("absent", 3))
    )
    (tmp_path / "models.yaml").write_text(text)
    found = read_weights(Config(home=tmp_path, models_dir=models))
    assert found.keys() == {"a" + "0" * 63}
    assert all(found.values())


def test_an_invalid_catalogue_gives_none(tmp_path) -> None:
    (tmp_path / "models.yaml").write_text("models: [")
    assert read_weights(Config(home=tmp_path, models_dir=tmp_path)) == {}
