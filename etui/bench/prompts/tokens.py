"""Prompts as tokens: complete tokenisations only, so that what is shared is shared token by token.

Two tokenisations glued together are another prompt than the one of the joined text; what of the
worked examples can be reused is therefore the longest common token prefix.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from etui.bench.prompts.formats import Format, PromptText, ending_weight, prompt_text
from etui.datasets.questions import Question
from etui.engine.prefix_cache import common_prefix
from etui.errors import ContextOverflow

Tokenize = Callable[[str], list[int]]
"""Complete tokenisation of a prompt, with the begin token where the model wants one."""

_SAME_END = 2
"""Tokens at the end of two prompts (``Answer`` and ``:``) that settle how letters follow them."""


@dataclass(frozen=True, slots=True)
class PromptEnding:
    """What is scored behind a prompt.

    Attributes:
        letter: The option it stands for.
        tokens: Its tokens behind the tokens that all endings share.
        weight: What its log-probability is divided by.
    """

    letter: str
    tokens: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """One question, ready to be scored.

    Attributes:
        question: What is asked.
        tokens: The prompt, up to where the endings differ.
        shared: Leading tokens that it has in common with the subject's worked examples.
        endings: What is scored behind it.
        shots: Worked examples it holds.
        sha: First 16 hex digits of the SHA-256 of its text.
    """

    question: Question
    tokens: Sequence[int]
    shared: int
    endings: tuple[PromptEnding, ...]
    shots: int
    sha: str

    @property
    def own_tokens(self) -> int:
        """Tokens that are computed for this question alone, its endings left out."""
        return len(self.tokens) - self.shared

    @property
    def total_tokens(self) -> int:
        """Cells it takes with all its endings; a last token need not be computed."""
        return len(self.tokens) + sum(len(ending.tokens) - 1 for ending in self.endings)

    @property
    def single(self) -> bool:
        """Whether every ending is one token, so that the prompt alone is computed."""
        return all(len(ending.tokens) == 1 for ending in self.endings)


@dataclass(frozen=True, slots=True)
class SubjectPrompts:
    """The prompts of one subject.

    Attributes:
        prefix: Tokens of the header and the worked examples; empty where nothing is shared.
        prompts: In the order of the questions.
    """

    prefix: Sequence[int]
    prompts: tuple[TokenizedPrompt, ...]

    @property
    def computed_tokens(self) -> int:
        """Tokens that scoring all of it computes."""
        own = sum(p.total_tokens - p.shared for p in self.prompts)
        return len(self.prefix) + own


def subject_prompts(
    format_: Format,
    questions: Sequence[Question],
    examples: Sequence[Question],
    tokenize: Tokenize,
    context_tokens: int,
    *,
    reuse: bool = True,
) -> SubjectPrompts:
    """The prompts of one subject's questions.

    A prompt that does not fit into the context loses its worked examples one by one, the last
    first.

    Args:
        examples: The worked examples to show.
        context_tokens: Tokens a prompt may have with its endings.
        reuse: Whether the examples are computed once for all questions.

    Raises:
        ContextOverflow: A question does not fit without any example.
    """
    prefix: list[int] = []
    if reuse and questions:
        prefix = _prefix(prompt_text(format_, questions[0], examples).shared, tokenize)
    made: list[TokenizedPrompt] = []
    for question in questions:
        for shots in range(len(examples), -1, -1):
            like = made[-1] if made else None
            prompt = _prompt(format_, question, examples[:shots], tokenize, prefix, like)
            if prompt.total_tokens <= context_tokens:
                break
        else:
            raise ContextOverflow(prompt.total_tokens, context_tokens, 0)
        made.append(prompt)
    used = max((prompt.shared for prompt in made), default=0)
    return SubjectPrompts(prefix[:used], tuple(made))


def _prefix(text: str, tokenize: Tokenize) -> list[int]:
    """The tokens of a text as they are when a word follows.

    Alone, it may end in other tokens: two line breaks are one token at the end of a text and two
    before a word in some vocabularies.
    """
    one, other = tokenize(f"{text}A"), tokenize(f"{text}What")
    return one[: common_prefix(one, other)]


def _prompt(
    format_: Format,
    question: Question,
    examples: Sequence[Question],
    tokenize: Tokenize,
    prefix: Sequence[int],
    like: TokenizedPrompt | None,
) -> TokenizedPrompt:
    text = prompt_text(format_, question, examples)
    plain = tokenize(text.text)
    if like is not None and format_.reads == "letters" and like.single and _end_alike(like, plain):
        base, endings = len(plain), like.endings
    else:
        base, endings = _endings(format_, text, plain, tokenize)
    # The last token is computed for the question itself: its logits are needed.
    shared = min(common_prefix(prefix, plain), base - 1)
    tokens = array("i", plain[:base])
    return TokenizedPrompt(question, tokens, shared, endings, len(examples), text.sha)


def _end_alike(like: TokenizedPrompt, plain: Sequence[int]) -> bool:
    """Whether what follows the prompts is cut into the same tokens: both end in the same words."""
    return list(like.tokens[-_SAME_END:]) == list(plain[-_SAME_END:])


def _endings(
    format_: Format, text: PromptText, plain: list[int], tokenize: Tokenize
) -> tuple[int, tuple[PromptEnding, ...]]:
    """How many tokens of the prompt all endings share, and the rest of each of them."""
    whole = {letter: tokenize(text.text + ending) for letter, ending in text.endings.items()}
    base = min(common_prefix(plain, tokens) for tokens in whole.values())
    if any(len(tokens) == base for tokens in whole.values()):
        base -= 1  # an ending that vanished into the prompt: its last token is scored again
    return base, tuple(
        PromptEnding(letter, tuple(tokens[base:]), ending_weight(format_, text.endings[letter]))
        for letter, tokens in whole.items()
    )


def single_letters(prompts: Sequence[TokenizedPrompt]) -> Mapping[str, int] | None:
    """Letter -> its one token, where that is the same behind every prompt; else None."""
    found: dict[str, int] = {}
    for prompt in prompts:
        for ending in prompt.endings:
            if len(ending.tokens) != 1:
                return None
            if found.setdefault(ending.letter, ending.tokens[0]) != ending.tokens[0]:
                return None
    return found or None


def groups(
    prompts: Sequence[TokenizedPrompt], most_tokens: int, most_questions: int
) -> Iterator[tuple[TokenizedPrompt, ...]]:
    """Prompts that are computed together: as many as fit into one batch, in their order.

    They depend on the prompts alone, so that a run that was interrupted repeats the same batches. A
    prompt that is longer than a batch goes alone: nobody else's tokens are then in its batches.

    Args:
        most_tokens: Own tokens of a group.
        most_questions: Prompts of a group.
    """
    group: list[TokenizedPrompt] = []
    taken = 0
    for prompt in prompts:
        if group and (taken + prompt.own_tokens > most_tokens or len(group) == most_questions):
            yield tuple(group)
            group, taken = [], 0
        group.append(prompt)
        taken += prompt.own_tokens
    if group:
        yield tuple(group)
