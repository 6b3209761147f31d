"""Prompts of generated answers: a conversation, or a text that the model continues.

The texts of ``gsm8k`` and ``mmlu-pro`` are those of lm-eval's tasks of these names
(EleutherAI/lm-evaluation-harness 0.4.13: ``lm_eval/tasks/gsm8k/gsm8k.yaml``,
``lm_eval/tasks/mmlu_pro/_default_template_yaml`` and ``utils.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from etui.bench.prompts.formats import Format, chat_messages
from etui.chat import OutputOptions, Query
from etui.datasets.questions import Question

_STEPS = "Let's think step by step."


def build_query(format_: Format, question: Question, examples: Sequence[Question]) -> Query:
    """Build what is asked of the model in a format that generates.

    Args:
        examples: The worked examples to show.

    Raises:
        ValueError: The format reads log-probabilities.
    """
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
    """Build the prompt of a raw format.

    Raises:
        ValueError: The format has no raw prompt.
    """
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
