"""Build the prompt that lets a model fill in the middle of a text, as llama-server does.

The order is: other files of the project, each behind its name; the text before the gap; the text
behind it; and the token from which on the model writes what is between them. Of a long text, the
part next to the gap is kept.
"""

from __future__ import annotations

from etui.chat import Infill
from etui.engine.session import Session
from etui.errors import InvalidRequest
from etui.reasoning.context_fit import MOST_TOKEN_CHARACTERS

WINDOW_TOKENS = 2048
"""Most tokens around the gap, three quarters of them before it."""

_PROJECT, _FILE, _NO_NAME = "myproject\n", "filename\n", "tmp"
_SNIPPET = "\n\n--- snippet ---\n\n"


def build_infill(infill: Infill, session: Session, answer_tokens: int) -> list[int]:
    """Build the tokens of a prompt.

    Args:
        answer_tokens: Room that is kept free for what the model writes.

    Raises:
        InvalidRequest: The model was not trained to fill in the middle.
    """
    facts, fill = session.facts, session.facts.fill
    if fill is None:
        raise InvalidRequest(
            f"{facts.name} has no tokens to fill in the middle of a text",
            "choose a model that has them, such as qwen2.5-coder, or send the prompt without it",
            "suffix",
        )

    def read(text: str) -> list[int]:
        return session.tokenize(text, special=False) if text else []

    room = facts.context_tokens - answer_tokens - 4  # the tokens around the texts
    window = max(0, min(WINDOW_TOKENS, room))
    begin = session.tokenize(infill.prompt) if infill.prompt else []
    before, behind = 3 * (window // 4), max(0, window // 4 - 2 - len(begin))
    prefix = read(infill.prefix[-before * MOST_TOKEN_CHARACTERS :])[-before:] if before else []
    suffix = read(infill.suffix[: behind * MOST_TOKEN_CHARACTERS])[:behind]
    tokens = [*session.tokenize("", bos=True), fill.prefix, *prefix, *begin]
    tokens += [fill.suffix, *suffix, fill.middle]
    if infill.files is None:
        return tokens
    others: list[int] = [] if fill.project is None else [fill.project, *read(_PROJECT)]
    for name, text in infill.files:
        kept = text[: facts.context_tokens * MOST_TOKEN_CHARACTERS]
        if fill.file is None:
            others += read(_SNIPPET) + read(kept)
        else:
            others += [fill.file, *read(f"{name or _NO_NAME}\n"), *read(kept)]
    if fill.file is not None:
        others += [fill.file, *read(_FILE)]
    return others[max(0, len(others) - max(0, room - len(tokens))) :] + tokens
