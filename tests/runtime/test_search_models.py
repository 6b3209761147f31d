"""A search of the hub: what each quantisation would take here, and what faults leave of it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etui.curves.prediction import MachineFacts, MeasuredModel, ModelWork, predict
from etui.models.gguf import check_usable, parse_start
from etui.models.spec import ModelSpec
from etui.runtime.search_models import search_models
from tests.contract.tiny_model import write_split_model, write_tiny_model
from tests.support.hub import BLOB, LIST, SEARCH, Reply
from tests.support.tiny_mixtures import write_mixture

GB = 10**9
MACHINE = MachineFacts(
    measured=(MeasuredModel("one", ModelWork(10**6), 1000.0, 15.0),), ram_bytes=16 * GB
)
DENSE, MIXTURE = "Someone/Tiny-GGUF", "Someone/Tiny-Mix-GGUF"


@pytest.fixture
def hub(hub_server, tmp_path):
    """A dense model in two quantisations, and a mixture."""
    data = write_tiny_model(tmp_path / "x.gguf").read_bytes()
    mixture = write_mixture(tmp_path / "m.gguf").read_bytes()
    names = ("Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf", "mmproj-Tiny-F16.gguf")
    hub_server.repos[DENSE] = dict.fromkeys(names, data)
    hub_server.repos[DENSE]["Tiny-Q8_0.gguf"] += bytes(1000)
    hub_server.repos[MIXTURE] = {"Mix-Q4_K_M.gguf": mixture}
    gguf = check_usable(tmp_path / "m.gguf")
    hub_server.facts[MIXTURE] = {"downloads": 9999, "gguf": {"total": gguf.parameters}}
    return hub_server


def test_each_quantisation_is_priced_by_the_start_of_one_file(config, hub, tmp_path):
    found = search_models(config, "tiny", machine=MACHINE)
    assert not found.problem
    mixture, dense = found.repositories
    assert (mixture.name, dense.name) == (MIXTURE, DENSE)
    assert (dense.licence, dense.downloads) == ("apache-2.0", 1234)
    assert [each.label for each in dense.quantisations] == ["Q4_K_M", "Q8_0"]
    assert [each.is_default for each in dense.quantisations] == [True, False]
    small, large = dense.quantisations
    assert small.reference == f"{DENSE}:Q4_K_M"
    # As it is predicted once the whole file is here.
    gguf, spec = check_usable(tmp_path / "x.gguf"), ModelSpec("x", "", (), context=4096)
    whole = predict(spec, gguf, MACHINE)
    assert small.prediction.fit == whole.fit == "memory"
    assert small.prediction.need_bytes == pytest.approx(whole.need_bytes, rel=0.01)
    assert small.prediction.forecast == replace(
        whole.forecast,
        prefill_tokens_per_second=small.prediction.forecast.prefill_tokens_per_second,
    )
    assert large.prediction.need_bytes - small.prediction.need_bytes == 1000
    # Of a mixture, what is active counts; the shares of its tensors differ little.
    (only,) = mixture.quantisations
    gguf = check_usable(tmp_path / "m.gguf")
    whole = predict(replace(spec, context=2048), gguf, MACHINE)
    assert mixture.active_parameters == pytest.approx(gguf.active_parameters, rel=0.02)
    assert only.prediction.forecast.tokens_per_second == pytest.approx(
        whole.forecast.tokens_per_second, rel=0.1
    )
    asked = [ranged for _, ranged, _ in hub.requests(BLOB)]
    assert sorted(asked) == ["bytes=0-32767"] * 2


def test_a_header_is_kept_by_the_hash_of_its_file(config, hub):
    first = search_models(config, "tiny", machine=MACHINE)
    count = len(hub.requests(BLOB))
    again = search_models(config, "tiny", machine=MACHINE)
    assert again == first
    assert len(hub.requests(BLOB)) == count
    (kept, *_) = (config.home / "cache" / "headers").iterdir()
    kept.write_bytes(b"GGUF")  # damaged: it is read again
    assert search_models(config, "tiny", machine=MACHINE) == first
    assert len(hub.requests(BLOB)) == count + 1


def test_the_oldest_headers_are_dropped(config, hub):
    folder = config.home / "cache" / "headers"
    folder.mkdir(parents=True)
    for day in range(3):  # as large as all may be, in three files
        with (folder / f"{day}.gguf").open("wb") as file:
            file.truncate(64 * 2**20 // 3)
        os.utime(folder / f"{day}.gguf", (day, day))
    found = search_models(config, "tiny", machine=MACHINE)
    assert all(each.has_header for each in found.repositories)
    left = {each.name for each in folder.iterdir()}
    assert "0.gguf" not in left
    assert {"1.gguf", "2.gguf"} <= left
    assert len(left) == 4  # with the new ones


def test_a_server_without_ranges_sends_no_more_than_is_needed(config, hub):
    hub.ignores_ranges = True
    assert all(each.has_header for each in search_models(config, "tiny", 5, MACHINE).repositories)


def test_a_model_that_is_here_is_known_again(config, hub):
    data = hub.repos[DENSE]["Tiny-Q4_K_M.gguf"]
    config.models_dir.mkdir()
    (config.models_dir / "mine.gguf").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    config.models_file.write_text(
        f"models:\n  mine: {{size: tiny, sha256: {sha256}, sources: "
        f"[{{hf: {{repo: {DENSE}, file: Tiny-Q4_K_M.gguf}}}}]}}\n"
    )
    found = search_models(config, "someone tiny-gguf", machine=MACHINE)
    (dense,) = found.repositories
    assert [(each.entry, each.on_disk) for each in dense.quantisations] == [
        ("mine", True), ("", False)
    ]  # fmt: skip
    (mine,) = found.local
    assert (mine.name, mine.on_disk, mine.size_bytes) == ("mine", True, len(data))
    assert dense.quantisations[0].prediction == mine.prediction


FAULTS = {
    "no hub": (SEARCH, Reply(404), "there is no list of models (404)", "check the address"),
    "limits": (SEARCH, Reply(429, {"Retry-After": "300"}), "asks to wait 5 min", "try again"),
    "server error": (SEARCH, Reply(503), "answers 503 for the list of models", "try again later"),
    "cut": (SEARCH, Reply(cut=10), "cannot get the list of models", "connection and try again"),
    "slow": (SEARCH, Reply(cut=10, stall=True), "cannot get the list of models", "try again"),
    "no JSON": (SEARCH, Reply(body=b"<html>"), "cannot get the list of models", "try again"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_hub_that_fails_leaves_what_is_here(config, hub, monkeypatch, name):
    part, reply, what, fix = FAULTS[name]
    if reply.stall:
        monkeypatch.setattr("etui.models.hub._METADATA_SECONDS", 0.2)
    hub.answer(part, reply, times=5)
    config.models_dir.mkdir()
    (config.models_dir / "tiny-one.gguf").write_bytes(hub.repos[DENSE]["Tiny-Q4_K_M.gguf"])
    found = search_models(config, "tiny", machine=MACHINE)
    assert what in found.problem
    assert fix in found.fix
    assert "download is kept" not in found.fix
    assert found.repositories == ()
    assert {model.name: model.on_disk for model in found.local}["tiny-one"]


def test_without_a_connection_it_says_so_at_once(config, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    found = search_models(config, "qwen3", machine=MACHINE)
    assert "127.0.0.1 cannot be reached" in found.problem
    assert {"qwen3-4b", "qwen3-8b"} <= {model.name for model in found.local}


@pytest.mark.parametrize(
    ("part", "reply", "problem", "has_sizes"),
    [
        (f"{DENSE}/resolve", Reply(403, {"X-Error-Code": "GatedRepo"}), "is gated", True),
        (f"{DENSE}/resolve", Reply(404, {"X-Error-Code": "EntryNotFound"}), "(404)", True),
        (BLOB, Reply(503), "answers 503", True),
        (BLOB, Reply(200, {}, b"<html>not a model"), "is not a GGUF file", True),
        (f"{LIST}{DENSE}", Reply(503), "answers 503", False),
    ],
)
def test_a_repository_without_its_header_is_priced_by_its_size(
    config, hub, part, reply, problem, has_sizes
):
    del hub.repos[MIXTURE]
    hub.answer(part, reply, times=3)
    (dense,) = search_models(config, "tiny", machine=MACHINE).repositories
    assert problem in dense.problem
    assert "download is kept" not in dense.problem
    assert not dense.has_header
    predictions = [each.prediction for each in dense.quantisations]
    assert [each.fit for each in predictions] == ["memory" if has_sizes else "unknown"] * 2
    assert [bool(each.forecast.tokens_per_second) for each in predictions] == [has_sizes] * 2


def test_the_name_of_a_mixture_says_what_is_active_if_its_header_does_not(config, hub, tmp_path):
    del hub.repos[MIXTURE]
    data = hub.repos[DENSE]["Tiny-Q4_K_M.gguf"]
    hub.repos["a/Tiny-30B-A3B-GGUF"] = {"Tiny-30B-A3B-Q4_K_M.gguf": data}
    for repo in hub.repos:
        files = [{"rfilename": name, "size": 20 * GB} for name in hub.repos[repo]]
        hub.facts[repo] = {"siblings": files}
    hub.answer("/resolve", Reply(403, {"X-Error-Code": "GatedRepo"}), times=9)
    speeds = {
        each.name: each.quantisations[0].prediction.forecast.tokens_per_second
        for each in search_models(config, "tiny", machine=MACHINE).repositories
    }
    assert speeds["a/Tiny-30B-A3B-GGUF"] == pytest.approx(9.3 * speeds[DENSE], rel=0.01)


def test_a_split_model_counts_all_its_files(config, hub, tmp_path):
    parts = write_split_model(tmp_path, "Split-Q4_K_M")
    hub.repos["a/Split-GGUF"] = {path.name: path.read_bytes() for path in parts}
    (split,) = search_models(config, "split", machine=MACHINE).repositories
    (only,) = split.quantisations
    assert only.size_bytes == sum(path.stat().st_size for path in parts)
    assert only.prediction.need_bytes > only.size_bytes
    assert split.has_header


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starts")
    return write_tiny_model(folder / "x.gguf"), write_mixture(folder / "m.gguf", "gpt-oss")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, 1 << 15), which=st.integers(0, 1))
def test_the_start_of_a_header_is_read_whole_or_not_at_all(starts, cut, which):
    path = starts[which]
    data = path.read_bytes()
    whole = check_usable(path)
    found = parse_start(Path("x"), data[: 4 + cut], len(data))
    if found is None:
        return
    gguf, used = found
    assert used <= 4 + cut
    assert parse_start(Path("x"), data[:used], len(data)) == found
    for key in ("block_count", "attention.head_count", "expert_count", "expert_used_count"):
        assert gguf.number(key) == whole.number(key)
    assert gguf.architecture == whole.architecture


@given(
    parameters=st.integers(0, 10**12),
    size=st.integers(1, 10**12),
    used=st.integers(0, 200),
    experts=st.integers(0, 128),
    layers=st.integers(1, 100),
    dense=st.integers(0, 100),
)
def test_no_token_reads_more_than_the_file(
    starts, parameters, size, used, experts, layers, dense
) -> None:
    data = starts[1].read_bytes()
    found = parse_start(Path("x"), data[: 1 << 14], len(data))
    assert found is not None
    changed = {"expert_count": experts, "expert_used_count": used, "block_count": layers,
               "leading_dense_block_count": dense}  # fmt: skip
    metadata = found[0].metadata | {f"gpt-oss.{key}": value for key, value in changed.items()}
    gguf = replace(found[0], size_bytes=size, metadata=metadata, stated_parameters=parameters)
    assert 0 <= gguf.active_bytes <= size
    assert 0 <= gguf.active_parameters <= parameters
    if not experts or used in (0, *range(experts, 201)):
        assert gguf.active_bytes == size


@given(
    sizes=st.tuples(st.integers(1, 10**12), st.integers(1, 10**12)),
    which=st.integers(0, 1),
    memory=st.floats(1e6, 1e13),
    context=st.integers(64, 1 << 20),
)
def test_a_larger_quantisation_is_never_cheaper(starts, sizes, which, memory, context) -> None:
    data = starts[which].read_bytes()
    found = parse_start(Path("x"), data[: 1 << 14], len(data))
    assert found is not None
    machine = replace(MACHINE, ram_bytes=memory)
    spec = ModelSpec("x", "", (), context=context)
    small, large = (
        predict(spec, replace(found[0], size_bytes=size), machine) for size in sorted(sizes)
    )
    assert min(sizes) < small.need_bytes <= large.need_bytes
    assert small.fits or not large.fits
    assert small.forecast.tokens_per_second >= large.forecast.tokens_per_second
    assert small.forecast.joules_per_token <= large.forecast.joules_per_token


@pytest.mark.parametrize(
    "facts",
    [
        {"cardData": {"license": 5, "base_model": 7}},
        {"cardData": {"base_model": {"a": 1}}},
        {"cardData": [1], "gguf": [1]},
        {"gguf": {"total": True, "context_length": "many"}},
    ],
)
def test_a_card_may_say_anything(config, hub, facts):
    """One repository must not end the search of all others."""
    hub.facts[DENSE] = facts
    hub.repos[DENSE]["Tiny\x1b]0;owned\x07-Q5_K_M.gguf"] = b"x"
    found = search_models(config, "tiny", machine=MACHINE)
    assert [each.name for each in found.repositories] == [MIXTURE, DENSE]
    files = [each.file for each in found.repositories[1].quantisations]
    assert files == ["Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf"]
