"""Parts of responses that follow from the record of a turn; all are pure functions.

What was not measured is null, never 0. The keys of ``energy`` are those of ``etui ask --json``,
followed by those of Neuralwatt's API, which some clients read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from etui.codec import pick
from etui.server.errors import quote
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.events import Prefilled, TokenLogprob
    from etui.routing.decision import Decision
    from etui.turn.record import Tokens

_JOULES_PER_KWH = 3.6e6

_HOP_KEYS = (
    *("arm", "model", "tokens", "joules", "uncertainty", "load_joules", "seconds", "confidence"),
    *("probability", "accepted", "taken", "status", "why"),
)


def turn_documents(record: TurnRecord) -> dict[str, Any]:
    """Build what a response says of its turn."""
    return {
        "usage": usage_document(record),
        "energy": energy_document_of(record),
        "route": route_document(record),
        "timings": timings_document(record),
    }


def usage_document(record: TurnRecord) -> dict[str, Any]:
    """Build ``usage``: tokens of the accepted answer (with ``n``, of all), joules of the turn."""
    tokens = tokens_of_answer(record)
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.prompt + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.thinking},
        "energy": energy_document_of(record),
    }


def tokens_of_answer(record: TurnRecord) -> Tokens:
    """Return the tokens of the accepted answer, without those of replaced hops."""
    return next((hop.tokens for hop in record.hops if hop.taken), record.tokens)


def energy_document_of(record: TurnRecord) -> dict[str, Any]:
    """Build ``energy``: joules of the whole turn with all its hops, its load excluded."""
    document: dict[str, Any] = record.to_json()["energy"]
    attribution = document.get("attribution") or {}
    joules, seconds = record.energy.joules, record.seconds.total
    return document | {
        "energy_joules": joules,
        "energy_kwh": None if joules is None else joules / _JOULES_PER_KWH,
        "avg_power_watts": None if joules is None or seconds <= 0 else joules / seconds,
        "duration_seconds": seconds,
        "attribution_method": attribution.get("method"),
        "attribution_ratio": attribution.get("share"),
    }


def route_document(record: TurnRecord) -> dict[str, Any]:
    """Build ``route``: what answered and why, its hops, and where the seconds went."""
    seconds, client = record.seconds, record.client
    return {
        **pick(record, "policy", "rule", "arm", "model", "reasoning", "why", "status", "ended"),
        "end_why": record.settings.get("ended") or "",
        "hops": [pick(hop, *_HOP_KEYS) | {"tokens": hop.tokens.output} for hop in record.hops],
        "predicted_joules": record.predicted_joules,
        "dropped_messages": record.settings.get("dropped_messages"),
        "seconds": {
            "queue": None if client is None else client.queue_seconds,
            **pick(seconds, "load", "prefill", "decode"),
        },
    }


def timings_document(record: TurnRecord) -> dict[str, Any]:
    """Build ``timings`` with the names of llama-server, for the whole turn."""
    tokens, seconds, speed = record.tokens, record.seconds, record.tokens_per_second
    return {
        "cache_n": tokens.cached,
        "prompt_n": tokens.computed,
        "prompt_ms": seconds.prefill * 1e3,
        "prompt_per_token_ms": _ratio(seconds.prefill * 1e3, tokens.computed),
        "prompt_per_second": _ratio(tokens.computed, seconds.prefill),
        "predicted_n": tokens.output,
        "predicted_ms": seconds.decode * 1e3,
        "predicted_per_token_ms": 1e3 / speed if speed else None,
        "predicted_per_second": speed,
    }


def headers_of(
    decision: Decision | None,
    record: TurnRecord | None = None,
    prefilled: Prefilled | None = None,
) -> dict[str, str]:
    """Build the headers of a response; what is not known has none, unmeasured joules are null."""
    headers: dict[str, str] = {}
    if decision is not None:
        headers["x-etui-route"] = _header_text(decision.rule or decision.policy or "model")
        headers["x-etui-arm"] = _header_text(decision.arm.name)
        if decision.predicted_joules is not None:
            headers["x-energy-predicted-joules"] = f"{decision.predicted_joules:.6g}"
    if prefilled is not None and prefilled.dropped_messages:
        headers["x-etui-dropped-messages"] = str(prefilled.dropped_messages)
    if record is not None:
        headers["x-etui-arm"] = _header_text(record.arm)
        headers["x-energy-joules"] = "null"
        if record.energy.joules is not None:
            headers["x-energy-joules"] = f"{record.energy.joules:.6g}"
            headers["x-energy-method"] = _header_text(record.energy.kind or "unknown")
    return headers


def ignored_headers(names: Iterable[str]) -> dict[str, str]:
    """Build the header with the fields that had no effect: each once, of many the first."""
    text = ", ".join(quote(name) for name in dict.fromkeys(names))
    return {"x-etui-ignored": _header_text(text, 1_000)} if text else {}


def logprob_document(logprob: TokenLogprob) -> dict[str, Any]:
    """Build the log-probability of one token in the form of chat completions."""
    return {
        **_token_document(logprob.piece, logprob.logprob),
        "top_logprobs": [_token_document(piece, value) for piece, value in logprob.top],
    }


def token_text(piece: tuple[int, ...]) -> str:
    """Decode the bytes of a token; a part of a character becomes U+FFFD."""
    return bytes(piece).decode("utf-8", "replace")


def completion_logprobs(logprobs: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any]:
    """Build ``logprobs`` in the form of completions, ``offset`` characters into the answer."""
    texts = [token_text(logprob.piece) for logprob in logprobs]
    offsets = list(accumulate(map(len, texts), initial=offset))[:-1]
    return {
        "tokens": texts,
        "token_logprobs": [logprob.logprob for logprob in logprobs],
        "top_logprobs": [
            None if logprob.logprob is None else _best_by_text(logprob) for logprob in logprobs
        ],
        "text_offset": offsets,
    }


def _best_by_text(logprob: TokenLogprob) -> dict[str, float]:
    """Return the alternatives by their texts; tokens with one text have that of the likeliest."""
    found: dict[str, float] = {}
    for piece, value in logprob.top:
        found.setdefault(token_text(piece), value)
    return found


def energy_comment(record: TurnRecord) -> bytes:
    """Return the joules of a turn as a comment of server-sent events, as Neuralwatt sends them."""
    return b": energy " + encode(energy_document_of(record)) + b"\n\n"


def encode(document: Mapping[str, Any]) -> bytes:
    """Encode a document as compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )


def encode_large(document: Mapping[str, Any]) -> bytes:
    """Encode very many numbers, for which ``json`` would hold up all other threads."""
    import msgspec

    return msgspec.json.encode(document)


def _token_document(piece: tuple[int, ...], logprob: float | None) -> dict[str, Any]:
    return {"token": token_text(piece), "logprob": logprob, "bytes": list(piece)}


def _ratio(value: float, by: float) -> float | None:
    return value / by if by > 0 else None


def _header_text(text: str, most_characters: int = 200) -> str:
    """Return a name as a header value: names of policies may hold any character."""
    ascii_text = quote(text, most_characters)[:most_characters]
    return "".join(c if c.isprintable() else " " for c in ascii_text).strip()
