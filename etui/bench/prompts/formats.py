"""How a question is put to a model; every result carries the format's name and version.

A format's text may only change with its version: two runs may be compared when both are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from etui.chat import Message
from etui.datasets.questions import LETTERS, Question

Reads = Literal["letters", "texts", "answer"]


@dataclass(frozen=True, slots=True)
class Format:
    """One way to put a question.

    Attributes:
        name, version: What results carry.
        reads: ``letters``: log-probabilities of " A" to " D"; ``texts``: of the answers' texts;
            ``answer``: what the model writes.
        shots: Worked examples shown unless the run says otherwise.
        summary: One line for a reader.
    """

    name: str
    version: int
    reads: Reads
    shots: int
    summary: str

    @property
    def generates(self) -> bool:
        """Whether the model writes an answer."""
        return self.reads == "answer"


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("letters", 1, "letters", 5, "letters' log-probabilities, lm-eval's default prompt"),
        Format("letters-original", 1, "letters", 5, "the same with the prompt of Hendrycks et al."),
        Format("cloze", 1, "texts", 0, "log-probability of each answer's text, per character"),
        Format("chat", 1, "answer", 0, "chat template; the letter is read from the answer"),
        Format("cot", 1, "answer", 0, "chat template and a chain of thought; the last answer"),
    )
}


@dataclass(frozen=True, slots=True)
class PromptText:
    """A prompt in parts: what all questions of a subject share, and the question's own.

    Attributes:
        shared: Header and worked examples.
        own: The question, up to where the answer begins.
        endings: Letter -> the text whose log-probability behind the prompt is read.
    """

    shared: str
    own: str
    endings: dict[str, str]

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.shared + self.own

    @property
    def sha(self) -> str:
        """First 16 hex digits of its SHA-256."""
        return sha16(self.text)


def sha16(text: str) -> str:
    """First 16 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def prompt_text(format_: Format, question: Question, examples: Sequence[Question]) -> PromptText:
    """The prompt of a format that reads log-probabilities.

    Args:
        examples: The worked examples to show.
    """
    topic = question.subject.replace("_", " ")
    match format_.name:
        case "letters":
            header = f"The following are multiple choice questions (with answers) about {topic}."
            return _letters(header, question, examples, strip=True)
        case "letters-original":
            # The original puts a space before each word of the subject, so there are two.
            header = f"The following are multiple choice questions (with answers) about  {topic}."
            return _letters(header, question, examples, strip=False)
        case "cloze":
            return _cloze(topic, question, examples)
        case other:
            raise ValueError(f"{other} has no prompt of its own")


def ending_weight(format_: Format, ending: str) -> float:
    """What a log-probability is divided by before endings are compared.

    Letters count as they are; texts by their characters, the leading space not counted
    (``acc_norm`` without the space, as lighteval has it).
    """
    return float(max(1, len(ending.lstrip(" ")))) if format_.reads == "texts" else 1.0


def chat_messages(question: Question, examples: Sequence[Question]) -> tuple[Message, ...]:
    """The conversation of a format that generates; worked examples are earlier turns."""
    turns: list[Message] = []
    for example in examples:
        turns += [Message("user", _asked(example)), Message("assistant", example.answer)]
    return (*turns, Message("user", _asked(question)))


def messages_sha(messages: Sequence[Message]) -> str:
    """Hash of a conversation, before a chat template makes a prompt of it."""
    return sha16("\n\n".join(message.content for message in messages))


def _letters(
    header: str, question: Question, examples: Sequence[Question], *, strip: bool
) -> PromptText:
    shown = "".join(f"{_block(e, strip=strip)} {e.answer}\n\n" for e in examples)
    endings = {letter: f" {letter}" for letter in LETTERS}
    return PromptText(f"{header}\n\n{shown}", _block(question, strip=strip), endings)


def _block(question: Question, *, strip: bool) -> str:
    text = question.text.strip() if strip else question.text
    return f"{text}\n{_options(question)}\nAnswer:"


def _options(question: Question) -> str:
    pairs = zip(LETTERS, question.choices, strict=True)
    return "\n".join(f"{letter}. {choice}" for letter, choice in pairs)


def _cloze(topic: str, question: Question, examples: Sequence[Question]) -> PromptText:
    header = f"The following are questions about {topic}.\n"
    shown = "".join(
        f"Question: {e.text.strip()}\nAnswer: {e.choices[LETTERS.index(e.answer)].strip()}\n\n"
        for e in examples
    )
    endings = {
        letter: f" {choice.strip()}"
        for letter, choice in zip(LETTERS, question.choices, strict=True)
    }
    return PromptText(header + shown, f"Question: {question.text.strip()}\nAnswer:", endings)


def _asked(question: Question) -> str:
    return (
        "Answer with the letter of the right option.\n\n"
        f"{question.text.strip()}\n{_options(question)}"
    )
