"""Vectors and scores of texts, by encoders of a megabyte and by the starter model."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from etui.arm import Arm
from etui.backends.base import AnswerRequest, Cancel
from etui.backends.local import LocalBackend
from etui.chat import Message, OutputOptions, TextsToEmbed
from etui.config.config import Config
from etui.errors import ContextOverflow, EngineFailed, InvalidRequest
from etui.events import Answer, Embedded, Event, Finished, Prefilled, Prefilling, SharedBatch
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER, ModelSpec
from tests.support.tiny_embedders import CONTEXT, WIDTH, Pooling, write_embedder

Open = Callable[..., tuple[LocalBackend, ModelSpec, Path]]
TEXTS = ("a cat", "a cat sat on the mat", "dogs, and what of them?")


@pytest.fixture
def open_embedder(tmp_path: Path, config: Config) -> Iterator[Open]:
    """Opens a backend, and the file of an encoder for it."""
    with ExitStack() as opened:

        def open_(pooling: Pooling = "cls", parallel: int = 1, **more: int):
            path = write_embedder(tmp_path / "tiny.gguf", pooling, **more)
            backend = opened.enter_context(
                closing(LocalBackend(replace(config, threads=1, parallel=parallel)))
            )
            return backend, ModelSpec("tiny", "1 MB", ()), path

        yield open_


def build_request(spec: ModelSpec, path: Path, asked: TextsToEmbed) -> AnswerRequest:
    options = OutputOptions(raw=True, embed=asked)
    messages = (Message("user", "texts"),)
    return AnswerRequest(spec, path, messages, Arm("direct", spec.name), options=options)


def read_vectors(events: Sequence[Event]) -> NDArray[np.float32]:
    found = [text for event in events if isinstance(event, Embedded) for text in event.vectors]
    return np.stack([np.frombuffer(base64.b64decode(text), dtype="<f4") for text in found])


def embed(opened: tuple[LocalBackend, ModelSpec, Path], *texts: str | tuple[int, ...], **more):
    backend, spec, path = opened
    return list(backend.answer(build_request(spec, path, TextsToEmbed(texts, **more))))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_texts_of_one_batch_do_not_see_each_other(open_embedder: Open, pooling: Pooling) -> None:
    opened = open_embedder(pooling)
    events = embed(opened, *TEXTS)
    together = read_vectors(events)
    assert together.shape == (3, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-6)
    alone = np.concatenate([read_vectors(embed(opened, text)) for text in TEXTS])
    np.testing.assert_allclose((together * alone).sum(axis=1), 1, atol=1e-5)
    assert abs(float(together[0] @ together[2])) < 0.99
    found = next(event for event in events if isinstance(event, Embedded))
    assert (found.pooling, found.is_chat_model) == (pooling, False)
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.status == "complete"
    assert end.computed_tokens == end.prompt_tokens == sum(found.tokens)
    assert end.output_tokens == 0


def test_token_ids_are_read_as_they_are(open_embedder: Open) -> None:
    opened = open_embedder()
    by_text, by_ids = embed(opened, "a"), embed(opened, (2, 5, 3))  # [CLS] a [SEP]
    np.testing.assert_allclose(read_vectors(by_text), read_vectors(by_ids), atol=1e-6)
    with pytest.raises(InvalidRequest, match="vocabulary") as found:
        embed(opened, (2, 10_000, 3))
    assert found.value.param == "input"


def test_a_text_that_is_too_long_is_refused_or_cut_before_its_end(open_embedder: Open) -> None:
    opened = open_embedder()
    long = "abcdefghij " * 40
    with pytest.raises(ContextOverflow) as found:
        embed(opened, long)
    assert found.value.context_tokens == CONTEXT
    end = embed(opened, long, truncate=True)[-1]
    assert isinstance(end, Finished)
    assert end.prompt_tokens == CONTEXT
    assert read_vectors(embed(opened, "after it")).shape == (1, WIDTH)


@pytest.mark.parametrize("labels", [1, 2])
def test_a_model_that_ranks_reads_the_query_with_each_text(
    open_embedder: Open, labels: int
) -> None:
    opened = open_embedder("rank", labels=labels)
    events = embed(opened, *TEXTS, query="what sat?")
    scores = read_vectors(events)
    assert scores.shape == (3, labels)
    assert len({round(float(score), 4) for score in scores[:, 0]}) == 3
    assert events[-1].answer == "3 x a score"  # type: ignore[union-attr]
    other = read_vectors(embed(opened, *TEXTS, query="who barks?"))
    assert not np.allclose(scores, other, atol=1e-4)
    with pytest.raises(InvalidRequest, match="ranks texts"):
        embed(opened, "a text")


@pytest.mark.parametrize("pooling", ["cls", "rank"])
def test_an_encoder_does_not_answer(open_embedder: Open, pooling: Pooling) -> None:
    backend, spec, path = open_embedder(pooling)
    request = AnswerRequest(spec, path, (Message("user", "Hi"),), Arm("direct", spec.name))
    with pytest.raises(InvalidRequest, match="cannot answer"):
        list(backend.answer(request))
    assert len(embed((backend, spec, path), "a", query="b")) > 1


def test_many_texts_are_computed_in_several_batches_which_a_cancel_ends(
    open_embedder: Open,
) -> None:
    backend, spec, path = open_embedder()
    texts = [f"{word} {word}" for word in ("cat", "dog", "mat")] * 40
    request = build_request(spec, path, TextsToEmbed(tuple(texts)))
    cancel, batches = Cancel(), []
    for event in backend.answer(request, cancel):
        if isinstance(event, Embedded):
            batches.append(event)
            cancel.cancel()
        end = event
    assert len(batches) == 1
    assert isinstance(end, Finished)
    assert end.status == "stopped"
    assert 0 < end.computed_tokens < end.prompt_tokens
    vectors = read_vectors(list(backend.answer(request)))
    assert vectors.shape == (120, WIDTH)
    np.testing.assert_allclose(vectors[:3], vectors[117:], atol=1e-4)


def test_a_text_for_which_memory_does_not_suffice_is_refused(
    open_embedder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, spec, path = opened = open_embedder()
    assert list(backend.load(spec, path))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=30_000))
    with pytest.raises(EngineFailed, match="of memory"):
        embed(opened, "a cat")
    monkeypatch.undo()
    assert len(read_vectors(embed(opened, "a cat"))) == 1


@pytest.fixture(scope="module")
def starter(starter_model: Path, tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("home")
    config = Config(home=home, models_dir=starter_model.parent)
    spec = load_catalogue(config).models[STARTER]
    with closing(LocalBackend(replace(config, threads=1, parallel=2))) as backend:
        yield backend, spec, starter_model


def test_a_chat_model_averages_its_states_and_says_so(starter) -> None:
    long = "The cat sat on the mat. " * 60  # more than a batch
    texts = ("A cat sat on the mat.", "A cat sat on a mat.", "Interest rates rose again.", long)
    events = embed(starter, *texts)
    found = [event for event in events if isinstance(event, Embedded)]
    assert {(event.pooling, event.is_chat_model) for event in found} == {("mean", True)}
    one, like, other, _ = vectors = read_vectors(events)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert one @ like > one @ other
    for text, vector in zip(texts, vectors, strict=True):  # whatever else is asked
        np.testing.assert_allclose(read_vectors(embed(starter, text))[0], vector, atol=1e-6)


def test_a_long_text_is_computed_in_parts_which_a_cancel_ends(starter) -> None:
    """Answers of others go on between two parts, and nothing of it is left for the next text."""
    backend, spec, path = starter
    before = read_vectors(embed(starter, "A cat sat on the mat."))
    request = build_request(spec, path, TextsToEmbed(("The cat sat on the mat. " * 250,)))
    cancel, events, shared = Cancel(), [], []
    backend.on_batch = shared.append
    for event in backend.answer(request, cancel):
        events.append(event)
        if isinstance(event, Prefilling):
            cancel.cancel()
    backend.on_batch = None
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.status == "stopped"
    assert 0 < end.computed_tokens < end.prompt_tokens
    counts = [share.prompt_tokens for batch in shared for share in batch.shares]
    assert [count for count in counts if count] == [end.computed_tokens]
    assert not any(isinstance(event, Embedded) for event in events)
    after = read_vectors(embed(starter, "A cat sat on the mat."))
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_vectors_of_several_requests_at_once_are_those_of_each_alone(starter) -> None:
    """They share a context: its parts, and its growth for a longer text, must not meet."""
    backend, spec, path = starter
    texts = ["A cat sat on the mat. " * count for count in (1, 75, 90)]
    alone = [read_vectors(embed(starter, text)) for text in texts]

    def run(text: str) -> NDArray[np.float32]:
        return read_vectors(list(backend.answer(build_request(spec, path, TextsToEmbed((text,))))))

    with ThreadPoolExecutor(len(texts)) as pool:
        for vector, own in zip(pool.map(run, texts), alone, strict=True):
            np.testing.assert_allclose(vector, own, atol=1e-5)


def test_vectors_beside_an_answer_are_batches_of_their_own(starter) -> None:
    backend, spec, path = starter
    shared: list[SharedBatch] = []
    backend.on_batch = shared.append
    arm = Arm("direct", spec.name, max_tokens=12)
    answering = backend.answer(AnswerRequest(spec, path, (Message("user", "Count to ten."),), arm))
    for event in answering:
        if isinstance(event, Answer):
            break
    cancel = Cancel()
    request = build_request(spec, path, TextsToEmbed(TEXTS))
    events = list(backend.answer(request, cancel))
    end = list(answering)[-1]
    backend.on_batch = None
    assert isinstance(end, Finished)
    assert end.status in ("complete", "truncated")
    prefilled = next(event for event in events if isinstance(event, Prefilled))
    (number,) = cancel.numbers
    own = [share for batch in shared for share in batch.shares if share.number == number]
    assert sum(share.prompt_tokens for share in own) == prefilled.computed_tokens
    assert sum(share.decode_tokens for share in own) == 0
    for one, following in pairwise(shared):
        assert one.end_ns == following.start_ns
