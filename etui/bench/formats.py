"""Prompts of questions, and the rules by which generated answers are graded.

The texts of ``gsm8k`` and ``mmlu-pro`` are those of lm-eval's tasks of these names
(EleutherAI/lm-evaluation-harness 0.4.13: ``lm_eval/tasks/gsm8k/gsm8k.yaml``,
``lm_eval/tasks/mmlu_pro/_default_template_yaml`` and ``utils.py``).

Every rule has a name and a version, which a run records, since scores are comparable only if both
are equal. Letters that a chat answer states are read by :mod:`etui.reasoning.extraction` and have
no rule here; a run of them records none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from etui.chat import Message, OutputOptions, Query
from etui.datasets.questions import Grading, Question, Suite
from etui.errors import UsageError
from etui.reasoning.quantity import (
    find_last_number,
    find_stated_number,
    last_number_value,
    strip_number,
)

Reads = Literal["letters", "texts", "answer"]


@dataclass(frozen=True, slots=True)
class Format:
    """One way to ask a question."""

    name: str  # Recorded with every result
    version: int
    reads: Reads
    """``letters``: log-probabilities of " A", " B" and so on; ``texts``: log-probabilities of the
    answers' texts; ``answer``: the generated answer."""
    shots: int  # Default number of worked examples
    summary: str  # One-line description
    fits: tuple[Grading, ...] = ("letter",)  # Kinds of answers that it can ask for
    raw: bool = False
    """The prompt is a text that the model continues, without the chat template. What the model
    thinks is then a part of its answer."""
    stop: tuple[str, ...] = ()  # Strings that end the answer
    answer_tokens: int | None = None  # Most tokens of an answer; None leaves it to the arm
    rule: str = ""
    """Label of its grading rule (:mod:`etui.bench.formats`); empty leaves it to the suite."""

    @property
    def generates(self) -> bool:
        """Whether the model writes an answer."""
        return self.reads == "answer"


_LETTERS_OR_NUMBERS: tuple[Grading, ...] = ("letter", "number")
FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("letters", 1, "letters", 5, "letters' log-probabilities, lm-eval's default prompt"),
        Format("letters-original", 1, "letters", 5,
               "the same, with the prompt of Hendrycks et al."),
        Format("cloze", 1, "texts", 0, "log-probability of each answer's text, per character"),
        Format("arc", 1, "texts", 0, "the same, with the prompt of lm-eval's arc_challenge"),
        Format("chat", 1, "answer", 0, "chat template; the letter is read from the answer",
               _LETTERS_OR_NUMBERS),
        Format("cot", 1, "answer", 0, "chat template and chain of thought; the last stated answer",
               _LETTERS_OR_NUMBERS),
        Format("gsm8k", 1, "answer", 5, "worked solutions of lm-eval's gsm8k, continued as text",
               ("number",), raw=True, stop=("Question:", "</s>", "<|im_end|>"), answer_tokens=256,
               rule="gsm8k-flexible@1"),
        Format("mmlu-pro", 1, "answer", 5,
               "chain of thought of lm-eval's mmlu_pro, continued as text",
               raw=True, stop=("Question:",), answer_tokens=2048, rule="mmlu-pro@1"),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PromptText:
    """A prompt in two parts: the part that a subject's questions share, and the question itself."""

    shared: str  # Header and worked examples
    own: str  # The question, up to the start of the answer
    endings: dict[str, str]  # Letter -> the text after the prompt whose log-probability is read

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.shared + self.own

    @property
    def sha(self) -> str:
        """First 16 hex digits of the prompt's SHA-256."""
        return sha16(self.text)


def sha16(text: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def prompt_text(format_: Format, question: Question, examples: Sequence[Question]) -> PromptText:
    """Build the prompt of a format that reads log-probabilities."""
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
        case "arc":
            return _arc(question, examples)
        case other:
            raise ValueError(f"format {other} does not read log-probabilities")


def ending_weight(format_: Format, ending: str) -> float:
    """Return the divisor of a log-probability before endings are compared: 1 for letters.

    It is the number of characters for texts, without the space before them (as ``acc_norm`` of
    lm-eval, and ``acc_norm`` without the space in lighteval).
    """
    return float(max(1, len(ending) - 1)) if format_.reads == "texts" else 1.0


def chat_messages(question: Question, examples: Sequence[Question]) -> tuple[Message, ...]:
    """Build the conversation of a format that generates; worked examples are earlier turns."""
    turns: list[Message] = []
    for example in examples:
        turns += [Message("user", _format_question(example)), Message("assistant", example.answer)]
    return (*turns, Message("user", _format_question(question)))


def messages_sha(messages: Sequence[Message]) -> str:
    """Hash a conversation as it is before the chat template is applied."""
    return sha16("\n\n".join(message.content for message in messages))


def _letters(
    header: str, question: Question, examples: Sequence[Question], *, strip: bool
) -> PromptText:
    shown = "".join(f"{_block(e, strip=strip)} {e.answer}\n\n" for e in examples)
    endings = {letter: f" {letter}" for letter in question.letters}
    return PromptText(f"{header}\n\n{shown}", _block(question, strip=strip), endings)


def _block(question: Question, *, strip: bool) -> str:
    text = question.text.strip() if strip else question.text
    return f"{text}\n{_options(question)}\nAnswer:"


def _options(question: Question) -> str:
    pairs = zip(question.letters, question.choices, strict=True)
    return "\n".join(f"{letter}. {choice}" for letter, choice in pairs)


def _cloze(topic: str, question: Question, examples: Sequence[Question]) -> PromptText:
    header = f"The following are questions about {topic}.\n"
    shown = "".join(
        f"Question: {e.text.strip()}\nAnswer: {_right_choice(e).strip()}\n\n" for e in examples
    )
    endings = {
        letter: f" {choice.strip()}"
        for letter, choice in zip(question.letters, question.choices, strict=True)
    }
    return PromptText(header + shown, f"Question: {question.text.strip()}\nAnswer:", endings)


def _arc(question: Question, examples: Sequence[Question]) -> PromptText:
    """Build the prompt of lm-eval's ``arc_challenge``: no header, and nothing is stripped."""
    shown = "".join(f"Question: {e.text}\nAnswer: {_right_choice(e)}\n\n" for e in examples)
    pairs = zip(question.letters, question.choices, strict=True)
    endings = {letter: f" {choice}" for letter, choice in pairs}
    return PromptText(shown, f"Question: {question.text}\nAnswer:", endings)


def _right_choice(question: Question) -> str:
    return question.choices[question.letters.index(question.answer)]


def _format_question(question: Question) -> str:
    if not question.choices:
        return f"Answer with a number.\n\n{question.text.strip()}"
    return (
        "Answer with the letter of the right option.\n\n"
        f"{question.text.strip()}\n{_options(question)}"
    )


LM_EVAL_FORMATS: Mapping[str, str] = {
    "mmlu": "letters",
    "arc-challenge": "arc",
    "gsm8k": "gsm8k",
    "mmlu-pro": "mmlu-pro",
}
"""Suite -> the format with the prompt of lm-eval's task of that name."""
NUMBER_TOKENS = 256
"""Most answer tokens of a number in a chat, without the thinking; lm-eval's default."""


def choose_default_format(suite: Suite, *, generates: bool) -> Format:
    """Choose the format of a run that names none.

    It is the one with the prompt of lm-eval's task for the suite; numbers without worked examples
    are asked for in a chat, since a bare completion does not show the form of the answer.
    """
    if generates:
        return FORMATS["chat"]
    if suite.grading == "number" and not count_examples(FORMATS["gsm8k"], suite):
        return FORMATS["chat"]
    name = LM_EVAL_FORMATS.get(suite.name, "gsm8k" if suite.grading == "number" else "letters")
    return FORMATS[name if suite.grading in FORMATS[name].fits else "letters"]


def check_suite(format_: Format, suite: Suite) -> None:
    """Check that a format can ask the questions of a suite."""
    if suite.grading in format_.fits:
        return
    fitting = [name for name, each in FORMATS.items() if suite.grading in each.fits]
    kind = "a number" if suite.grading == "number" else "the letter of an option"
    raise UsageError(
        f"format {format_.name} cannot ask the questions of {suite.name}, whose answer is {kind}",
        f"use --format {', '.join(fitting[:-1])} or {fitting[-1]}",
    )


def list_examples(format_: Format, suite: Suite, subject: str) -> tuple[Question, ...]:
    """Return the worked examples of a subject that a format can show, in their order.

    Raw formats show how an answer is worked out, so they show examples with a solution only.
    """
    examples = suite.examples.get(subject, ())
    return tuple(each for each in examples if each.solution or not format_.raw)


def count_examples(format_: Format, suite: Suite) -> int:
    """Return how many worked examples a format can show of every subject of a suite."""
    return min((len(list_examples(format_, suite, name)) for name in suite.questions), default=0)


def default_answer_tokens(format_: Format, suite: Suite, letter_tokens: int) -> int:
    """Return the most tokens of an answer, without the thinking, if no option states them."""
    if format_.answer_tokens is not None:
        return format_.answer_tokens
    return NUMBER_TOKENS if suite.grading == "number" else letter_tokens


_STEPS = "Let's think step by step."


def build_query(format_: Format, question: Question, examples: Sequence[Question]) -> Query:
    """Build what is asked of the model in a format that generates."""
    if not format_.generates:
        raise ValueError(f"format {format_.name} generates nothing")
    number = not question.choices
    if format_.raw:
        text = completion_text(format_, question, examples)
        options = OutputOptions(stop=format_.stop, raw=True, number=number)
        return Query(text, options=options)
    messages = chat_messages(question, examples)
    return Query(messages[-1].content, history=messages[:-1], options=OutputOptions(number=number))


def completion_text(format_: Format, question: Question, examples: Sequence[Question]) -> str:
    """Build the prompt of a raw format."""
    match format_.name:
        case "gsm8k":
            shown = "".join(f"{_gsm8k(e)} {_solution_of_number(e)}\n\n" for e in examples)
            return shown + _gsm8k(question)
        case "mmlu-pro":
            topic = question.subject.replace("_", " ")
            header = (
                f"The following are multiple choice questions (with answers) about {topic}. "
                'Think step by step and then finish your answer with "the answer is (X)" where X '
                "is the correct letter choice.\n"
            )
            shown = "".join(f"{_mmlu_pro(e)} {_solution_of_letter(e)}\n\n" for e in examples)
            return header + shown + _mmlu_pro(question)
        case other:
            raise ValueError(f"format {other} has no raw prompt")


def _gsm8k(question: Question) -> str:
    return f"Question: {question.text}\nAnswer:"


def _solution_of_number(example: Question) -> str:
    """Return the worked solution with ``#### ANSWER`` at its end, as the data of GSM8K have it."""
    if "#### " in example.solution:
        return example.solution
    return "\n".join(part for part in (example.solution, f"#### {example.answer}") if part)


def _mmlu_pro(question: Question) -> str:
    pairs = zip(question.letters, question.choices, strict=True)
    options = "".join(f"{letter}. {choice.strip()}\n" for letter, choice in pairs)
    return f"Question:\n{question.text}\nOptions:\n{options}Answer: {_STEPS}"


def _solution_of_letter(example: Question) -> str:
    """Return the worked solution, which ends with ``the answer is (X)`` in the data of MMLU-Pro."""
    solution = example.solution.replace(f"A: {_STEPS} ", "")
    if "answer is" in solution:
        return solution
    return " ".join(part for part in (solution, f"The answer is ({example.answer}).") if part)


_LETTER = re.compile(r"answer is \(?([ABCDEFGHIJ])\)?")
"""``custom-extract`` of lm-eval's ``mmlu_pro`` (version 3.1); its first match counts."""


@dataclass(frozen=True, slots=True)
class GradingRule:
    """One way to read and compare answers."""

    name: str  # Recorded with every run
    version: int
    numbers: bool
    read: Callable[[str], str | None]  # Text -> the answer that it states; None without one
    normalise: Callable[[str], str | None]
    """The right answer, as the data state it -> the form that ``read`` returns; None if it has no
    such form."""
    read_strictly: Callable[[str], str | None] | None  # Reported in addition
    summary: str  # One-line description

    @property
    def label(self) -> str:
        """Name and version: ``gsm8k-flexible@1``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class GradedText:
    """A graded text."""

    answer: str  # The right answer in its normal form
    choice: str | None  # The answer that the text states; None without one
    strict: bool | None  # Whether the stricter reading is right; None if the rule has none

    @property
    def correct(self) -> bool:
        """Whether choice and answer are equal."""
        return self.choice == self.answer


def _read_flexibly(text: str) -> str | None:
    found = find_last_number(text)
    return None if found is None else strip_number(found)


def _read_strictly(text: str) -> str | None:
    found = find_stated_number(text)
    return None if found is None else strip_number(found)


def _read_letter(text: str) -> str | None:
    found = _LETTER.search(text)
    return None if found is None else found[1]


RULES: dict[str, GradingRule] = {
    rule.label: rule
    for rule in (
        GradingRule(
            "gsm8k-flexible", 1, True, _read_flexibly, strip_number, _read_strictly,
            "the last number, compared as text as lm-eval's gsm8k does (flexible-extract)",
        ),
        GradingRule(
            "number", 1, True, last_number_value, last_number_value, None,
            "the last number, compared by its value",
        ),
        GradingRule(
            "mmlu-pro", 1, False, _read_letter, str.strip, None,
            "the first letter after 'answer is', as lm-eval's mmlu_pro (custom-extract)",
        ),
    )
}  # fmt: skip
"""Label -> rule."""


def find_rule(format_: Format, *, numbers: bool) -> GradingRule | None:
    """Return the rule by which answers are graded; None for letters that are read or stated."""
    label = format_.rule or ("number@1" if numbers else "")
    return RULES[label] if label else None


def grades_numbers(label: str | None) -> bool:
    """Return whether the rule that a run recorded grades numbers; None is the letter's."""
    rule = RULES.get(label or "")
    return rule is not None and rule.numbers


def grade(rule: GradingRule, text: str, question: Question) -> GradedText:
    """Grade a text; a right answer without a normal form, such as a word, is never reached."""
    answer = rule.normalise(question.answer)
    right = question.answer if answer is None else answer
    strict = None
    if rule.read_strictly is not None:
        strict = rule.read_strictly(text) == right
    return GradedText(right, rule.read(text), strict)
