"""Prompt tokens of a run, from vocabularies alone: no weights are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from etui.arm import Arm
from etui.bench._tokens import SubjectPrompts, build_subject_prompts
from etui.bench.formats import build_query
from etui.bench.plan import RunPlan
from etui.bench.precision import Key, describe_expectation, predict_questions
from etui.chat import Message
from etui.config.config import Config
from etui.datasets.questions import Question
from etui.engine.chat_prompt import ModelText
from etui.engine.library import Library
from etui.engine.sequence_cache import common_prefix
from etui.engine.session import Session
from etui.engine.session_loader import describe_model, open_template
from etui.engine.template_process import TemplateProcess
from etui.engine.trial import try_model
from etui.models.catalogue import Catalogue
from etui.models.gguf import check_usable
from etui.models.spec import ModelSpec
from etui.reasoning.answer_plan import answer_prompt, plan_answer
from etui.reasoning.prompts import ANSWER_MARKER, with_letter_instruction
from etui.runtime.model_resolution import find_model_file

_RENDERED = 3  # Questions whose whole prompts are rendered to learn what the chat template adds


@dataclass(frozen=True, slots=True)
class PromptCounts:
    """Prompt tokens of each question, and how many of them a subject's questions share."""

    own: Mapping[str, Mapping[Key, int]]
    """Model -> question -> tokens of its text, worked examples included, or of the whole prompt if
    nothing is added."""
    added: Mapping[str, float]
    """Arm -> tokens that the chat template and the instructions add to each question."""
    shared: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Model -> subject -> tokens of ``own`` that are computed once for questions that follow each
    other; 0 without reuse."""
    shared_added: Mapping[str, float] = field(default_factory=dict)
    """Arm -> tokens of ``added`` that are; absent if none are."""

    def mean(self, arm: Arm, pieces: Iterable[Sequence[Key]]) -> float | None:
        """Return the mean computed prompt tokens of an arm; None if unknown, or without questions.

        ``pieces`` are questions of one subject each that are answered one after the other.
        """
        own = self.own.get(arm.model)
        if own is None:
            return None
        shared = self.shared.get(arm.model, {})
        total, count = 0.0, 0
        for piece in pieces:
            for subject, row in piece:
                total += own[subject, row] + self.added[arm.name]
            if len(piece) > 1 and (again := shared.get(piece[0][0], 0)):
                again_added = self.shared_added.get(arm.name, 0.0)
                total -= (len(piece) - 1) * (again + again_added)
            count += len(piece)
        return total / count if count else None


def count_prompts(plan: RunPlan, config: Config, catalogue: Catalogue) -> PromptCounts:
    """Count the prompt tokens of all questions of a plan; those of remote models are unknown.

    What the chat template adds is the same for every question, so that it is rendered for a few of
    them only. ModelUnavailable if a model is not on this machine, or crashes llama.cpp;
    ContextOverflow if a question does not fit, even without worked examples.
    """
    own: dict[str, dict[Key, int]] = {}
    added: dict[str, float] = {}
    shared: dict[str, dict[str, int]] = {}
    shared_added: dict[str, float] = {}
    local = [name for name in plan.models if catalogue.get(name).backend is None]
    for name, vocabulary in _open_vocabularies(local, config, catalogue):
        own[name], shared[name] = vocabulary.count(plan)
        for arm in plan.arms.values():
            if arm.model == name:
                found = vocabulary.count_added(plan, arm, own[name], shared[name])
                added[arm.name], shared_added[arm.name] = found
    return PromptCounts(own, added, shared, shared_added)


def _open_vocabularies(
    names: Iterable[str], config: Config, catalogue: Catalogue
) -> Iterator[tuple[str, _Vocabulary]]:
    """Yield the vocabulary of each model while it is open."""
    with (
        closing(Library(config.log_dir, config.engines_dir)) as library,
        closing(TemplateProcess()) as templates,
    ):
        for name in names:
            spec, path = find_model_file(Arm(name, name), config, catalogue)
            limits = [spec.context, config.context_tokens, check_usable(path).context_tokens]
            context_tokens = min(limit for limit in limits if limit)
            try_model(spec, path, config)
            with closing(_Vocabulary(library, spec, path, context_tokens, templates)) as vocabulary:
                yield name, vocabulary


class _Vocabulary:
    """The vocabulary and the chat template of a model, without its weights."""

    def __init__(
        self,
        library: Library,
        spec: ModelSpec,
        path: Path,
        context_tokens: int,
        templates: TemplateProcess,
    ) -> None:
        from etui.engine.model import Model

        self._model = Model(library, path, vocabulary_only=True)
        self.facts = describe_model(self._model, spec, context_tokens)
        template = open_template(templates, self._model, spec.name)
        self._text = ModelText(self._model, self.facts, template)

    def count(self, plan: RunPlan) -> tuple[dict[Key, int], dict[str, int]]:
        """Count the tokens of the text of every question, or of its prompt without a template."""
        counts: dict[Key, int] = {}
        shared: dict[str, int] = {}
        for subject, questions in plan.drawn.items():
            if plan.format.generates:
                for question in questions:
                    counts[subject, question.row] = sum(self.count_texts(plan, question))
                reused = plan.config.prefix_reuse
                shared[subject] = self._count_shared(plan, questions) if reused else 0
                continue
            found = self.build_prompts(plan, subject, questions)
            prefix = len(found.prefix)
            share = (found.computed_tokens - prefix) / max(1, len(questions))
            counts |= {(subject, question.row): prefix + round(share) for question in questions}
            shared[subject] = prefix
        return counts, shared

    def build_prompts(
        self, plan: RunPlan, subject: str, questions: Sequence[Question]
    ) -> SubjectPrompts:
        """Build the prompts of a format that reads log-probabilities."""
        return build_subject_prompts(
            plan.format,
            questions,
            plan.examples[subject],
            self.tokenize_plain,
            self.facts.context_tokens,
            reuse=plan.config.prefix_reuse,
        )

    def count_added(
        self, plan: RunPlan, arm: Arm, own: Mapping[Key, int], shared: Mapping[str, int]
    ) -> tuple[float, float]:
        """Count the tokens that the template and the instructions of an arm add.

        Those of a question, and of the part that a subject's questions share.
        """
        if not plan.format.generates or plan.format.raw:
            return 0.0, 0.0
        whole: list[int] = []
        common: list[int] = []
        for subject, questions in plan.drawn.items():
            if questions and len(whole) < _RENDERED:
                prompt = self._build_prompt(plan, arm, questions[0])
                whole.append(len(prompt) - own[subject, questions[0].row])
            if len(questions) > 1 and shared[subject] and len(common) < _RENDERED:
                prompts = (self._build_prompt(plan, arm, one) for one in questions[:2])
                common.append(common_prefix(*prompts) - shared[subject])
        return fmean(whole or [0]), fmean(common or [0])

    def count_texts(self, plan: RunPlan, question: Question) -> list[int]:
        """Count the tokens of each message."""
        messages, raw = _build_messages(plan, question), plan.format.raw
        return [len(self._text.tokenize(each.content, bos=raw, special=False)) for each in messages]

    def _count_shared(self, plan: RunPlan, questions: Sequence[Question]) -> int:
        """Count the tokens of the worked examples, which the questions of a subject share."""
        if not plan.examples[questions[0].subject] or len(questions) < 2:
            return 0
        if not plan.format.raw:
            return sum(self.count_texts(plan, questions[0])[:-1])
        texts = [_build_messages(plan, one)[-1].content for one in questions[:2]]
        return common_prefix(*map(self.tokenize_plain, texts))

    def tokenize_plain(self, text: str) -> list[int]:
        """Tokenize a text in which no special token counts, after the one that begins a text."""
        return self._text.tokenize(text, bos=True, special=False)

    def _build_prompt(self, plan: RunPlan, arm: Arm, question: Question) -> list[int]:
        messages = _build_messages(plan, question)
        session = cast("Session", self._text)
        if arm.readout == "choices":
            marker = self._text.tokenize(ANSWER_MARKER)
            return [*answer_prompt(with_letter_instruction(messages), arm, session).tokens, *marker]
        return plan_answer(messages, arm, session).prompt.tokens

    def close(self) -> None:
        """Free the model."""
        self._model.free()


def count_tokens(plan: RunPlan, config: Config, catalogue: Catalogue) -> dict[str, Any]:
    """Count the tokens that a run computes, by model.

    Returns ``questions``, ``format``, and ``models``: name -> ``computed`` (tokens that the run
    computes), ``prefix`` (those of them in worked examples), ``whole`` (total without reuse). For
    formats that generate, these are the prompts' own tokens, without a chat template.
    ModelUnavailable if a model is not on this machine, or crashes llama.cpp; ContextOverflow if a
    question does not fit, even without worked examples.
    """
    counts = {
        name: _count_model_tokens(plan, vocabulary)
        for name, vocabulary in _open_vocabularies(plan.models, config, catalogue)
    }
    return {"questions": plan.questions, "format": plan.format.name, "models": counts}


def describe_expected_questions(plan: RunPlan) -> dict[str, Any]:
    """Describe how many questions a run that stops at a precision will ask.

    Those of a difference depend on how often the systems disagree, so they are those of an
    accuracy. ``most`` are the questions that are drawn, ``expected`` those asked by accuracy.
    """
    goal = plan.config.precision
    assert goal is not None
    total = sum(len(questions) for questions in plan.population.values())
    expected = predict_questions(total, goal.points / 100)
    return {
        "points": goal.points,
        "of": goal.of,
        "most": plan.questions,
        "expected": {f"{share:g}": count for share, count in expected.items()},
    }


def format_expected_questions(plan: RunPlan) -> str:
    """Format the expected number of questions as one line."""
    found = describe_expected_questions(plan)
    expected = {float(share): count for share, count in found["expected"].items()}
    text = describe_expectation(found["points"], expected, found["most"])
    if found["of"] == "difference":
        text += "; a difference needs fewer the more the systems agree"
    return text


def _count_model_tokens(plan: RunPlan, vocabulary: _Vocabulary) -> dict[str, int]:
    computed = prefix = whole = 0
    for subject, questions in plan.asked.items():
        if plan.format.generates:
            own = sum(
                len(vocabulary.tokenize_plain(message.content))
                for question in questions
                for message in _build_messages(plan, question)
            )
            computed, whole = computed + own, whole + own
            continue
        found = vocabulary.build_prompts(plan, subject, questions)
        computed += found.computed_tokens
        prefix += len(found.prefix)
        whole += sum(prompt.total_tokens for prompt in found.prompts)
    return {"computed": computed, "prefix": prefix, "whole": whole}


def _build_messages(plan: RunPlan, question: Question) -> tuple[Message, ...]:
    return build_query(plan.format, question, plan.examples[question.subject]).messages()
