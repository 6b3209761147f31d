"""The engine's process, with the real worker and the starter model."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from etui.arm import Arm
from etui.backends import process as child_process
from etui.backends.base import AnswerRequest
from etui.backends.process import ProcessBackend
from etui.chat import Message
from etui.config.config import Config
from etui.config.schema import ToolsEntry
from etui.errors import EngineFailed, ModelUnavailable
from etui.events import Answer, Event, Finished, Loaded, Prefilling, Reused, Unloaded
from etui.models.spec import ModelSpec
from tests.backends.asker import Asker
from tests.engine.tampered import with_template

SPEC = ModelSpec("starter", "135M", (), context=2048)


def request(path: Path, text: str = "Tell me a long story.", tokens: int = 8) -> AnswerRequest:
    arm = Arm("quick", "starter", max_tokens=tokens)
    return AnswerRequest(SPEC, path, (Message("user", text),), arm)


@pytest.fixture
def child(config: Config) -> Iterator[ProcessBackend]:
    child = ProcessBackend(replace(config, threads=1))
    yield child
    child.close()


def finished(events: list[Event]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def test_answers_come_over_the_pipe(child, starter_model):
    first = list(child.answer(request(starter_model)))
    assert isinstance(first[0], Loaded)
    assert finished(first).output_tokens == 8
    assert "".join(e.text for e in first if isinstance(e, Answer)) == finished(first).answer
    second = list(child.answer(request(starter_model)))
    assert not any(isinstance(event, Loaded) for event in second)  # it stays in memory
    assert finished(second).answer == finished(first).answer
    assert finished(second).cached_tokens > 0


def test_settings_of_tools_do_not_stop_the_engine(config, starter_model):
    settings = replace(config, threads=1, tools=ToolsEntry(folder="/notes"))
    child = ProcessBackend(replace(settings, tool_permissions={"calculate": "allow"}))
    try:
        assert finished(list(child.answer(request(starter_model, tokens=2)))).output_tokens == 2
    finally:
        child.close()


def test_a_prefill_can_be_cancelled_between_batches(child, starter_model):
    events, asker = [], Asker(child)
    for event in asker.answer(request(starter_model, "one two three " * 400)):
        events.append(event)
        if isinstance(event, Prefilling):
            asker.cancel()
    assert finished(events).status == "stopped"
    assert finished(events).output_tokens == 0
    assert sum(isinstance(event, Prefilling) for event in events) <= 2


def test_a_hung_child_is_killed(config, starter_model):
    child = ProcessBackend(replace(config, threads=1))
    pids = []

    def stopped() -> None:
        for event in child.answer(request(starter_model, tokens=1500)):
            if isinstance(event, Answer) and not pids and child.pid is not None:
                pids.append(child.pid)
                os.kill(child.pid, signal.SIGSTOP)
                child._silent_seconds = 2  # only now: a busy machine may hold it up for as long

    with pytest.raises(EngineFailed, match="did not respond for 2 s"):
        stopped()
    assert not psutil.pid_exists(pids[0])
    assert child.pid is None
    child.close()


def test_a_model_is_unloaded_between_answers_and_comes_back(config, starter_model):
    child = ProcessBackend(replace(config, threads=1, keep_warm=0.05))
    gone: queue.SimpleQueue[Unloaded] = queue.SimpleQueue()
    child.on_unloaded = gone.put
    # The answer itself takes longer than that, and is not cut.
    end = finished(list(child.answer(request(starter_model, tokens=40))))
    assert end.output_tokens == 40
    unloaded = gone.get(timeout=30)
    assert (unloaded.model, unloaded.reason) == ("starter", "idle")
    assert end.end_ns < unloaded.start_ns < unloaded.end_ns < time.monotonic_ns()
    events = list(child.answer(request(starter_model)))
    assert isinstance(events[0], Loaded)
    assert finished(events).output_tokens == 8
    child.close()


def test_a_time_set_later_applies_at_once_and_the_next_load_includes_the_process(
    config, starter_model, monkeypatch
):
    started: list[int] = []
    popen = child_process.subprocess.Popen

    def start(*args: Any, **options: Any) -> Any:
        started.append(time.monotonic_ns())
        return popen(*args, **options)

    monkeypatch.setattr(child_process.subprocess, "Popen", start)
    child = ProcessBackend(replace(config, threads=1, keep_warm="auto"))
    gone: queue.SimpleQueue[Unloaded] = queue.SimpleQueue()
    child.on_unloaded = gone.put
    child.keep_warm("starter", 1)  # without a process there is nothing to set
    before = time.monotonic_ns()
    first = list(child.load(SPEC, starter_model))[-1]
    assert isinstance(first, Loaded)
    pid = child.pid
    assert pid is not None
    assert before <= first.start_ns <= started[0], "its start is a part of the load"
    child.keep_warm("starter", 0.01)  # while the worker waits for a request
    assert gone.get(timeout=30).model == "starter"
    child.close()
    assert not psutil.pid_exists(pid)
    (again,) = child.load(SPEC, starter_model)  # another process
    assert isinstance(again, Loaded)
    assert child.pid not in (None, pid)
    child.close()


def test_a_model_loaded_ahead_is_told_with_what_gives_way(child, starter_model):
    assert [type(event) for event in child.load(SPEC, starter_model)] == [Loaded]
    assert list(child.load(SPEC, starter_model)) == []
    changed = replace(SPEC, context=1024)
    assert [type(event) for event in child.load(changed, starter_model)] == [Unloaded, Loaded]


def test_one_model_is_given_up_when_asked_and_the_other_stays(child, starter_model):
    two = replace(SPEC, name="two")
    assert list(child.unload("two")) == []
    assert child.pid is None, "nothing is started to unload nothing"
    for spec in (SPEC, two):
        list(child.load(spec, starter_model))
    (gone,) = child.unload("two")
    assert isinstance(gone, Unloaded)
    assert (gone.model, gone.reason) == ("two", "asked")
    assert gone.start_ns < gone.end_ns
    assert gone.freed_bytes > 90_000_000
    assert list(child.unload("two")) == []
    assert list(child.load(SPEC, starter_model)) == []


def test_the_log_ends_the_message_of_a_crash(config, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(config.home))
    (config.home / "sitecustomize.py").write_text("raise SystemExit('no such luck')")
    child = ProcessBackend(config)
    with pytest.raises(EngineFailed, match=r"exited with code 1; end of its log: .*no such luck"):
        child.start()


def test_a_hostile_template_ends_the_answer_and_not_the_process(child, starter_model, tmp_path):
    source = "{% set c = [[[[['a'*99]*99]*99]*99]*99]*99 %}{{ c | string }}"
    hostile = with_template(starter_model, tmp_path / "hostile.gguf", source)
    child.start()
    engine = child.pid
    with pytest.raises(ModelUnavailable, match="the chat template of starter was stopped: it "):
        list(child.answer(request(hostile)))
    assert finished(list(child.answer(request(starter_model)))).output_tokens == 8
    assert child.pid == engine


def test_a_chat_goes_on_after_the_process_has_ended(config, starter_model):
    text = "Write the story of a lighthouse keeper who repairs an old radio. " * 12
    asked = replace(request(starter_model, text), turn_id="first")
    messages = (*asked.messages, Message("assistant", "One night"), Message("user", "Go on."))
    reused = []
    for settings in ({}, {}, {"cache": "off"}):
        child = ProcessBackend(replace(config, threads=1, **settings))
        events = list(child.answer(asked))
        reused.append([event for event in events if isinstance(event, Reused) and event.tokens])
        cached = finished(events).cached_tokens
        assert bool(cached) is bool(reused[-1])
        child.close()
        asked = replace(asked, messages=messages, turn_id="second")
    assert [bool(each) for each in reused] == [False, True, False]
    (event,) = reused[1]
    assert event.tier == "disk"
    assert event.tokens > 128
    assert event.start_ns < event.end_ns
    assert event.size_bytes > 20_000 * event.tokens
    assert event.keep_seconds > 0  # of the process before it


def test_a_killed_parent_loses_no_cache(config, starter_model):
    child = ProcessBackend(replace(config, threads=1))
    text = "Write the story of a lighthouse keeper who repairs an old radio. " * 12
    list(child.answer(replace(request(starter_model, text), turn_id="first")))
    process = child._child.process
    process.stdin.close()  # as the kernel does
    assert process.wait(timeout=60) == 0
    assert len(list(config.kv_dir.glob("*.kv"))) == 1
    child.close()


def test_the_child_dies_with_its_parents_pipe(child):
    child.start()
    assert child.pid is not None
    process = psutil.Process(child.pid)
    os.kill(child.pid, signal.SIGINT)  # Ctrl-C is the parent's to handle
    assert child.pid is not None
    child._child.process.stdin.close()
    assert process.wait(timeout=60) in (0, None)
