"""Ask a server what it is, what it serves, and how busy it is; within a short time."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from etui.backends.remote._client import RemoteClient, RequestFailed
from etui.backends.remote._stream_parts import read_count, read_list, read_mapping, read_text
from etui.config.backend_spec import BackendKind, BackendSpec

MOST_MODELS = 10_000

_OWNERS: Mapping[str, BackendKind] = {
    "llamacpp": "llama-server",
    "vllm": "vllm",
    "library": "ollama",
    "etui": "etui",
}
"""``owned_by`` in the list of models, and which kind of server writes it."""

_RUNNING = re.compile(
    r"^(?:llamacpp:requests_processing|vllm:num_requests_running)(?:\{[^}]*\})?\s+([0-9.eE+]+)",
    re.M,
)


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """What a backend answered when it was asked; its name, URL and kind are from config.yaml."""

    name: str
    url: str
    kind: BackendKind
    reachable: bool = False
    key_accepted: bool | None = None  # Whether it took the key; None if that is not known
    latency_seconds: float | None = None
    """Time of the request for the list of models; None if it was not answered."""
    server: str | None = None  # Its name and version; None if it does not say
    models: tuple[str, ...] = ()
    detected: BackendKind | None = None  # The kind that it seems to be; None if that cannot be seen
    problem: str = ""  # What is wrong, in one line; empty if nothing is


async def probe(
    client: RemoteClient, spec: BackendSpec, seconds: float, clock_ns: Callable[[], int]
) -> RemoteStatus:
    """Ask a backend for its models and its version, at the same time."""
    listed, version = await asyncio.gather(
        _list_models(client, seconds, clock_ns), _read_version(client, spec.kind, seconds)
    )
    facts: dict[str, Any] = {"name": spec.name, "url": spec.url, "kind": spec.kind}
    if isinstance(listed, RequestFailed):
        failure = listed.failure
        answered = failure.status is not None
        refused = failure.status in (401, 403)
        problem = f"it refused the key: {failure.what}" if refused else failure.what
        key = False if refused else None
        return RemoteStatus(**facts, reachable=answered, key_accepted=key, problem=problem)
    document, latency = listed
    entries = [read_mapping(entry) for entry in read_list(document.get("data"))[:MOST_MODELS]]
    models = tuple(name for entry in entries if (name := read_text(entry.get("id"))))
    detected = next((kind for entry in entries if (kind := _find_owner(entry))), None)
    if detected is None and version is not None and spec.kind != "openai":
        detected = spec.kind
    problem = "" if "data" in document else "the answer of /models is not a list of models"
    if not problem and spec.kind != "openai":
        if detected is not None and detected != spec.kind:
            problem = f"it seems to be {detected}, not {spec.kind}: fix `kind` in config.yaml"
        elif version is None and spec.kind != "etui":
            problem = f"it does not answer as {spec.kind} does: fix `kind` in config.yaml"
    return RemoteStatus(
        **facts,
        reachable=True,
        key_accepted=True if spec.key_env else None,
        latency_seconds=latency,
        server=version,
        models=models,
        detected=detected,
        problem=problem,
    )


async def count_running(client: RemoteClient, kind: BackendKind, seconds: float) -> int | None:
    """Count the requests that a server is answering now; None if it does not say."""
    try:
        match kind:
            case "llama-server":
                return await _count_slots(client, seconds)
            case "vllm":
                return _find_running(await client.fetch_text("//metrics", seconds=seconds))
            case "etui":
                document, _ = await client.fetch("//meter", seconds=seconds)
                return read_count(document.get("running"))
            case _:
                return None
    except RequestFailed:
        return None


async def _count_slots(client: RemoteClient, seconds: float) -> int | None:
    try:
        text, _ = await client.fetch_text("//slots", seconds=seconds)
        slots = read_list(json.loads(text))
        if slots:
            return sum(read_mapping(slot).get("is_processing") is True for slot in slots)
    except (RequestFailed, ValueError, RecursionError):
        pass  # started with --no-slots
    return _find_running(await client.fetch_text("//metrics", seconds=seconds))


def _find_running(answer: tuple[str, Mapping[str, str]]) -> int | None:
    found = _RUNNING.findall(answer[0])
    try:
        return read_count(round(sum(float(value) for value in found))) if found else None
    except (ValueError, OverflowError):
        return None


async def _list_models(
    client: RemoteClient, seconds: float, clock_ns: Callable[[], int]
) -> tuple[dict[str, Any], float] | RequestFailed:
    begin_ns = clock_ns()
    try:
        document, _ = await client.fetch("models", seconds=seconds)
    except RequestFailed as error:
        return error
    return document, (clock_ns() - begin_ns) / 1e9


async def _read_version(client: RemoteClient, kind: BackendKind, seconds: float) -> str | None:
    places: Mapping[str, tuple[str, str]] = {
        "llama-server": ("//props", "build_info"),
        "vllm": ("//version", "version"),
        "ollama": ("//api/version", "version"),
        "etui": ("//health", "version"),
    }
    if kind not in places:
        return None
    path, key = places[kind]
    try:
        document, _ = await client.fetch(path, seconds=seconds)
    except RequestFailed:
        return None
    found = read_text(document.get(key))[:100]
    return f"{kind} {found}" if found else None


def _find_owner(entry: Mapping[str, Any]) -> BackendKind | None:
    return _OWNERS.get(read_text(entry.get("owned_by")).lower())
