"""Render a chat as prompt text, with the GGUF's own template (sandboxed) or a plain one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etui.chat import Message
from etui.engine.template_process import TemplateFailed, TemplateProcess
from etui.engine.template_sandbox import TemplateLimit, TemplateRaised
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
"""Template for models without one (base models): turns start with ``User:``, ``Assistant:``."""

PLAIN_STOP = ("\nUser:",)
"""Stop string for ``PLAIN_TEMPLATE``: a base model would continue with the user's next turn."""


class ChatTemplate:
    """A chat template, compiled and rendered in a process of its own.

    Args:
        process: The process that renders it; it must outlive the template.
        source: Jinja source from the GGUF; None uses ``PLAIN_TEMPLATE``.
        bos_text, eos_text: Texts of the begin and end tokens, which templates write themselves.

    Raises:
        ModelUnavailable: The source is not a valid template.
        EngineFailed: The process cannot be started.
    """

    def __init__(
        self,
        process: TemplateProcess,
        model: str,
        source: str | None,
        bos_text: str = "",
        eos_text: str = "",
    ) -> None:
        self._source = source or PLAIN_TEMPLATE
        self._process = process
        self._model = model
        self._tokens = {"bos_token": bos_text, "eos_token": eos_text}
        with self._guard():
            process.compile(self._source)

    def render(
        self, messages: Sequence[Message], variables: Mapping[str, object] | None = None
    ) -> str:
        """Render a chat up to and including the assistant's header.

        If the template rejects a system message, its text is prepended to the first user message.

        Args:
            messages: The chat, oldest message first.
            variables: Additional variables of the template, such as ``enable_thinking``.

        Raises:
            ModelUnavailable: The template rejects the messages, fails, or takes too long.
        """
        chat = [{"role": message.role, "content": message.content} for message in messages]
        return self.render_documents(chat, variables or {})

    def render_documents(self, chat: list[dict[str, Any]], variables: Mapping[str, object]) -> str:
        """Render a chat whose messages are JSON documents, with calls of tools in them.

        Args:
            chat: Messages with ``role``, ``content``, and for tools ``tool_calls`` or
                ``tool_call_id``.
            variables: Additional variables of the template, such as ``tools``.

        Raises:
            ModelUnavailable: The template rejects the messages, fails, or takes too long.
        """
        with self._guard():
            try:
                return self._render_chat(chat, variables)
            except TemplateRaised:
                merged = _merge_system(chat)
                if merged is None:
                    raise
                return self._render_chat(merged, variables)

    def _render_chat(self, chat: list[dict[str, Any]], variables: Mapping[str, object]) -> str:
        given = {
            **self._tokens,
            "messages": chat,
            "add_generation_prompt": True,
            "tools": None,  # templates test `tools is not none`
            "documents": None,
            **variables,
        }
        return self._process.render(self._source, given)

    def _guard(self) -> _TemplateGuard:
        return _TemplateGuard(self._model)


class _TemplateGuard:
    """Turn what a template raises or exceeds into ``ModelUnavailable``."""

    def __init__(self, model: str) -> None:
        self._model = model

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, TemplateRaised):
            why, fix = f"rejects these messages: {error}", "change the system prompt or the chat"
        elif isinstance(error, TemplateLimit):
            why, fix = f"was stopped: {error}", "use another GGUF of this model"
        elif isinstance(error, TemplateFailed):
            # A template is a program: it can raise anything, and any exception means it is broken.
            message = " ".join(str(error).split())[:200]
            why = f"fails with {error.kind}: {message}"
            fix = "use another GGUF of this model"
        else:
            return
        raise ModelUnavailable(f"the chat template of {self._model} {why}", fix) from error


def _merge_system(chat: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Merge the system message into the first user message; None if there is none."""
    if len(chat) < 2 or chat[0]["role"] != "system" or chat[1]["role"] != "user":
        return None
    first = {"role": "user", "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}
    return [first, *chat[2:]]
