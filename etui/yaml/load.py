"""Load YAML files into pydantic models; errors name their file, line and column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Generic, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from etui.errors import InvalidFile, Problem
from etui.text import did_you_mean
from etui.yaml.tree import Loc, Mark, Node, YamlError, parse_tree

MAX_BYTES = 1_000_000
"""Size of the largest file that is read; a policy of 200 rules has about 30,000 bytes."""
_MAX_PROBLEMS = 100
M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """Base class of every file schema: it refuses unknown keys and infinite numbers.

    Do not add validators with ``mode="before"``: after them pydantic no longer treats the data as
    JSON, and strict checking then refuses a list for a tuple.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


@dataclass(frozen=True, slots=True)
class Located(Generic[M]):
    """The content of a file with the position of every value."""

    model: M  # The validated content
    file: str  # The file as the user named it
    root: Node  # The parsed tree with positions

    def where(self, loc: Loc) -> Mark:
        """Find where the value at a path of keys and indexes begins, or its nearest parent."""
        return _find_marks(self.root, loc)[0]

    def where_key(self, loc: Loc) -> Mark:
        """Find where the last key of a path begins; for a list item, the item itself."""
        return _find_marks(self.root, loc)[1]

    def problem(self, loc: Loc, message: str, *, key: bool = False) -> Problem:
        """Build a problem that was found after parsing, with its position in the file."""
        mark = self.where_key(loc) if key else self.where(loc)
        return Problem(self.file, mark.line, mark.column, message)


def load_yaml(path: Path, schema: type[M], *, max_bytes: int = MAX_BYTES) -> Located[M]:
    """Load a YAML file into a model.

    InvalidFile if it cannot be read, is larger than ``max_bytes``, is not UTF-8 or YAML, or does
    not fit the schema.
    """
    return parse_yaml(read_text(path, max_bytes=max_bytes), schema, file=str(path))


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """Read a YAML file; InvalidFile if it cannot be read, is too large, or is not UTF-8."""
    file = str(path)
    try:
        if not path.is_file():
            raise _refuse_file(file, "no such file" if not path.exists() else "not a file")
        with path.open("rb") as stream:
            raw = stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise _refuse_file(
            file, f"cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(raw) > max_bytes:
        raise _refuse_file(file, f"larger than {max_bytes:,} bytes, so it is not read")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        bad = Problem(file, line, column, f"byte 0x{raw[error.start]:02x} is not UTF-8 text")
        raise InvalidFile.of([bad], "save the file as UTF-8 text") from None


def parse_yaml(text: str, schema: type[M], *, file: str) -> Located[M]:
    """Parse YAML text into a model; InvalidFile if it is not YAML, or does not fit the schema."""
    try:
        root = parse_tree(text.removeprefix("\ufeff"), file)
    except YamlError as error:
        problems = limit_problems(error.problems)
        raise InvalidFile.of(problems, "fix the YAML at that place") from None
    try:
        # As JSON, so that strict checking still accepts a list for a tuple and text for a path.
        model = schema.model_validate_json(json.dumps(root.data), strict=True)
    except ValidationError as error:
        problems = limit_problems(_describe_errors(error, root, schema, file))
        raise InvalidFile.of(problems, "fix the file at each place named") from None
    return Located(model, file, root)


def refuse(message: str, *at: str | int) -> NoReturn:
    """Refuse a value from inside a pydantic validator; ``at`` leads from it to what is wrong."""
    raise PydanticCustomError("refused", "{message}", {"message": message, "at": at})


def _refuse_file(file: str, message: str) -> InvalidFile:
    return InvalidFile.of([Problem(file, 0, 0, message)], "name a YAML file that can be read")


def limit_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Cut a long list of problems; the last one then says how many more there are."""
    found = list(problems)
    if len(found) <= _MAX_PROBLEMS:
        return found
    last = found[_MAX_PROBLEMS]
    more = f"{len(found) - _MAX_PROBLEMS} more problems from here on"
    return [*found[:_MAX_PROBLEMS], Problem(last.file, last.line, last.column, more)]


def _find_marks(root: Node, loc: Loc) -> tuple[Mark, Mark]:
    """Find the marks (value, key) of the deepest node on the path.

    Parts that name no child are skipped: pydantic puts the branch of a union into its path.
    """
    node, value, key = root, root.mark, root.mark
    for part in loc:
        child = node.children.get(part)
        if child is not None:
            key = node.keys[part] if isinstance(part, str) else child.mark
            node, value = child, child.mark
    return value, key


def _describe_errors(
    error: ValidationError, root: Node, schema: type[BaseModel], file: str
) -> Iterator[Problem]:
    """Yield one problem for each place; the failed branches of a union are joined into one."""
    found: dict[tuple[Mark, bool], list[str]] = {}
    for detail in error.errors(include_url=False):
        loc: Loc = (*detail["loc"], *detail.get("ctx", {}).get("at", ()))
        loc = tuple(part for part in loc if part != "[key]")
        kind = detail["type"]
        if kind == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # pydantic counted only the valid items; the invalid ones are reported anyway
        at_key = kind == "extra_forbidden" or detail["loc"][-1:] == ("[key]",)
        mark = _find_marks(root, loc)[1 if at_key else 0]
        messages = found.setdefault((mark, kind == "missing"), [])
        message = _format_message(detail, loc, schema, _format_key(root, loc))
        if messages and kind == "literal_error":
            # The other types of the union have named the key and the value already.
            messages[-1] += f"; also allowed: {message.partition(' is not one of ')[2]}"
            continue
        if message not in messages:
            messages.append(message)
    for (mark, missing), messages in sorted(
        found.items(), key=lambda item: (item[0][0].line, item[0][0].column, item[0][1])
    ):
        joined = "; ".join(messages) if missing else "; or ".join(messages)
        yield Problem(file, mark.line, mark.column, joined)


_FOUND = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list [a, b]",
    "tuple_type": "a list [a, b]",
    "set_type": "a list [a, b]",
    "frozen_set_type": "a list [a, b]",
    "dict_type": "a mapping {key: value}",
    "model_type": "a mapping {key: value}",
    "model_attributes_type": "a mapping {key: value}",
    "finite_number": "a finite number",
}

_LIMIT = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}

_LENGTH = {
    "too_short": ("at least", "min_length", "items"),
    "too_long": ("at most", "max_length", "items"),
    "string_too_short": ("at least", "min_length", "characters"),
    "string_too_long": ("at most", "max_length", "characters"),
}


def _format_key(root: Node, loc: Loc) -> str:
    node, name = root, ""
    for part in loc:
        child = node.children.get(part)
        if child is not None:
            node, name = child, f"{part}: " if isinstance(part, str) else ""
    return name


def _format_message(detail: ErrorDetails, loc: Loc, schema: type[BaseModel], name: str) -> str:
    kind, given = detail["type"], detail["input"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    if kind == "refused":
        return str(context["message"])
    if kind == "missing":
        return f"missing key '{loc[-1]}'"
    if kind == "extra_forbidden":
        key = str(loc[-1])
        return (
            f"unknown key {_format_value(key)}"
            f"{did_you_mean(key, _find_keys(schema, loc[:-1]), listed=20)}"
        )
    if kind in ("literal_error", "enum"):
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        return f"{name}{_format_value(given)} is not one of {', '.join(allowed)}" + (
            did_you_mean(given, allowed, listed=0) if isinstance(given, str) else ""
        )
    if kind in _FOUND:
        return f"{name}expected {_FOUND[kind]}, found {_format_value(given)}"
    if kind in _LIMIT:
        words, key = _LIMIT[kind]
        return f"{name}must be {words} {context[key]}, found {_format_value(given)}"
    if kind in _LENGTH:
        words, key, unit = _LENGTH[kind]
        count = context[key]
        return f"{name}must have {words} {count} {unit if count != 1 else unit[:-1]}"
    if kind == "string_pattern_mismatch":
        return f"{name}{_format_value(given)} does not have the form {context['pattern']}"
    return name + detail["msg"].removeprefix("Value error, ").replace("Input should", "should")


def _format_value(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _find_keys(schema: type[BaseModel], loc: Loc) -> set[str]:
    types: list[Any] = [schema]
    for part in loc:
        inner = [below for one in types for below in _iterate_below(one, part)]
        # A part that leads nowhere is the branch of a union, which has no key in the file.
        types = inner or types
    models = [model for one in types for model in _iterate_models(one)]
    return {info.alias or name for model in models for name, info in model.model_fields.items()}


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _list_branches(annotation: Any) -> tuple[Any, ...]:
    """List the types of a union, or the type behind Annotated; empty for any other."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType, Annotated) else ()


def _iterate_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if _is_model(annotation):
        yield annotation
    for branch in _list_branches(annotation):
        yield from _iterate_models(branch)


def _iterate_below(annotation: Any, part: str | int) -> Iterator[Any]:
    """Yield the annotations of the values at a key or an index below an annotated value."""
    if _is_model(annotation):
        fields = annotation.model_fields.items()
        yield from (info.annotation for name, info in fields if part == (info.alias or name))
    elif branches := _list_branches(annotation):
        for branch in branches:
            yield from _iterate_below(branch, part)
    else:
        args = get_args(annotation)
        if isinstance(part, int) and args:
            yield args[0]
        elif isinstance(part, str) and len(args) == 2:
            yield args[1]
