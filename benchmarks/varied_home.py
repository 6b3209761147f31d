"""Fill a home with two weeks of varied days, to look at the app as someone who uses it sees it.

    python -m benchmarks.varied_home HOME [--days 14] [--kind estimate|counter]

Chats of many kinds, questions of ``etui ask``, loads and unloads, audits, grades and titles by a
model; busy days, light ones and one without a question. Today has something of everything. The same
arguments write the same log, but for its dates, which end today. Nothing is computed: no model is
needed. The pictures of the screens and :func:`make_day` of the tests rest on it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from etui.config.config import Config
from etui.log.records import AuditRecord, ChatRecord, GradeRecord
from etui.log.writer import TurnWriter
from etui.text import format_utc, title_from_question
from etui.turn.record import (
    CONTINUES,
    NAMES,
    REPLACES,
    CacheRecord,
    HopRecord,
    LoadRecord,
    LoopRecord,
    Seconds,
    Tokens,
    ToolCallRecord,
    ToolLoopRecord,
    TurnEnergy,
    TurnRecord,
    UnloadRecord,
)

MODELS = {
    "smollm2-135m": (38.0, 0.24, 98_400_000),
    "gemma-3-270m": (29.0, 0.31, 253_000_000),
    "qwen2.5-coder-0.5b": (19.0, 0.48, 398_000_000),
    "qwen2.5-coder-1.5b": (7.4, 1.25, 986_000_000),
}
"""Name -> tokens per second, joules per token, bytes; the watts are those of an 18 W processor."""

_CODE = """\
Keep one loop variable less and let `zip` do the work:

```python
def pairs(items: list[int]) -> list[tuple[int, int]]:
    return [(a, b) for a, b in zip(items, items[1:]) if a < b]
```

It is linear, and an empty list gives an empty one."""

_LONG = """\
The **joule** is the unit of energy. One joule is one watt for one second, so a lamp of 5 W takes
18,000 J in an hour, which is 5 Wh.

1. Energy is what is paid for.
2. Power is how fast it is used.
3. A watt-hour is 3,600 joules.

| thing | energy |
| --- | --- |
| a short answer | 10 J |
| a cup of tea | 90 kJ |
"""

_QUESTIONS = (
    ("What is the capital of France?", "The capital of France is Paris.", "short"),
    ("Which planet is the largest?", "Jupiter.", "short"),
    ("reverse a list of pairs in Python, keep those that rise", _CODE, "code"),
    ("Explain joules, watts and watt-hours to a student, with a table", _LONG, "long"),
    ("Is 391 prime?", "No: 391 = 17 · 23.", "thinking"),
    ("Translate to German: the meter reads every channel twenty times a second",
     "Der Zähler liest jeden Kanal zwanzigmal in der Sekunde.", "short"),
    ("Write a haiku about a cold lake", "Cold lake, one small wave\nthe fisherman folds his net\n"
     "morning keeps the rest", "short"),
    ("How many days are there from 3 March to 21 June, and which weekday is the last one if the "
     "first is a Tuesday? Think step by step and check the months.", "110 days; a Sunday.",
     "thinking"),
    ("What does EINTR mean for a read() in a signal handler?", "The call was interrupted before it "
     "read anything; call it again, or use SA_RESTART.", "long"),
    ("Refactor this function so that it has no flag argument", _CODE, "code"),
    ("Summarise the minutes in three bullets", "- budget agreed\n- hiring paused\n- next: May",
     "short"),
    ("请用一句话解释什么是焦耳", "焦耳是能量的单位，等于一瓦特持续一秒。", "short"),
    ("What is 17 * 23?", "391", "tool"),
    ("Tell me a very long story about a lighthouse", "Once there was a lighthouse " * 30, "cut"),
)  # fmt: skip


@dataclass
class _Writing:
    """What one home gets, in the order of time."""

    draw: random.Random
    kind: str
    resident: str = ""
    loaded_at: datetime = datetime.min
    count: int = 0
    rows: list[Any] = field(default_factory=list)

    def next_id(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count:06d}{self.draw.getrandbits(24):06x}"


def fill_home(home: Path, now: datetime, days: int = 14, kind: str = "estimate") -> int:
    """Write the log of a home; return its number of turns."""
    writing = _Writing(random.Random(32), kind)
    for back in range(days - 1, -1, -1):
        morning = (now - timedelta(days=back)).replace(hour=8, minute=12, second=0, microsecond=0)
        _write_day(writing, morning, min(now, morning + timedelta(hours=15)), back)
    config = Config(home=home, models_dir=home / "models")
    home.mkdir(parents=True, exist_ok=True)
    with TurnWriter(config) as writer:
        for row in writing.rows:
            writer.save(row)
    return sum(isinstance(row, TurnRecord) for row in writing.rows)


def _write_day(writing: _Writing, morning: datetime, latest: datetime, back: int) -> None:
    """Write one day: none on the fifth back, a few chats on weekends, up to eight on others."""
    draw = writing.draw
    chats = 0 if back == 5 else 1 if morning.weekday() >= 5 else draw.randint(3, 8)
    when = min(morning, latest - timedelta(minutes=50))  # a home that is made in the early morning
    step = max(timedelta(seconds=20), (latest - when) / max(1, 8 * chats or 1))
    writing.resident = ""  # the app is started in the morning
    for number in range(chats or (back == 0)):
        chat = ChatRecord(writing.next_id("chat-"), format_utc(when), "")
        turns = make_day(draw, writing.kind) if (back, number) == (0, chats - 1) else None
        parent, said = None, 0
        for turn in turns or _some_turns(draw, writing.kind, draw.randint(1, 9)):
            when = min(when + step * draw.uniform(0.2, 1.4), latest)
            _swap(writing, turn.model, when)
            turn = replace(
                turn, turn_id=writing.next_id("turn-"), created_at=format_utc(when),
                chat_id=chat.chat_id, parent_id=parent,
                tokens=replace(turn.tokens, prompt=turn.tokens.prompt + said, cached=said),
            )  # fmt: skip
            if turn.answer:
                said += len(turn.query) // 3 + turn.tokens.output - turn.tokens.thinking
            again = turn.settings.get(REPLACES) or turn.settings.get(CONTINUES)
            if again and parent:
                turn = replace(turn, settings=dict.fromkeys(turn.settings, parent))
            if chat not in writing.rows:
                chat = replace(chat, name=title_from_question(turn.query))
                writing.rows.append(chat)
            writing.rows.append(turn)
            parent = turn.turn_id
            _follow(writing, turn, when)
    for _ in range(draw.randint(0, 3) if chats else 0):
        asked = next(iter(_some_turns(draw, writing.kind, 1)))
        made = replace(asked, turn_id=writing.next_id("turn-"), created_at=format_utc(when))
        writing.rows.append(made)


def _follow(writing: _Writing, turn: TurnRecord, when: datetime) -> None:
    """Write what comes after some turns: a grade, an audit, a title by a model."""
    draw = writing.draw
    if draw.random() < 0.15:
        writing.rows.append(GradeRecord(turn.turn_id, format_utc(when), draw.random() < 0.8))
    if draw.random() < 0.06 and turn.energy.joules:
        joules = turn.energy.joules * draw.uniform(2, 5)
        writing.rows.append(AuditRecord(
            writing.next_id("audit-"), turn.turn_id, format_utc(when), "balanced", "large",
            "qwen2.5-coder-1.5b", None, turn.arm, turn.model, "complete", turn.answer, True, "",
            turn.tokens.output, 9.0, joules, joules / 3, turn.energy.kind, 0.0,
        ))  # fmt: skip
    if draw.random() < 0.04:
        title = _make_turn(draw, writing.kind, "smollm2-135m", "short", _QUESTIONS[0][:2])
        writing.rows.append(replace(
            title, turn_id=writing.next_id("turn-"), created_at=format_utc(when),
            query=f"User: {turn.query}\n\nWrite a title.", answer="European capitals",
            settings={NAMES: turn.chat_id}, rule=None,
        ))  # fmt: skip


def _swap(writing: _Writing, model: str, when: datetime) -> None:
    """Unload the model in memory for another one, as a machine with little memory does."""
    if writing.resident == model:
        return
    draw, before = writing.draw, writing.resident
    if before:
        cold = draw.uniform(5.0, 5.4)
        writing.rows.append(UnloadRecord(
            writing.next_id("unload-"), format_utc(when), before, None, None, "room", 0.2, 1.4, 0.5,
            writing.kind, MODELS[before][2], cold + 0.6, 0.2, cold, 0.2, cold, 0.2,
        ))  # fmt: skip
    size = MODELS[model][2]
    seconds = size / 6e8
    writing.rows.append(LoadRecord(
        writing.next_id("load-"), format_utc(when), model, None, None, seconds, 17 * seconds,
        5 * seconds, writing.kind, 0, size,
    ))  # fmt: skip
    writing.resident, writing.loaded_at = model, when


def _some_turns(draw: random.Random, kind: str, count: int) -> Iterator[TurnRecord]:
    for _ in range(count):
        question, answer, form = draw.choice(_QUESTIONS)
        model = draw.choices(list(MODELS), (5, 1, 3, 2))[0]
        if form == "code":
            model = draw.choice(["qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"])
        yield _vary(draw, _make_turn(draw, kind, model, form, (question, answer)))


def make_day(draw: random.Random, kind: str = "estimate") -> list[TurnRecord]:
    """Make the turns of a mixed day: every usual form, and each that brings a note of its own."""
    turns = [
        _make_turn(draw, kind, model, form, (question, answer))
        for (question, answer, form), model in zip(_QUESTIONS * 3, list(MODELS) * 11, strict=False)
    ]
    usual = [replace(t, energy=replace(t.energy, shared=n % 2 == 0)) for n, t in enumerate(turns)]
    first = usual[0]
    instead = (
        "rest: default arm (no data yet) · qwen3-4b is not on disk: smollm2-135m answers instead"
    )
    hops = _make_hops(first)
    notes = [
        replace(first, predicted_joules=445.0, why=instead),
        replace(first, status="stopped", predicted_joules=264.0),
        replace(usual[3], status="truncated"),
        replace(first, arm="large", hops=hops, why="rest: quick first; large if below 90 % sure"),
        replace(first, settings={REPLACES: "before"}),
        replace(usual[3], settings={CONTINUES: "before"}),
        replace(first, cache=CacheRecord("memory", 412, 9_000_000, 0.1, 0.2, 3.0, 1.0, 0.4, "")),
        replace(first, ended="repeats", loop=LoopRecord("a a a", "", 400, 90.0)),
        replace(first, energy=_unmeasured(first.energy)),
        replace(first, answer="", status="error", error="the engine ended: out of memory",
                tokens=replace(first.tokens, output=0),
                energy=replace(first.energy, joules_per_token=None)),
    ]  # fmt: skip
    return [*usual, *notes]


def _vary(draw: random.Random, turn: TurnRecord) -> TurnRecord:
    """Change some turns as they are changed in a week."""
    turn = replace(turn, energy=replace(turn.energy, shared=draw.random() < 0.4))
    dice = draw.random()
    if dice < 0.05:
        cut = max(1, turn.tokens.output // 2)
        return replace(turn, status="stopped", tokens=replace(turn.tokens, output=cut))
    if dice < 0.07:
        return replace(turn, energy=_unmeasured(turn.energy))
    if dice < 0.12:
        return replace(turn, arm="large", hops=_make_hops(turn))
    if dice < 0.25 and turn.energy.joules:
        return replace(turn, predicted_joules=turn.energy.joules * draw.choice([0.3, 3.7, 10.0]))
    return turn


def _unmeasured(energy: TurnEnergy) -> TurnEnergy:
    return replace(
        energy, joules=None, uncertainty=None, net_joules=None, kind=None, joules_per_token=None,
        mean_watts=None, peak_watts=None, phases={}, thinking_joules=None, channels={},
        own_joules=None, shared=False,
    )  # fmt: skip


def _make_hops(turn: TurnRecord) -> tuple[HopRecord, ...]:
    joules = turn.energy.joules or 1.0
    shared = (turn.tokens, joules / 2, joules / 6, 0.0, turn.seconds.total / 2)
    return (
        HopRecord("quick", "smollm2-135m", None, "direct", "Lyon.", "complete", 0.4, 0.1, 0.41,
                  False, False, *shared, "41 % sure, 90 % required"),
        HopRecord("large", turn.model, None, "direct", turn.answer, "complete", 0.9, 0.8, 0.93,
                  True, True, *shared, "93 % sure"),
    )  # fmt: skip


def _make_turn(
    draw: random.Random, kind: str, model: str, form: str, texts: tuple[str, str]
) -> TurnRecord:
    """Make a turn with numbers as that model has them."""
    question, answer = texts
    speed, per_token, _ = MODELS[model]
    thinking = draw.randint(60, 300) if form == "thinking" else 0
    output = max(2, len(answer) // 4) + thinking
    prompt = max(9, len(question) // 3) + draw.choice([0, 0, 120, 900])
    decode, prefill = output / (speed * draw.uniform(0.8, 1.1)), prompt / speed / 9
    read, written = 0.15 * per_token * prompt, per_token * output * draw.uniform(0.8, 1.3)
    joules = read + written
    total = prefill + decode
    net = max(joules / 10, joules - 5.2 * total)
    channel = "estimate:cpu" if kind == "estimate" else "gpu:GPU-1"
    energy = TurnEnergy(
        joules=joules, uncertainty=joules * (0.35 if kind == "estimate" else 0.01),
        net_joules=net, idle_watts=5.2, kind=kind, coverage=1.0,
        mean_watts=joules / total, peak_watts=joules / total * 1.3,
        joules_per_token=joules / output,
        phases={"load": 0.0, "prefill": read, "decode": written},
        thinking_joules=written * thinking / output if thinking else None,
        channels={channel: joules}, unmeasured=(), flags=(), start_ns=0, end_ns=int(total * 1e9),
        own_joules=net * 0.7,
    )  # fmt: skip
    watts = tuple(joules / total * draw.uniform(0.7, 1.3) for _ in range(40))
    return TurnRecord(
        turn_id="", created_at="", chat_id=None, query=question, system=None, answer=answer,
        thinking="First the factors. 17 times 23 is 391." if thinking else "",
        status="truncated" if form == "cut" else "complete", error=None, model=model,
        model_sha256=None, arm="think" if thinking else "quick",
        reasoning="cot" if thinking else "direct", policy="balanced", rule="rest",
        why="rest: no rule matched", trace={"notices": [], "signals": []},
        tokens=Tokens(prompt, 0, prompt, thinking, output),
        seconds=Seconds(0.0, prefill, decode, total, prefill), energy=energy, power_watts=watts,
        predicted_joules=joules * draw.uniform(0.7, 1.4),
        tools=_make_tools(kind, joules) if form == "tool" else None,
    )  # fmt: skip


def _make_tools(kind: str, joules: float) -> ToolLoopRecord:
    call = ToolCallRecord(1, "calculate", json.dumps({"expression": "17*23"}), "done", "391",
                          0, 12_000_000, 0.1)  # fmt: skip
    return ToolLoopRecord((call,), 8, None, (None,), joules + 0.3, joules / 3, joules, 0.3, 0.05,
                          0.0, kind)  # fmt: skip


def main() -> None:
    """Fill the home that is named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", type=Path)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--kind", choices=("estimate", "counter"), default="estimate")
    options = parser.parse_args()
    turns = fill_home(options.home, datetime.now(UTC).astimezone(), options.days, options.kind)
    print(f"{turns} turns in {options.home}")


if __name__ == "__main__":
    main()
