"""Formats that fit a suite: which one is the default, and which cannot ask its questions."""

from __future__ import annotations

from collections.abc import Mapping

from etui.bench.prompts.formats import FORMATS, Format
from etui.datasets.questions import Question, Suite
from etui.errors import UsageError

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

    Args:
        generates: Whether reasoning, arms or a policy were asked for, which need a chat.
    """
    if generates:
        return FORMATS["chat"]
    if suite.grading == "number" and not count_examples(FORMATS["gsm8k"], suite):
        return FORMATS["chat"]
    name = LM_EVAL_FORMATS.get(suite.name, "gsm8k" if suite.grading == "number" else "letters")
    return FORMATS[name if suite.grading in FORMATS[name].fits else "letters"]


def check_suite(format_: Format, suite: Suite) -> None:
    """Check that a format can ask the questions of a suite.

    Raises:
        UsageError: It cannot; the message names formats that can.
    """
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
    """Return the most tokens of an answer, without the thinking, if no option states them.

    Args:
        letter_tokens: Limit of an answer that states a letter.
    """
    if format_.answer_tokens is not None:
        return format_.answer_tokens
    return NUMBER_TOKENS if suite.grading == "number" else letter_tokens
