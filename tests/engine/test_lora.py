"""LoRA adapters in llama.cpp: random ones of the starter model, and what they must not touch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.backends.process import ProcessBackend
from etui.chat import Message
from etui.config.config import Config
from etui.engine import trial
from etui.engine.kv_folder import KvFolder
from etui.engine.kv_store import KvStore
from etui.engine.llama_session import LlamaSession
from etui.engine.residency import Residency
from etui.engine.session_loader import SessionLoader
from etui.engine.trial import try_model
from etui.errors import ModelUnavailable
from etui.events import Finished, Vote
from etui.models.files import FileRecord, hash_adapters, hash_file, read_state, write_record
from etui.models.spec import Adapter, ModelSpec
from tests.engine.driving import GREEDY, QUESTION, answer, generate, prompt
from tests.engine.opened import opened
from tests.support.tiny_adapters import write_adapter, write_random_adapter

SPEC = ModelSpec("bare", "135M", (), context=512)
TOKENS = 16


@pytest.fixture(scope="module")
def adapters(starter_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [write_random_adapter(folder / f"{seed}.gguf", starter_model, seed) for seed in (1, 2)]


@pytest.fixture
def residency(config: Config) -> Iterator[Residency]:
    with closing(Residency(replace(config, threads=1))) as residency:
        yield residency


def adapted(name: str, *adapters: tuple[Path, float]) -> ModelSpec:
    return replace(
        SPEC, name=name, adapters=tuple(Adapter(path, scale) for path, scale in adapters)
    )


def ask(session: LlamaSession) -> list[int]:
    found = answer(session, prompt(session, QUESTION), TOKENS, GREEDY)
    session.forget()
    return found


def test_at_scale_0_the_model_answers_as_the_bare_one_and_at_1_it_does_not(
    residency, starter_model, adapters
):
    specs = [
        SPEC,
        adapted("zero", (adapters[0], 0.0)),
        adapted("one", (adapters[0], 1.0)),
        adapted("half", (adapters[0], 0.5)),
        adapted("other", (adapters[1], 1.0)),
        adapted("both", (adapters[0], 1.0), (adapters[1], 1.0)),
    ]
    said = {spec.name: ask(opened(residency, spec, starter_model)[0]) for spec in specs}
    assert said["zero"] == said["bare"]
    assert len({tuple(each) for each in said.values()}) == len(specs) - 1
    assert set(residency.resident) == set(said)  # the same file six times, and six models
    for spec in specs:  # none has changed another, and each says the same again
        session, loaded, _ = opened(residency, spec, starter_model)
        assert loaded is None
        assert ask(session) == said[spec.name]
    list(residency.unload("one"))
    assert ask(opened(residency, specs[2], starter_model)[0]) == said["one"]


def test_another_scale_or_file_loads_the_model_again(residency, starter_model, adapters):
    opened(residency, adapted("one", (adapters[0], 1.0)), starter_model)
    for change in ((adapters[0], 0.5), (adapters[1], 0.5)):
        _, loaded, (unloaded,) = opened(residency, adapted("one", change), starter_model)
        assert loaded is not None
        assert unloaded.reason == "changed"


def test_speculation_changes_nothing_that_an_adapted_model_says(residency, starter_model, adapters):
    session, _, _ = opened(residency, adapted("one", (adapters[0], 1.0)), starter_model)
    expected = ask(session)
    sequence = session.open(prompt(session, QUESTION), GREEDY)
    assert session.speculate(sequence, "lookup") == ""
    assert generate(session, sequence, TOKENS) == expected
    session.close(sequence)


def test_a_draft_model_drafts_without_the_adapter(residency, starter_model, adapters):
    spec = adapted("one", (adapters[0], 1.0))
    expected = ask(opened(residency, spec, starter_model)[0])
    session, _, _ = opened(residency, spec, starter_model, (SPEC, starter_model))
    sequence = session.open(prompt(session, QUESTION), GREEDY)
    assert session.speculate(sequence, "draft") == ""
    assert generate(session, sequence, TOKENS) == expected
    session.close(sequence)


def test_kv_caches_are_kept_apart_by_adapter_and_scale(config, starter_model, adapters):
    loader = SessionLoader(replace(config, threads=1), trials=False)
    residency = Residency(replace(config, threads=1))
    with closing(residency), closing(loader):
        keys = set()
        for spec in (
            SPEC,
            adapted("one", (adapters[0], 1.0)),
            adapted("one", (adapters[0], 0.5)),
            adapted("one", (adapters[1], 1.0)),
            hash_adapters(adapted("one", (adapters[1], 1.0)), starter_model, config),
        ):
            session, _, _ = opened(residency, spec, starter_model)
            keys.add(loader.state_key(spec, starter_model, session))
        assert len(keys) == 5


def test_a_kept_cache_is_not_used_by_the_same_model_with_another_adapter(
    config, starter_model, adapters, tmp_path
):
    tokens: list[int] = []
    for spec, expected in (
        (SPEC, False), (adapted("bare", (adapters[0], 1.0)), False), (SPEC, True),
        (adapted("bare", (adapters[0], 1.0)), True),
    ):  # fmt: skip
        store = KvStore(lambda _held: 1 << 30, KvFolder(tmp_path / "kv", 1 << 30))
        with closing(Residency(replace(config, threads=1), store=store)) as residency:
            session, _, _ = opened(residency, spec, starter_model)
            tokens = prompt(session, "A river rises in the hills. " * 40)
            sequence = session.open(tokens, GREEDY, label="turn")
            generate(session, sequence, 2)
            session.close(sequence)
            assert (sequence.cached > len(tokens) // 2) == expected


def test_it_answers_in_a_process_of_its_own_and_in_votes(config, starter_model, adapters):
    arm = Arm("vote", "one", "vote", votes=3, batch=3, max_tokens=8)
    question = (Message("user", QUESTION),)
    finished = []
    # A token that is computed alone after a kept prefix has other last bits.
    with closing(ProcessBackend(replace(config, threads=1, cache="off"))) as child:
        for spec in (SPEC, adapted("one", (adapters[0], 1.0)), adapted("one", (adapters[0], 1.0))):
            events = list(child.answer(AnswerRequest(spec, starter_model, question, arm)))
            assert sum(isinstance(event, Vote) for event in events) == 3
            assert isinstance(events[-1], Finished)
            list(child.unload(spec.name))
            finished.append([event.answer for event in events if isinstance(event, Vote)])
    assert finished[1] == finished[2] != finished[0]


def test_what_only_llama_cpp_finds_is_refused_with_its_words(
    residency, starter_model, adapters, monkeypatch, tmp_path
):
    monkeypatch.setattr("etui.engine.residency.check_adapters", lambda *_: None)
    path = write_adapter(tmp_path / "bad.gguf", {}, architecture="qwen2")
    with pytest.raises(ModelUnavailable, match=r"could not load the adapter bad\.gguf: .*mismatch"):
        opened(residency, adapted("one", (path, 1.0)), starter_model)
    assert residency.resident == ()


def test_an_adapter_is_tried_once_with_its_model(config, starter_model, adapters, monkeypatch):
    config.models_dir.mkdir()
    path = config.models_dir / "one.gguf"
    path.symlink_to(starter_model)
    record = FileRecord.of(path, read_state(path), hash_file(path))
    write_record("one", config.models_dir, record)
    spec = hash_adapters(adapted("one", (adapters[0], 1.0)), path, config)
    try_model(spec, path, config)
    other = hash_adapters(adapted("one", (adapters[1], 1.0)), path, config)
    asked: list[list[str]] = []
    monkeypatch.setattr(trial.subprocess, "run", lambda words, **_: asked.append(words))
    try_model(spec, path, config)
    assert asked == []
    with pytest.raises(AttributeError):  # nothing came back of a process
        try_model(other, path, config)
    assert asked[0][-2:] == [str(path), str(adapters[1])]
