"""Detect the language of a question by its script and its most common words.

This is good enough to send German questions to a model that speaks German. No language is found
for a question of one or two words in the Latin script, and then no language signal holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    """Detect the language of a text; None if the evidence is too weak.

    Args:
        words: Its words, case-folded.

    Returns:
        One of ``LANGUAGES``, or None.
    """
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
