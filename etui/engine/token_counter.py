"""Count the tokens of a text with a model's own tokenizer, while its engine is busy or not loaded.

``python -m etui.engine.token_counter`` loads vocabularies, never weights, in a process of its own:
a damaged file ends only that process, no GPU is woken, and no key waits for it. Its messages are
those of :mod:`etui.engine.template_sandbox`. A request has the path of a GGUF and what to do: count
or tokenize a text, count a prompt, or join tokens. The answer is the count, the tokens or their
text; null if that is not possible.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from etui.chat import Message
from etui.engine.template_process import TemplateProcess, end_process
from etui.engine.template_sandbox import read_message, write_message
from etui.engine.trial import CRASH_ENVIRONMENT, forbid_core_dump
from etui.models.spec import ModelSpec

if TYPE_CHECKING:
    from etui.engine.chat_prompt import ModelText
    from etui.engine.model import Model

MOST_BYTES = 4_000_000
"""A longer text is not counted: it fits no context, and counting it takes seconds."""

MOST_VOCABULARIES = 3
"""Vocabularies in memory, some 40 MB each: a policy changes its mind while one types, and loading
one takes 0.3 s and more."""

_TEXT_FACTS = ("name", "think_open", "think_close", "thinking_switch")
_KEPT_FROM_CHARACTERS = 500
_MOST_KEPT = 16


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that a chat template writes."""

    spec: ModelSpec  # The entry of the model
    messages: tuple[Message, ...]
    tools: str = ""  # A JSON array in the OpenAI form; empty for none
    think_tokens: int = 0  # Budget of the thinking, by which some templates differ

    def to_document(self) -> dict[str, Any]:
        """Convert the prompt to JSON, with those facts of its model that change its text."""
        return {
            "spec": {name: getattr(self.spec, name) for name in _TEXT_FACTS},
            "messages": [asdict(message) for message in self.messages],
            "tools": self.tools,
            "think_tokens": self.think_tokens,
        }

    @classmethod
    def from_document(cls, given: dict[str, Any]) -> Prompt:
        """Read what :meth:`to_document` returns."""
        spec = ModelSpec(size="", sources=(), **given.pop("spec"))
        messages = tuple(Message(**message) for message in given.pop("messages"))
        return cls(spec, messages, **given)


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a vocabulary."""

    id: int
    piece: bytes  # Its bytes; those of its name for a control token


class TokenCounter:
    """Counts and converts tokens in a child process, which starts with the first call.

    Safe to use from several threads; calls block.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._failed: set[Path] = set()
        self._kept: OrderedDict[tuple[Path, str], int] = OrderedDict()
        self._closed = False

    def count(self, path: Path, text: str) -> int | None:
        """Count the tokens of a text, control tokens in it counted as text.

        None if the file has no tokenizer that can be used, or the text is far too long.
        """
        if not text:
            return 0
        if _is_too_long(text):
            return None
        key = (path, text)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            if self._closed or path in self._failed:
                return None
            count: int | None = self._ask(path, text=text)
            if count is None:
                self._failed.add(path)
            elif len(text) >= _KEPT_FROM_CHARACTERS:
                self._kept[key] = count
                if len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
            return count

    def count_prompt(self, path: Path, prompt: Prompt) -> int | None:
        """Count the tokens of a prompt, those of its chat template included.

        None if the file has no tokenizer that can be used, its template refuses the prompt, or the
        texts are far too long.
        """
        document = prompt.to_document()
        with self._lock:
            if _is_too_long(json.dumps(document)) or self._closed or path in self._failed:
                return None
            count: int | None = self._ask(path, prompt=document)
            return count

    def tokenize(
        self, path: Path, text: str, *, special: bool = True, ends: bool = False
    ) -> list[Token] | None:
        """Tokenize a text; None if the file has no tokenizer that can be used, or it is too long.

        Args:
            special: Whether the names of control tokens in the text are read as those.
            ends: Whether to add the tokens that the model wants before and behind a whole text.
        """
        if _is_too_long(text):
            return None
        with self._lock:
            found = self._ask(path, tokenize=text, special=special, ends=ends)
        if found is None:
            return None
        return [Token(number, piece.encode("latin-1")) for number, piece in found]

    def detokenize(self, path: Path, tokens: Sequence[int]) -> bytes | None:
        """Join the bytes of tokens; None as for :meth:`tokenize`, or if there is no such token."""
        with self._lock:
            found = self._ask(path, tokens=list(tokens))
        return None if found is None else str(found).encode("latin-1")

    def close(self) -> None:
        """End the child process; a count that is running returns None."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            with self._lock:  # no thread reads from it any more
                self._drop()

    def _ask(self, path: Path, **asked: Any) -> Any:
        if self._closed:
            return None
        try:
            process = self._process = self._process or subprocess.Popen(
                [sys.executable, "-m", "etui.engine.token_counter"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **CRASH_ENVIRONMENT},
            )
            assert process.stdin is not None
            assert process.stdout is not None
            write_message(process.stdin, {"path": str(path), **asked})
            return read_message(process.stdout)["answer"]
        except (OSError, ValueError, TypeError):  # it has crashed, or cannot be started
            self._drop()
            return None

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            end_process(process)


class _Vocabularies:
    """The vocabularies that were asked for last."""

    def __init__(self) -> None:
        from etui.config.config import find_folders
        from etui.engine.library import Library

        self._library = Library(Path(os.devnull) / "no-log", find_folders().engines_dir)
        self._models: OrderedDict[Path, Model] = OrderedDict()
        self._texts: dict[Path, tuple[ModelSpec, ModelText]] = {}
        self._templates: TemplateProcess | None = None

    def answer(self, request: dict[str, Any]) -> Any:
        """Return the count of tokens, the tokens of a text, or the text of tokens.

        None if llama.cpp or the chat template refuses it, or a token does not exist. Bytes are
        written as the characters with their numbers.
        """
        path = Path(request["path"])
        if "prompt" in request:
            return self._count_prompt(path, Prompt.from_document(request["prompt"]))
        model = self._open(path)
        if model is None:
            return None
        if "text" in request:
            return model.count(request["text"].encode("utf-8", "surrogatepass"))
        if "tokenize" in request:
            special, ends = request["special"], request["ends"]
            found = model.tokenize(request["tokenize"], special=special, ends=ends)
            return [(token, _spell(model, token)) for token in found]
        tokens = request["tokens"]
        if not all(0 <= token < model.vocabulary for token in tokens):
            return None
        return "".join(_spell(model, token) for token in tokens)

    def _count_prompt(self, path: Path, prompt: Prompt) -> int | None:
        from etui.errors import EtuiError

        try:
            text = self._open_text(path, prompt.spec)
            if text is None:
                return None
            thinking = prompt.think_tokens
            rendered = text.render(prompt.messages, think_tokens=thinking, tools=prompt.tools)
            return len(text.tokenize(rendered, bos=True))
        except EtuiError:
            return None

    def _open(self, path: Path) -> Model | None:
        from etui.engine.model import Model
        from etui.errors import ModelUnavailable

        if path not in self._models:
            while len(self._models) >= MOST_VOCABULARIES:
                oldest, model = self._models.popitem(last=False)
                self._texts.pop(oldest, None)
                model.free()
            try:
                self._models[path] = Model(self._library, path, vocabulary_only=True)
            except ModelUnavailable:
                return None
        self._models.move_to_end(path)
        return self._models[path]

    def _open_text(self, path: Path, spec: ModelSpec) -> ModelText | None:
        from etui.engine.chat_prompt import ModelText
        from etui.engine.session_loader import describe_model, open_template

        model = self._open(path)
        if model is None:
            return None
        known = self._texts.get(path)
        if known is None or known[0] != spec:
            self._templates = self._templates or TemplateProcess()
            template = open_template(self._templates, model, spec.name)
            text = ModelText(model, describe_model(model, spec, spec.context), template)
            known = self._texts[path] = spec, text
        return known[1]


def _spell(model: Model, token: int) -> str:
    piece = model.piece(token)[0] or model.token_text(token).encode()
    return piece.decode("latin-1")


def _is_too_long(text: str) -> bool:
    return len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until their end."""
    vocabularies: _Vocabularies | None = None
    while (request := read_message(requests)) is not None:
        vocabularies = vocabularies or _Vocabularies()
        write_message(replies, {"answer": vocabularies.answer(request)})


def main() -> None:
    """Serve on the standard streams; what llama.cpp prints goes nowhere."""
    forbid_core_dump()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    serve(sys.stdin.buffer, replies)
    os._exit(0)


if __name__ == "__main__":
    main()
