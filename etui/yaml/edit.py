"""Add, remove and set entries of a YAML file, and leave every other character of it as it is.

A parser that keeps comments would write the whole file again, in its own style; here the text is
changed at one place, and the result is parsed to make sure that nothing else changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etui.errors import EtuiError
from etui.yaml.tree import YamlError, parse_tree

if TYPE_CHECKING:
    import yaml

_STEP = "  "


def insert_entry(text: str, section: str, key: str, lines: Sequence[str]) -> str:
    """Add an entry, a block of YAML from column 0, to a mapping at the top of a file, if missing.

    EtuiError if the style of the file does not allow it.
    """
    before_data = _read(text)
    if key in (before_data.get(section) or {}):
        return text
    body = "\n".join(lines)
    data = parse_tree(body, key).data
    end = "\r\n" if "\r\n" in text else "\n"

    def block(indent: str) -> str:
        return "".join(f"{line}{end}" for line in (
            f"{indent}{key}:", *(f"{indent}{_STEP}{line}".rstrip() for line in lines)
        ))  # fmt: skip

    found = _find(text, section)
    if found is None:
        start = text if not text or text.endswith("\n") else text + end
        changed = f"{start}{section}:{end}{block(_STEP)}"
    else:
        name, value = found
        until = value.end_mark.index
        entries = value.value if isinstance(value.value, list) else []
        is_flow = getattr(value, "flow_style", False)
        in_line = is_flow and (entries or text.lstrip().startswith("{"))
        if not entries and not in_line:  # `models:` or `models: {}`, and perhaps a comment
            colon = name.end_mark.index + 1
            until = max(until, colon) if isinstance(value.value, list) else colon
            line_end = _line_end(text, until)
            behind = f" {comment}" if (comment := text[until:line_end].strip()) else ""
            changed = f"{text[:colon]}{behind}{end}{block(_STEP)}{text[line_end:]}"
        elif in_line:
            inside = text[:until].rstrip()[:-1].rstrip()
            comma = {",": " ", "{": ""}.get(inside[-1], ", ")
            changed = f"{inside}{comma}{key}: {json.dumps(data)}}}{text[until:]}"
        else:
            before = text[:until] if text[:until].endswith("\n") else text[:until] + end
            changed = before + block(" " * entries[0][0].start_mark.column) + text[until:]
    expected = {**before_data, section: {**(before_data.get(section) or {}), key: data}}
    return _checked(changed, expected, f"{key} cannot be added to", "\n".join((f"{key}:", body)))


def set_value(text: str, key: str, value: str | int) -> str:
    """Set a key at the top of a file, or add it at the end; EtuiError if its style forbids it."""
    is_plain = re.fullmatch(r"[\w-]+", str(value)) and parse_tree(str(value), key).data == value
    written = str(value) if is_plain else json.dumps(value, ensure_ascii=False)
    found = _find(text, key)
    if found is None:
        end = "\r\n" if "\r\n" in text else "\n"
        start = text if not text or text.endswith("\n") else text + end
        changed = f"{start}{key}: {written}{end}"
    else:
        start = text[: found[1].start_mark.index]
        space = " " if start.endswith(":") else ""  # `theme:` without a value
        changed = f"{start}{space}{written}{text[found[1].end_mark.index :]}"
    expected = {**_read(text), key: value}
    return _checked(changed, expected, f"{key} cannot be set in", f"{key}: {written}")


def remove_entry(text: str, section: str, key: str) -> str:
    """Remove an entry of a mapping of a file; EtuiError if its style does not allow it."""
    found = _find(text, section)
    entries = found[1].value if found is not None and isinstance(found[1].value, list) else []
    node = next((pair for pair in entries if pair[0].value == key), None)
    data = _read(text)
    if found is None or node is None:
        return text
    expected = {**data, section: {name: v for name, v in data[section].items() if name != key}}
    start = text.rfind("\n", 0, node[0].start_mark.index) + 1
    stop = _line_end(text, _content_end(node))
    column = node[0].start_mark.column
    while stop < len(text):  # comments at its end that are deeper than its name are its own
        line = text[stop : _line_end(text, stop)]
        indent = len(line) - len(line.lstrip(" "))
        if not line.lstrip(" ").startswith("#") or indent <= column:
            break
        stop += len(line)
    changed = text[:start] + text[stop:]
    if len(entries) == 1:
        at = found[0].end_mark.index + 1
        changed = f"{text[:at]} {{}}{text[at:start]}{text[stop:]}"
    return _checked(changed, expected, f"{key} cannot be taken out of", "")


def format_text(text: str) -> str:
    """Write a stripped text as a value: a block that is pleasant to edit, where that is possible.

    It is for a key at the begin of a line.
    """
    import yaml

    lines = text.split("\n")
    if not all(line.isprintable() and line == line.rstrip() for line in lines):
        return str(yaml.safe_dump(text, default_style='"', width=1_000_000)).strip()
    return "|-\n" + "\n".join(f"  {line}" if line else "" for line in lines)


def _find(text: str, section: str) -> tuple[yaml.Node, yaml.CollectionNode] | None:
    import yaml

    # The parser in Python: its positions count characters, those of libyaml can count bytes.
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return next((pair for pair in pairs if pair[0].value == section), None)


def _content_end(pair: tuple[Any, Any]) -> int:
    """Find where the text of an entry ends, before the comments and blank lines behind it."""
    node = pair[1]
    while isinstance(node.value, list) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return max(int(node.end_mark.index), int(pair[0].end_mark.index))


def _line_end(text: str, at: int) -> int:
    if at and text[at - 1] == "\n":
        at -= 1  # a block of text ends behind its line break
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _read(text: str) -> dict[str, Any]:
    data = parse_tree(text, "").data
    return data if isinstance(data, dict) else {}


def _checked(changed: str, expected: dict[str, Any], what: str, by_hand: str) -> str:
    try:
        found = _read(changed)
    except YamlError:
        found = {}
    if found != expected:
        fix = f"write it there yourself:\n{by_hand}" if by_hand else "edit it there yourself"
        raise EtuiError(f"{what} the file, because of how it is written", fix)
    return changed
