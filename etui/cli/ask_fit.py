"""The files of ``etui ask``: whether they fit the context of the model, and what fits of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.chat import Query
    from etui.prompts.attachments import Attachment, Part
    from etui.runtime.decide import Choice
    from etui.runtime.runtime import Runtime


def fit_question(
    text: str,
    query: Query,
    choice: Choice,
    attachments: Sequence[Attachment],
    part: Part | None,
    runtime: Runtime[Any],
) -> tuple[Attachment, ...] | None:
    """Return what fits of the files; None if they fit whole.

    No tokenizer is started for texts that fit whatever they contain: no token is shorter than a
    byte.

    Raises:
        UsageError: They do not fit, and no part was asked for.
    """
    from etui.engine.token_counter import TokenCounter
    from etui.prompts.attachments import describe_excess, fit_attachments
    from etui.runtime.forecast import count_tokens, forecast_choice

    context_tokens = runtime.model_files.find_context_tokens(
        choice.decision.arm.model, runtime.catalogue
    )
    size_bytes = len(query.text.encode("utf-8", "surrogatepass"))
    if context_tokens is None or 2 * size_bytes < context_tokens:
        return None
    with closing(TokenCounter()) as counter:
        parts = [text, *(each.block() for each in attachments)]
        found = forecast_choice(query, choice, parts, runtime, counter)
        if found.fits:
            return None
        assert found.context_tokens is not None
        assert found.room_tokens is not None
        if part is None:
            counted = [
                replace(each, tokens=count.tokens)
                for each, count in zip(attachments, found.parts[1:], strict=True)
            ]
            what = describe_excess(
                counted, found.tokens, found.context_tokens, found.model, exact=found.exact
            )
            raise UsageError(what, "take a part: --part head, --part tail or --part ends")

        def count(piece: str) -> int:
            return count_tokens(piece, found.model, runtime, counter).tokens

        return fit_attachments(text, attachments, part, found.room_tokens, count)
