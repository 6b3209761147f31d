"""Make a question with attachments fit a context: say why it does not, and cut the longest text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from etui import units
from etui.prompts.attachments import Attachment, Part, cut

_BLOCK_TOKENS = 16
"""Tokens of the name and the fence of an attachment, at most."""


def describe_excess(
    attachments: Sequence[Attachment],
    tokens: int,
    context_tokens: int,
    model: str,
    *,
    exact: bool,
) -> str:
    """Say which text is too long, with both numbers.

    Args:
        attachments: The attachments with their tokens; the longest one is named. May be empty.
        tokens: Tokens of the whole question.
        exact: Whether the tokens were counted by its tokenizer.
    """
    subject = "the question"
    if attachments:
        longest = max(attachments, key=lambda each: each.tokens or 0)
        subject += f" with {'paste ' if longest.pasted else ''}{longest.name}"
    size = f"{'' if exact else 'about '}{units.tokens_text(tokens)}"
    return f"{subject} has {size}; the context of {model} holds {context_tokens:,}"


def fit_attachments(
    question: str,
    attachments: Sequence[Attachment],
    part: Part,
    most_tokens: int,
    count: Callable[[str], int],
) -> tuple[Attachment, ...]:
    """Cut the longest attachments until the whole question has at most ``most_tokens``.

    Args:
        part: What is kept of a text that is cut.
        most_tokens: Tokens of the question and the blocks of its attachments, at most.

    Returns:
        The attachments in their order, with the tokens of their texts; one that has no room at all
        is left out.
    """
    kept = [replace(each, tokens=count(each.text)) for each in attachments]
    room = most_tokens - count(question) - _BLOCK_TOKENS * len(kept)
    order = sorted(range(len(kept)), key=lambda index: -_tokens(kept[index]))
    for index in order:
        excess = sum(map(_tokens, kept)) - room
        if excess <= 0:
            break
        each = kept[index]
        text = cut(each.text, part, max(0, _tokens(each) - excess), count)
        kept[index] = replace(each, text=text, tokens=count(text))
    return tuple(each for each in kept if each.text)


def _tokens(attachment: Attachment) -> int:
    return attachment.tokens or 0
