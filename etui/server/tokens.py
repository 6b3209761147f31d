"""``/tokenize``, ``/detokenize`` and ``/props`` in the form of llama-server.

Texts are tokenized in a process of vocabularies alone: no weights are loaded, and no answer waits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etui import __version__
from etui.arm import Arm
from etui.chat import Query
from etui.codec import pick
from etui.errors import EtuiError
from etui.runtime.turn_request import TurnRequest
from etui.server.answer import client_of
from etui.server.build_request import parse, parse_model
from etui.server.chat_request import OfModel
from etui.server.documents import encode_large, ignored_headers
from etui.server.errors import invalid, to_api_error, unsupported
from etui.server.validation import read_json, refuse_more

if TYPE_CHECKING:
    from starlette.requests import Request

    from etui.models.spec import ModelSpec
    from etui.server.context import ServerContext
    from etui.turn.record import ClientRecord

_MOST_TOKENS = 2**18
_MOST_BYTES = 2**20
"""Largest text: each byte can be a token, and each token an object of the response."""


class TokenizeBody(OfModel):
    """The body of ``/tokenize``."""

    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(OfModel):
    """The body of ``/detokenize``."""

    tokens: Annotated[
        list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=_MOST_TOKENS, fail_fast=True)
    ]


B = TypeVar("B", bound=OfModel)


def build_routes(context: ServerContext) -> list[Route]:
    """Build the routes of this module."""
    limiter = CapacityLimiter(1)  # one vocabulary works at a time; the other routes need threads

    def build_route(path: str, kind: type[B], work: Callable[[B, Path], dict[str, Any]]) -> Route:
        async def answer(request: Request) -> Response:
            document, client = await read_json(request), client_of(request)
            body, ignored = await request.state.body.call(parse, kind, document)

            def run() -> bytes:
                return encode_large(work(body, find_model(body.model, context, client)[2]))

            content = await to_thread.run_sync(run, limiter=limiter)
            headers = ignored_headers(ignored)
            return Response(content, headers=headers, media_type="application/json")

        return Route(path, answer, methods=["POST"])

    def tokenize(body: TokenizeBody, path: Path) -> dict[str, Any]:
        refuse_more(len(body.content.encode()), _MOST_BYTES, "content", "bytes")
        special, ends = body.parse_special, body.add_special
        tokens = context.tokens.tokenize(path, body.content, special=special, ends=ends)
        if tokens is None:
            raise invalid("this model has no tokenizer that can be used", "model")
        if not body.with_pieces:
            return {"tokens": [token.id for token in tokens]}
        return {
            "tokens": [{"id": token.id, "piece": _write_piece(token.piece)} for token in tokens]
        }

    def detokenize(body: DetokenizeBody, path: Path) -> dict[str, Any]:
        text = context.tokens.detokenize(path, body.tokens)
        if text is None:
            raise invalid("this model has no such token, or no tokenizer", "tokens")
        return {"content": text.decode("utf-8", "replace")}

    async def show_props(request: Request) -> JSONResponse:
        model = request.query_params.get("model", "")[:256]
        found = await run_in_threadpool(_build_props, model, context, client_of(request))
        return JSONResponse(found)

    return [
        build_route("/tokenize", TokenizeBody, tokenize),
        build_route("/detokenize", DetokenizeBody, detokenize),
        Route("/props", show_props),
    ]


def find_model(
    text: str, context: ServerContext, client: ClientRecord
) -> tuple[Arm, ModelSpec, Path]:
    """Find the file of the model that an id names, or that a policy chooses now; else ApiError."""
    turn = TurnRequest(Query("?"), parse_model(text, context), client)
    runtime = context.runtime
    try:
        arm = context.pool.decide(turn).decision.arm
        if runtime.is_remote(arm.model):
            text = f"{arm.model} is of another server: it has no file on this machine"
            raise unsupported("model", text)
        return arm, *runtime.model_files.find(arm, runtime.catalogue)
    except EtuiError as error:
        raise to_api_error(error) from error


def _write_piece(piece: bytes) -> str | list[int]:
    """Return the text of a token; its bytes if they are only a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _build_props(model: str, context: ServerContext, client: ClientRecord) -> dict[str, Any]:
    from etui.models.gguf import check_gguf

    arm, spec, path = find_model(model, context, client)
    runtime = context.runtime
    gguf = check_gguf(path)
    ids = [gguf.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")]
    ends = [_read_end(context, path, token) for token in ids]
    return {
        "default_generation_settings": {
            "n_ctx": runtime.model_files.find_context_tokens(spec.name, runtime.catalogue),
            "params": {
                **pick(arm.sampling, "seed", "temperature", "top_k", "top_p", "min_p"),
                **pick(arm.sampling, "repeat_penalty", "repeat_last_n"),
                "max_tokens": arm.max_tokens,
                "n_predict": arm.max_tokens,
            },
        },
        "total_slots": context.pool.status().parallel,
        "model_alias": spec.name,
        "model_path": path.name,
        "model_ftype": gguf.quantisation,
        "modalities": {"vision": False, "video": False, "audio": False},
        "chat_template": gguf.chat_template or "",
        "bos_token": ends[0],
        "eos_token": ends[1],
        "build_info": f"etui-{__version__}",
        "is_sleeping": spec.name not in context.pool.status().residents,
    }


def _read_end(context: ServerContext, path: Path, token: object) -> str:
    text = context.tokens.detokenize(path, [token]) if isinstance(token, int) else None
    return "" if text is None else text.decode("utf-8", "replace")
