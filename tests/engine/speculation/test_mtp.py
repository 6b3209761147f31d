"""Heads for multi-token prediction, against a fake of llama.cpp's experimental functions."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from etui.arm import Sampling
from etui.engine.context import Context, ContextOptions, DecodeBatch
from etui.engine.speculation import heads as llama_heads
from etui.engine.speculation.heads import LlamaHeads, MtpDrafter, load_heads
from etui.errors import EngineFailed
from tests.engine.speculation.fakes import FakeContext, make_fake_session

V, WIDTH = 40, 3


def next_token(tokens: tuple[int, ...]) -> list[float]:
    """A model that counts on by one or two."""
    return [float(each == (tokens[-1] + 1 + len(tokens) % 2) % V) for each in range(V)]


def state_of(token: int, position: int) -> list[float]:
    """The hidden state after a token: all that the heads need to count on."""
    return [float(token), float(position), 1.0]


class FakeHeads:
    """Heads that predict rightly if they get the state of the position before each token."""

    def __init__(self) -> None:
        self.cells: dict[int, int] = {}
        self.watching = False
        self.batch: list[tuple[int, int]] = []  # token, position
        self.fails = self.keeps_none = False
        self.freed = False

    def watch(self, on: bool) -> None:
        self.watching = on

    def model_states(self, rows: int) -> NDArray[np.float32]:
        assert self.watching
        if self.keeps_none:
            raise EngineFailed("no hidden states")
        return np.array([state_of(t, p) for t, p in self.batch[-rows:]], dtype=np.float32)

    def decode(
        self, tokens: Sequence[int], states: NDArray[np.float32], position: int
    ) -> tuple[int, NDArray[np.float32]] | None:
        assert len(states) == len(tokens)
        if self.fails:
            return None
        for i, token in enumerate(tokens):
            at = position + i
            assert at not in self.cells, "a position is computed twice"
            assert states[i][1] == at - 1, "the state of another position"
            if at - 1 in self.cells:
                assert states[i][0] == self.cells[at - 1]
            self.cells[at] = token
        last = position + len(tokens) - 1
        token = (tokens[-1] + 1 + (last + 1) % 2) % V
        return token, np.array(state_of(tokens[-1], last), dtype=np.float32)

    def remove(self, position: int) -> None:
        self.cells = {at: token for at, token in self.cells.items() if at < position}

    def free(self) -> None:
        self.freed = True


class WatchedContext(FakeContext):
    """Hands its batches to the heads."""

    heads: FakeHeads

    def decode(self) -> int:
        self.heads.batch = [(token, position) for _, position, token in self.batch.rows]
        return super().decode()


def speculating() -> tuple[Any, WatchedContext, FakeHeads, Any]:
    session, context = make_fake_session(next_token, V)
    context.__class__ = WatchedContext
    watched: WatchedContext = context  # type: ignore[assignment]
    watched.heads = FakeHeads()
    drafter = MtpDrafter(watched.heads)
    session.drafts.add_heads(drafter)
    # The clock is real: what the heads cost here says nothing.
    drafter.start_cost = lambda tokens, ns: (  # type: ignore[method-assign]
        0.0 if drafter._is_ready(tokens) else 1e9
    )
    drafter.token_cost = lambda ns: 0.0  # type: ignore[method-assign]
    sequence = session.open([1, 2, 3, 5], Sampling())
    session.step([sequence])
    assert session.speculate(sequence, "mtp") == ""
    return session, watched, watched.heads, sequence


def test_heads_draft_what_the_model_draws():
    plain, undrafted = make_fake_session(next_token, V)
    alone = plain.open([1, 2, 3, 5], Sampling())
    for _ in range(61):
        plain.step([alone])
    session, context, _, sequence = speculating()
    verified = []
    for _ in range(60):
        verified += session.step([sequence]).verified
    assert sequence.tokens == alone.tokens
    assert len(context.decodes) < len(undrafted.decodes) / 5
    assert all(batch.method == "mtp" and batch.accepted == batch.drafted for batch in verified)


def test_heads_go_on_after_what_they_did_not_see():
    session, _, heads, sequence = speculating()
    for _ in range(20):
        session.step([sequence])
    session.rollback(sequence, 3)
    session.extend(sequence, [9, 9, 9])
    other = session.open([7, 7], Sampling())
    session.step([other])
    for _ in range(20):
        session.step([sequence])
    assert any(batch.accepted for batch in session.settle(sequence)) or heads.cells
    session.close(sequence)
    assert not heads.watching
    assert not heads.cells


@pytest.mark.parametrize("fault", ["fails", "keeps_none"])
def test_failing_heads_leave_the_answer_alone(fault):
    session, _, heads, sequence = speculating()
    for _ in range(5):
        session.step([sequence])
    setattr(heads, fault, True)
    before = len(sequence.tokens)
    for _ in range(20):
        session.step([sequence])
    assert len(sequence.tokens) == before + 20
    session.free()
    assert heads.freed


class FakeExt:
    """The experimental functions over arrays."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.rows = (ctypes.c_float * (8 * WIDTH))(*range(8 * WIDTH))

    def llama_set_embeddings_nextn(self, context: object, value: bool, masked: bool) -> None:
        self.calls.append((context, value, masked))

    def llama_get_embeddings_nextn(self, context: object) -> Any:
        return ctypes.cast(self.rows, ctypes.POINTER(ctypes.c_float))

    def llama_get_embeddings_nextn_ith(self, context: object, row: int) -> Any:
        address = ctypes.addressof(self.rows) + 4 * WIDTH * row
        return ctypes.cast(address, ctypes.POINTER(ctypes.c_float))


class FakeMtpContext:
    """A context of the heads with the real batch, read as llama.cpp reads it."""

    def __init__(self) -> None:
        from llama_cpp import llama_cpp as api

        self.handle = "heads"
        self.batch = DecodeBatch(api, 2)
        self.seen: list[tuple[int, int, list[float], int]] = []
        self.code = 0
        self.removed: list[int] = []

    def decode(self) -> int:
        raw = self.batch.struct()
        for row in range(raw.n_tokens):
            state = [raw.embd[row * WIDTH + i] for i in range(WIDTH)]
            self.seen.append((raw.token[row], raw.pos[row], state, raw.logits[row]))
        return self.code

    def logits(self, row: int) -> NDArray[np.float32]:
        return np.eye(V, dtype=np.float32)[17]

    def remove(self, sequence: int, start: int) -> bool:
        self.removed.append(start)
        return True

    def free(self) -> None:
        pass


def test_the_batch_carries_tokens_and_states():
    ext, own = FakeExt(), FakeMtpContext()
    heads = LlamaHeads(ext, SimpleNamespace(width=WIDTH), SimpleNamespace(handle="model"), own)  # type: ignore[arg-type]
    heads.watch(True)
    assert ext.calls == [("heads", True, True), ("model", True, False)]
    states = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=np.float32)
    found = heads.decode([11, 12, 13], states, 100)
    assert own.seen == [
        (11, 100, [1, 2, 3], 0),
        (12, 101, [4, 5, 6], 1),
        (13, 102, [7, 8, 9], 1),
    ]
    assert found[0] == 17
    assert found[1].tolist() == [0, 1, 2]
    assert heads.model_states(2).tolist() == [[0, 1, 2], [3, 4, 5]]
    own.code = 1
    assert heads.decode([11], states[:1], 103) is None


def test_heads_are_opened_only_if_file_and_build_have_them(monkeypatch):
    options = ContextOptions(64, threads=1)
    target = SimpleNamespace(options=options, handle="model", threads=None)
    without = SimpleNamespace(heads=0, width=WIDTH)
    assert load_heads(None, without, target) is None  # type: ignore[arg-type]
    made: list[ContextOptions] = []

    class Opened(FakeMtpContext):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__()
            assert options == {"drafts": True, "heads": True}
            made.append(args[2])

    monkeypatch.setattr(llama_heads, "Context", Opened)
    monkeypatch.setattr("llama_cpp.llama_cpp_ext.llama_set_embeddings_nextn", lambda *_: None)
    having = SimpleNamespace(heads=1, width=WIDTH)
    assert isinstance(load_heads(None, having, target), MtpDrafter)  # type: ignore[arg-type]
    assert made == [replace(options, sequences=1, donors=0, verify_rows=1)]
    monkeypatch.setattr(llama_heads, "_FUNCTIONS", ("llama_no_such_function",))
    assert load_heads(None, having, target) is None  # type: ignore[arg-type]


def test_the_context_of_the_heads_is_of_their_type():
    from llama_cpp import llama_cpp as api

    asked = []

    class Stopped(Exception):
        pass

    def init(handle: object, params: Any) -> None:
        asked.append(params.ctx_type)
        raise Stopped

    fake = SimpleNamespace(**{name: getattr(api, name) for name in dir(api)})
    fake.llama_init_from_model = init
    library = SimpleNamespace(api=fake, compute=None, forget_errors=lambda: None)
    model = SimpleNamespace(vocabulary=V, handle=None)
    for heads in (False, True):
        with pytest.raises(Stopped):
            Context(library, model, ContextOptions(64, threads=1), heads=heads)  # type: ignore[arg-type]
    assert asked == [api.LLAMA_CONTEXT_TYPE_DEFAULT, api.LLAMA_CONTEXT_TYPE_MTP]
