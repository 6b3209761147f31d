"""The prompt text of a chat: the GGUF's own template in a sandbox, or a stated plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etui.chat import Message
from etui.engine.template_sandbox import (
    OUTPUT_CHARACTERS,
    TemplateLimit,
    TemplateRaised,
    compile_template,
    limited,
)
from etui.errors import ModelUnavailable

PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{ message.content | trim }}

{% elif message.role == 'user' -%}
User: {{ message.content | trim }}
{% else -%}
Assistant: {{ message.content | trim }}

{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
Assistant:
{%- endif -%}
"""
"""For models without a template (base models): turns headed by ``User:`` and ``Assistant:``."""

PLAIN_STOP = ("\nUser:",)
"""A base model goes on with the user's next turn; its answer ends there."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        model: Name of the model, for messages.
        source: Jinja source from the GGUF; None takes ``PLAIN_TEMPLATE``.
        bos_text, eos_text: Texts of the begin and end tokens, which templates write themselves.

    Raises:
        ModelUnavailable: The source is no template.
    """

    def __init__(
        self, model: str, source: str | None, bos_text: str = "", eos_text: str = ""
    ) -> None:
        self._model = model
        self._tokens = {"bos_token": bos_text, "eos_token": eos_text}
        with self._refusing():
            self._render: Callable[[Mapping[str, Any]], Iterator[str]] = compile_template(
                source or PLAIN_TEMPLATE
            )

    def render(
        self, messages: Sequence[Message], variables: Mapping[str, object] | None = None
    ) -> str:
        """Text up to and including the assistant's header.

        A template that refuses a system message gets its text at the head of the first user
        message instead.

        Args:
            variables: More variables of the template, as ``enable_thinking``.

        Raises:
            ModelUnavailable: The template refuses the messages, fails, or takes too long.
        """
        chat = [{"role": message.role, "content": message.content} for message in messages]
        with self._refusing():
            try:
                return self._rendered(chat, variables or {})
            except TemplateRaised:
                merged = _system_merged(chat)
                if merged is None:
                    raise
                return self._rendered(merged, variables or {})

    def _rendered(self, chat: list[dict[str, str]], variables: Mapping[str, object]) -> str:
        given = {
            **self._tokens,
            "messages": chat,
            "add_generation_prompt": True,
            "tools": None,  # templates ask `tools is not none`
            "documents": None,
            **variables,
        }
        pieces: list[str] = []
        length = 0
        with limited():
            for piece in self._render(given):
                pieces.append(piece)
                length += len(piece)
                if length > OUTPUT_CHARACTERS:
                    raise TemplateLimit(f"it wrote more than {OUTPUT_CHARACTERS} characters")
        return "".join(pieces)

    def _refusing(self) -> _Refusing:
        return _Refusing(self._model)


class _Refusing:
    """Turns whatever a template raises into a refusal of its model."""

    def __init__(self, model: str) -> None:
        self._model = model

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, TemplateRaised):
            why, fix = f"refuses these messages: {error}", "change the system prompt or the chat"
        elif isinstance(error, TemplateLimit):
            why, fix = f"was stopped: {error}", "use another GGUF of this model"
        elif isinstance(error, Exception):
            # A template is a program: it can raise anything, and all of it means it is broken.
            said = " ".join(str(error).split())[:200]
            why = f"fails with {type(error).__name__}: {said}"
            fix = "use another GGUF of this model"
        else:
            return
        raise ModelUnavailable(f"the chat template of {self._model} {why}", fix) from error


def _system_merged(chat: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """The chat with its system message put before the first user message; None without one."""
    if len(chat) < 2 or chat[0]["role"] != "system" or chat[1]["role"] != "user":
        return None
    first = {"role": "user", "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}
    return [first, *chat[2:]]
