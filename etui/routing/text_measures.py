"""Measures of a question: pure functions from its text to a number, and its words in buckets.

None of them loads a model, so a decision costs a negligible number of joules. ``MEASURES`` maps
their names in a policy to the functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_uppercase
from types import MappingProxyType
from zlib import crc32

from etui.chat import Message, Query
from etui.multiple_choice import parse_options

_COMMON = {
    "en": "the of and to in is that for it what how which are was with on be this do does from by "
    "an at not or can who why when where you i me my please write explain if have has",
    "de": "der die das und ist nicht ein eine einen ich du wir sie es zu mit auf für von den dem "
    "wie wer warum wo welche welcher im am bitte wird sind kann auch als aber schreibe erkläre",
    "fr": "le la les de des du et est une un dans pour que qui quoi quel quelle comment pourquoi "
    "où ne pas je tu il elle nous vous sur avec ce cette sont au aux écris explique",
    "es": "el la los las de del y es una un en para que qué cuál quién cómo por dónde no yo tú se "
    "con su este esta son al lo más escribe explica",
    "it": "il lo la gli le di del della e è una un in per che chi cosa come perché dove non io tu "
    "si con su questo questa sono al scrivi spiega",
    "pt": "o a os as de do da dos das e é uma um em para que quem qual como por onde não eu você "
    "se com seu este esta são ao escreva explique",
    "nl": "de het een en is van in voor dat wat wie hoe waarom waar niet ik jij je we met op zijn "
    "te deze dit er aan schrijf leg",
}


def _build_weights() -> dict[str, dict[str, float]]:
    """Build word -> language -> weight; a word that several languages share weighs less in each."""
    languages: dict[str, list[str]] = {}
    for code, words in _COMMON.items():
        for word in words.split():
            languages.setdefault(word, []).append(code)
    return {word: dict.fromkeys(codes, 1 / len(codes)) for word, codes in languages.items()}


_WEIGHTS = _build_weights()

_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af\u1100-\u11ff]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("uk", re.compile(r"[іїєґІЇЄҐ]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
)

_LETTER = re.compile(r"[^\W\d_]")

LANGUAGES = (*_COMMON, *(code for code, _ in _SCRIPTS))
"""Codes (ISO 639-1) that ``detect`` can return."""

_SCRIPT_SHARE = 0.2
"""Share of a script among the letters above which it decides; names and symbols stay below."""


def detect(text: str, words: Sequence[str]) -> str | None:
    """Detect the language of a text; None if the evidence is too weak."""
    if not text.isascii():
        letters = len(_LETTER.findall(text))
        for code, script in _SCRIPTS:
            # A few kana indicate Japanese though most letters are Han; one "і" indicates Ukrainian.
            share = 0.02 if code in ("ja", "uk") else _SCRIPT_SHARE
            if letters and len(script.findall(text)) > share * letters:
                return code
    scores = dict.fromkeys(_COMMON, 0.0)
    for word in words:
        for code, weight in _WEIGHTS.get(word, {}).items():
            scores[code] += weight
    ranked = sorted(scores.values(), reverse=True)
    # A single word that several languages share ("la", "no") must not decide.
    if ranked[0] < 0.9 or ranked[0] <= ranked[1]:
        return None
    return max(scores, key=lambda code: scores[code])


TEXT_LIMIT = 8_000
"""Characters that all measures but the lengths use. A longer question is cut to its two ends,
because the task comes before or after the text it is about."""

PICTURE_TOKENS = 256
"""Tokens of a picture where its model is not known: those of Gemma 3; others take 64 to 2,000."""

_BYTES_PER_TOKEN = 4


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORD = re.compile(r"\w+(?:['’-]\w+)*")
# The lookbehind lets a match begin only at the start of a run; without it, n signs take n^2 steps.
_SENTENCE_END = re.compile(r"(?<![.!?。！？])[.!?。！？]++(?=\s|$)")
_DIGITS = re.compile(r"\d+")
_MATH = re.compile(r"[=+*/^<>%±×÷√∑∫≤≥≠π]|\\(?:frac|sqrt|sum|int)\b")
_BLANK = re.compile(r"_{2,}")
_QUESTION = re.compile(r"[?？]")
_FENCE = re.compile(r"^[ \t]{0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)", re.MULTILINE)
_PROSE_TAGS = _words("text txt md markdown rst log")
_STATEMENT = re.compile(r"\bstatement\s+(?:\d+|[ivx]+)\b|^[ \t]*\(?[IVX]{1,4}[.)]\s", re.I | re.M)
_QUESTION_WORDS = _words(
    "what which who whom whose when where why how "
    "was welche welcher welches wer wem wen wessen wann wo warum wie wieso weshalb "
    "que quoi quel quelle qui quand où pourquoi comment combien "
    "qué cuál quién cuándo dónde cómo cuánto"
)
_NEGATIONS = _words("not no never none neither nor except without cannot nicht kein keine")


class TextFacts:
    """The measures of one query; each is computed once, on first use."""

    def __init__(self, query: Query) -> None:
        self.query = query
        text, half = query.text, TEXT_LIMIT // 2
        self.text = text if len(text) <= TEXT_LIMIT else f"{text[:half]}\n{text[-half:]}"
        self._measured: dict[str, float] = {}

    def measure(self, name: str) -> float:
        """Compute one of ``MEASURES``, and cache it."""
        value = self._measured.get(name)
        if value is None:
            value = self._measured[name] = MEASURES[name](self)
        return value

    @cached_property
    def folded(self) -> str:
        """The text case-folded and with single spaces, for keywords."""
        return " ".join(self.text.casefold().split())

    @cached_property
    def words(self) -> list[str]:
        """The words of the text, case-folded."""
        return WORD.findall(self.text.casefold())

    @cached_property
    def tokens(self) -> int:
        """Length of the question in tokens, with those that its pictures take as a rule."""
        return estimate_tokens(self.query.text) + PICTURE_TOKENS * len(self.query.pictures)

    @cached_property
    def chat_tokens(self) -> int:
        """Length of the whole conversation in tokens, chat template excluded."""
        earlier = self.query.history_tokens
        if earlier is None:
            earlier = count_history_tokens(self.query.history)
        return estimate_tokens(self.query.system or "") + earlier + self.tokens

    @cached_property
    def language(self) -> str | None:
        """The language as a two-letter code; None if it cannot be determined."""
        return detect(self.text, self.words)


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text without a tokenizer: UTF-8 bytes over four, rounded up.

    Other languages than English and code have up to half as many tokens again.
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // _BYTES_PER_TOKEN)


def count_history_tokens(messages: Iterable[Message]) -> int:
    """Estimate the tokens of the messages before a question."""
    return sum(estimate_tokens(message.content) for message in messages)


def _count_code_blocks(text: str) -> int:
    count, opening = 0, ""
    for fence, tag in _FENCE.findall(text):
        if not opening:  # an unclosed block is a block
            opening = fence
            count += tag.casefold() not in _PROSE_TAGS
        elif fence.startswith(opening) and not tag:
            opening = ""
    return count


def _compute_mean_word_length(facts: TextFacts) -> float:
    return sum(map(len, facts.words)) / len(facts.words) if facts.words else 0.0


MEASURES: Mapping[str, Callable[[TextFacts], float]] = MappingProxyType(
    {
        "tokens": lambda facts: facts.tokens,
        "chat_tokens": lambda facts: facts.chat_tokens,
        "characters": lambda facts: len(facts.query.text),
        "words": lambda facts: len(facts.words),
        "sentences": lambda facts: len(_SENTENCE_END.findall(facts.text)),
        "lines": lambda facts: facts.text.count("\n") + 1,
        "turns": lambda facts: sum(m.role == "user" for m in facts.query.history) + 1,
        "options": lambda facts: len(parse_options(facts.text)),
        "question_marks": lambda facts: len(_QUESTION.findall(facts.text)),
        "question_words": lambda facts: sum(word in _QUESTION_WORDS for word in facts.words),
        "negations": lambda facts: sum(
            word in _NEGATIONS or word.endswith(("n't", "n’t")) for word in facts.words
        ),
        "statements": lambda facts: len(_STATEMENT.findall(facts.text)),
        "blanks": lambda facts: len(_BLANK.findall(facts.text)),
        "digits": lambda facts: sum(map(len, _DIGITS.findall(facts.text))),
        "numbers": lambda facts: len(_DIGITS.findall(facts.text)),
        "math_symbols": lambda facts: len(_MATH.findall(facts.text)),
        "code_blocks": lambda facts: _count_code_blocks(facts.text),
        "mean_word_length": _compute_mean_word_length,
    }
)
"""Name in a policy -> the function that computes the number."""


BUCKETS = 2**11
"""Number of buckets that words are hashed into."""

DIGIT = re.compile(r"\d")
_FIRST_LABEL = re.compile(r"(?:(?<=\s)|^)(?:\(A\)|A\))\s|^[ \t]*A[.:]\s", re.I | re.M)


@dataclass(frozen=True, slots=True)
class QuestionText:
    """A question split into stem and options."""

    stem: str  # The question without its options
    options: tuple[str, ...] = ()  # The options; empty for an open question

    @property
    def whole(self) -> str:
        """Stem and options, one per line."""
        return "\n".join((self.stem, *self.options))


def split_question(text: str) -> QuestionText:
    """Split a question into stem and options; a long one is first cut to its two ends."""
    if len(text) > TEXT_LIMIT:
        text = f"{text[: TEXT_LIMIT // 2]}\n{text[-TEXT_LIMIT // 2 :]}"
    options = parse_options(text)
    if not options:
        return QuestionText(text)
    starts = [label.start() for label in _FIRST_LABEL.finditer(text)]
    stem = text[: starts[-1]] if starts else text
    return QuestionText(stem.strip() or text, tuple(option.text for option in options))


def format_question(question: QuestionText) -> str:
    """Format a question as a user would type it: the stem, then the options with letters."""
    lines = [
        f"{letter}. {text}" for letter, text in zip(ascii_uppercase, question.options, strict=False)
    ]
    return "\n".join((question.stem, *lines)).strip() or "?"


def hash_word(word: str) -> int:
    """Compute the bucket of a word: CRC-32 of its case-folded UTF-8, modulo ``BUCKETS``.

    CRC-32 is the same on every machine and in every release, unlike ``hash``, and its low bits
    spread short words evenly. It does not protect against words crafted to collide; those would
    only make a prediction worse.
    """
    return crc32(word.casefold().encode("utf-8", "surrogatepass")) % BUCKETS


def count_terms(question: QuestionText) -> dict[int, int]:
    """Count the words of a question by bucket."""
    counts: dict[int, int] = {}
    for word in WORD.findall(question.whole):
        bucket = hash_word(word)
        counts[bucket] = counts.get(bucket, 0) + 1
    return counts


def tf_idf(counts: Mapping[int, int], idf: Sequence[float]) -> dict[int, float]:
    """Compute (1 + ln count) * idf per bucket, scaled to length 1; empty without words."""
    weighted = {bucket: (1 + math.log(n)) * idf[bucket] for bucket, n in counts.items()}
    length = math.sqrt(sum(value * value for value in weighted.values()))
    return {bucket: value / length for bucket, value in weighted.items()} if length else {}
