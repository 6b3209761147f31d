"""The dialects ``POST /v1/embeddings``, ``/v1/rerank`` and ``/rerank``.

Vectors of different models cannot be compared, so these requests name one model; no policy decides.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from etui.chat import OutputOptions, Query, TextsToEmbed
from etui.events import Embedded
from etui.runtime.turn_request import TurnRequest
from etui.server.answer import AnswerForm, Asked
from etui.server.build_request import parse, parse_model
from etui.server.chat_request import OfModel
from etui.server.deltas import Delta, DeltaReader
from etui.server.documents import encode_large, turn_documents
from etui.server.errors import invalid, unsupported
from etui.server.validation import refuse_more
from etui.units import count_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from etui.runtime.overrides import Overrides
    from etui.runtime.turn_request import PoolEvent
    from etui.server.context import ServerContext
    from etui.turn.record import ClientRecord, TurnRecord

_MOST_TEXTS = 2048
_MOST_TOKENS = 2**18

Dimensions = Annotated[int, Field(ge=1, le=2**16)]


class EmbeddingBody(OfModel):
    """The body of a request for embeddings."""

    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Dimensions | None = None


class RerankBody(OfModel):
    """The body of a request to rank documents, of Jina's and of Cohere's clients."""

    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[Any], Field(min_length=1, fail_fast=True)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False


def read_embeddings(
    document: dict[str, Any], context: ServerContext, client: ClientRecord
) -> Asked:
    """Read a request for embeddings."""
    body, ignored = parse(EmbeddingBody, document)
    turn = build_vector_turn(body.model, TextsToEmbed(read_texts(body.input)), context, client)
    return Asked(turn, EmbeddingsForm(turn, body), False, ignored)


def read_rerank(document: dict[str, Any], context: ServerContext, client: ClientRecord) -> Asked:
    """Read a request to rank documents."""
    body, ignored = parse(RerankBody, document)
    refuse_more(len(body.documents), _MOST_TEXTS, "documents", "documents")
    texts = tuple(_read_document(each, at) for at, each in enumerate(body.documents))
    turn = build_vector_turn(body.model, TextsToEmbed(texts, body.query), context, client)
    return Asked(turn, RerankForm(turn, body, texts), False, ignored)


def build_vector_turn(
    model: str, asked: TextsToEmbed, context: ServerContext, client: ClientRecord
) -> TurnRequest:
    """Build the turn of a request for vectors; the log gets the number of texts, not the texts.

    ApiError (400 or 404) if the id names no model of this machine.
    """
    overrides = replace(
        _choose_model(model, context),
        reasoning="direct",
        max_tokens=1,
        speculate="off",
        lenient=True,
    )
    what = f"({count_text(len(asked.texts), 'text')} to {'rank' if asked.query else 'embed'})"
    options = OutputOptions(raw=True, embed=asked)
    query = Query(what, options=options, owner=f"serve:{client.key}")
    return TurnRequest(query, overrides, client)


def _choose_model(text: str, context: ServerContext) -> Overrides:
    overrides = parse_model(text, context)
    runtime = context.runtime
    if not (overrides.model or overrides.policy or overrides.arm):
        overrides = replace(overrides, model=runtime.config.model)
    if overrides.model is None:
        why = "vectors of different models cannot be compared, so a policy cannot choose one"
        raise invalid(f"name a model of this machine: {why}; see GET /v1/models", "model")
    if runtime.is_remote(overrides.model):
        text = f"{overrides.model} is of another server, and vectors need a file on this machine"
        raise unsupported("model", text)
    return overrides


def read_texts(given: Any, param: str = "input") -> tuple[str | tuple[int, ...], ...]:
    """Read a text or a list of token ids, or a list of either; ApiError (400) for anything else."""
    single = isinstance(given, str) or (
        isinstance(given, list) and bool(given) and not isinstance(given[0], str | list)
    )
    items = [given] if single else given
    if not isinstance(items, list) or not items:
        raise invalid(f"{param} has to be a text, a list of token ids, or a list of those", param)
    refuse_more(len(items), _MOST_TEXTS, param, "texts")
    return tuple(
        _read_text(item, param if single else f"{param}[{at}]") for at, item in enumerate(items)
    )


def _read_text(item: Any, param: str) -> str | tuple[int, ...]:
    if not isinstance(item, str | list):
        raise invalid(f"{param} has to be a text or a list of token ids", param)
    if not item:
        raise invalid(f"{param} is empty", param)
    if isinstance(item, str):
        return item
    refuse_more(len(item), _MOST_TOKENS, param, "token ids")
    if not all(type(token) is int and 0 <= token < 2**31 for token in item):
        raise invalid(f"{param} has to have token ids only", param)
    return tuple(item)


def _read_document(given: Any, at: int) -> str:
    text = given.get("text") if isinstance(given, dict) else given
    if not isinstance(text, str) or not text:
        param = f"documents[{at}]"
        raise invalid(f"{param} has to be a text, or an object with one in `text`", param)
    return text


class VectorReader(DeltaReader):
    """Reads the events of a turn whose answer is vectors."""

    def __init__(self, query: Query) -> None:
        super().__init__(query)
        self.batches: list[Embedded] = []

    def add(self, event: PoolEvent) -> Iterator[Delta]:
        """Keep the vectors that an event brings."""
        if isinstance(event, Embedded):
            self.batches.append(event)
        return super().add(event)

    def stack(self, dimensions: int | None = None) -> NDArray[np.float32]:
        """Return the vectors as rows, cut to their first numbers and made of length 1 again.

        ApiError (400) if they have fewer numbers.
        """
        import numpy as np

        texts = (text for batch in self.batches for text in batch.vectors)
        rows = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in texts]
        vectors: NDArray[np.float32] = np.stack(rows).astype(np.float32)
        width = vectors.shape[1]
        if dimensions is None or dimensions == width:
            return vectors
        if dimensions > width:
            text = f"dimensions: the vectors of this model have {width} numbers"
            raise invalid(text, "dimensions")
        cut = vectors[:, :dimensions]
        lengths = np.linalg.norm(cut, axis=1, keepdims=True)
        shorter: NDArray[np.float32] = cut / np.maximum(lengths, 1e-30, dtype=np.float32)
        return shorter

    def describe(self) -> dict[str, Any]:
        """Describe how the vectors were made, for the response."""
        first = self.batches[0]
        width = len(base64.b64decode(first.vectors[0])) // 4
        about = {"pooling": first.pooling, "width": width, "chat_model": first.is_chat_model}
        if first.is_chat_model:
            about["note"] = (
                "this is a chat model, whose file names no pooling: the mean of its hidden states "
                "was taken; an embedding model is better at this"
            )
        return about


class VectorForm(AnswerForm):
    """A response that is never streamed, made of the vectors of a turn."""

    reader: VectorReader

    def __init__(self, request: TurnRequest) -> None:
        super().__init__(request)
        self.reader = VectorReader(request.query)

    async def encode_whole(self, record: TurnRecord) -> bytes:
        """Return the bytes of the response, written on a thread: others do not wait for it."""
        return await asyncio.to_thread(lambda: encode_large(self.whole(record)))


class EmbeddingsForm(VectorForm):
    """The response of ``/v1/embeddings``."""

    def __init__(self, request: TurnRequest, body: EmbeddingBody) -> None:
        super().__init__(request)
        self._body = body

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the response."""
        vectors = self.reader.stack(self._body.dimensions)
        as_text = self._body.encoding_format == "base64"
        written: Sequence[Any] = (
            [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
            if as_text
            else vectors.tolist()
        )
        return {
            "object": "list",
            "model": record.model,
            "data": [
                {"object": "embedding", "index": at, "embedding": vector}
                for at, vector in enumerate(written)
            ],
            "embedding": self.reader.describe(),
            **turn_documents(record),
        }


class RerankForm(VectorForm):
    """The response of ``/v1/rerank``: what Jina's and what Cohere's clients read."""

    def __init__(self, request: TurnRequest, body: RerankBody, texts: Sequence[str]) -> None:
        super().__init__(request)
        self._body = body
        self._texts = texts

    def whole(self, record: TurnRecord) -> Mapping[str, Any]:
        """Build the response, the best document first."""
        scores, method = self._score()
        order = sorted(range(len(scores)), key=lambda at: -scores[at])[: self._body.top_n]
        results: list[dict[str, Any]] = [
            {"index": at, "relevance_score": scores[at]} for at in order
        ]
        if self._body.return_documents:
            for each in results:
                each["document"] = {"text": self._texts[each["index"]]}
        return {
            "id": f"rerank-{self.turn_id}",
            "object": "list",
            "model": record.model,
            "results": results,
            "ranking": {"method": method, **self.reader.describe()},
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
            **turn_documents(record),
        }

    def _score(self) -> tuple[list[float], str]:
        """Return a score of each document, 0 to 1 of a model that ranks, and where it is from."""
        vectors = self.reader.stack()
        if self.reader.batches[0].pooling == "rank":
            scores = vectors[:, 0].tolist()
            if vectors.shape[1] > 1 and abs(float(vectors[0].sum()) - 1) < 1e-3:
                return scores, "probability by the model"
            return [
                0.5 * (1 + math.tanh(score / 2)) for score in scores
            ], "sigmoid of the model's score"
        cosines = (vectors[1:] @ vectors[0]).tolist()
        return cosines, "cosine of embeddings: the model is none that ranks"
