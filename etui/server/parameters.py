"""Parameters that etui knows but does not use: the harmless ones are ignored, others refused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from etui.server.errors import ApiError, invalid, quote, unsupported

HARMLESS = frozenset(
    {
        "user",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prediction",  # a guess of the answer that may make it faster
        "cache_prompt",  # llama-server; the prompt's prefix is cached anyway
        "timings_per_token",
        "return_progress",
    }
)
"""They change no answer: whose request it is, and how it is stored, queued or cached."""

_NEUTRAL: Mapping[str, Callable[[Any], bool]] = {
    "frequency_penalty": lambda value: value == 0,
    "presence_penalty": lambda value: value == 0,
    "repetition_penalty": lambda value: value == 1,
    "repeat_penalty": lambda value: value == 1,
    "logit_bias": lambda value: value in ({}, []),
    "modalities": lambda value: value == ["text"],
    "verbosity": lambda value: value == "medium",
    "functions": lambda value: value == [],
    "function_call": lambda value: value in ("none", "auto"),
    "suffix": lambda value: value == "",
    "echo": lambda value: value is False,
    "best_of": lambda value: value == 1,
    "audio": lambda value: False,
    "web_search_options": lambda value: False,
    "top_k": lambda value: False,
    "min_p": lambda value: False,
    "chat_template": lambda value: False,
    "documents": lambda value: False,
    "images": lambda value: False,
    "grammar": lambda value: False,
    "json_schema": lambda value: False,
    "guided_json": lambda value: False,
    "structured_outputs": lambda value: False,
    "ignore_eos": lambda value: value is False,
    "min_tokens": lambda value: value == 0,
    "options": lambda value: value == {},
    "keep_alive": lambda value: False,
    "truncation": lambda value: value == "disabled",
    "background": lambda value: value is False,
}
"""Well-known parameters that etui does not support, with the values that ask for nothing.

These are accepted, since many clients always send them.
"""


def take_known(body: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the parameters of a request that etui uses; a null is as good as none.

    Raises:
        ApiError: A parameter is not supported with its value, or not known at all; status 400.
    """
    used = {}
    for name, value in body.items():
        if name in known:
            if value is not None:
                used[name] = value
        elif value is None or name in HARMLESS:
            continue
        elif name in _NEUTRAL:
            if not _asks_nothing(name, value):
                raise unsupported(name)
        else:
            raise _unknown(name)
    return used


def _asks_nothing(name: str, value: Any) -> bool:
    if isinstance(value, bool) and name not in ("echo", "ignore_eos", "background"):
        return False  # True == 1 in Python
    return _NEUTRAL[name](value)


def _unknown(name: str) -> ApiError:
    shown = quote(name)
    return invalid(f"unknown parameter: {shown}", param=shown, code="unknown_parameter")
