"""What Ollama's clients ask of models: ``/api/tags``, ``/api/show``, ``/api/ps``, ``/api/version``.

Names have the tag ``latest``, without which some clients do not find them again.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from etui import __version__
from etui.runtime.caches import FileCache
from etui.server.answer import client_of
from etui.server.ollama_request import read_model
from etui.server.tokens import find_model
from etui.server.validation import read_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.models.gguf import Gguf
    from etui.models.spec import ModelSpec
    from etui.runtime.model_ids import ServedModel
    from etui.server.context import ServerContext

API_VERSION = "0.12.6"
"""Version of Ollama whose API is spoken here; clients refuse to talk to older ones."""

_UNKNOWN = {"format": "", "family": "", "families": None, "parameter_size": ""}


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""
    runtime = context.runtime
    files: FileCache[dict[str, Any]] = FileCache()

    def describe(spec: ModelSpec | None) -> dict[str, Any]:
        """Describe the file of a model; what is not known of it is null."""
        from etui.models.files import model_path

        if spec is not None and spec.backend is None:
            path = model_path(spec, runtime.config)
            if path.is_file():
                return files.get(spec.name, lambda: _describe_file(path), lambda _: (str(path),))
        return {"modified_at": None, "size": None, "details": _UNKNOWN}

    def build_entry(model: ServedModel) -> dict[str, Any]:
        spec, name = runtime.catalogue.models.get(model.id), f"{model.id}:latest"
        stated = None if spec is None else spec.sha256
        digest = stated or hashlib.sha256(model.id.encode()).hexdigest()
        return {"name": name, "model": name, "digest": digest, **describe(spec)}

    def list_models(*, resident: bool) -> dict[str, Any]:
        from etui.runtime.model_ids import list_model_ids

        models = list_model_ids(runtime, context.pool.status().residents)
        if not resident:
            return {"models": [build_entry(model) for model in models]}
        loaded = [model for model in models if model.resident and model.kind == "model"]
        more = {"expires_at": None, "size_vram": None}
        return {
            "models": [
                build_entry(model) | more | {"context_length": model.context_tokens}
                for model in loaded
            ]
        }

    async def show_tags(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(list_models, resident=False))

    async def show_running(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(list_models, resident=True))

    async def show_version(request: Request) -> JSONResponse:
        return JSONResponse({"version": API_VERSION, "etui": __version__})

    async def show_model(request: Request) -> JSONResponse:
        name, client = read_model(await read_json(request)), client_of(request)

        def run() -> dict[str, Any]:
            from etui.models.gguf import check_gguf

            _, spec, path = find_model(name, context, client)
            return describe(spec) | _build_show(spec, check_gguf(path))

        return JSONResponse(await run_in_threadpool(run))

    return [
        Route("/api/tags", show_tags),
        Route("/api/ps", show_running),
        Route("/api/version", show_version),
        Route("/api/show", show_model, methods=["POST"]),
    ]


def _describe_file(path: Path) -> dict[str, Any]:
    from etui.models.gguf import check_gguf

    gguf = check_gguf(path)
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return {
        "modified_at": changed.isoformat().replace("+00:00", "Z"),
        "size": gguf.size_bytes,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": gguf.architecture,
            "families": [gguf.architecture],
            "parameter_size": f"{gguf.parameters / 1e9:.1f}B",
            "quantization_level": gguf.quantisation,
        },
    }


def _build_show(spec: ModelSpec, gguf: Gguf) -> dict[str, Any]:
    """Build what ``/api/show`` says of a file besides its details."""
    from etui.engine.chat_formats import choose_format
    from etui.models.gguf import Array

    facts = {
        name: None if isinstance(value, Array) else value for name, value in gguf.metadata.items()
    }
    form = choose_format(spec, gguf.chat_template)
    can = ["completion", "tools" if form.tools else "", "thinking" if form.thought else ""]
    if facts.get(f"{gguf.architecture}.pooling_type"):
        can = ["embedding"]
    return {
        "license": spec.licence,
        "modelfile": "",
        "parameters": "",
        "template": gguf.chat_template or "",
        "model_info": {**facts, "general.parameter_count": gguf.parameters},
        "capabilities": [each for each in can if each],
    }
