"""A Hugging Face hub on this machine: what the real library asks, with scripted faults.

As on the real hub, a file is at ``resolve`` only as a redirect to a store of blobs at another
host, whose headers have its sha256 and size; the API lists files with both.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c" * 40
SEARCH, LIST, HEAD, BLOB = "/api/models", "/api/models/", "HEAD ", "/blobs/"
"""Parts of requests: a search, the list of a repository, the facts of a file, the bytes of one."""


@dataclass(frozen=True)
class Reply:
    """An answer instead of the right one.

    Attributes:
        cut: Bytes of the right body after which the connection drops; None for another answer.
        stall: Whether the server then says nothing more, and keeps the connection.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    stall: bool = False


@dataclass
class Hub:
    """Repositories, and what was asked.

    Attributes:
        repos: Repository -> name of a file -> its bytes.
        facts: Repository -> more keys of the API's answer.
        blobs: sha256 -> bytes that are sent for it; filled from ``repos``.
        asked: ``METHOD path``, Range and Authorization of each request.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    address: str = ""
    ignores_ranges: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    _script: list[tuple[str, list[Reply]]] = field(default_factory=list)

    def answer(self, part: str, *replies: Reply, times: int = 1) -> None:
        """Answer the next requests with ``part`` in ``METHOD path`` by these replies."""
        self._script.append((part, [*replies * times]))

    def heal(self) -> None:
        """Answer everything right again."""
        self._script.clear()

    def requests(self, part: str) -> list[tuple[str, str, str]]:
        """The requests with a text in ``METHOD path``."""
        return [each for each in self.asked if part in each[0]]

    def take(self, request: str) -> Reply | None:
        """Take the scripted answer to a request."""
        for part, replies in self._script:
            if part in request and replies:
                return replies.pop(0)
        return None

    def describe(self, repo: str) -> dict[str, Any]:
        """Build the API's answer."""
        files = []
        for name, data in self.repos[repo].items():
            sha256 = hashlib.sha256(data).hexdigest()
            lfs = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            files.append({"rfilename": name, "size": len(data), "blobId": sha256[:40]}
                         | ({"lfs": lfs} if name.endswith(".gguf") else {}))  # fmt: skip
        return {
            "id": repo,
            "modelId": repo,
            "sha": COMMIT,
            "downloads": 1234,
            "tags": [],
            "siblings": files,
            "cardData": {"license": "apache-2.0"},
        } | self.facts.get(repo, {})

    def search(self, words: str) -> list[dict[str, Any]]:
        """Build the API's answer to a search: no sizes of files, the most downloaded first."""
        found = [self.describe(repo) for repo in self.repos
                 if all(word in repo.lower() for word in words.lower().split())]  # fmt: skip
        for each in found:
            each["siblings"] = [{"rfilename": file["rfilename"]} for file in each["siblings"]]
        return sorted(found, key=lambda each: -each["downloads"])


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path == SEARCH:  # only here does the query matter
                path = unquote(self.path)
            request = f"{self.command} {path}"
            ranged, key = (self.headers.get(name, "") for name in ("Range", "Authorization"))
            hub.asked.append((request, ranged, key))
            scripted = hub.take(request)
            if scripted is not None and scripted.cut is None:
                self._send(scripted.status, scripted.headers, scripted.body)
                return
            status, headers, body = self._find(path, "" if hub.ignores_ranges else ranged)
            if scripted is None:
                self._send(status, headers, body)
                return
            assert scripted.cut is not None
            self._send(status, headers, body, scripted.cut)
            if scripted.stall:
                self.wfile.flush()
                hub.ended.wait()

        def _find(self, path: str, ranged: str) -> tuple[int, dict[str, str], bytes]:
            kind, _, rest = path.removeprefix("/").partition("/")
            if path.startswith(SEARCH + "?"):
                asked = parse_qs(urlsplit(path).query)
                found = hub.search(asked["search"][0])[: int(asked["limit"][0])]
                return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()
            if kind == "api":
                owner, name, *revision = rest.removeprefix("models/").split("/")
                repo = f"{owner}/{name}"
                if repo in hub.renamed:
                    location = "/".join(["/api/models", hub.renamed[repo], *revision])
                    return 307, {"Location": location}, b""
                if repo not in hub.repos:
                    return 404, {"X-Error-Code": "RepoNotFound"}, b""
                body = json.dumps(hub.describe(repo)).encode()
                return 200, {"Content-Type": "application/json"}, body
            if kind == "blobs":
                data = hub.blobs[rest]
                start, _, last = ranged.removeprefix("bytes=").partition("-")
                body = data[int(start or 0) : int(last) + 1 if last else None]
                return (206 if ranged else 200), {"ETag": f'"{rest}"'}, body
            owner, name, _, _, *parts = path.removeprefix("/").split("/")
            repo, file = f"{owner}/{name}", "/".join(parts)
            if repo in hub.renamed:
                return 307, {"Location": path.replace(repo, hub.renamed[repo], 1)}, b""
            if file not in hub.repos.get(repo, {}):
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
            data = hub.repos[repo][file]
            if not file.endswith(".gguf"):
                return 200, {"ETag": f'"{"a" * 40}"', "X-Repo-Commit": COMMIT}, data
            sha256 = hashlib.sha256(data).hexdigest()
            hub.blobs.setdefault(sha256, data)
            facts = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
            store = hub.address.replace("127.0.0.1", "localhost")
            location = {"Location": f"{store}/blobs/{sha256}"}
            return 302, {**facts, **location, "X-Repo-Commit": COMMIT}, b""

        def _send(
            self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:cut])

        def log_message(self, *_: object) -> None:
            pass

    return Answers


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty hub on this machine."""
    hub = Hub()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    hub.address = f"http://127.0.0.1:{http.server_port}"
    try:
        yield hub
    finally:
        hub.ended.set()
        http.shutdown()
        http.server_close()
