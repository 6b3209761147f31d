"""Forecast a question before it is sent: its tokens, the joules of its arms, its room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.arm import Arm
from etui.chat import Query
from etui.errors import ModelUnavailable
from etui.routing.text_measures import estimate_tokens

if TYPE_CHECKING:
    from etui.engine.token_counter import TokenCounter
    from etui.models.spec import ModelSpec
    from etui.routing.decision import PredictedJoules
    from etui.runtime.decide import Choice
    from etui.runtime.runtime import Runtime

MOST_ARMS = 3
"""Arms that are forecast: more do not fit into a line."""

_TEMPLATE_TOKENS = 96
"""Tokens kept free for the chat template, with a system prompt of its own and an instruction."""

_LEAST_TEMPLATE_TOKENS = 16
"""Tokens that any chat template takes."""

_ANSWER_SHARE = 0.25
"""Largest share of the context that is kept free for the answer when a text is cut."""

_LEAST_ANSWER_TOKENS = 16


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of a text; ``exact`` if the tokenizer of the model counted them."""

    tokens: int
    exact: bool


@dataclass(frozen=True, slots=True)
class ArmForecast:
    """What one arm would spend on a question."""

    arm: str
    model: str
    predicted: PredictedJoules | None  # None if nothing is known about the model here


@dataclass(frozen=True, slots=True)
class Forecast:
    """A question before it is sent; what depends on the context is None if that is unknown."""

    parts: tuple[TokenCount, ...]
    arms: tuple[ArmForecast, ...]
    """The arm that would answer, then those that it may hand over to, or that were weighed."""
    model: str  # The model that would answer
    context_tokens: int | None = None
    room_tokens: int | None = None  # Most tokens of a question that leave room for a full answer
    most_tokens: int | None = None  # Most tokens of a question that are accepted at all
    picture_tokens: int = 0  # Estimate of the tokens of its pictures, by the projector

    @property
    def tokens(self) -> int:
        """Tokens of the whole question."""
        return sum(part.tokens for part in self.parts) + self.picture_tokens

    @property
    def exact(self) -> bool:
        """Whether every part was counted by the tokenizer."""
        return not self.picture_tokens and all(part.exact for part in self.parts)

    @property
    def fits(self) -> bool:
        """Whether the question fits the context; True if the context is unknown."""
        return self.most_tokens is None or self.tokens <= self.most_tokens


def forecast_choice(
    query: Query,
    choice: Choice,
    parts: Sequence[str],
    runtime: Runtime[Any],
    counter: TokenCounter,
    resident: str | None = None,
) -> Forecast:
    """Forecast a question for the arm that was chosen for it.

    The texts that make up the question are counted one by one, so that a long one that stays the
    same is counted once.
    """
    from etui.runtime.log_predictor import LogPredictor

    arm = choice.decision.arm
    predictor = choice.predictor or LogPredictor(
        runtime.config, runtime.catalogue, resident, log=runtime.log_cache
    )
    arms = tuple(
        ArmForecast(each.name, each.model, predictor.joules(each, query))
        for each in list_arms(choice)[:MOST_ARMS]
    )
    counts = tuple(count_tokens(part, arm.model, runtime, counter) for part in parts)
    seen = estimate_pictures(query, runtime.catalogue.models.get(arm.model))
    context_tokens = runtime.model_files.find_context_tokens(arm.model, runtime.catalogue)
    if context_tokens is None:
        return Forecast(counts, arms, arm.model, picture_tokens=seen)
    free = context_tokens - estimate_tokens(query.system or "")
    answer = min(arm.max_tokens, int(context_tokens * _ANSWER_SHARE))
    return Forecast(
        counts,
        arms,
        arm.model,
        context_tokens,
        max(0, free - _TEMPLATE_TOKENS - answer),
        max(0, free - _LEAST_TEMPLATE_TOKENS - min(_LEAST_ANSWER_TOKENS, arm.max_tokens)),
        seen,
    )


def list_arms(choice: Choice) -> tuple[Arm, ...]:
    """List the arm that answers, then the others of its cascade or of its objective."""
    decision = choice.decision
    cascade = decision.cascade.arms if decision.cascade is not None else ()
    others = [candidate.arm for candidate in decision.candidates if candidate.failed is None]
    return tuple(dict.fromkeys((decision.arm, *cascade, *others)))


def count_tokens(text: str, model: str, runtime: Runtime[Any], counter: TokenCounter) -> TokenCount:
    """Count the tokens of a text for a model; estimate them if its tokenizer is not here."""
    from etui.models.files import model_path

    spec = runtime.catalogue.models.get(model)
    if spec is not None and spec.backend is None:
        path = model_path(spec, runtime.config)
        count = counter.count(path, text) if path.is_file() else None
        if count is not None:
            return TokenCount(count, exact=True)
    return TokenCount(estimate_tokens(text), exact=False)


def estimate_pictures(query: Query, spec: ModelSpec | None) -> int:
    """Estimate the tokens of a question's pictures by the header of the model's projector.

    It is 0 if the model has none, or one that cannot be used: the answer says so.
    """
    if not query.pictures or spec is None or spec.mmproj is None:
        return 0
    from etui.models.adapters import read_projector

    try:
        projector = read_projector(spec.mmproj, spec.name)
    except ModelUnavailable:
        return 0
    return sum(projector.estimate_tokens(each.width, each.height) for each in query.pictures)


def count_prompt(query: Query, arm: Arm, runtime: Runtime[Any], counter: TokenCounter) -> int:
    """Count the tokens of a conversation as the model's chat template writes it, with its tools.

    They are estimated from the texts if the model is not on this machine, or its template refuses
    the conversation.
    """
    from etui.engine.token_counter import Prompt
    from etui.models.files import model_path

    tools = "" if query.options.tool_choice == "none" else query.options.tools
    spec = runtime.catalogue.models.get(arm.model)
    own = None if spec is None else spec.own
    messages = query.answered_by(None if own is None else own.system).messages()
    if spec is not None and spec.backend is None:
        path = model_path(spec, runtime.config)
        think_tokens = 0 if arm.reasoning == "direct" else arm.think_tokens
        prompt = Prompt(spec, messages, tools, think_tokens)
        count = counter.count_prompt(path, prompt) if path.is_file() else None
        if count is not None:
            return count + estimate_pictures(query, spec)
    texts = [tools, *(text for each in messages for text in (each.content, each.tool_calls))]
    return sum(map(estimate_tokens, texts))
