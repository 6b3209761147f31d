"""An EAGLE-3 head with random weights: it computes what the formulas say, and changes no answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from etui.arm import Arm, Sampling, Speculate
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.chat import Message
from etui.engine.context import DECODED, Context
from etui.engine.library import Library
from etui.engine.model import Model
from etui.engine.residency import Residency
from etui.engine.speculation import heads as llama_heads
from etui.engine.speculation.heads import MtpDrafter
from etui.errors import ModelUnavailable
from etui.events import Finished, Verified
from etui.models.spec import ModelSpec
from tests.engine.conftest import OPTIONS
from tests.support.eagle_draft import HEAD, HEADS, write_eagle_draft

LAYERS = (0, 15, 27)
SPEC = ModelSpec("large", "135M", (), context=512, sha256="ab" * 32, draft="head", draft_tokens=3)
HEAD_SPEC = ModelSpec("head", "1M", (), context=512, sha256="cd" * 32)
QUESTION = (Message("user", "Write: one two three. One two three. One two three."),)
TEXT = "The sea is wide, and the sea is deep."

Weights = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def written(starter_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """The file of a head for the starter, and its weights."""
    path = tmp_path_factory.mktemp("eagle") / "head.gguf"
    return path, write_eagle_draft(starter_model, path, LAYERS)


@pytest.fixture
def opened(
    library: Library, model: Model, written: tuple[Path, Weights]
) -> Iterator[tuple[Context, MtpDrafter]]:
    """A context of the starter, and the head that follows it."""
    cache = Context(library, model, OPTIONS)
    head = Model(library, written[0])
    drafter = llama_heads.load_eagle(library, head, model, cache)
    assert isinstance(drafter, MtpDrafter)
    drafter.start()
    yield cache, drafter
    drafter.free()
    cache.free()


def compute(cache: Context, tokens: list[int], position: int) -> None:
    """Let the model compute some tokens."""
    cache.batch.clear()
    cache.batch.add(0, tokens, position, with_logits=True)
    assert cache.decode() == DECODED


def rms(values: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    scale = np.sqrt((values**2).mean(axis=-1, keepdims=True) + 1e-5)
    return (values / scale * weight).astype(np.float32)


def rotate(values: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rotate neighbours by their position; values are rows x heads x width."""
    angles = positions[:, None] * 10_000.0 ** (-np.arange(0, HEAD, 2) / HEAD)
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    even, odd = values[..., 0::2], values[..., 1::2]
    rotated = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return rotated.reshape(values.shape).astype(np.float32)


def expect(
    weights: Weights, tokens: list[int], states: NDArray[np.float32], first: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The states and logits of tokens, as the paper has them."""
    w = {
        name.removeprefix("blk.0.").removesuffix(".weight"): each for name, each in weights.items()
    }
    rows, positions = len(tokens), np.arange(first, first + len(tokens))
    joined = np.concatenate(
        [rms(w["token_embd"][tokens], w["attn_norm"]), rms(states, w["attn_norm_2"])], axis=1
    )
    query, key, value = (
        (joined @ w[f"attn_{name}"].T).reshape(rows, HEADS, HEAD) for name in ("q", "k", "v")
    )
    scores = np.einsum("qhd,khd->hqk", rotate(query, positions), rotate(key, positions))
    scores = scores / np.sqrt(HEAD) + np.triu(np.full((rows, rows), -np.inf), 1)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    attended = np.einsum("hqk,khd->qhd", shares, value).reshape(rows, HEADS * HEAD)
    residual = attended @ w["attn_output"].T + states
    normed = rms(residual, w["ffn_norm"])
    gate = normed @ w["ffn_gate"].T
    forward = (gate / (1 + np.exp(-gate)) * (normed @ w["ffn_up"].T)) @ w["ffn_down"].T
    state = residual + forward
    return state, rms(state, w["output_norm"]) @ w["output"].T


def test_it_computes_what_the_paper_says(opened, written, model):
    cache, drafter = opened
    heads, weights = drafter._heads, written[1]
    tokens = model.tokenize(TEXT, bos=False)
    compute(cache, tokens, 0)
    features = heads._read_inputs(len(tokens))
    width = model.width
    assert features.shape == (len(tokens), 3 * width)
    again = [at for at, token in enumerate(tokens) if token == tokens[5]]
    first_layer = features[:, :width]  # the token alone, wherever it is
    for at in again:
        np.testing.assert_allclose(first_layer[at], first_layer[5], atol=1e-4)
    assert not np.allclose(first_layer[0], first_layer[1])
    states = heads.model_states(len(tokens))
    np.testing.assert_allclose(states, features @ weights["fc.weight"].T, rtol=1e-2, atol=1e-2)

    heads.decode(tokens[1:-1], states[:-2], 1)
    token, state = heads.decode(tokens[-1:], states[-2:-1], len(tokens) - 1)
    expected, logits = expect(weights, tokens[1:], states[:-1], 0)
    scale = np.abs(expected[-1]).max()
    np.testing.assert_allclose(state / scale, expected[-1] / scale, atol=0.01)
    assert logits[-1][token] >= logits[-1].max() - 0.05


def test_what_it_knows_does_not_depend_on_how_the_batches_were_cut(opened, model):
    cache, drafter = opened
    tokens = model.tokenize(TEXT, bos=True)
    known, states = tokens[:-1], []
    for cuts in ([len(known)], [3, len(known)], [*range(1, len(known) + 1)]):
        drafter.start()
        cache.remove(0, 0)
        start = 0
        for end in cuts:
            compute(cache, known[start:end], start)
            drafter.follow(known[start:end], start)
            start = end
        drafts = drafter.propose(tokens, 5)
        assert len(drafts) == 5
        assert drafter.propose(tokens, 5) == drafts  # its own states are forgotten
        before = drafter._state_before(len(known))
        found = drafter._heads.decode(tokens[-1:], before[None, :], len(known))
        assert found is not None
        assert found[0] == drafts[0]
        states.append(found[1])
        drafter._heads.remove(len(known))
    for state in states[1:]:  # other kernels compute batches of other lengths
        np.testing.assert_allclose(state, states[0], atol=0.1 * np.abs(states[0]).max())


def test_answers_are_those_without_speculation(config, starter_model, written):
    methods: tuple[Speculate, ...] = ("off", "draft")
    found: dict[str, tuple[str, list[Verified]]] = {}
    backend = LocalBackend(replace(config, threads=1), trials=True)
    with closing(backend):
        for method in methods:
            arm = Arm("arm", "large", max_tokens=16, speculate=method, sampling=Sampling(0))
            draft = (HEAD_SPEC, written[0]) if method == "draft" else None
            request = AnswerRequest(SPEC, starter_model, QUESTION, arm, draft=draft)
            events = list(backend.answer(request))
            last = events[-1]
            assert isinstance(last, Finished)
            found[method] = last.answer, [each for each in events if isinstance(each, Verified)]
    assert found["draft"][0] == found["off"][0]
    assert not found["off"][1]
    assert all((each.method, each.drafted) == ("draft", 3) for each in found["draft"][1])
    assert len(found["draft"][1]) >= 5


def reason(library: Library, model: Model, written: tuple[Path, Weights]) -> str:
    """Why the head cannot be used."""
    head, cache = Model(library, written[0]), Context(library, model, OPTIONS)
    try:
        refused = llama_heads.load_eagle(library, head, model, cache)
    finally:
        head.free()
        cache.free()
    assert isinstance(refused, str)
    return refused


def test_a_head_for_another_model_is_refused(library, model, written, monkeypatch):
    monkeypatch.setattr(model, "layers", 20)
    assert reason(library, model, written) == (
        "it reads layers 0, 15, 27 of a model of width 576, and this one has 20 layers of width 576"
    )


def test_a_build_without_the_functions_says_so(library, model, written, monkeypatch):
    monkeypatch.setattr(llama_heads, "_GET_INPUTS", ("llama_no_such_function", "", ""))
    assert "this build of llama.cpp does not give" in reason(library, model, written)


def test_a_head_alone_is_no_model(config, starter_model, written):
    alone = "is an EAGLE-3 head, which drafts for another"
    with (
        closing(Residency(replace(config, threads=1))) as residency,
        pytest.raises(ModelUnavailable, match=alone),
    ):
        list(residency.session(HEAD_SPEC, written[0]))
