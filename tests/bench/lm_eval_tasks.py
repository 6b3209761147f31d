"""lm-eval's own tasks over given documents: its prompts, filters and metrics, no download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from etui.datasets.questions import Question

REASON = "lm_eval is not installed: pip install -c constraints.txt -e '.[dev]'"


def build_task(
    yaml: str, docs: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]]
) -> Any:
    """Build the task of one of lm-eval's YAML files over documents of ours.

    Args:
        yaml: Path below ``lm_eval/tasks``.
        docs: Documents of the split that is asked.
        shown: Documents of the split of the worked examples.
    """
    lm_eval = pytest.importorskip("lm_eval", reason=REASON)
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / yaml)
    names = {config[key] for key in ("training_split", "fewshot_split") if key in config}
    splits = {name: Dataset.from_list(list(shown)) for name in names}
    splits[config["test_split"]] = Dataset.from_list(list(docs))
    if "validation_split" in config:
        splits[config["validation_split"]] = splits[config["test_split"]]
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: splits})
    task.set_fewshot_seed(1234)
    return task


def draw_shown(task: Any, count: int) -> list[Mapping[str, Any]]:
    """Return the worked examples that the next prompt of a task shows, in their order."""
    drawn = list(task.sampler.sample(n=count)) if count else []
    task.set_fewshot_seed(1234)
    return drawn


def prompts(task: Any, shots: int) -> list[str]:
    """Return lm-eval's prompt of every document, each with the same worked examples."""
    found = []
    for doc in task.test_docs():
        task.set_fewshot_seed(1234)
        found.append(task.fewshot_context(doc, shots))
    return found


def requests(task: Any, doc: Mapping[str, Any], context: str) -> list[Any]:
    """Return lm-eval's requests of a document."""
    made = task.construct_requests(
        doc=doc, ctx=context, metadata=(task.config.task, 0, 1), apply_chat_template=False
    )
    return made if isinstance(made, list) else [made]


def grade_texts(
    task: Any, docs: Sequence[Mapping[str, Any]], texts: Sequence[str]
) -> list[dict[str, bool]]:
    """Grade one generated text of each document by every filter of a task."""
    instances = []
    for doc, text in zip(docs, texts, strict=True):
        (instance,) = requests(task, doc, "")
        instance.resps = [text]
        instances.append(instance)
    task._instances = instances
    task.apply_filters()
    return [
        {
            name: bool(task.process_results(doc, [response])["exact_match"])
            for name, response in instance.filtered_resps.items()
        }
        for doc, instance in zip(docs, instances, strict=True)
    ]


def mmlu_doc(question: Question) -> dict[str, Any]:
    """Return a question in the form of ``cais/mmlu``."""
    return {
        "question": question.text,
        "subject": question.subject,
        "choices": list(question.choices),
        "answer": question.letters.index(question.answer),
    }


def arc_doc(question: Question) -> dict[str, Any]:
    """Return a question in the form of ``allenai/ai2_arc``."""
    choices = {"text": list(question.choices), "label": list(question.letters)}
    return {"question": question.text, "choices": choices, "answerKey": question.answer}


def mmlu_pro_doc(question: Question) -> dict[str, Any]:
    """Return a question in the form of ``TIGER-Lab/MMLU-Pro``."""
    return {
        "question": question.text,
        "options": list(question.choices),
        "answer": question.answer,
        "answer_index": question.letters.index(question.answer),
        "cot_content": question.solution,
        "category": question.subject.replace("_", " "),
    }
