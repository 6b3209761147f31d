"""What the schema of policy files allows at the cursor: completions, and help on a key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from etui.routing.limits import EFFORTS
from etui.routing.signals.language import LANGUAGES
from etui.tui.policies.outline import Outline, Path, Spot, find_spot, read_outline
from etui.tui.policies.schema_nodes import (
    Schema,
    detail_text,
    expand,
    find_nodes,
    fixed_values,
    type_text,
)

_MOST_CHARACTERS = 100_000
"""A longer text is not completed: it is read again after every key."""

_MOST_NAMED = 6
"""Names that the help lists."""

_WITHIN_FROM = 3
"""Characters from which names that only contain what is typed are offered as well."""

_WORD = re.compile(r"[\w.@-]*")


@dataclass(frozen=True, slots=True)
class KnownNames:
    """Names that are defined outside of the file."""

    models: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One completion."""

    text: str
    insert: str  # What replaces the typed part
    detail: str = ""  # One line that explains it; may be empty


@dataclass(frozen=True, slots=True)
class Completion:
    """The completions of the text between two columns of the cursor's line."""

    start: int
    end: int
    candidates: tuple[Candidate, ...] = ()


_NAMES_AT: tuple[tuple[str, tuple[str, ...]], ...] = (
    # Kind of name, path of the value; * is any key or index.
    ("model", ("models", "*", "*")),
    ("role", ("arms", "*", "model")),
    ("role", ("signals", "*", "is")),
    ("model", ("probes", "*", "host", "resident")),
    ("arm", ("rules", "*", "use")),
    ("arm", ("rules", "*", "otherwise")),
    ("arm", ("rules", "*", "arms", "*")),
    ("arm", ("rules", "*", "cascade", "arms", "*")),
    ("arm", ("rules", "*", "cascade", "arms", "*", "agree", "*")),
    ("arm", ("budgets", "degrade_to")),
    ("arm", ("fallbacks", "load_failed")),
    ("arm", ("efforts", "*")),
    ("arm", ("probes", "*", "arm")),
    ("arm", ("probes", "*", "not_arm")),
    ("arm", ("signals", "*", "nearest", "by")),
    ("condition", ("rules", "*", "when")),
    ("rule", ("probes", "*", "rule")),
    ("rule", ("probes", "*", "not_rule")),
    ("policy", ("shadow", "policy")),
    ("language", ("signals", "*", "language")),
)

_KEYS_AT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("condition", ("signals", "*", "score")),
    ("condition", ("probes", "*", "signals")),
    ("arm", ("rules", "*", "objective", "prior")),
    ("effort", ("efforts",)),
)


def complete(
    text: str, row: int, column: int, schema: Schema, names: KnownNames
) -> Completion | None:
    """List what may be typed at a cursor; None where there is nothing to complete.

    Args:
        row: Line of the cursor, from 0.
        column: Number of characters before the cursor in its line.
        schema: JSON Schema of a policy.
        names: Names that are defined elsewhere.
    """
    if len(text) > _MOST_CHARACTERS:
        return None
    spot = find_spot(text, row, column)
    if spot.role == "nothing":
        return None
    line = text.split("\n")[row]
    end = _word_end(line, column)
    outline = read_outline(text)
    typed = spot.typed
    whole = typed + line[column:end]
    found: dict[str, Candidate] = {}
    if spot.role in ("key", "either"):
        has_colon = line[end:].lstrip(" ").startswith(":")
        found |= {c.text: c for c in _keys(spot, schema, outline, whole, bare=has_colon)}
    if spot.role in ("value", "either"):
        found |= {c.text: c for c in _values(spot.path, schema, outline, names)}
    ordered = _matching(found.values(), typed)
    return Completion(spot.start, end, ordered) if ordered else None


def help_line(text: str, row: int, column: int, schema: Schema, names: KnownNames) -> str:
    """Describe the key at a cursor, or the key whose value is there; may be empty.

    The arguments are those of :func:`complete`.
    """
    lines = text.split("\n")
    if len(text) > _MOST_CHARACTERS or not 0 <= row < len(lines):
        return ""
    line = lines[row]
    end = _word_end(line, column)
    spot = find_spot(text, row, end)
    if spot.role == "nothing":
        return ""
    paths: list[Path] = []
    if spot.role in ("key", "either") and spot.typed:
        paths.append((*spot.path, spot.typed.strip("'\"")))
    paths.append(spot.path)
    for path in paths:
        while path and isinstance(path[-1], int):
            path = path[:-1]
        nodes = find_nodes(schema, path)
        if path and nodes:
            return _describe(path, nodes, schema, read_outline(text), names)
    return ""


def _describe(
    path: Path, nodes: Sequence[Schema], schema: Schema, outline: Outline, names: KnownNames
) -> str:
    """Format ``use · quick, large · The arm that answers.``."""
    known = [
        name
        for kind in _kinds(_without_branches(path), _NAMES_AT)
        for name in _names(kind, outline, names)
    ]
    allowed = ", ".join(known[:_MOST_NAMED]) + (", …" if len(known) > _MOST_NAMED else "")
    texts = [str(path[-1]), allowed or type_text(schema, nodes[0])]
    texts.append(str(nodes[0].get("description", "")))
    return " · ".join(text for text in texts if text)


def _matching(candidates: Iterable[Candidate], typed: str) -> tuple[Candidate, ...]:
    """Return the candidates that fit what is typed, those that begin with it first."""
    folded = typed.strip("'\"").casefold()
    begins = [c for c in candidates if c.text.casefold().startswith(folded)]
    within = (
        []
        if len(folded) < _WITHIN_FROM
        else [c for c in candidates if c not in begins and folded in c.text.casefold()]
    )
    if len(begins) == 1 and not within and begins[0].text == typed:
        return ()
    return (*begins, *within)


def _keys(
    spot: Spot, schema: Schema, outline: Outline, whole: str, *, bare: bool
) -> Iterator[Candidate]:
    taken = set(outline.names(*spot.path)) - {whole}
    end = "" if bare else ": "
    for node in expand(schema, find_nodes(schema, spot.path)):
        for key, below in node.get("properties", {}).items():
            if key not in taken:
                yield Candidate(key, key + end, detail_text(schema, below))
    for kind in _kinds(spot.path, _KEYS_AT):
        for name in _names(kind, outline, KnownNames()):
            if name not in taken:
                yield Candidate(name, name + end, kind)


def _values(path: Path, schema: Schema, outline: Outline, names: KnownNames) -> Iterator[Candidate]:
    for kind in _kinds(_without_branches(path), _NAMES_AT):
        for name in _names(kind, outline, names):
            yield Candidate(name, name, _name_detail(kind, name, outline))
    for node in expand(schema, find_nodes(schema, path)):
        for value in fixed_values(node):
            yield Candidate(value, value)


def _names(kind: str, outline: Outline, names: KnownNames) -> tuple[str, ...]:
    match kind:
        case "model":
            return names.models
        case "role":
            return (*outline.names("models"), *names.models)
        case "arm":
            return outline.names("arms")
        case "condition":
            return tuple(_conditions(outline))
        case "rule":
            rules = ((p, v) for p, v in outline.values.items() if p[:1] == ("rules",))
            return tuple(value for path, value in rules if path[2:] == ("name",))
        case "policy":
            return names.policies
        case "language":
            return tuple(LANGUAGES)
        case "effort":
            return tuple(EFFORTS)
    return ()


def _conditions(outline: Outline) -> Iterator[str]:
    """Yield the signals; a score with bands only with its bands."""
    for signal in outline.names("signals"):
        bands = outline.names("signals", signal, "bands")
        yield from (f"{signal}.{band}" for band in bands) if bands else (signal,)


def _name_detail(kind: str, name: str, outline: Outline) -> str:
    if kind == "arm":
        model = outline.values.get(("arms", name, "model"), "")
        reasoning = outline.values.get(("arms", name, "reasoning"), "direct")
        return f"{model}, {reasoning}" if model else "arm"
    if kind == "condition":
        return ", ".join(outline.names("signals", name)) or "signal"
    if kind == "role":
        return "role" if name in outline.names("models") else "model"
    return kind


def _without_branches(path: Path) -> Path:
    """Drop all, any and not from the path of a condition, which may nest."""
    if path[:1] != ("rules",) or path[2:3] != ("when",):
        return path
    below = path[3:]
    while below:
        if below[0] in ("all", "any") and (len(below) == 1 or isinstance(below[1], int)):
            below = below[2:]
        elif below[0] == "not":
            below = below[1:]
        else:
            return path
    return path[:3]


def _kinds(path: Path, table: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[str]:
    for kind, pattern in table:
        if len(pattern) == len(path) and all(
            part in ("*", given) for part, given in zip(pattern, path, strict=True)
        ):
            yield kind


def _word_end(line: str, column: int) -> int:
    found = _WORD.match(line, max(0, column))
    return found.end() if found else column
