"""Every option and argument of every command, with its type, default and flags."""

from __future__ import annotations

from typing import Any

import click

from tests.contract.commands import walk
from tests.contract.golden import check_json

FILE = "names/options.json"
FILES = frozenset({FILE})


def test_the_options_of_all_commands() -> None:
    found = {
        " ".join(("etui", *path)): [describe(parameter) for parameter in command.params]
        for path, command in walk()
    }
    check_json(FILE, found)


def describe(parameter: click.Parameter) -> dict[str, Any]:
    """What a command line can say with a parameter; what is usual is left out."""
    found: dict[str, Any] = {
        "name": " / ".join([*parameter.opts, *parameter.secondary_opts]),
        "type": describe_type(parameter.type),
        "default": describe_default(parameter.default),
        "nargs": parameter.nargs,
        "required": parameter.required,
        "multiple": parameter.multiple,
        "envvar": parameter.envvar,
    }
    if isinstance(parameter, click.Option):
        for name in ("is_flag", "count", "hidden", "is_eager"):
            found[name] = getattr(parameter, name)
        found["flag_value"] = describe_default(parameter.flag_value)
        found["optional_value"] = parameter._flag_needs_value
        if parameter.is_bool_flag:
            del found["flag_value"]
    usual: dict[str, Any] = {
        "default": None, "nargs": 1, "required": False, "multiple": False, "envvar": None,
        "is_flag": False, "count": False, "hidden": False, "is_eager": False, "flag_value": None,
        "optional_value": False,
    }  # fmt: skip
    return {k: v for k, v in found.items() if k not in usual or v != usual[k]}


def describe_type(kind: click.ParamType) -> Any:
    """The name of a type, and what it allows."""
    if isinstance(kind, click.Choice):
        return [describe_default(choice) for choice in kind.choices]
    if isinstance(kind, click.IntRange | click.FloatRange):
        left, right = "(" if kind.min_open else "[", ")" if kind.max_open else "]"
        return f"{kind.name} {left}{kind.min}, {kind.max}{right}"
    if isinstance(kind, click.Tuple):
        return [describe_type(part) for part in kind.types]
    return kind.name


def describe_default(value: Any) -> Any:
    """A default as JSON; one that is computed is only marked."""
    if callable(value):
        return "computed"
    if isinstance(value, list | tuple):
        return [describe_default(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    name = str(value)
    return None if "UNSET" in name.upper() else name
