"""`etui models update`: a newer catalogue is shown, and used only after the user agreed."""

from __future__ import annotations

import hashlib
import io

import pytest

from etui.config.config import shipped_dir
from etui.errors import DownloadFailed, ExitCode, InvalidFile, UsageError
from etui.models.catalogue import load_catalogue
from etui.models.files import list_catalogue_files
from etui.models.update import read_update

HUB = "sources: [{hf: {repo: a/b-GGUF, file: b.gguf}}]"
NEWER = f"""\
released: "2999-01-01"
models:
  fresh: {{size: 1B, good_for: everything, bytes: 1000, {HUB}}}
  qwen3-4b: {{size: 4B of another day, bytes: 2497280256, {HUB}}}
"""


@pytest.fixture
def newer(tmp_path):
    path = tmp_path / "models.yaml"
    path.write_text(NEWER)
    return path


@pytest.fixture
def answer(monkeypatch):
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_would_change_is_shown_and_nothing_is_written_without_consent(
    config, newer, cli, answer
):
    answer("n\n")
    captured = cli.run("models", "update", str(newer))
    assert "+ fresh: 1B; everything" in captured.out
    assert "~ qwen3-4b: size: 4B parameters, Q4_K_M, 2.5 GB → 4B of another day" in captured.out
    assert f"1 new, 1 changed, 0 as before; sha256 {digest(newer)}" in captured.out
    assert "compare the sha256" in captured.err
    assert "nothing is written" in captured.err
    assert not config.catalogue_file.exists()
    assert "fresh" not in load_catalogue(config)


def test_an_accepted_catalogue_is_used_and_entries_that_it_does_not_name_stay(
    config, newer, cli, answer
):
    before = len(list(load_catalogue(config)))
    answer("y\n")
    captured = cli.run("models", "update", str(newer))
    assert f"written to {config.catalogue_file}" in captured.err
    assert config.catalogue_file.read_bytes() == newer.read_bytes()
    catalogue = load_catalogue(config)
    assert len(list(catalogue)) == before + 1
    assert (catalogue.get("fresh").origin, catalogue.get("qwen3-8b").origin) == (
        "updated", "shipped"
    )  # fmt: skip
    assert catalogue.get("qwen3-4b").size == "4B of another day"
    assert config.catalogue_file in list_catalogue_files(catalogue.models, (), config)
    config.models_file.write_text(f"models:\n  fresh: {{size: my own, {HUB}}}\n")
    assert load_catalogue(config).get("fresh").size == "my own"
    again = cli.run("models", "update", str(newer), code=ExitCode.USAGE)
    assert "there is nothing to update" in again.err


def test_an_etui_that_is_newer_than_the_accepted_catalogue_wins(config):
    config.catalogue_file.write_text(NEWER.replace("2999-01-01", "2026-01-01"))
    assert "fresh" not in load_catalogue(config)


def test_yes_needs_the_hash_and_another_hash_is_refused(config, newer, cli):
    refused = cli.run("models", "update", str(newer), "--yes", code=ExitCode.USAGE)
    assert "--yes needs --sha256" in refused.err
    refused = cli.run("models", "update", str(newer), "--sha256", "0" * 64, code=ExitCode.USAGE)
    assert f"is {digest(newer)}, not {'0' * 64}" in refused.err
    assert not config.catalogue_file.exists()
    pinned = ("--sha256", digest(newer).upper())
    shown = cli.json("models", "update", str(newer), *pinned, "--json")
    assert (shown["accepted"], shown["added"]) == (False, ["fresh"])
    assert {each["fact"] for each in shown["changed"]["qwen3-4b"]} >= {"size", "sources"}
    assert not config.catalogue_file.exists()
    assert cli.json("models", "update", str(newer), *pinned, "--json", "--yes")["accepted"]
    assert "fresh" in load_catalogue(config)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("sources: [{path: ~/a.gguf}]", "has no sha256, and a source"),
        ("sources: [{url: 'https://example.com/a.gguf'}]", "has no sha256, and a source"),
        ("backend: desk", "is served by a backend"),
    ],
)
def test_an_entry_that_nothing_can_check_is_refused(config, newer, entry, says):
    newer.write_text(f'released: "2999-01-01"\nmodels:\n  odd: {{size: s, {entry}}}\n')
    with pytest.raises(UsageError, match=says):
        read_update(str(newer), "", config)


def test_what_is_no_newer_catalogue_is_refused(config, newer, tmp_path):
    with pytest.raises(UsageError, match="nothing to update"):
        read_update(str(shipped_dir() / "models.yaml"), "", config)
    newer.write_text(f"models:\n  fresh: {{size: s, {HUB}}}\n")
    with pytest.raises(UsageError, match="is of no date"):
        read_update(str(newer), "", config)
    newer.write_text('released: "2999-01-01"\nmodels:\n  fresh: {size: s}\n')
    with pytest.raises(InvalidFile, match="sources"):
        read_update(str(newer), "", config)
    newer.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="larger than"):
        read_update(str(newer), "", config)
    with pytest.raises(UsageError, match="cannot be read"):
        read_update(str(tmp_path / "missing.yaml"), "", config)
    with pytest.raises(UsageError, match="no https address"):
        read_update("http://example.com/models.yaml", "", config)


def test_a_catalogue_comes_from_an_address(config, hub_server):
    hub_server.blobs["r/models.yaml"] = NEWER.encode()
    hub_server.blobs["r/large.yaml"] = b"#" * ((1 << 20) + 1)
    found = read_update(f"{hub_server.address}/blobs/r/models.yaml", "", config)
    assert [spec.name for spec in found.added] == ["fresh"]
    with pytest.raises(UsageError, match="larger than"):
        read_update(f"{hub_server.address}/blobs/r/large.yaml", "", config)
    with pytest.raises(DownloadFailed):
        read_update(f"{hub_server.address}/blobs/r/missing.yaml", "", config)
