"""A model of a remote backend that calls tools by script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from etui.config.config import Config
from tests.backends.remote.stub import Script, Stub, delta, document, running_stub, sse, usage

MODEL = "big@desk"


def calls(*wanted: tuple[str, dict[str, Any] | str], text: str | None = None) -> Script:
    """Build an answer that calls tools, each by name and arguments."""
    written = [
        {
            "index": index,
            "id": f"call_{index}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": given if isinstance(given, str) else json.dumps(given),
            },
        }
        for index, (name, given) in enumerate(wanted)
    ]
    return Script(
        sse(delta(text), delta(None, tool_calls=written, finish="tool_calls"), usage(20, 8))
    )


def says(text: str) -> Script:
    """Build an answer of text."""
    return Script(sse(delta(text), delta("", finish="stop"), usage(30, 5)))


@contextmanager
def remote_model(config: Config, rounds: Sequence[Script], settings: str = "") -> Iterator[Stub]:
    """Run a model whose answers are these, the last one again and again."""
    with running_stub() as server:
        server.scripts["/v1/models"] = [document({"data": [{"id": "big"}]})]
        server.scripts["/v1/chat/completions"] = list(rounds)
        config.config_file.write_text(
            f"model: {MODEL}\nbackends: {{desk: {{url: '{server.url}', retries: 0}}}}\n{settings}"
        )
        config.models_file.write_text(
            f"models:\n  {MODEL}: {{backend: desk, remote_name: big, size: 8B}}\n"
        )
        yield server
