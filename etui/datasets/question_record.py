"""One question from a record with names: a line of JSON, or a row of Parquet.

Accepted are the forms in which public suites are published:

- ``{"question", "choices": [...], "answer": index or letter}``, as lm-eval and the hub have it;
- ``{"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"}``, ARC's own files;
- ``{"question", "choices": {"text": [], "label": []}, "answerKey"}``, ARC on the hub;
- ``{"question", "options": [...], "answer", "answer_index", "category", "cot_content"}``, MMLU-Pro;
- ``{"question", "answer": "solution #### 72"}``, GSM8K, and ``{"question", "answer": 72}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from etui.datasets.questions import ALL_LETTERS, Question
from etui.units import count_text

_MOST_OPTIONS = len(ALL_LETTERS)
_SOLUTION_END = "####"
_INDEX = re.compile(r"\d{1,4}")
_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?")
_MOST_DIGITS = 100


class BadRecord(ValueError):
    """A record that is not a question; the message says why, without its place."""


class Number(str):
    """A number as the file writes it, so that no digit is lost."""

    __slots__ = ()


def parse_record(record: Mapping[str, object], subject: str, row: int) -> Question:
    """Build the question of a record.

    Args:
        record: Its fields; numbers are :class:`Number`.
        subject: Subject of a record without ``subject`` and ``category``.
        row: Number of the question in its file, from 0.

    Raises:
        BadRecord: It has none of the accepted forms, or contradicts itself.
    """
    text, options = _find_parts(record)
    if not text:
        raise BadRecord("question is empty")
    choices, labels = options or ((), None)
    if options is None:
        answer, solution = parse_number(record)
    else:
        if not 2 <= len(choices) <= _MOST_OPTIONS:
            count = count_text(len(choices), "option")
            raise BadRecord(f"has {count}; a question has 2 to {_MOST_OPTIONS}")
        if "" in choices:
            raise BadRecord(f"option {ALL_LETTERS[choices.index('')]} is empty")
        answer = _find_letter(record, labels, len(choices))
        solution = _find_text(record, "cot_content")
    own = (_find_text(record, "subject") or _find_text(record, "category")).strip()
    identifier = record.get("id", record.get("question_id"))
    question = Question(
        subject=own or subject,
        row=row,
        text=text,
        choices=choices,
        answer=answer,
        solution=solution,
        id=str(identifier) if isinstance(identifier, str) else None,
    )
    _check_characters(question)
    return question


def _check_characters(question: Question) -> None:
    """Refuse what no tokenizer takes: NUL, and halves of surrogate pairs."""
    texts = (question.subject, question.text, *question.choices, question.solution)
    for text in (*texts, question.id or ""):
        if "\0" in text:
            raise BadRecord("contains a NUL character")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRecord("contains half of a surrogate pair, not a character") from error


def _find_parts(
    record: Mapping[str, object],
) -> tuple[str, tuple[tuple[str, ...], tuple[str, ...] | None] | None]:
    """Find the text, and the options with their labels; no options if the answer is a number."""
    question = record.get("question")
    if isinstance(question, Mapping):
        if not isinstance(question.get("stem"), str):
            raise BadRecord('"question" has no "stem"')
        return str(question["stem"]), _parse_options(question.get("choices", ()))
    if not isinstance(question, str):
        raise BadRecord('has no "question" with a text')
    given = [name for name in ("choices", "options") if record.get(name) is not None]
    if len(given) == 2:
        raise BadRecord('has both "choices" and "options"; keep one of them')
    return str(question), _parse_options(record[given[0]]) if given else None


def _parse_options(options: object) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Parse the options and their labels; None if they have no labels."""
    if isinstance(options, Mapping):
        texts, labels = options.get("text"), options.get("label")
        if not _is_list(texts) or not _is_list(labels) or len(texts) != len(labels):
            raise BadRecord('its options need a "text" and a "label" each')
        return _check_texts(texts), _check_labels(labels)
    if not _is_list(options):
        raise BadRecord("its options are not a list")
    pairs = [one for one in options if isinstance(one, Mapping)]
    if pairs and len(pairs) == len(options):
        return (
            _check_texts([one.get("text") for one in pairs]),
            _check_labels([one.get("label") for one in pairs]),
        )
    return _check_texts(options), None


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _check_texts(texts: Sequence[object]) -> tuple[str, ...]:
    if not all(isinstance(text, str) for text in texts):
        raise BadRecord("its options are not all texts")
    return tuple(str(text) for text in texts)


def _check_labels(labels: Sequence[object]) -> tuple[str, ...]:
    names = tuple(str(label).strip() for label in labels if isinstance(label, str))
    if len(names) != len(labels) or len(set(names)) != len(names):
        raise BadRecord("the labels of its options are not all different texts")
    return names


def _find_letter(record: Mapping[str, object], labels: tuple[str, ...] | None, options: int) -> str:
    """Find the letter of the right option, by its place among the options."""
    letters = ALL_LETTERS[:options]
    answer = record.get("answerKey", record.get("answer"))
    index = record.get("answer_index")
    if answer is None and index is None:
        raise BadRecord("has options but no answer")
    found: set[str] = set()
    if answer is not None:
        found.add(_letter_of_label(answer, labels) if labels else _letter_of(answer, letters))
    if index is not None:
        if not isinstance(index, Number):
            raise BadRecord(f'"answer_index" {_show(index)} is not a number')
        found.add(_letter_of(index, letters))
    if len(found) > 1:
        raise BadRecord(f"the answer {_show(answer)} and the index {_show(index)} do not agree")
    return found.pop()


def _letter_of_label(answer: object, labels: tuple[str, ...]) -> str:
    if not isinstance(answer, str) or answer.strip() not in labels:
        raise BadRecord(f"the answer {_show(answer)} is not one of {', '.join(labels)}")
    return ALL_LETTERS[labels.index(answer.strip())]


def _letter_of(answer: object, letters: Sequence[str]) -> str:
    if isinstance(answer, Number):
        if not _INDEX.fullmatch(answer) or int(answer) >= len(letters):
            raise BadRecord(
                f"the answer {_show(answer)} is not an index from 0 to {len(letters) - 1}"
            )
        return letters[int(answer)]
    if not isinstance(answer, str) or answer.strip() not in letters:
        raise BadRecord(f"the answer {_show(answer)} is not one of {', '.join(letters)}")
    return answer.strip()


def parse_number(record: Mapping[str, object]) -> tuple[str, str]:
    """Parse the right number, without commas, and the worked solution before it.

    Args:
        record: Fields of a question without options; ``answer`` is a number or ends in ``#### 72``.

    Raises:
        BadRecord: The answer is missing, too long or not a number.
    """
    answer = record.get("answer")
    if answer is None:
        raise BadRecord("has neither options nor an answer")
    if not isinstance(answer, str):
        raise BadRecord("has no options, and its answer is not a number")
    solution, mark, gold = answer.rpartition(_SOLUTION_END)
    gold = gold.strip()
    where = f" after {_SOLUTION_END}" if mark else ""
    if len(gold) > _MOST_DIGITS:
        raise BadRecord(
            f"its answer{where} has {len(gold)} characters; a number has at most {_MOST_DIGITS}"
        )
    if not _NUMBER.fullmatch(gold):
        raise BadRecord(f"has no options, and its answer{where} is not a number: {_show(gold)}")
    return gold.replace(",", ""), solution.removesuffix("\n")


def _find_text(record: Mapping[str, object], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""


def _show(value: object) -> str:
    text = str(value)
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    return shown if isinstance(value, Number) else repr(shown)
