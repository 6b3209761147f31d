"""The lines between etui and its engine process, one of each class, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from tests.contract import internals as etui
from tests.contract.golden import check

LINES = "wire.jsonl"
FILES = frozenset({LINES})

MODEL = etui.ModelSpec(
    name="tiny",
    size="2 MB",
    sources=(
        etui.HubSource("owner/name", "tiny.gguf"),
        etui.PathSource(Path("/models/ä tiny.gguf")),
        etui.WheelsSource((etui.WheelPart("tiny==1.0", "*/data"),)),
    ),
    sha256="ab" * 32,
    tensor_split=(0.5, 1.5),
    think_open="<think>",
    think_close="</think>",
    stop=("STOP",),
    adapters=(etui.Adapter(Path("/models/law.gguf"), 0.5, "cd" * 32),),
    mmproj=Path("/models/mmproj.gguf"),
)
PATH = Path("/models/tiny.gguf")
ARM = etui.Arm("think", "tiny", "cot", early_exit=etui.EarlyExit(), exchange=2.5, max_joules=100.0)
REQUEST = etui.AnswerRequest(
    MODEL,
    PATH,
    (etui.Message("system", "Be brief."), etui.Message("user", "Grüße?\n")),
    ARM,
    "chat-1",
    etui.TokenCost(0.5, 0.001, 0.01, "operating curve"),
    pictures=(etui.Picture("iVBORw==", "ef" * 32, 40, 30),),
)
EVENTS = (
    etui.Loaded("tiny", 1, 2, 0, 1000),
    etui.Unloaded("tiny", "ab" * 32, 1, 2, "room", 1000),
    etui.Prefilling(1, 2, 3),
    etui.Prefilled(1, 2, 30, 10, 20, 1, 128),
    etui.Thought(1, "hm", 1),
    etui.Answer(1, "Grüße", 2),
    etui.Vote(1, 0, "B", "hm", 4, 0.5, "b"),
    etui.Batch(1, 2, ((0, 1), (1, 1))),
    etui.ThreadsChanged(2, 1, 1, "2 threads got 1.1 cores"),
    etui.Reused(2, 3, "disk", 512, 46_104_744, 0.02),
    etui.PictureEncoded(1, 2, 64),
    etui.Embedded(2, ("AACAPw==",), (7,), "mean", True),
    etui.Probe(1, 48, (("A", 0.25), ("B", 0.75)), 2),
    etui.Verified(2, 3, 1, "lookup", 5, 4, 3),
    etui.TokenLogprob(1, (195, 188), -0.5, (((195, 188), -0.5), ((117,), -1.5)), 1),
    etui.PromptTokens(3, (etui.TokenLogprob(3, (97,), None),)),
    etui.ToolCall(1, 0, "abc123def", "get", '{"a": '),
    etui.Finished(
        start_ns=1,
        prefill_end_ns=2,
        thinking_end_ns=3,
        end_ns=4,
        first_token_ns=None,
        status="complete",
        why="",
        answer="B",
        thinking="hm",
        prompt_tokens=30,
        cached_tokens=10,
        computed_tokens=20,
        thinking_tokens=4,
        output_tokens=5,
        confidence=0.75,
        margin=None,
    ),
)
MESSAGES = (
    etui.Hello("0.1.0", 42),
    etui.Heartbeat(7),
    etui.Config(home=Path("/home"), models_dir=Path("/models"), keymap={"quit": "ctrl+q"}),
    etui.Ask(1, REQUEST),
    etui.Load(2, MODEL, PATH),
    etui.Unload(3, "tiny"),
    etui.KeepWarm("tiny", 8.5),
    etui.Cancel(1),
    etui.Hurry(1),
    *(etui.EngineEvent(1, event) for event in EVENTS),
    EVENTS[1],
    etui.Done(1),
    etui.Failed.of(1, etui.EngineFailed("it failed", "try again")),
    etui.Failed.of(1, etui.ContextOverflow(5000, 4096, 64)),
    etui.Failed.of(1, etui.CacheFull(1024, 8)),
    etui.Failed.of(1, etui.InvalidRequest("no tools", "leave them out", "tools")),
)


def test_each_line_has_the_bytes_it_had() -> None:
    check(LINES, b"".join(map(etui.encode, MESSAGES)).decode())


def test_each_line_comes_back() -> None:
    assert [etui.decode(etui.encode(message)) for message in MESSAGES] == list(MESSAGES)


def test_every_event_has_a_line() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(etui.Event))
