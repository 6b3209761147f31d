"""Pictures in llama.cpp: random projectors for the starter model, and what reuse keeps apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.backends.process import ProcessBackend
from etui.chat import Message, Picture
from etui.config.config import Config
from etui.engine.pictures import _KEPT, has_pictures, is_of_picture
from etui.errors import InvalidRequest, ModelUnavailable
from etui.events import Event, Finished, PictureEncoded, Prefilled
from etui.models.adapters import read_projector
from etui.models.spec import ModelSpec
from etui.prompts.pictures import read_picture
from tests.support.tiny_projector import IMAGE, TOKENS, Kind, make_jpeg, write_png, write_projector

WIDTH = 576  # of the starter model
SPEC = ModelSpec("seeing", "135M", (), context=1024)
ARM = Arm("direct", "seeing", "direct", max_tokens=8)


@pytest.fixture(scope="module")
def projector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_projector(tmp_path_factory.mktemp("mmproj") / "mmproj.gguf", WIDTH, edge=IMAGE)


@pytest.fixture
def backend(config: Config) -> Iterator[LocalBackend]:
    with closing(LocalBackend(replace(config, threads=1))) as backend:
        yield backend


def picture(seed: int = 0, width: int = 40, height: int = 40) -> Picture:
    return read_picture(write_png(width, height, seed), "it")


def ask(
    backend: LocalBackend | ProcessBackend,
    path: Path,
    mmproj: Path | None,
    *pictures: Picture,
    text: str = "",
    arm: Arm = ARM,
    owner: str = "",
) -> list[Event]:
    marks = " ".join(each.mark for each in pictures)
    messages = (Message("user", text or f"Look: {marks} What is it?"),)
    spec = replace(SPEC, mmproj=mmproj)
    request = AnswerRequest(spec, path, messages, arm, pictures=pictures, owner=owner)
    return list(backend.answer(request))


def of(kind: type, events: list[Event]) -> list:
    return [event for event in events if isinstance(event, kind)]


def test_a_picture_is_encoded_before_the_prompt_and_changes_the_answer(
    backend, starter_model, projector
):
    first, second, text = (
        ask(backend, starter_model, projector, picture(1)),
        ask(backend, starter_model, projector, picture(2)),
        ask(backend, starter_model, projector, text="Look: What is it?"),
    )
    encoded, last = of(PictureEncoded, first)  # the whole, and its only part
    (prefilled,) = of(Prefilled, first)
    assert encoded.tokens == last.tokens == TOKENS
    assert prefilled.start_ns <= encoded.start_ns < encoded.end_ns <= last.start_ns
    assert last.end_ns <= prefilled.end_ns
    assert first.index(last) < first.index(prefilled)
    assert prefilled.prompt_tokens > of(Prefilled, text)[0].prompt_tokens + TOKENS
    (other,) = of(Prefilled, second)
    assert other.cached_tokens < other.prompt_tokens - TOKENS  # up to the picture, and no further
    assert of(PictureEncoded, second)
    assert of(Finished, first)[0].answer != of(Finished, second)[0].answer
    assert not of(PictureEncoded, text)


def test_the_same_picture_again_is_neither_encoded_nor_computed(backend, starter_model, projector):
    first = ask(backend, starter_model, projector, picture(1))
    again = ask(backend, starter_model, projector, picture(1))
    (prefilled,) = of(Prefilled, again)
    assert prefilled.computed_tokens == 1
    assert not of(PictureEncoded, again)
    assert of(Finished, again)[0].answer == of(Finished, first)[0].answer
    other = ask(backend, starter_model, projector, picture(3))
    back = ask(backend, starter_model, projector, picture(1))
    assert of(PictureEncoded, other)
    assert not of(PictureEncoded, back)  # its vectors are kept
    assert of(Finished, back)[0].answer == of(Finished, first)[0].answer


def test_a_picture_of_one_owner_saves_nothing_for_another(backend, starter_model, projector):
    first, other, again = (
        ask(backend, starter_model, projector, picture(1), owner=owner)
        for owner in ("laptop", "phone", "laptop")
    )
    encoded, known = of(PictureEncoded, other), of(Prefilled, other)[0]
    assert [each.tokens for each in encoded] == [TOKENS] * 2  # as if nobody had sent it
    assert known.cached_tokens == 0
    assert not of(PictureEncoded, again)
    answers = {of(Finished, events)[0].answer for events in (first, other, again)}
    assert len(answers) == 1


def test_a_large_picture_is_encoded_in_parts(backend, starter_model, tmp_path):
    path = write_projector(tmp_path / "parts.gguf", WIDTH, edge=2 * IMAGE)
    assert read_projector(path, "it").estimate_tokens(40, 40) >= 5 * TOKENS
    events = ask(backend, starter_model, path, picture(1))
    parts = of(PictureEncoded, events)
    assert [part.tokens for part in parts] == [TOKENS] * len(parts)
    assert len(parts) == 5  # four of a copy in twice the size, and the whole
    assert of(Finished, events)[0].status in ("complete", "truncated")


def test_several_pictures_and_votes_share_one_prompt(backend, starter_model, projector):
    vote = Arm("vote", "seeing", "vote", votes=2, max_tokens=4, think_tokens=0)
    events = ask(backend, starter_model, projector, picture(1), picture(2), arm=vote)
    assert len(of(PictureEncoded, events)) == 4
    assert of(Finished, events)


def test_a_picture_that_looks_in_both_directions_fits_one_batch(
    backend, starter_model, tmp_path, library
):
    kind: Kind = "gemma3"
    path = write_projector(tmp_path / "gemma.gguf", WIDTH, kind)
    events = ask(backend, starter_model, path, picture(1))
    assert [each.tokens for each in of(PictureEncoded, events)] == [TOKENS]
    assert of(Finished, events)[0].answer


def test_the_engine_process_reads_pictures_too(config, starter_model, projector):
    here = LocalBackend(replace(config, threads=1))
    there = ProcessBackend(replace(config, threads=1))
    with closing(here), closing(there):
        answers = [
            of(Finished, ask(each, starter_model, projector, picture(1)))[0].answer
            for each in (here, there)
        ]
    assert answers[0] == answers[1]


def test_a_model_without_projector_says_what_to_do(backend, starter_model):
    with pytest.raises(InvalidRequest, match="no projector") as raised:
        ask(backend, starter_model, None, picture())
    assert "mmproj" in raised.value.fix


def test_a_picture_that_the_decoder_refuses_ends_its_request_alone(
    backend, starter_model, projector
):
    good, bad = picture(1), read_picture(make_jpeg(), "it")
    for pictures in ((good, bad), (bad,)):
        with pytest.raises(InvalidRequest, match="cannot read the picture") as raised:
            ask(backend, starter_model, projector, *pictures)
        assert raised.value.param == "messages"
    assert of(Finished, ask(backend, starter_model, projector, good))[0].answer


def test_many_pictures_are_forgotten_again(backend, starter_model, projector):
    for seed in range(2 * _KEPT):
        ask(backend, starter_model, projector, picture(seed))
    again = ask(backend, starter_model, projector, picture(0))
    assert of(PictureEncoded, again)


def test_a_mark_without_its_picture_is_text(backend, starter_model, projector):
    events = ask(backend, starter_model, projector, text=f"What is {picture().mark}?")
    assert not of(PictureEncoded, events)


@pytest.mark.parametrize("width", [64])
def test_a_projector_of_another_model_is_refused(backend, starter_model, tmp_path, width):
    path = write_projector(tmp_path / "other.gguf", width)
    with pytest.raises(ModelUnavailable, match="could not load the projector"):
        ask(backend, starter_model, path, picture())


def test_what_is_no_projector_is_refused_before_it_is_loaded(backend, starter_model, tmp_path):
    with pytest.raises(ModelUnavailable, match="is no projector"):
        ask(backend, starter_model, starter_model, picture())
    with pytest.raises(ModelUnavailable, match="is missing"):
        ask(backend, starter_model, tmp_path / "none.gguf", picture())
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(b"GGUF\x03")
    with pytest.raises(ModelUnavailable, match="the projector"):
        ask(backend, starter_model, cut, picture())


def test_tokens_of_pictures_are_told_from_others():
    assert is_of_picture(-2)
    assert not is_of_picture(-1)
    assert has_pictures([5, -7, 3])
    assert not has_pictures([])
