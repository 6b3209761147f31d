"""Names that users write: keys of files, binding ids, variables; and the exit codes."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.contract.golden import check_json
from tests.contract.internals import ExitCode, ModelsFile, Settings, list_key_names, run
from tests.contract.machine import CHECKOUT

BINDINGS = "names/bindings.json"
SETTINGS = "names/settings.json"
MODELS = "names/models.json"
VARIABLES = "names/variables.json"
EXIT_CODES = "names/exit_codes.json"
ERRORS = "names/errors.json"
FILES = frozenset({BINDINGS, SETTINGS, MODELS, VARIABLES, EXIT_CODES, ERRORS})

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{2,}")
_NO_VARIABLES = {"POSIX"}
"""Values that such variables have."""

WRONG = (
    ("asks",),
    ("ask", ""),
    ("ask", "x", "--model", "smolm2-135m"),
    ("ask", "x", "--model", "smollm2-135m"),
    ("ask", "x", "--policy", "frugl"),
    ("bench",),
    ("bench", "--suite", "mmlup"),
    ("bench", "--suite", "sample", "--json", "--jsonl"),
    ("bench", "--resume", "none"),
    ("calibrate", "smollm2-135m"),
    ("curves",),
    ("logs", "search", " "),
    ("logs", "show", "last"),
    ("models", "info", "smolm2"),
    ("policy", "check", "frugl"),
    ("policy", "fit"),
    ("power", "--json", "--jsonl"),
    ("power", "top", "--json", "--jsonl"),
    ("--policy", "best", "ask", "x"),
    ("--web-port", "80"),
)
"""Command lines that are refused, or that cannot be done without a model."""


def test_binding_ids() -> None:
    check_json(BINDINGS, sorted(list_key_names()))


def test_keys_of_config_yaml() -> None:
    check_json(SETTINGS, keys_of(Settings.model_json_schema()))


def test_keys_of_models_yaml() -> None:
    check_json(MODELS, keys_of(ModelsFile.model_json_schema()))


def test_variables_of_the_environment() -> None:
    found = {name for path in (CHECKOUT / "etui").rglob("*.py") for name in variables(path)}
    check_json(VARIABLES, sorted(found - _NO_VARIABLES))


def test_exit_codes() -> None:
    check_json(EXIT_CODES, {code.name: int(code) for code in ExitCode})


def test_errors_have_their_codes_and_words(
    etui_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = []
    for args in WRONG:
        with open(os.devnull, encoding="utf-8") as nothing:
            monkeypatch.setattr(sys, "stdin", nothing)
            code = run(args)
        shown = capsys.readouterr()
        errors = shown.err.replace(str(etui_home.parent), "<root>").splitlines()
        found.append({"args": args, "code": int(code), "out": shown.out, "err": errors})
    check_json(ERRORS, found)


def keys_of(schema: Mapping[str, Any]) -> Any:
    """The keys of a JSON schema, nested as in the file; with the default of those that hold one."""
    return _keys(schema, schema.get("$defs", {}))


def _keys(part: Mapping[str, Any], named: Mapping[str, Any]) -> Any:
    if "$ref" in part:
        return _keys(named[part["$ref"].rpartition("/")[2]], named)
    if "properties" in part:
        return {key: _keys(value, named) for key, value in part["properties"].items()}
    for inner in (*part.get("anyOf", ()), part.get("items"), part.get("additionalProperties")):
        if isinstance(inner, Mapping) and not isinstance(found := _keys(inner, named), str):
            return found
    kinds = [str(kind.get("type", "any")) for kind in part.get("anyOf", (part,))]
    default = f" = {part['default']!r}" if "default" in part else ""
    return " | ".join(kinds) + default


def variables(path: Path) -> Iterator[str]:
    """Names of variables: in the bodies of functions that speak of the environment, and ETUI_*."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and _reads_environment(node):
            for statement in node.body:
                yield from filter(_VARIABLE.fullmatch, _texts(statement))
    yield from (text for text in _texts(tree) if re.fullmatch(r"ETUI_[A-Z_]+", text))


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _reads_environment(function: ast.FunctionDef) -> bool:
    names = {getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(function)}
    return not names.isdisjoint({"environ", "getenv"})
