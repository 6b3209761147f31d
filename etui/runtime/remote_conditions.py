"""The conditions of a turn on a remote backend: which server, of which version, on which machine.

A curve of the log is only learned from turns of equal conditions, so turns of unlike machines are
not pooled. A backend whose address changes is another machine.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from etui.curves.measured_under import Conditions, parse_conditions

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.queries import LogReader
    from etui.models.spec import ModelSpec

_NEWEST_SQL = """
    SELECT settings FROM turns
    WHERE model = ? AND model_sha256 IS ? AND json_extract(settings, '$.machine') = ?
    ORDER BY created_at DESC, id DESC LIMIT 1
"""

_OF_THIS_MACHINE = (
    *("llama_cpp_python", "cpus", "threads", "threads_setting", "context_tokens"),
    *("kv_type", "flash_attention", "batch_tokens_setting", "draft_tokens"),
)
"""Settings of this machine's engine, which did not answer."""


def describe_machine(backend: str, config: Config) -> str:
    """Return the name of a backend's machine: ``desk (desk:8080)``, without any password."""
    spec = config.backends.get(backend)
    if spec is None:
        return backend
    try:
        url = urlsplit(spec.url)
        host, port = url.hostname or "", url.port
    except ValueError:
        return backend
    return f"{backend} ({host}:{port})" if port else f"{backend} ({host})"


def remote_settings(spec: ModelSpec, config: Config, server: str | None = None) -> dict[str, Any]:
    """Collect the settings of a turn on a remote backend, which replace those of this machine.

    Args:
        spec: A model with a backend.
        config: Names the backend's address.
        server: Name and version of the server; None if unknown.
    """
    assert spec.backend is not None
    return {
        **dict.fromkeys(_OF_THIS_MACHINE),
        "machine": describe_machine(spec.backend, config),
        "backend": spec.backend,
        "server": server,
        "remote_name": spec.remote_name or spec.name,
        "idle_baseline": None,
    }


def find_conditions(log: LogReader, spec: ModelSpec, config: Config) -> Conditions:
    """Return the conditions of a model here and now.

    The version of a remote server is that of its last turn: a decision does not ask it.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    from etui.runtime.provenance import conditions

    if spec.backend is None:
        return conditions(config, spec=spec)
    settings = remote_settings(spec, config)
    rows = log.select(_NEWEST_SQL, (spec.name, spec.sha256, settings["machine"]))
    last = json.loads(rows[0]["settings"]) if rows else {}
    return parse_conditions(settings | {"server": last.get("server")}, ())
