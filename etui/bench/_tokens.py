"""Prompts as tokens, with the prefix that the questions of a subject share.

Every prompt is tokenised as a whole, because two concatenated tokenisations can differ from the
tokenisation of the joined text. The reusable part of the worked examples is therefore the longest
common token prefix.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from etui.bench.formats import Format, PromptText, ending_weight, prompt_text
from etui.datasets.questions import Question
from etui.engine.sequence_cache import common_prefix
from etui.errors import ContextOverflow

Tokenize = Callable[[str], list[int]]
"""Complete tokenisation of a prompt, with the begin token if the model uses one."""
_SAME_END = 2
"""Tokens at the end of a prompt (``Answer`` and ``:``) that decide how the letters tokenise."""


@dataclass(frozen=True, slots=True)
class PromptEnding:
    """A continuation that is scored after a prompt."""

    letter: str  # The option it represents
    tokens: tuple[int, ...]  # Its tokens after those that all endings share
    weight: float = 1.0  # Divisor of its log-probability


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """One question, ready to be scored."""

    question: Question
    tokens: Sequence[int]  # The prompt, up to the first token in which the endings differ
    shared: int  # Number of leading tokens in common with the subject's worked examples
    endings: tuple[PromptEnding, ...]  # The continuations to score
    shots: int  # Number of worked examples in it
    sha: str  # First 16 hex digits of the SHA-256 of its text

    @property
    def own_tokens(self) -> int:
        """Number of tokens computed for this question alone, without its endings."""
        return len(self.tokens) - self.shared

    @property
    def total_tokens(self) -> int:
        """Cells it needs with all endings; the last token of an ending is never computed."""
        return len(self.tokens) + sum(len(ending.tokens) - 1 for ending in self.endings)

    @property
    def single(self) -> bool:
        """Whether every ending is one token, so that only the prompt is computed."""
        return all(len(ending.tokens) == 1 for ending in self.endings)


@dataclass(frozen=True, slots=True)
class SubjectPrompts:
    """The prompts of one subject."""

    prefix: Sequence[int]
    """Tokens of the header and the worked examples; empty if nothing is shared."""
    prompts: tuple[TokenizedPrompt, ...]  # In the order of the questions

    @property
    def computed_tokens(self) -> int:
        """Number of tokens computed to score the whole subject."""
        own = sum(p.total_tokens - p.shared for p in self.prompts)
        return len(self.prefix) + own


def build_subject_prompts(
    format_: Format,
    questions: Sequence[Question],
    examples: Sequence[Question],
    tokenize: Tokenize,
    context_tokens: int,
    *,
    reuse: bool = True,
) -> SubjectPrompts:
    """Build the prompts of one subject's questions.

    A prompt that does not fit into the context loses its worked examples, the last first.
    """
    prefix: list[int] = []
    if reuse and questions:
        prefix = _tokenize_prefix(prompt_text(format_, questions[0], examples).shared, tokenize)
    made: list[TokenizedPrompt] = []
    for question in questions:
        for shots in range(len(examples), -1, -1):
            like = made[-1] if made else None
            prompt = _build_prompt(format_, question, examples[:shots], tokenize, prefix, like)
            if prompt.total_tokens <= context_tokens:
                break
        else:
            raise ContextOverflow(prompt.total_tokens, context_tokens, 0)
        made.append(prompt)
    used = max((prompt.shared for prompt in made), default=0)
    return SubjectPrompts(prefix[:used], tuple(made))


def _tokenize_prefix(text: str, tokenize: Tokenize) -> list[int]:
    """Tokenise a text as it is when a word follows.

    Its last tokens may differ on its own: in some vocabularies two line breaks are one token at the
    end of a text, and two tokens before a word.
    """
    one, other = tokenize(f"{text}A"), tokenize(f"{text}What")
    return one[: common_prefix(one, other)]


def _build_prompt(
    format_: Format,
    question: Question,
    examples: Sequence[Question],
    tokenize: Tokenize,
    prefix: Sequence[int],
    like: TokenizedPrompt | None,
) -> TokenizedPrompt:
    text = prompt_text(format_, question, examples)
    plain = tokenize(text.text)
    if (
        like is not None
        and format_.reads == "letters"
        and like.single
        and [ending.letter for ending in like.endings] == list(text.endings)
        and list(like.tokens[-_SAME_END:]) == plain[-_SAME_END:]  # endings then tokenise alike
    ):
        base, endings = len(plain), like.endings
    else:
        base, endings = _tokenize_endings(format_, text, plain, tokenize)
    # The last token is always computed, because its logits are needed.
    shared = min(common_prefix(prefix, plain), base - 1)
    tokens = array("i", plain[:base])
    return TokenizedPrompt(question, tokens, shared, endings, len(examples), text.sha)


def _tokenize_endings(
    format_: Format, text: PromptText, plain: list[int], tokenize: Tokenize
) -> tuple[int, tuple[PromptEnding, ...]]:
    """Return the number of tokens that all endings share, and the remaining tokens of each."""
    whole = {letter: tokenize(text.text + ending) for letter, ending in text.endings.items()}
    base = min(common_prefix(plain, tokens) for tokens in whole.values())
    if any(len(tokens) == base for tokens in whole.values()):
        base -= 1  # an ending merged into the prompt, so the last shared token is scored again
    return base, tuple(
        PromptEnding(letter, tuple(tokens[base:]), ending_weight(format_, text.endings[letter]))
        for letter, tokens in whole.items()
    )


def single_letters(prompts: Sequence[TokenizedPrompt]) -> Mapping[str, int] | None:
    """Return letter -> token if each letter is the same single token after every prompt."""
    found: dict[str, int] = {}
    for prompt in prompts:
        for ending in prompt.endings:
            if len(ending.tokens) != 1:
                return None
            if found.setdefault(ending.letter, ending.tokens[0]) != ending.tokens[0]:
                return None
    return found or None


def group_prompts(
    prompts: Sequence[TokenizedPrompt],
    most_tokens: int,
    most_questions: int,
    most_cells: int | None = None,
) -> Iterator[tuple[TokenizedPrompt, ...]]:
    """Group prompts that are computed together: as many as fit into one batch, in their order.

    The groups depend on the prompts alone, so that a resumed run repeats the same batches. A prompt
    longer than a batch is a group of its own, so that its batches hold only its own tokens.
    ``most_cells`` bounds the cells of the cache for the own tokens and endings of a group.
    """
    group: list[TokenizedPrompt] = []
    taken = cells = 0
    for prompt in prompts:
        needed = prompt.total_tokens - prompt.shared
        full = most_cells is not None and cells + needed > most_cells
        if group and (
            full or taken + prompt.own_tokens > most_tokens or len(group) == most_questions
        ):
            yield tuple(group)
            group, taken, cells = [], 0, 0
        group.append(prompt)
        taken += prompt.own_tokens
        cells += needed
    if group:
        yield tuple(group)
