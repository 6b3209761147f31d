"""The prompts and answers of a workload in a model's own tokens: what every setting computes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

import msgspec

from etui.arm import Sampling
from etui.atomic import write_text
from etui.engine.session import Session
from etui.errors import ContextOverflow
from etui.reasoning.prompts import (
    ANSWER_MARKER,
    ThinkingStyle,
    build_thinking,
    direct_prompt,
    open_thinking,
    with_instruction,
    with_letter_instruction,
)
from etui.sweep.machine.workload import WorkItem
from etui.sweep.work_shape import WorkShape
from etui.units import count_text

GREEDY = Sampling()

_BRIDGES = (
    "\n\nIn other words,",
    "\n\nOne more point:",
    "\n\nFor example,",
    "\n\nOn the other hand,",
    "\n\nIt also helps to know that",
    "\n\nTo sum up,",
)
"""What leads on where the model would end its answer. All differ: one repeated filler would be a
text that drafts foresee too well."""


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to compute."""

    prompt: tuple[int, ...]
    output: tuple[int, ...] = ()
    """The tokens to draw, thinking included; empty computes the prompt alone."""


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """What a model wrote for a question: the answer, or its thinking before a given answer."""

    tokens: tuple[int, ...]
    """The drawn tokens, and in place of an end token those of a sentence that leads on."""
    text: str


@dataclass(frozen=True, slots=True)
class AnswerScript:
    """An answer to replay, as the model of the baseline reads it."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]
    text: str  # The answer as text, for models with other tokens
    as_text: tuple[int, ...]
    """Tokens of that text; a model that splits prompt and text alike has the same tokens."""


def count_recorded(item: WorkItem, shape: WorkShape) -> int:
    """Return how many tokens of an answer have to be recorded; 0 if it is given as a whole."""
    if _computes_prompt_alone(item, shape):
        return 0
    return shape.think_tokens + (_count_answer(item, shape) if item.answer is None else 0)


def record_answers(
    session: Session, items: Sequence[WorkItem], shape: WorkShape
) -> tuple[RecordedAnswer | None, ...]:
    """Let a model write the answers that are not given, greedily, to a fixed length.

    Returns:
        One per question; None where nothing has to be recorded.

    Raises:
        ContextOverflow: A prompt and its answer do not fit into the context.
    """
    lengths = [count_recorded(item, shape) for item in items]
    return tuple(
        _record(session, _fit_prompt(session, item, shape), length) if length else None
        for item, length in zip(items, lengths, strict=True)
    )


def write_scripts(
    session: Session,
    items: Sequence[WorkItem],
    shape: WorkShape,
    recorded: Sequence[RecordedAnswer | None],
) -> tuple[AnswerScript, ...]:
    """Join recorded and given parts to the answers that every setting replays.

    Args:
        session: The model of the baseline.

    Raises:
        ContextOverflow: A prompt and its answer do not fit into the context.
    """
    scripts = []
    for item, part in zip(items, recorded, strict=True):
        output = part.tokens if part is not None else ()
        text = part.text if part is not None else ""
        if item.answer is not None and not _computes_prompt_alone(item, shape):
            given = _cut(session, item.answer, _count_answer(item, shape))
            output = (*output, *session.tokenize(given, special=False))
            text += given
        prompt = _fit_prompt(session, item, shape, len(output))
        as_text = tuple(session.tokenize(text, special=False)) if text else ()
        scripts.append(AnswerScript(tuple(prompt), output, text, as_text))
    return tuple(scripts)


def build_jobs(
    session: Session, items: Sequence[WorkItem], shape: WorkShape, scripts: Sequence[AnswerScript]
) -> tuple[tuple[Job, ...], str]:
    """Build what a model computes: the tokens of the scripts, or their texts in its own tokens.

    Returns:
        The jobs, and a note where the tokens are not those of the baseline; empty where they are.

    Raises:
        ContextOverflow: A prompt and its answer do not fit into the context.
    """
    jobs = []
    for item, script in zip(items, scripts, strict=True):
        prompt = tuple(_fit_prompt(session, item, shape, len(script.output)))
        as_text = tuple(session.tokenize(script.text, special=False)) if script.text else ()
        if (prompt, as_text) == (script.prompt, script.as_text):
            jobs.append(Job(prompt, script.output))
            continue
        _check_room(session, prompt, len(as_text))
        jobs.append(Job(prompt, as_text))
    return tuple(jobs), _describe_other_tokens(jobs, scripts)


def save_recorded(path: Path, key: str, recorded: Sequence[RecordedAnswer | None]) -> None:
    """Save the recorded answers of a sweep, for its resumption.

    Args:
        key: What they depend on: workload, model and lengths.
    """
    answers = [None if each is None else asdict(each) for each in recorded]
    write_text(path, json.dumps({"key": key, "answers": answers}))


def load_recorded(path: Path, key: str, count: int) -> tuple[RecordedAnswer | None, ...] | None:
    """Load the answers recorded before an interruption; None if there are none of this key."""
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    return saved.answers if saved.key == key and len(saved.answers) == count else None


@dataclass(frozen=True, slots=True)
class _Saved:
    key: str
    answers: tuple[RecordedAnswer | None, ...]


def _computes_prompt_alone(item: WorkItem, shape: WorkShape) -> bool:
    return item.reads_letters or shape.reads_letters


def _count_answer(item: WorkItem, shape: WorkShape) -> int:
    """Return the most answer tokens: those of the workload, or of an arm that has fewer."""
    if shape.answer_tokens is None:
        return item.output_tokens
    return min(item.output_tokens, shape.answer_tokens)


def _fit_prompt(
    session: Session, item: WorkItem, shape: WorkShape, output_tokens: int | None = None
) -> list[int]:
    """Tokenize a prompt as reasoning does."""
    facts = session.facts
    if _computes_prompt_alone(item, shape):
        messages = with_letter_instruction(item.messages)
        text = direct_prompt(session.render(messages, thinking=False), facts) + ANSWER_MARKER
    elif shape.think_tokens:
        style: ThinkingStyle = "native" if facts.think_close is not None else "plain"
        thinking = build_thinking(style, facts)
        messages = with_instruction(item.messages, style)
        text = open_thinking(session.render(messages, thinking=True), thinking)
    else:
        text = direct_prompt(session.render(item.messages, thinking=False), facts)
    prompt = session.tokenize(text, bos=True)
    _check_room(session, prompt, output_tokens or count_recorded(item, shape))
    return prompt


def _check_room(session: Session, prompt: Sequence[int], output_tokens: int) -> None:
    room = session.facts.context_tokens
    if len(prompt) + output_tokens > room:
        raise ContextOverflow(len(prompt), room, output_tokens)


def _cut(session: Session, text: str, tokens: int) -> str:
    """Cut the end of a text, so that it has at most so many tokens."""
    while text and (count := len(session.tokenize(text, special=False))) > tokens:
        text = text[: len(text) * tokens // count]
    return text


def _record(session: Session, prompt: Sequence[int], length: int) -> RecordedAnswer:
    """Record an answer of ``length`` tokens, or fewer where no sentence that leads on fits."""
    sequence = session.open(prompt, GREEDY)
    end = len(prompt) + length
    pieces: list[bytes] = []
    bridges: Iterator[str] = cycle(_BRIDGES)
    try:
        while len(sequence.tokens) < end:
            sampled = session.step([sequence]).sampled
            if not sampled:
                continue
            if not sampled[0].ends:
                pieces.append(sampled[0].piece)
                continue
            bridge = next(bridges)
            tokens = session.tokenize(bridge, special=False)
            if len(sequence.tokens) + len(tokens) > end and pieces:
                break
            pieces.append(bridge.encode())
            session.extend(sequence, tokens)
        recorded = tuple(sequence.tokens[len(prompt) : end])
    finally:
        session.close(sequence, keep=False)
    return RecordedAnswer(recorded, b"".join(pieces).decode("utf-8", errors="ignore"))


def _describe_other_tokens(jobs: Sequence[Job], scripts: Sequence[AnswerScript]) -> str:
    """Describe how the tokens differ from those of the baseline; empty if they do not."""
    if all(
        (job.prompt, job.output) == (script.prompt, script.output)
        for job, script in zip(jobs, scripts, strict=True)
    ):
        return ""
    own = sum(len(job.prompt) for job in jobs), sum(len(job.output) for job in jobs)
    theirs = sum(len(each.prompt) for each in scripts), sum(len(each.output) for each in scripts)
    return (
        f"the same texts in this model's own tokens: {own[0]} instead of "
        f"{count_text(theirs[0], 'prompt token')}, {own[1]} instead of "
        f"{count_text(theirs[1], 'output token')}; compare its joules per answer, not per token"
    )
