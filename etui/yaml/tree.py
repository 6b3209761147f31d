"""YAML text as a tree in which every key and value knows its line and column.

The text is read as YAML 1.2 understands plain words, so ``no`` is the text "no" (Norwegian, a
keyword) and never False. Only plain data comes out: tags are refused, so nothing is ever
constructed from a file. Depth and size are bounded, so that no file can exhaust the stack or, by
aliases of aliases, the memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etui.errors import Problem

if TYPE_CHECKING:
    import yaml

MAX_DEPTH = 40
"""Nested lists and mappings; the deepest sensible policy has about ten."""

MAX_NODES = 200_000
"""Values of one file with every alias written out."""

_TEXT_PER_VALUE = 50
"""Characters of text that count as one more value."""

_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]{1,300}\Z")
_BASED = re.compile(r"0(?:o[0-7]{1,100}|x[0-9a-fA-F]{1,100})\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)\Z")
_NON_PRINTABLE = re.compile(
    "[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; line and column are counted from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Node:
    """One value of the file.

    Attributes:
        data: The value as plain Python data.
        mark: Where the value begins.
        keys: For a mapping, where each key stands.
        children: For a mapping, key -> value; for a list, its items by index.
        size: Values in it with aliases written out, itself included.
    """

    data: Any
    mark: Mark
    keys: dict[str, Mark] = field(default_factory=dict)
    children: dict[str | int, Node] = field(default_factory=dict)
    size: int = 1


class YamlError(Exception):
    """The text is no YAML etui accepts; carries the problems."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def parse_tree(text: str, file: str) -> Node:
    """The tree of one YAML document; an empty one is an empty mapping.

    Raises:
        YamlError: Not YAML, or YAML that is refused: tabs as indentation, duplicate keys, tags,
            merge keys, several documents, too deep, too large.
    """
    import yaml

    refused = _NON_PRINTABLE.search(text)
    if refused:
        mark = _mark_of(text, refused.start())
        raise YamlError(
            Problem(file, mark.line, mark.column, f"character U+{ord(refused[0]):04X} is not text")
        )
    builder = _Builder(file)
    # libyaml reads about ten times as fast; PyYAML without it reads the same language.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        line, column = (at.line + 1, at.column + 1) if at else (1, 1)
        raise YamlError(_syntax_problem(text, file, line, column, error)) from None
    except yaml.YAMLError as error:
        raise YamlError(Problem(file, 1, 1, " ".join(str(error).split()))) from None
    problems = [*builder.problems, *_tabs(text, file, builder.scalar_lines)]
    if problems:
        raise YamlError(*sorted(problems, key=lambda p: (p.line, p.column)))
    root = builder.root
    if root is None or root.data is None:
        return Node({}, Mark(1, 1))
    return root


class _Builder:
    """Takes parser events one by one, without recursion, and grows the tree."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self.scalar_lines: set[int] = set()
        self._open: list[tuple[Node, str | None]] = []
        """Unfinished lists and mappings with their anchors."""
        self._keys: list[tuple[str, Mark] | None] = []
        """For each unfinished mapping the key that waits for its value."""
        self._anchors: dict[str, Node] = {}
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        import yaml

        assert event.start_mark is not None
        mark = Mark(event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._refuse(mark, "a second document begins here; a file holds one")
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._alias(event.anchor or "", mark), mark)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, mark)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(event, mark, isinstance(event, yaml.MappingStartEvent))
        elif isinstance(event, yaml.CollectionEndEvent):
            node, anchor = self._open.pop()
            self._keys.pop()
            if anchor:
                self._anchors[anchor] = node
            self._add(node, node.mark)

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> None:
        assert event.end_mark is not None
        block = event.style in ("|", ">")
        after = event.end_mark.line + (1 if block else 2)
        self.scalar_lines.update(range(mark.line + 1, after))
        if event.tag:
            self._refuse(mark, f"tag {event.tag!r}: tags are not used here; quote text instead")
        if any("\ud800" <= c <= "\udfff" for c in event.value):
            self._refuse(mark, "half of a surrogate pair is not text")
        if self._waits_for_key():
            key = str(event.value)
            self._key(key, mark, plain=not event.style)
            return
        data = event.value if event.style else _plain(event.value)
        node = Node(data, mark, size=1 + len(event.value) // _TEXT_PER_VALUE)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._add(node, mark)

    def _start(self, event: yaml.CollectionStartEvent, mark: Mark, mapping: bool) -> None:
        if event.tag:
            self._refuse(mark, f"tag {event.tag!r}: tags are not used here")
        if self._waits_for_key():
            self._refuse(mark, "a key is text, not a list or a mapping")
        if len(self._open) >= MAX_DEPTH:
            self._refuse(mark, f"nested more than {MAX_DEPTH} deep")
        self._open.append((Node({} if mapping else [], mark), event.anchor))
        self._keys.append(None)

    def _key(self, key: str, mark: Mark, *, plain: bool) -> None:
        if plain and key == "<<":
            self._refuse(mark, "merge keys (<<) are not used here; write the keys out")
        node = self._open[-1][0]
        first = node.keys.get(key)
        if first is not None:
            where = Problem(
                self.file,
                mark.line,
                mark.column,
                f"duplicate key {key!r}, first on line {first.line}",
            )
            self.problems.append(where)
        else:
            node.keys[key] = mark
        node.size += len(key) // _TEXT_PER_VALUE
        self._keys[-1] = (key, mark)

    def _alias(self, anchor: str, mark: Mark) -> Node:
        if any(anchor == name for _, name in self._open):
            self._refuse(mark, f"*{anchor} refers to itself")
        node = self._anchors.get(anchor)
        if node is None:
            self._refuse(mark, f"*{anchor} refers to no &{anchor} before it")
        assert node is not None
        if self._waits_for_key():
            self._refuse(mark, "a key is text, not an alias")
        return node

    def _add(self, node: Node, mark: Mark) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1][0]
        parent.size += node.size
        if parent.size > MAX_NODES:
            self._refuse(mark, f"more than {MAX_NODES} values with every alias written out")
        if isinstance(parent.data, list):
            parent.children[len(parent.data)] = node
            parent.data.append(node.data)
            return
        waiting = self._keys[-1]
        assert waiting is not None
        parent.children[waiting[0]] = node
        parent.data[waiting[0]] = node.data
        self._keys[-1] = None

    def _waits_for_key(self) -> bool:
        return bool(
            self._open and isinstance(self._open[-1][0].data, dict) and self._keys[-1] is None
        )

    def _refuse(self, mark: Mark, message: str) -> None:
        """Stop here: what follows would only repeat the fault."""
        raise YamlError(*self.problems, Problem(self.file, mark.line, mark.column, message))


def _plain(text: str) -> Any:
    """A plain word by YAML 1.2's core schema."""
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text[0] in "tT"
    if _INT.match(text):
        return int(text)
    if _BASED.match(text):
        return int(text, 0)
    if _INFINITE.match(text):
        return float("-inf" if text[0] == "-" else "inf")
    if _NAN.match(text):
        return float("nan")
    if len(text) <= 300 and _FLOAT.match(text):
        return float(text)
    return text


def _mark_of(text: str, index: int) -> Mark:
    line, start = 1, 0
    for found in _BREAK.finditer(text, 0, index):
        line, start = line + 1, found.end()
    return Mark(line, index - start + 1)


def _tabs(text: str, file: str, inside: set[int]) -> list[Problem]:
    """Lines indented with a tab, outside text that goes over several lines."""
    if "\t" not in text:
        return []
    problems = []
    for number, line in enumerate(_BREAK.split(text), 1):
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        if "\t" in indent and line.strip() and number not in inside:
            problems.append(Problem(file, number, indent.index("\t") + 1, _TAB))
    return problems


_TAB = "a tab; YAML is indented with spaces"


def _syntax_problem(
    text: str, file: str, line: int, column: int, error: yaml.MarkedYAMLError
) -> Problem:
    lines = _BREAK.split(text)
    shown = lines[line - 1] if line <= len(lines) else ""
    indent = shown[: len(shown) - len(shown.lstrip(" \t"))]
    if "\t" in indent:
        return Problem(file, line, indent.index("\t") + 1, _TAB)
    if shown[column - 1 : column] == "\t":
        return Problem(file, line, column, _TAB)
    parts = [part for part in (error.context, error.problem) if part]
    message = ": ".join(parts) or "not YAML"
    if error.context and error.context_mark and error.context_mark.line + 1 != line:
        message += f" (it began on line {error.context_mark.line + 1})"
    return Problem(file, line, column, " ".join(message.split()))
