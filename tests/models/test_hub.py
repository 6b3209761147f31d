"""Pulling from a hub that runs on this machine: resumed by byte, its own hash taken and kept."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from etui.errors import DownloadFailed, Stopped
from etui.models import hub
from etui.models.download import Progress, kept_bytes, pull
from etui.models.files import expected_sha256
from etui.models.spec import HubSource, ModelSpec

Make = Callable[[int], bytes]
SOURCE = HubSource("someone/tiny-GGUF", "tiny.gguf")


@dataclass
class Hub:
    """What the server serves and what it was asked.

    Attributes:
        data: The file; None is a file that does not exist.
        breaks: How many bytes each of the next bodies gives before the connection drops.
        ranges: The Range header of each GET ("" without one).
        keys: The Authorization header of each GET ("" without one).
        address: URL of the server.
        etag: Sent as the file's hash; None takes the real one.
    """

    data: bytes | None = None
    breaks: list[int] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    address: str = ""
    etag: str | None = None
    ignores_ranges: bool = False

    def hash(self):
        return self.etag or hashlib.sha256(self.data or b"").hexdigest()


def handler(state):
    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._head(len(state.data or b""))

        def do_GET(self):
            wanted = self.headers.get("Range", "")
            state.ranges.append(wanted)
            state.keys.append(self.headers.get("Authorization", ""))
            data = state.data or b""
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            start = 0 if state.ignores_ranges else start
            self._head(len(data) - start, 206 if start else 200)
            body = data[start:]
            self.wfile.write(body[: state.breaks.pop(0)] if state.breaks else body)

        def _head(self, length, status=200):
            self.send_response(status if state.data is not None else 404)
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("ETag", f'"{state.hash()}"')
            self.send_header("Content-Length", str(length if state.data is not None else 0))
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *_):
            pass

    return Answers


@pytest.fixture
def server(monkeypatch, make_gguf):
    state = Hub(make_gguf(1))
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    state.address = f"http://127.0.0.1:{http.server_port}"
    template = f"{state.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hub.time, "sleep", lambda _: None)
    yield state
    http.shutdown()
    http.server_close()


def spec(sha256=None):
    return ModelSpec("tiny", "tiny", (SOURCE,), sha256)


def test_hubs_own_hash_is_taken_and_kept(config, server, make_gguf):
    seen: list[Progress] = []
    path = pull(spec(), config, seen.append)
    assert path.read_bytes() == make_gguf(1)
    assert expected_sha256(spec(), config) == server.hash()
    assert {each.total_bytes for each in seen if each.done_bytes} == {len(server.data)}
    path.unlink()
    server.data = make_gguf(2)
    with pytest.raises(DownloadFailed, match="is expected"):
        pull(spec(), config)


def test_broken_connection_is_gone_on_from(config, server):
    server.breaks = [100, 50]
    assert pull(spec(), config).read_bytes() == server.data
    assert server.ranges == ["", "bytes=100-", "bytes=150-"]


def test_interruption_is_gone_on_from(config, server):
    server.breaks = [100]

    def stop(progress):
        if progress.done_bytes:
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        pull(spec(), config, stop)
    assert kept_bytes(spec(), config) == 100
    assert pull(spec(), config).read_bytes() == server.data
    assert server.ranges == ["", "bytes=100-"]


def test_server_that_knows_no_ranges_begins_anew(config, server):
    server.breaks = [100]
    server.ignores_ranges = True
    assert pull(spec(), config).read_bytes() == server.data


def test_connection_that_gives_nothing_is_given_up(config, server):
    server.breaks = [60] + [0] * 10
    with pytest.raises(DownloadFailed, match=r"download of tiny\.gguf from the hub broke off"):
        pull(spec(), config)
    assert kept_bytes(spec(), config) == 60


def test_other_hash_is_refused_before_the_download(config, server):
    with pytest.raises(DownloadFailed, match="is expected"):
        pull(spec("0" * 64), config)
    assert server.ranges == []


def test_hash_that_lies_is_found_out(config, server):
    server.etag = "1" * 64
    with pytest.raises(DownloadFailed, match="is expected"):
        pull(spec(), config)
    assert not (config.models_dir / "tiny.gguf").exists()


def test_file_without_a_sha256_is_refused(config, server):
    server.etag = "a" * 40
    with pytest.raises(DownloadFailed, match="gives no sha256"):
        pull(spec(), config)


def test_missing_file_is_told(config, server):
    server.data = None
    with pytest.raises(DownloadFailed, match=r"cannot get tiny\.gguf from the hub"):
        pull(spec(), config)


def test_any_url_is_resumed_and_gets_no_key_of_the_hub(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.data = bytes(range(200))
    server.breaks = [100]
    known = hub.HubFile(server.hash(), len(server.data), "c" * 40)
    seen: list[int] = []
    path = hub.fetch_url(f"{server.address}/a/test.jsonl", known, tmp_path, seen.append)
    assert path.read_bytes() == server.data
    assert server.ranges == ["", "bytes=100-"]
    assert server.keys == ["", ""]
    assert seen[-1] == 200
    hub.fetch(SOURCE, known, tmp_path / "hub", seen.append)
    assert server.keys[-1] == "Bearer hf_secret"


def test_url_that_does_not_exist_is_named(tmp_path, server):
    server.data = None
    known = hub.HubFile("0" * 64, 10, None)
    with pytest.raises(DownloadFailed, match=r"download of http://127\.0\.0\.1:.*broke off: .*404"):
        hub.fetch_url(f"{server.address}/a/test.jsonl", known, tmp_path, lambda _: None)


def test_a_server_that_sends_too_much_does_not_fill_the_disk(tmp_path, server):
    server.data = bytes(5000)
    known = hub.HubFile("0" * 64, 100, None)
    with pytest.raises(DownloadFailed, match="is larger than the 100 bytes of the published file"):
        hub.fetch_url(f"{server.address}/a/test.jsonl", known, tmp_path / "data", lambda _: None)
    (partial,) = (tmp_path / "data").iterdir()
    assert partial.stat().st_size == 0
    assert len(server.ranges) == 1


def test_a_redirect_to_another_host_gets_no_key(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.data = bytes(range(100))
    keys: list[str] = []

    class Redirects(BaseHTTPRequestHandler):
        def do_GET(self):
            keys.append(self.headers.get("Authorization", ""))
            self.send_response(302)
            self.send_header("Location", f"{server.address}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Redirects)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        template = f"http://127.0.0.1:{http.server_port}/{{repo_id}}/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        known = hub.HubFile(server.hash(), 100, "c" * 40)
        assert hub.fetch(SOURCE, known, tmp_path, lambda _: None).read_bytes() == server.data
    finally:
        http.shutdown()
        http.server_close()
    assert keys == ["Bearer hf_secret"]
    assert server.keys == [""]
