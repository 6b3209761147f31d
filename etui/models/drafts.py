"""Whether the headers of two models speak against one drafting for the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etui.errors import ModelUnavailable
from etui.models.files import model_path
from etui.models.gguf import check_gguf

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.models.spec import ModelSpec

VOCABULARY_PADDING = 512
"""Vocabularies of one family differ by up to so many unused tokens at the end."""


def find_draft_problem(
    spec: ModelSpec, draft: str, config: Config, catalogue: Catalogue
) -> str | None:
    """Find by the headers why a draft model cannot be used; None if they show no reason.

    The engine checks every token when it loads both.
    """
    drafter = model_path(catalogue.get(draft), config)
    if not drafter.is_file():
        return f"{draft} is not on this machine"
    try:
        other, own = check_gguf(drafter), check_gguf(model_path(spec, config))
    except ModelUnavailable as error:
        return error.what
    if own.tokenizer and other.tokenizer and own.tokenizer != other.tokenizer:
        return "its vocabulary has another kind of tokenizer"
    sizes = own.vocabulary, other.vocabulary
    if sizes[0] and sizes[1] and abs(sizes[0] - sizes[1]) > VOCABULARY_PADDING:
        return f"its vocabulary has {sizes[1]:,} tokens, not {sizes[0]:,}"
    return None
