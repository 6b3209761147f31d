"""Patterns and schemas that are small to send, and expensive to keep or to read."""

from __future__ import annotations

from typing import Any

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _pattern(text: str) -> dict[str, Any]:
    return {"type": "string", "pattern": text}


def _nest(part: str, levels: int, count: str = "{1,9}") -> str:
    for _ in range(levels):
        part = f"({part}){count}"
    return f"^{part}$"


def _tree(depth: int, key: str) -> dict[str, Any]:
    """Nest alternatives, each of them twice."""
    part: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        part = {key: [part, {"type": "object", "properties": {"a": part}}]}
    return part


_WORDS = ["".join(_LETTERS[(n * 7 + k * k) % 26] for k in range(9)) + str(n) for n in range(900)]

PATTERNS: dict[str, str] = {
    "98 optional characters": "^" + ".?" * 98 + "$",
    "28 runs of any": "^" + ".{0,9}" * 28 + "$",
    "nested counts": _nest("a", 4),
    "99 optional letters": "^" + "a?" * 99 + "$",
    "98 optional, then as many": "^" + "a?" * 98 + "a" * 98 + "$",
    "nested stars": _nest("a", 12, "*"),
    "nested pluses of any": _nest(".", 6, "+"),
    "two stars and an end": "^(a*)*b$",
    "overlapping alternatives": "^(a|aa|aaa|aaaa|aaaaa)*$",
    "overlapping counted": "^(a|ab|abc|b|bc|c){0,60}$",
    "20 stars of any": "^(.*a){20}$",
    "an a 12 before the end": "^(a|b)*a(a|b){12}$",
    "an a 40 before the end": "^[ab]*a[ab]{40}$",
    "an a 300 before the end": "^.*a.{300}$",
    "three far ends": "^(.*a.{15}){3}$",
    "optional pairs": "^" + "[ab]?a?" * 60 + "$",
    "optional classes": "^" + "".join(f"[{c}-z]?" for c in _LETTERS) * 4 + "$",
    "long count": "^.{5000}$",
    "longer count": "^[a-z]{1,60000}$",
    "nested long counts": "^((a{1,100}){1,100}){1,100}$",
    "counts of pairs": "^(ab?){0,2000}$",
    "three fields": r"^\w{0,60}@\w{0,60}\.\w{0,60}$",
    "letters of all scripts": r"^\p{L}{0,500}$",
    "no ASCII": r"^[^\x00-\x7f]{0,400}$",
    "optional letters of all scripts": "^" + r"\p{L}?" * 60 + "$",
    "mixed classes of all scripts": "^" + r"\p{L}?\w?\p{N}?" * 25 + "$",
    "any case": "^(?i:" + "ß?k?ſ?" * 30 + ")$",
    "900 words": "^(" + "|".join(_WORDS) + ")$",
    "900 words in any order": "^(" + "|".join(_WORDS) + "){1,40}$",
    "unanchored": ".?" * 50 + "x" + ".?" * 50,
    "words anywhere": "|".join(f".*{word}.*" for word in _WORDS[:120]),
    "dates and again": r"^(\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?)?[ ,;]?){0,90}$",
    "empty repeated": "^(a{0,9}){0,9}(b{0,9}){0,9}(c{0,9}){0,9}$",
    "runs that share": "^"
    + "".join(f"[{c}{d}]{{0,40}}" for c, d in zip("abcdefgh", "bcdefghi", strict=True))
    + "$",
}

SCHEMAS: dict[str, dict[str, Any]] = {
    **{name: _pattern(text) for name, text in PATTERNS.items()},
    "all letters": {"type": "string", "allOf": [_pattern(f".*{c}.*") for c in _LETTERS]},
    "no word of these": {
        "type": "string",
        "allOf": [{"not": _pattern(f"{word[:4]}")} for word in _WORDS[:30]],
    },
    "far ends together": {
        "type": "string",
        "allOf": [_pattern(f"^.*a.{{{n}}}$") for n in range(8, 24)],
    },
    "multiples": {"type": "integer", "allOf": [{"multipleOf": n} for n in (7, 11, 13, 17, 19, 23)]},
    "a large multiple": {"type": "integer", "multipleOf": 1_000_003},
    "a fine multiple": {"type": "number", "multipleOf": 0.000001, "minimum": 0, "maximum": 9e12},
    "long text": {"type": "string", "minLength": 60_000, "maxLength": 65_000},
    "long bounds": {"type": "number", "minimum": 1.0000000000001, "maximum": 1.0000000000002},
    "many items": {"type": "array", "items": {"type": "integer"}, "minItems": 5000},
    "items of items": {
        "type": "array",
        "maxItems": 300,
        "items": {"type": "array", "maxItems": 300, "items": {"type": "array", "maxItems": 300}},
    },
    "optional properties": {
        "type": "object",
        "properties": {word: {"type": "integer"} for word in _WORDS},
    },
    "properties by 40 patterns": {
        "type": "object",
        "patternProperties": {f"^{word[:3]}.?.?.?.?x": {"type": "null"} for word in _WORDS[:40]},
    },
    "recursion without end": {
        "$defs": {
            "a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}, {"type": "null"}]},
            "b": {
                "anyOf": [{"$ref": "#/$defs/a"}, {"type": "array", "items": {"$ref": "#/$defs/b"}}]
            },
        },
        "$ref": "#/$defs/a",
    },
    "ambiguous recursion": {
        "$defs": {
            "a": {
                "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}}] * 8
                + [{"type": "integer"}]
            }
        },
        "$ref": "#/$defs/a",
    },
    "a tree of alternatives": _tree(9, "anyOf"),
    "a tree of parts": _tree(7, "allOf"),
    "a tree of either": _tree(6, "oneOf"),
    "60 patterns that share": {
        "anyOf": [_pattern(f"^.{{0,{n}}}{word}.?.?$") for n, word in enumerate(_WORDS[:60], 1)]
    },
    "900 values": {"enum": _WORDS},
    "any JSON in depth": {"type": "object"},
    "conditions": {
        "type": "object",
        "allOf": [
            {
                "if": {"properties": {word: {"const": 1}}},
                "then": {"required": [word]},
                "else": {"properties": {word: {"const": 2}}},
            }
            for word in _WORDS[:12]
        ],
    },
}

REFUSED = frozenset(
    (
        "all letters",
        "no word of these",
        "far ends together",
        "multiples",
        "a large multiple",
        "optional properties",
        "a tree of alternatives",
        "a tree of parts",
        "conditions",
    )
)
"""Those of which some step would take too long, or that llguidance cannot read."""
