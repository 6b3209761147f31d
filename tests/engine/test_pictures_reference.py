"""The answer after a picture is that of the bindings' own way through ``mtmd``, token by token."""

from __future__ import annotations

import base64
import ctypes
import threading
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from etui.arm import Arm, Sampling
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.chat import Message, Picture
from etui.config.config import Config
from etui.engine.context import Context, ContextOptions
from etui.engine.library import Library
from etui.engine.model import Model
from etui.events import Finished, Prefilled, SharedBatch
from etui.models.spec import ModelSpec
from etui.prompts.pictures import read_picture
from tests.support.tiny_projector import IMAGE, Kind, write_png, write_projector

TOKENS = 12
ARM = Arm("direct", "seeing", max_tokens=TOKENS, sampling=Sampling(temperature=0))


def answer_by_bindings(library: Library, model: Model, path: Path, picture: Picture) -> str:
    """Greedy tokens after the starter's chat template, computed by llama.cpp's own helper."""
    from llama_cpp import mtmd_cpp as mtmd

    options = ContextOptions(context_tokens=1024, threads=1, sequences=1, batch_tokens=512)
    context = Context(library, model, options)
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.n_threads, params.warmup = False, 1, False
    handle: Any = mtmd.mtmd_init_from_file(str(path).encode(), model.handle, params)
    data = base64.b64decode(picture.data)
    buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(handle, buffer, len(data), False)
    marker = mtmd.mtmd_default_marker().decode()
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    text = (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nLook: {marker} What?"
        "<|im_end|>\n<|im_start|>assistant\n"
    ).encode()
    chunks: Any = mtmd.mtmd_input_chunks_init()
    given = mtmd.mtmd_input_text(text, len(text), True, True)
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd.mtmd_tokenize(handle, chunks, ctypes.byref(given), bitmaps, 1) == 0
    end = ctypes.c_int32()
    assert (
        mtmd.mtmd_helper_eval_chunks(
            handle, context.handle, chunks, 0, 0, 512, True, ctypes.byref(end)
        )
        == 0
    )
    drawn, at, row = b"", end.value, -1
    for _ in range(TOKENS):
        token = int(context.logits(row).argmax())
        piece, ends = model.piece(token)
        if ends:
            break
        drawn += piece
        context.batch.clear()
        row = context.batch.add(0, [token], at, with_logits=True)
        context.decode()
        at += 1
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    mtmd.mtmd_free(handle)
    context.free()
    return drawn.decode("utf-8", "replace").strip()


def ask(
    backend: LocalBackend, path: Path, mmproj: Path, picture: Picture, turn_id: str = ""
) -> list[Any]:
    spec = ModelSpec("seeing", "135M", (), context=1024, mmproj=mmproj)
    messages = (Message("user", f"Look: {picture.mark} What?"),)
    request = AnswerRequest(spec, path, messages, ARM, pictures=(picture,), turn_id=turn_id)
    return list(backend.answer(request))


@pytest.mark.parametrize("kind", ["gemma3", "mlp"])
def test_the_answer_is_that_of_llama_cpp_itself(
    library: Library, model: Model, config: Config, starter_model: Path, tmp_path: Path, kind: Kind
) -> None:
    mmproj = write_projector(tmp_path / "mmproj.gguf", 576, kind)
    found = set()
    with closing(LocalBackend(replace(config, threads=1))) as backend:
        for seed in (1, 2):
            picture = read_picture(write_png(50, 40, seed), "it")
            finished = ask(backend, starter_model, mmproj, picture)[-1]
            assert finished.answer == answer_by_bindings(library, model, mmproj, picture)
            found.add(finished.answer)
    assert len(found) == 2


def test_answers_with_pictures_share_a_context_and_each_has_its_own_batches(
    config: Config, starter_model: Path, tmp_path: Path
) -> None:
    mmproj = write_projector(tmp_path / "mmproj.gguf", 576, edge=IMAGE)
    pictures = [read_picture(write_png(50, 40, seed), "it") for seed in range(3)]
    batches: list[SharedBatch] = []
    found: dict[int, list[Any]] = {}
    with closing(LocalBackend(replace(config, threads=1, parallel=3))) as backend:
        backend.on_batch = batches.append
        ask(backend, starter_model, mmproj, pictures[0])
        alone = len(batches)

        def run(index: int) -> None:
            found[index] = ask(backend, starter_model, mmproj, pictures[index])

        threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ends = [next(e for e in found[index] if isinstance(e, Finished)) for index in range(3)]
    assert all(end.output_tokens for end in ends)
    (again,) = (event for event in found[0] if isinstance(event, Prefilled))
    assert again.computed_tokens == 1
    together = batches[alone:]
    assert all(a.end_ns == b.start_ns for a, b in pairwise(together))
    numbers = {share.number for batch in together for share in batch.shares}
    assert len(numbers) == 3


def test_a_kept_cache_knows_its_picture_and_its_projector(
    config: Config, starter_model: Path, tmp_path: Path
) -> None:
    first, second = (write_projector(tmp_path / f"{n}.gguf", 576, edge=64 * n) for n in (1, 2))
    picture, other = (read_picture(write_png(50, 40, seed), "it") for seed in (1, 2))

    def compute(mmproj: Path, shown: Picture, turn_id: str) -> Prefilled:
        with closing(LocalBackend(replace(config, threads=1), keep=True)) as backend:
            events = ask(backend, starter_model, mmproj, shown, turn_id)
        return next(event for event in events if isinstance(event, Prefilled))

    whole = compute(first, picture, "a")
    assert compute(first, picture, "b").computed_tokens < 8
    beside = compute(first, other, "c")
    assert beside.computed_tokens > beside.prompt_tokens // 2
    assert compute(second, picture, "d").cached_tokens == 0
    assert whole.cached_tokens == 0
