"""The texts that a sweep computes under every setting, and the same in a model's own tokens.

Every setting computes the same prompts and the same answers, so that their joules can be compared.
An answer that is not given is recorded once: the model of the baseline writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import cycle
from pathlib import Path

import msgspec

from etui.arm import Sampling
from etui.atomic import write_text
from etui.chat import Message
from etui.config.config import Config
from etui.datasets.records import (
    MOST_PROBLEMS,
    BadRecord,
    Number,
    decode_text,
    parse_lines,
    read_content,
)
from etui.engine.session import Session
from etui.errors import ContextOverflow, EtuiError, InvalidFile, Problem, UsageError
from etui.log.filters import TurnFilter
from etui.log.queries import LogReader
from etui.reasoning.prompts import (
    ANSWER_MARKER,
    ThinkingStyle,
    build_thinking,
    direct_prompt,
    open_thinking,
    with_instruction,
    with_letter_instruction,
)
from etui.sweep.config import WorkShape
from etui.text import did_you_mean
from etui.units import count_text

LOG = "log"
_OUTPUT_TOKENS = {"chat": 48, "code": 112, "long": 48, "letters": 0, LOG: 96}
_FILE_OUTPUT_TOKENS = 64
"""Default output tokens by workload: with them, a visit takes seconds and not minutes."""

NAMES = tuple(_OUTPUT_TOKENS)
"""The workloads that have a name; every other one is the path of a file."""

LOGGED_QUESTIONS = 6  # Questions that the workload `log` takes, the latest ones

MOST_ITEMS = 32  # Most prompts of a file: each visit computes all of them

_MOST_BYTES = 4_000_000
_PAGE = 50
_MOST_LOOKED_AT = 1000
_PLACE = Path(__file__).with_name("workloads")


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One question of a workload."""

    messages: tuple[Message, ...]  # The conversation; the last message is the question
    answer: str | None = None  # The answer to replay; None if it has to be recorded
    output_tokens: int = 0  # Most tokens of the answer; 0 computes the prompt alone
    reads_letters: bool = False  # Whether it is answered by an option letter


@dataclass(frozen=True, slots=True)
class Workload:
    """The questions of a sweep."""

    name: str  # `chat`, `code`, `long`, `letters`, `log`, or the path of a file
    sha256: str  # Hash of its texts and lengths, by which a resumed sweep recognizes them
    items: tuple[WorkItem, ...]  # The questions, at least one
    output_tokens: int = 0  # Most output tokens of an answer


def load_workload(
    name: str,
    config: Config,
    *,
    output_tokens: int | None = None,
    until: datetime | None = None,
) -> Workload:
    """Load the questions of a sweep.

    UsageError if there is no such workload or file, it has no prompts, or the length is invalid;
    InvalidFile if the file is not text, or a line of it is not a prompt; EtuiError if the log has
    no answered question, or it cannot be read.

    Args:
        name: The name of a workload, or the path of a text or JSONL file.
        output_tokens: Most tokens of each answer; None takes the default of the workload.
        until: Only what was asked in the log before this time: the start of a resumed sweep.
    """
    length = _choose_output_tokens(name, output_tokens)
    if name == LOG:
        items = _read_log(config, length, until)
    elif name in _OUTPUT_TOKENS:
        items = _read_shipped(name, length)
    else:
        items = _read_file(_find_file(name), name, length)
    return Workload(name, hash_items(items), items, max(item.output_tokens for item in items))


def hash_items(items: Sequence[WorkItem]) -> str:
    """Hash the texts and lengths of questions."""
    document = json.dumps([asdict(item) for item in items], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(document.encode()).hexdigest()


def _choose_output_tokens(name: str, asked: int | None) -> int:
    if asked is None:
        return _OUTPUT_TOKENS.get(name, _FILE_OUTPUT_TOKENS)
    if name == "letters" and asked:
        raise UsageError(
            f"letters computes prompts alone, and {asked} output tokens were asked for",
            "leave the number out, or choose another workload",
        )
    return asked


def _read_shipped(name: str, output_tokens: int) -> tuple[WorkItem, ...]:
    if name == "long":
        text = (_PLACE / "long.txt").read_text(encoding="utf-8")
        return (_make_item(text.strip(), None, output_tokens),)
    path = _PLACE / f"{name}.jsonl"
    items = _parse_jsonl(path.read_text(encoding="utf-8"), path.name, output_tokens)
    if name != "letters":
        return items
    return tuple(WorkItem(item.messages, reads_letters=True) for item in items)


def _make_item(prompt: str, answer: str | None, output_tokens: int) -> WorkItem:
    return WorkItem((Message("user", prompt),), answer, output_tokens)


def _find_file(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise UsageError(f"the workload {name} is a folder", "give the path of a file")
    what = f"there is no workload {name!r}{did_you_mean(name, NAMES)}"
    raise UsageError(what, f"use {', '.join(NAMES)}, or the path of a text or JSONL file")


def _read_file(path: Path, name: str, output_tokens: int) -> tuple[WorkItem, ...]:
    """Read a file with a prompt per line, or with a JSON object per line."""
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise UsageError(
            f"the workload {name} has {size / 1e6:.0f} MB, at most 4 are read",
            "give a UTF-8 text file with a prompt per line, or a JSONL file",
        )
    text = decode_text(read_content(path), name)
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        items = _parse_jsonl(text, name, output_tokens)
    else:
        lines = filter(None, map(str.strip, text.splitlines()))
        items = tuple(_make_item(line, None, output_tokens) for line in lines)
    if not items:
        raise UsageError(f"the workload {name} is empty", "write a prompt per line into it")
    if len(items) > MOST_ITEMS:
        raise UsageError(
            f"the workload {name} has {len(items)} prompts, and every visit computes all of them",
            f"keep at most {MOST_ITEMS}",
        )
    return items


def _parse_jsonl(text: str, name: str, output_tokens: int) -> tuple[WorkItem, ...]:
    items: list[WorkItem] = []
    problems: list[Problem] = []
    for number, record in parse_lines(text, name, problems):
        try:
            items.append(_make_item(*_read_record(record), output_tokens))
        except BadRecord as bad:
            problems.append(Problem(name, number, 1, str(bad)))
    if problems:
        fix = 'each line is {"prompt": "...", "answer": "..."}; the answer may be left out'
        raise InvalidFile.of(problems[:MOST_PROBLEMS], fix)
    return tuple(items)


def _read_record(record: Mapping[str, object]) -> tuple[str, str | None]:
    """Read the prompt of a line, and its answer, if it has one."""
    unknown = sorted(set(record) - {"prompt", "answer"})
    if "prompt" not in record:
        hint = did_you_mean(unknown[0], ["prompt", "answer"]) if unknown else ""
        raise BadRecord(f"there is no `prompt`{hint}")
    texts = {key: record[key] for key in ("prompt", "answer") if record.get(key) is not None}
    for key in ("prompt", *texts):
        value = texts.get(key)
        if not isinstance(value, str) or isinstance(value, Number):
            raise BadRecord(f"`{key}` is not text")
        if not value.strip():
            raise BadRecord(f"`{key}` is empty")
        if any("\ud800" <= each <= "\udfff" for each in value):
            raise BadRecord(f"`{key}` contains half of a surrogate pair")
    return str(texts["prompt"]), None if "answer" not in texts else str(texts["answer"])


def _read_log(config: Config, output_tokens: int, until: datetime | None) -> tuple[WorkItem, ...]:
    """Read the latest distinct questions of the log that have an answer, oldest first.

    Each is taken alone, with the system message of its chat but without the messages before it.
    """
    with LogReader(config) as log:
        items: dict[tuple[str | None, str], WorkItem] = {}
        for key, answer in _iter_answered(log, until):
            if key not in items:
                system = [Message("system", key[0])] if key[0] else []
                messages = (*system, Message("user", key[1]))
                items[key] = WorkItem(messages, answer, output_tokens)
            if len(items) == LOGGED_QUESTIONS:
                break
    if not items:
        raise EtuiError(
            "the log has no answered question",
            "ask something first, or use another workload, for example --workload chat",
        )
    return tuple(items.values())[::-1]


def _iter_answered(
    log: LogReader, until: datetime | None
) -> Iterator[tuple[tuple[str | None, str], str]]:
    """Yield system message, question and answer of complete turns, newest first."""
    wanted = TurnFilter(status="complete", until=until)
    for offset in range(0, _MOST_LOOKED_AT, _PAGE):
        page = log.list_turns(wanted, limit=_PAGE, offset=offset)
        for summary in page:
            turn = log.get_turn(summary.turn_id)
            if turn.query.strip() and turn.answer.strip():
                yield (turn.system, turn.query), turn.answer
        if len(page) < _PAGE:
            return


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
    output: tuple[int, ...] = ()  # To draw, thinking included; empty computes the prompt alone


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
    as_text: tuple[int, ...]  # Tokens of that text


def count_recorded(item: WorkItem, shape: WorkShape) -> int:
    """Return how many tokens of an answer have to be recorded; 0 if it is given as a whole."""
    if _computes_prompt_alone(item, shape):
        return 0
    return shape.think_tokens + (_count_answer(item, shape) if item.answer is None else 0)


def record_answers(
    session: Session, items: Sequence[WorkItem], shape: WorkShape
) -> tuple[RecordedAnswer | None, ...]:
    """Let a model write the answers that are not given, greedily, to a fixed length; else None."""
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
    """Join recorded and given parts to the answers that every setting replays."""
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

    Also returns a note where the tokens are not those of the baseline; empty where they are.
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
    """Save the recorded answers of a sweep, for its resumption."""
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
        text = direct_prompt(session.render(messages, think_tokens=0), facts) + ANSWER_MARKER
    elif shape.think_tokens:
        style: ThinkingStyle = "native" if facts.format.thought is not None else "plain"
        thinking = build_thinking(style, facts)
        messages = with_instruction(item.messages, style)
        text = open_thinking(session.render(messages, think_tokens=shape.think_tokens), thinking)
    else:
        text = direct_prompt(session.render(item.messages, think_tokens=0), facts)
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
