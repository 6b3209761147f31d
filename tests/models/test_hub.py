"""Files of the hub for entries that name them, and of any host; faults are in test_pull_faults."""

from __future__ import annotations

import hashlib

import pytest

from etui.errors import DownloadFailed
from etui.models import hub
from etui.models.download import Progress, pull
from etui.models.files import expected_sha256
from etui.models.spec import HubSource, ModelSpec, UrlSource
from tests.support.hub import BLOB, COMMIT, Reply

SOURCE = HubSource("someone/tiny-GGUF", "tiny.gguf")


def spec(sha256=None):
    return ModelSpec("tiny", "tiny", (SOURCE,), sha256)


@pytest.fixture
def server(hub_server, make_gguf):
    hub_server.repos[SOURCE.repo] = {SOURCE.file: make_gguf(1)}
    hub_server.blobs["a/test.jsonl"] = bytes(range(200))
    return hub_server


def test_hubs_own_hash_is_taken_and_kept(config, server, make_gguf):
    seen: list[Progress] = []
    path = pull(spec(), config, seen.append)
    assert path.read_bytes() == make_gguf(1)
    assert expected_sha256(spec(), config) == hashlib.sha256(make_gguf(1)).hexdigest()
    assert {each.total_bytes for each in seen if each.done_bytes} == {len(make_gguf(1))}
    path.unlink()
    server.repos[SOURCE.repo][SOURCE.file] = make_gguf(2)
    with pytest.raises(DownloadFailed, match="is expected"):
        pull(spec(), config)


def test_other_hash_is_refused_before_the_download(config, server):
    with pytest.raises(DownloadFailed, match="is expected"):
        pull(spec("0" * 64), config)
    assert server.requests(BLOB) == []


def known(server, name="a/test.jsonl", size=None):
    data = server.blobs[name]
    return hub.HubFile(hashlib.sha256(data).hexdigest(), size or len(data), COMMIT)


def test_any_url_is_resumed_and_gets_no_key_of_the_hub(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.answer(BLOB, Reply(cut=100))
    seen: list[int] = []
    url = f"{server.address}/blobs/a/test.jsonl"
    path = hub.fetch(UrlSource(url), known(server), tmp_path, seen.append)
    assert path.read_bytes() == server.blobs["a/test.jsonl"]
    assert [each[1:] for each in server.requests(BLOB)] == [("", ""), ("bytes=100-", "")]
    assert seen[-1] == 200


def test_url_that_does_not_exist_is_named(tmp_path, server):
    address = f"{server.address}/blobs/a/test.jsonl"
    server.answer(BLOB, Reply(404))
    with pytest.raises(DownloadFailed, match=r"there is no http://127\.0\.0\.1:.* \(404\)"):
        hub.fetch(UrlSource(address), known(server), tmp_path, lambda _: None)


def test_a_server_that_sends_too_much_does_not_fill_the_disk(tmp_path, server):
    address, file = f"{server.address}/blobs/a/test.jsonl", known(server, size=100)
    with pytest.raises(DownloadFailed, match="is larger than the 100 bytes of the published file"):
        hub.fetch(UrlSource(address), file, tmp_path / "data", lambda _: None)
    (partial,) = (tmp_path / "data").iterdir()
    assert partial.stat().st_size == 0
    assert len(server.requests(BLOB)) == 1
