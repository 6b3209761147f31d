"""Token count of a run, from the vocabulary alone: no weights are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from etui.arm import Arm
from etui.bench.analysis.precision import predict_questions
from etui.bench.analysis.precision_text import describe_expectation
from etui.bench.prompts.completions import build_query
from etui.bench.prompts.tokens import build_subject_prompts
from etui.bench.run.plan import RunPlan

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.engine.model import Model
    from etui.models.catalogue import Catalogue


def count_tokens(plan: RunPlan, config: Config, catalogue: Catalogue) -> dict[str, Any]:
    """Count the tokens that a run computes, by model.

    Returns:
        ``questions``, ``format``, and ``models``: name -> ``computed`` (tokens that the run
        computes), ``prefix`` (those of them in worked examples), ``whole`` (total without reuse).
        For formats that generate, these are the prompts' own tokens, without a chat template.

    Raises:
        ModelUnavailable: A model is not on this machine, or crashes llama.cpp.
        ContextOverflow: A question does not fit, even without worked examples.
    """
    from etui.engine.library import Library
    from etui.engine.model import Model
    from etui.engine.trial import try_model
    from etui.models.gguf import check_usable
    from etui.runtime.model_resolution import find_model_file

    counts: dict[str, dict[str, int]] = {}
    library = Library(config.log_dir)
    for name in plan.models:
        spec, path = find_model_file(Arm(name, name), config, catalogue)
        gguf = check_usable(path)
        try_model(spec, path, config)
        model = Model(library, path, vocabulary_only=True)
        try:
            bounds = [spec.context, config.context_tokens, gguf.context_tokens]
            counts[name] = _count_model_tokens(plan, model, min(bound for bound in bounds if bound))
        finally:
            model.free()
    library.close()
    return {"questions": plan.questions, "format": plan.format.name, "models": counts}


def describe_expected_questions(plan: RunPlan) -> dict[str, Any]:
    """Describe how many questions a run that stops at a precision will ask.

    Returns:
        ``points``, ``of``, ``most`` (the questions that are drawn), and ``expected``: accuracy ->
        questions. Those of a difference depend on how often the systems disagree, so they are
        those of an accuracy.
    """
    assert plan.precision is not None
    return {
        "points": plan.precision.points,
        "of": plan.precision.of,
        "most": plan.questions,
        "expected": {f"{share:g}": count for share, count in _predict(plan).items()},
    }


def format_expected_questions(plan: RunPlan) -> str:
    """Format the expected number of questions as one line."""
    assert plan.precision is not None
    text = describe_expectation(plan.precision.points, _predict(plan), plan.questions)
    if plan.precision.of == "difference":
        text += "; a difference needs fewer the more the systems agree"
    return text


def _predict(plan: RunPlan) -> dict[float, int]:
    assert plan.precision is not None
    total = sum(len(questions) for questions in plan.population.values())
    return predict_questions(total, plan.precision.points / 100)


def _count_model_tokens(plan: RunPlan, model: Model, context_tokens: int) -> dict[str, int]:
    computed = prefix = whole = 0

    def tokenize(text: str) -> list[int]:
        return model.tokenize(text, bos=True, special=False)

    for subject, questions in plan.asked.items():
        examples = plan.examples[subject]
        if plan.format.generates:
            own = sum(
                len(tokenize(message.content))
                for question in questions
                for message in build_query(plan.format, question, examples).messages()
            )
            computed, whole = computed + own, whole + own
            continue
        found = build_subject_prompts(
            plan.format, questions, examples, tokenize, context_tokens, reuse=plan.reuse
        )
        computed += found.computed_tokens
        prefix += len(found.prefix)
        whole += sum(prompt.total_tokens for prompt in found.prompts)
    return {"computed": computed, "prefix": prefix, "whole": whole}
