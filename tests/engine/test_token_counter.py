"""Tokens counted by a model's own tokenizer, in a process of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest

from etui.chat import Message
from etui.engine.library import Library
from etui.engine.model import Model
from etui.engine.template_sandbox import read_message, write_message
from etui.engine.token_counter import MOST_BYTES, MOST_VOCABULARIES, Prompt, TokenCounter, serve
from etui.models.spec import ModelSpec
from tests.contract.tiny_model import write_tiny_model
from tests.support.tiny_embedders import write_embedder


@pytest.fixture
def counter() -> Iterator[TokenCounter]:
    with closing(TokenCounter()) as counter:
        yield counter


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path)
    return path


@pytest.mark.parametrize("text", ["", "Say A.", "zwölf\n\x00 <|end|>", "ab c " * 5000])
def test_the_count_is_that_of_the_engine(counter, model, text):
    with closing(Library(model.parent)) as library:
        engine = Model(library, model, vocabulary_only=True)
        expected = len(engine.tokenize(text, special=False))
        engine.free()
    assert counter.count(model, text) == expected
    assert counter.count(model, text) == expected


def test_a_prompt_is_counted_as_the_chat_template_writes_it(counter, model):
    chat = (Message("system", "Be brief."), Message("user", "Say A. <|end|>"))
    spec = ModelSpec("tiny", "tiny", ())
    with closing(Library(model.parent)) as library:
        engine = Model(library, model, vocabulary_only=True)
        text = "system: Be brief.\nuser: Say A. <|end|>\nassistant:\n"
        expected = len(engine.tokenize(text, bos=True, special=False))
        engine.free()
    assert counter.count_prompt(model, Prompt(spec, chat)) == expected
    tools = json.dumps([{"type": "function", "function": {"name": "a"}}])
    assert counter.count_prompt(model, Prompt(spec, chat, tools)) is None  # no place for them
    assert counter.count_prompt(model, Prompt(spec, chat[1:])) < expected
    assert counter.count_prompt(model.with_name("missing"), Prompt(spec, chat)) is None


def test_the_vocabularies_of_a_few_models_stay_in_memory(model, tmp_path, monkeypatch):
    loaded: list[str] = []

    class Counted(Model):
        def __init__(self, library: Library, path: Path, **more: Any) -> None:
            loaded.append(path.name)
            super().__init__(library, path, **more)

    monkeypatch.setattr("etui.engine.model.Model", Counted)
    names = ["a", "b", "a", "c", "b", "d", "b", "a"]
    requests, replies = BytesIO(), BytesIO()
    for name in names:
        path = tmp_path / name
        path.write_bytes(model.read_bytes())
        write_message(requests, {"path": str(path), "text": "Say A."})
    requests.seek(0)
    serve(requests, replies)
    replies.seek(0)
    answers = [read_message(replies) for _ in names]
    assert answers[0]["answer"] > 0
    assert answers == answers[:1] * len(names)
    assert loaded == ["a", "b", "c", "d", "a"]
    assert MOST_VOCABULARIES == 3


def test_a_file_without_a_tokenizer_is_unknown_and_the_next_one_is_counted(
    counter, model, tmp_path
):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(model.read_bytes()[:300])
    assert counter.count(damaged, "x") is None
    assert counter.count(tmp_path / "missing.gguf", "x") is None
    assert counter.count(model, "x")


def test_a_text_that_fits_no_context_is_not_counted(counter, model):
    assert counter.count(model, "x" * (MOST_BYTES + 1)) is None


def test_a_process_that_dies_is_unknown_and_leaves_nothing_behind(counter, model):
    others = set(psutil.Process().children())  # such as the one that tries grammars
    assert counter.count(model, "x")
    (child,) = set(psutil.Process().children()) - others
    child.kill()
    assert counter.count(model, "y") is None
    counter.close()
    assert counter.count(model, "x" * 1000) is None
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert set(psutil.Process().children()) <= others


def test_closing_ends_a_count_in_another_thread(counter, model):
    others = set(psutil.Process().children())
    counts: list[int | None] = []
    threads = [
        threading.Thread(target=lambda n=n: counts.append(counter.count(model, f"{n} ab" * 9000)))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    counter.close()
    for thread in threads:
        thread.join(60)
    assert len(counts) == 3
    counter.close()
    assert set(psutil.Process().children()) <= others


def test_texts_become_tokens_and_tokens_texts(counter, model):
    text = "zwölf\n A. <|end|>"
    tokens = counter.tokenize(model, text)
    assert tokens is not None
    assert b"".join(token.piece for token in tokens).decode() == text
    assert counter.detokenize(model, [token.id for token in tokens]) == text.encode()
    plain = counter.tokenize(model, text, special=False)
    assert len(plain) > len(tokens)
    assert counter.count(model, text) == len(plain)
    assert counter.tokenize(model, "") == []


@pytest.mark.parametrize("number", [-1, 10**6, 2**40])
def test_a_token_that_there_is_not_has_no_text(counter, model, number):
    assert counter.detokenize(model, [65, number]) is None
    assert counter.count(model, "Say A.") is not None


def test_an_encoder_adds_its_ends(counter, tmp_path):
    path = write_embedder(tmp_path / "encoder.gguf")
    tokens = counter.tokenize(path, "a", ends=True)
    assert [token.piece for token in tokens] == [b"[CLS]", b" a", b"[SEP]"]


def test_a_damaged_file_has_no_tokens(counter, tmp_path):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    assert counter.tokenize(path, "a") is None
    assert counter.detokenize(path, [1]) is None
