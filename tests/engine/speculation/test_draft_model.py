"""A draft model follows one sequence, and is refused or left out where it cannot serve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from etui.arm import Arm, Sampling
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.chat import Message
from etui.config.config import Config
from etui.engine.context import ContextOptions
from etui.engine.offload import needs
from etui.engine.residency import Residency
from etui.engine.speculation.draft_model import DraftModel, check_same_vocabulary
from etui.errors import ModelUnavailable
from etui.events import Answer, Event, Finished, Verified
from etui.models.gguf import check_gguf
from etui.models.spec import STARTER, ModelSpec
from tests.engine.opened import opened
from tests.engine.speculation.fakes import FakeContext, FakeModel

V = 50
SPEC = ModelSpec("large", "135M", (), context=512, draft=STARTER)
DRAFT = ModelSpec(STARTER, "135M", (), context=512)


def next_token(tokens: tuple[int, ...]) -> list[float]:
    """A model that counts on from the last token."""
    return [float(each == (tokens[-1] + len(tokens) % 2) % V) for each in range(V)]


def foreseen(tokens: Sequence[int], count: int) -> list[int]:
    own = list(tokens)
    for _ in range(count):
        own.append(next_token(tuple(own)).index(1.0))
    return own[len(tokens) :]


@dataclass
class Clock:
    """Moves on by a microsecond at each look."""

    now_ns: int = 0

    def __call__(self) -> int:
        self.now_ns += 1_000
        return self.now_ns


def make_draft(context_tokens: int = 256, end: int | None = None) -> tuple[DraftModel, FakeContext]:
    options = ContextOptions(context_tokens, threads=1, sequences=1, batch_tokens=16)
    context = FakeContext(options, V, next_token)
    model = FakeModel(V, end)
    return DraftModel(model, context, V, 0.25, Clock()), context  # type: ignore[arg-type]


def test_it_drafts_what_it_would_write():
    draft, context = make_draft()
    tokens = list(range(1, 40))
    assert draft.propose(tokens, 5) == foreseen(tokens, 5)
    assert context.decodes == [16, 16, 7, 1, 1, 1, 1]


def test_it_computes_only_what_differs_from_its_last_draft():
    draft, context = make_draft()
    tokens = list(range(1, 30))
    drafted = draft.propose(tokens, 4)
    context.decodes.clear()
    tokens += [*drafted[:2], 44]  # the third one was rejected
    assert draft.propose(tokens, 3) == foreseen(tokens, 3)
    assert context.decodes == [1, 1, 1]
    context.decodes.clear()
    tokens += foreseen(tokens, 4)  # all accepted, and one more: the last draft is not computed
    assert draft.propose(tokens, 2) == foreseen(tokens, 2)
    assert context.decodes == [2, 1]
    other = [7, 7, 7]
    assert draft.propose(other, 2) == foreseen(other, 2)


def test_it_can_forget_so_that_a_repeated_answer_costs_as_much():
    draft, context = make_draft()
    tokens = list(range(1, 40))
    first = draft.propose(tokens, 5)
    before = list(context.decodes)
    draft.forget()
    assert draft.start_cost(tokens, 1_000.0) > 0
    assert draft.propose(tokens, 5) == first
    assert context.decodes == before * 2


def test_its_costs_are_measured():
    draft, _ = make_draft()
    tokens = list(range(1, 30))
    assert draft.token_cost(8_000.0) == 0.25
    assert draft.start_cost(tokens, 8_000.0) > 1
    draft.propose(tokens, 4)
    assert draft.start_cost(tokens, 8_000.0) == 0.0
    assert 0 < draft.token_cost(8_000.0) < 0.25
    assert draft.start_cost([*tokens[:5], *range(30, 40)], 8_000.0) > 0.0


def test_an_end_token_is_the_last_of_a_draft():
    tokens = [1, 2, 3]
    end = foreseen(tokens, 3)[-1]
    draft, _ = make_draft(end=end)
    drafted = draft.propose(tokens, 9)
    assert drafted[-1] == end
    assert len(drafted) <= 3


def test_a_full_context_or_a_failure_drafts_nothing():
    draft, context = make_draft(context_tokens=32)
    assert draft.propose(list(range(1, 31)), 4) == []
    context.fails_at = {1}
    assert draft.propose([1, 2, 3], 4) == []
    assert draft.propose([1, 2, 3], 4) == foreseen([1, 2, 3], 4)


@dataclass
class Words:
    vocabulary: int = 1_000
    vocabulary_type: int = 2
    boundary_tokens: tuple[int, int, bool] = (1, 2, False)
    changed: dict[int, str] = field(default_factory=dict)

    def token_text(self, token: int | None) -> str:
        assert token is not None
        return self.changed.get(token, f"word {token}")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Words(vocabulary=2_000), "2,000 tokens, not 1,000"),
        (Words(vocabulary_type=1), "another kind of tokenizer"),
        (Words(boundary_tokens=(1, 3, False)), "another begin or end token"),
        (Words(changed={500: "else"}), "another text for token 500"),
    ],
)
def test_another_vocabulary_is_refused_with_both_names(other, reason):
    with pytest.raises(ModelUnavailable, match=f"small cannot draft for large: .*{reason}") as info:
        check_same_vocabulary(Words(), "large", other, "small")
    assert "`draft` of large" in str(info.value.fix)


def test_a_padded_vocabulary_is_the_same():
    check_same_vocabulary(Words(), "large", Words(vocabulary=1_128), "small")


@pytest.fixture
def residency(config: Config, starter_model: Path) -> Iterator[Residency]:
    """The starter drafts for another model of its vocabulary: itself under another name."""
    own = Residency(replace(config, threads=1, models_dir=starter_model.parent))
    yield own
    own.close()


def test_a_draft_model_comes_and_goes_with_its_model(residency, starter_model):
    session, loaded, _ = opened(residency, SPEC, starter_model, (DRAFT, starter_model))
    assert loaded is not None
    sequence = session.open(session.tokenize("One two three four", bos=True), Sampling())
    session.step([sequence])
    assert session.speculate(sequence, "draft") == ""
    (unloaded,) = residency.unload("large")
    alone = needs(check_gguf(starter_model), 512, "f16").total_bytes
    assert unloaded.freed_bytes > 1.5 * alone
    assert not residency.resident


def test_a_draft_that_does_not_fit_is_left_out_and_said(residency, starter_model, monkeypatch):
    free = chain((10**12,), repeat(10**8))  # what the model leaves
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=next(free)))
    session, _, _ = opened(residency, SPEC, starter_model, (DRAFT, starter_model))
    sequence = session.open(session.tokenize("One two", bos=True), Sampling())
    reason = session.speculate(sequence, "draft")
    assert reason.startswith(f"the draft model {STARTER} does not fit into memory with large")
    assert session.speculate(sequence, "auto") == ""  # lookup remains


def test_a_draft_that_cannot_be_loaded_is_left_out_and_said(residency, starter_model, tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF")
    session, _, _ = opened(residency, SPEC, starter_model, (DRAFT, damaged))
    sequence = session.open(session.tokenize("One two", bos=True), Sampling())
    assert f"{STARTER} cannot be used" in session.speculate(sequence, "draft")


def test_a_draft_is_loaded_for_the_first_answer_that_needs_it(residency, starter_model):
    with_draft = (DRAFT, starter_model)
    alone, loaded, _ = opened(residency, SPEC, starter_model)
    assert loaded is not None
    session, loaded, _ = opened(residency, SPEC, starter_model, with_draft)
    assert loaded is not None
    assert session is not alone
    assert opened(residency, SPEC, starter_model, with_draft)[:2] == (session, None)
    assert opened(residency, SPEC, starter_model)[:2] == (session, None)  # it is kept


def test_a_draft_of_another_vocabulary_ends_the_load(residency, starter_model, monkeypatch):
    from etui.engine.model import Model

    texts = Model.token_text
    count = [0]

    def changing(model: Model, token: int | None) -> str:
        count[0] += 1
        return texts(model, token) + ("!" if count[0] % 7 == 0 else "")

    monkeypatch.setattr("etui.engine.model.Model.token_text", changing)
    with pytest.raises(ModelUnavailable, match=f"{STARTER} cannot draft for large"):
        opened(residency, SPEC, starter_model, (DRAFT, starter_model))
    assert not residency.resident


@pytest.mark.parametrize("method", ["draft", "auto", "lookup"])
def test_real_answers_are_those_without_speculation(config, starter_model, method, monkeypatch):
    """The starter with itself as its draft: nearly all drafts are accepted."""
    if method == "draft":  # a draft model as large as its model never pays
        monkeypatch.setattr(DraftModel, "token_cost", lambda *_: 0.0)
    backend = LocalBackend(replace(config, threads=1, models_dir=starter_model.parent))
    arm = Arm("arm", "large", max_tokens=40)
    question = (Message("user", "Write: one two three. One two three. One two three."),)
    try:
        answers: dict[str, list[Event]] = {}
        for speculate in ("off", method):
            request = AnswerRequest(
                SPEC,
                starter_model,
                question,
                replace(arm, speculate=speculate),  # type: ignore[arg-type]
                draft=(DRAFT, starter_model),
            )
            answers[speculate] = list(backend.answer(request))
            backend.forget()
    finally:
        backend.close()
    plain, drafted = (
        [event for event in answers[name] if isinstance(event, Answer)] for name in ("off", method)
    )
    assert [(each.text, each.tokens) for each in drafted] == [
        (each.text, each.tokens) for each in plain
    ]
    finished = answers[method][-1]
    assert isinstance(finished, Finished)
    verified = [event for event in answers[method] if isinstance(event, Verified)]
    if method == "draft":
        assert sum(each.accepted for each in verified) > 0.8 * sum(e.drafted for e in verified) > 0
        assert all(each.draft_start_ns < each.start_ns for each in verified)
