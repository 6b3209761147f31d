"""YAML text parsed into a tree with the line and column of every key and value.

Plain words are read as in YAML 1.2, so ``no`` is the text "no" (Norwegian, a keyword) and never
False. The result is plain data only: tags are refused, so a file cannot construct objects. Depth
and size are limited, so that no file can exhaust the stack or, through aliases of aliases, the
memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from etui.errors import Problem

if TYPE_CHECKING:
    import yaml

Loc: TypeAlias = tuple[str | int, ...]
"""The path of a value in a file: keys and indexes, as pydantic's errors give it."""
MAX_DEPTH = 40
"""Limit on nested lists and mappings; the deepest sensible policy has about ten."""
MAX_NODES = 200_000
"""Limit on the number of values in a file, with every alias expanded."""
MAX_NUMBER = 10**18
"""Limit on the magnitude of a number; sums and products of those below it stay finite."""
_TEXT_PER_VALUE = 50
"""Number of characters of text that count as one more value."""
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
    """A position in a file; line and column are counted from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Node:
    """One value of the file."""

    data: Any  # The value as plain Python data
    mark: Mark
    keys: dict[str, Mark] = field(default_factory=dict)  # For a mapping, where each key begins
    children: dict[str | int, Node] = field(default_factory=dict)
    """For a mapping, key -> value; for a list, index -> item."""
    size: int = 1  # Number of values in it with aliases expanded, itself included


class YamlError(Exception):
    """The text is not YAML that etui accepts; ``problems`` says why."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def parse_tree(text: str, file: str) -> Node:
    """Parse one YAML document into a tree; an empty document becomes an empty mapping.

    YamlError if it is not YAML, or uses what is refused: tabs as indentation, duplicate keys, tags,
    merge keys, several documents, too deep nesting, too many values.
    """
    import yaml

    refused = _NON_PRINTABLE.search(text)
    if refused:
        mark = _find_mark(text, refused.start())
        raise YamlError(
            Problem(
                file, mark.line, mark.column, f"character U+{ord(refused[0]):04X} is not allowed"
            )
        )
    builder = _Builder(file)
    # libyaml is about ten times as fast; PyYAML's own parser accepts the same language.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        line, column = (at.line + 1, at.column + 1) if at else (1, 1)
        raise YamlError(_build_syntax_problem(text, file, line, column, error)) from None
    except yaml.YAMLError as error:
        raise YamlError(Problem(file, 1, 1, " ".join(str(error).split()))) from None
    problems = [*builder.problems, *_find_tabs(text, file, builder.scalar_lines)]
    if problems:
        raise YamlError(*sorted(problems, key=lambda p: (p.line, p.column)))
    root = builder.root
    if root is None or root.data is None:
        return Node({}, Mark(1, 1))
    return root


class _Builder:
    """Builds the tree from parser events, one by one and without recursion."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self.scalar_lines: set[int] = set()
        self._open: list[tuple[Node, str | None]] = []
        """Unfinished lists and mappings with their anchors."""
        self._keys: list[tuple[str, Mark] | None] = []
        """For each unfinished mapping, the key whose value comes next."""
        self._anchors: dict[str, Node] = {}
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        import yaml

        assert event.start_mark is not None
        mark = Mark(event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._refuse(mark, "a second document begins here; a file may hold only one")
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._resolve_alias(event.anchor or "", mark), mark)
        elif isinstance(event, yaml.ScalarEvent):
            self._add_scalar(event, mark)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open_collection(event, mark, isinstance(event, yaml.MappingStartEvent))
        elif isinstance(event, yaml.CollectionEndEvent):
            node, anchor = self._open.pop()
            self._keys.pop()
            if anchor:
                self._anchors[anchor] = node
            self._add(node, node.mark)

    def _add_scalar(self, event: yaml.ScalarEvent, mark: Mark) -> None:
        assert event.end_mark is not None
        block = event.style in ("|", ">")
        after = event.end_mark.line + (1 if block else 2)
        self.scalar_lines.update(range(mark.line + 1, after))
        if event.tag:
            self._refuse(mark, f"tag {event.tag!r}: tags are not supported; quote the text instead")
        if any("\ud800" <= c <= "\udfff" for c in event.value):
            self._refuse(mark, "a lone surrogate is not allowed")
        if self._expects_key():
            key = str(event.value)
            self._add_key(key, mark, plain=not event.style)
            return
        data = event.value if event.style else _parse_plain(event.value)
        if _is_too_large(data):
            shown = event.value if len(event.value) <= 30 else f"{event.value[:27]}..."
            message = f"the number {shown} is too large; quote it if it is text"
            self.problems.append(Problem(self.file, mark.line, mark.column, message))
        node = Node(data, mark, size=1 + len(event.value) // _TEXT_PER_VALUE)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._add(node, mark)

    def _open_collection(self, event: yaml.CollectionStartEvent, mark: Mark, mapping: bool) -> None:
        if event.tag:
            self._refuse(mark, f"tag {event.tag!r}: tags are not supported")
        if self._expects_key():
            self._refuse(mark, "a key must be text, not a list or a mapping")
        if len(self._open) >= MAX_DEPTH:
            self._refuse(mark, f"nested more than {MAX_DEPTH} levels deep")
        self._open.append((Node({} if mapping else [], mark), event.anchor))
        self._keys.append(None)

    def _add_key(self, key: str, mark: Mark, *, plain: bool) -> None:
        if plain and key == "<<":
            self._refuse(mark, "merge keys (<<) are not supported; write the keys out")
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

    def _resolve_alias(self, anchor: str, mark: Mark) -> Node:
        if any(anchor == name for _, name in self._open):
            self._refuse(mark, f"*{anchor} refers to itself")
        node = self._anchors.get(anchor)
        if node is None:
            self._refuse(mark, f"*{anchor} has no anchor &{anchor} before it")
        assert node is not None
        if self._expects_key():
            self._refuse(mark, "a key must be text, not an alias")
        return node

    def _add(self, node: Node, mark: Mark) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1][0]
        parent.size += node.size
        if parent.size > MAX_NODES:
            self._refuse(mark, f"more than {MAX_NODES} values with every alias expanded")
        if isinstance(parent.data, list):
            parent.children[len(parent.data)] = node
            parent.data.append(node.data)
            return
        waiting = self._keys[-1]
        assert waiting is not None
        parent.children[waiting[0]] = node
        parent.data[waiting[0]] = node.data
        self._keys[-1] = None

    def _expects_key(self) -> bool:
        return bool(
            self._open and isinstance(self._open[-1][0].data, dict) and self._keys[-1] is None
        )

    def _refuse(self, mark: Mark, message: str) -> None:
        """Stop parsing: later problems would only follow from this one."""
        raise YamlError(*self.problems, Problem(self.file, mark.line, mark.column, message))


def _parse_plain(text: str) -> Any:
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


def _is_too_large(data: Any) -> bool:
    """Check whether a value is a finite number beyond the limit; a schema refuses infinite ones."""
    if isinstance(data, bool) or not isinstance(data, int | float):
        return False
    return MAX_NUMBER < abs(data) < float("inf")


def _find_mark(text: str, index: int) -> Mark:
    line, start = 1, 0
    for found in _BREAK.finditer(text, 0, index):
        line, start = line + 1, found.end()
    return Mark(line, index - start + 1)


def _find_tabs(text: str, file: str, inside: set[int]) -> list[Problem]:
    """Find lines indented with a tab, except those inside multi-line text (``inside``)."""
    if "\t" not in text:
        return []
    problems = []
    for number, line in enumerate(_BREAK.split(text), 1):
        indent = line[: len(line) - len(line.lstrip(" \t"))]
        if "\t" in indent and line.strip() and number not in inside:
            problems.append(Problem(file, number, indent.index("\t") + 1, _TAB))
    return problems


_TAB = "a tab; indent YAML with spaces"

_PLAIN = {
    "did not find expected ',' or ']'": "a `[` is not closed: `,` or `]` is missing",
    "did not find expected ',' or '}'": "a `{` is not closed: `,` or `}` is missing",
    "did not find expected node content": "a `[` or `{` is not closed, or lacks a value",
    "did not find expected key": "this line belongs to no key above it: check its indentation",
    "did not find expected '-' indicator": "no `-` as above: check its indentation",
    "did not find expected <document start>": "this line is no `key: value`: check its indentation",
    "mapping values are not allowed in this context": (
        "no `key: value` is allowed here: check the indentation and the line above, "
        "or quote a text with `: ` in it"
    ),
    "could not find expected ':'": "a `:` is missing after the key",
    "found unexpected end of stream": "a quote is not closed",
    "found character that cannot start any token": "no text begins with this character: quote it",
    "found unknown escape character": "no such escape: use single quotes, or two backslashes",
}
"""What libyaml says of the text of a file -> what is wrong with it."""


def _build_syntax_problem(
    text: str, file: str, line: int, column: int, error: yaml.MarkedYAMLError
) -> Problem:
    lines = _BREAK.split(text)
    shown = lines[line - 1] if line <= len(lines) else ""
    indent = shown[: len(shown) - len(shown.lstrip(" \t"))]
    if "\t" in indent:
        return Problem(file, line, indent.index("\t") + 1, _TAB)
    if shown[column - 1 : column] == "\t":
        return Problem(file, line, column, _TAB)
    message = _PLAIN.get(error.problem or "", "")
    if not message:
        parts = [part for part in (error.context, error.problem) if part]
        message = ": ".join(parts) or "not YAML"
    if error.context and error.context_mark and error.context_mark.line + 1 != line:
        message += f" (started on line {error.context_mark.line + 1})"
    return Problem(file, line, column, " ".join(message.split()))
