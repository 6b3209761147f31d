"""The conditions of a turn on a remote backend: which server, of which version, on which machine.

A curve of the log is only learned from turns of equal conditions, so turns of unlike machines are
not pooled. A backend whose address changes is another machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from etui.curves.measured_under import Conditions, parse_conditions

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.queries import LogReader
    from etui.models.spec import ModelSpec

_NEWEST_SQL = """
    SELECT settings FROM turns
    WHERE model = ? AND model_sha256 IS ? AND json_extract(settings, '$.backend') = ?
        AND json_extract(settings, '$.backend_host') = ?
    ORDER BY created_at DESC, id DESC LIMIT 1
"""

_OF_THIS_MACHINE = (
    *("llama_cpp_python", "cpus", "threads", "threads_setting", "context_tokens"),
    *("kv_type", "flash_attention", "batch_tokens_setting", "draft_tokens", "idle_baseline"),
)
"""Settings of this machine's engine, which did not answer."""


def describe_host(url: str) -> str:
    """Return scheme, host and port of a URL, without user, password and path."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "unknown"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{port}" if port else f"{parts.scheme}://{host}"


def remote_settings(
    spec: ModelSpec, config: Config, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Collect the settings of a turn on a remote backend, which replace those of this machine.

    Args:
        config: Names the backend's address.
        settings: Settings that are known already (``backend_server``).
    """
    backend = config.backends.get(spec.backend or "")
    found: dict[str, Any] = {
        **dict.fromkeys(_OF_THIS_MACHINE),
        "backend": spec.backend,
        "backend_kind": None if backend is None else backend.kind,
        "backend_host": "unknown" if backend is None else describe_host(backend.url),
        "backend_model": spec.remote_name or spec.name,
        "backend_server": None,
        **(settings or {}),
    }
    return found | {"machine": parse_conditions(found, ()).machine}


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
    place = settings["backend"], settings["backend_host"]
    rows = log.select(_NEWEST_SQL, (spec.name, spec.sha256, *place))
    last = json.loads(rows[0]["settings"]) if rows else {}
    return parse_conditions(settings | {"backend_server": last.get("backend_server")}, ())
