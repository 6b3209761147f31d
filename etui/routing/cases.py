"""Read the cases of a policy: questions and what is expected for them, one JSON object a line.

They are in NAME.cases.jsonl next to NAME.yaml. A case is a probe of the policy file with a name,
tags and a group. A file may hold thousands of them, so it is read without a YAML parser.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from etui.config.config import Config, shipped_dir
from etui.errors import InvalidFile, Problem
from etui.routing.compile_probe import compile_probe
from etui.routing.policy import Policy, PolicyProbe
from etui.routing.schema.policy_file import CaseEntry
from etui.text import did_you_mean
from etui.yaml.load import limit_problems, parse_yaml, read_text

CASES_ENDING = ".cases.jsonl"
"""End of the name of a cases file, in place of ``.yaml``."""

MAX_BYTES = 50_000_000
"""Size of the largest cases file that is read."""


def list_cases_paths(policy_path: Path, config: Config) -> tuple[Path, ...]:
    """List the cases files of a policy that exist.

    It is the one next to the policy, and for a shipped policy also that of the user in
    ETUI_HOME/policies.
    """
    name = policy_path.stem + CASES_ENDING
    folders = [policy_path.parent]
    if policy_path.parent == shipped_dir() / "policies":
        folders.append(config.policies_dir)
    return tuple(path for folder in folders if (path := folder / name).exists())


def load_cases(policy: Policy, config: Config) -> tuple[PolicyProbe, ...]:
    """Load the cases of a policy; none if it has no cases file.

    Raises:
        InvalidFile: A file has errors; ``problems`` holds every one.
    """
    cases: list[PolicyProbe] = []
    problems: list[Problem] = []
    for path in list_cases_paths(policy.path, config):
        try:
            cases += parse_cases(read_text(path, max_bytes=MAX_BYTES), policy, file=str(path))
        except InvalidFile as error:
            problems += error.problems
    if problems:
        raise InvalidFile.of(problems, "fix each line named, and test again")
    return tuple(cases)


def parse_cases(text: str, policy: Policy, *, file: str) -> tuple[PolicyProbe, ...]:
    """Parse the text of a cases file.

    Args:
        text: One JSON object a line; blank lines are skipped. An empty file has no cases: a shell
            makes one for `etui policy cases NAME --from-log >> NAME.cases.jsonl`.
        policy: The policy whose rules, arms and signals the cases name.

    Raises:
        InvalidFile: A line is not a case, or names what the policy does not have; ``problems``
            holds every one with its line and column.
    """
    names: Mapping[str, Iterable[str]] = {
        "rule": [rule.name for rule in policy.rules],
        "arm": policy.arms,
        "signal": policy.signals,
    }
    cases: list[PolicyProbe] = []
    problems: list[Problem] = []
    first: dict[str, int] = {}
    # Not splitlines: a JSON text may hold U+2028, which is no end of a line there.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = _parse_entry(line, file)
        except InvalidFile as error:
            problems += (replace(each, line=number) for each in error.problems)
            continue
        found = [*_check_names(entry, names, line, file)]
        if entry.id is not None and entry.id in first:
            message = f"duplicate id '{entry.id}'; the first is on line {first[entry.id]}"
            found.append(_locate(line, file, ("id",), message))
        problems += (replace(each, line=number) for each in found)
        if entry.id is not None:
            first.setdefault(entry.id, number)
        cases.append(compile_probe(entry, number, file))
    if problems:
        raise InvalidFile.of(limit_problems(problems), "fix each line named, and test again")
    return tuple(cases)


def _parse_entry(line: str, file: str) -> CaseEntry:
    try:
        json.loads(line, object_pairs_hook=_refuse_repeated, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        bad = Problem(file, 1, error.colno, f"broken JSON: {error.msg}")
        raise InvalidFile.of([bad]) from None
    except (ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidFile.of([Problem(file, 1, 1, message)]) from None
    try:
        return CaseEntry.model_validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["msg"]
    except ValueError as error:  # a lone surrogate
        first = str(error)
    # JSON is YAML, and the YAML parser knows where each value is.
    parse_yaml(line, CaseEntry, file=file)
    raise InvalidFile.of([Problem(file, 1, 1, first)])


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} is there twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check_names(
    entry: CaseEntry, names: Mapping[str, Iterable[str]], line: str, file: str
) -> Iterator[Problem]:
    """Yield the rules, arms and signals that the policy does not have."""
    asked = [
        *((("rule",), "rule", entry.rule), (("not_rule",), "rule", entry.not_rule)),
        *((("arm",), "arm", entry.arm), (("not_arm",), "arm", entry.not_arm)),
        *((("signals", name), "signal", name) for name in entry.signals or ()),
    ]
    for loc, what, name in asked:
        known = names[what]
        if name is not None and name not in known:
            hint = did_you_mean(name, known) if known else "; the policy has none"
            yield _locate(line, file, loc, f"unknown {what} '{name}'{hint}")


def _locate(line: str, file: str, loc: tuple[str, ...], message: str) -> Problem:
    try:
        return parse_yaml(line, CaseEntry, file=file).problem(loc, message)
    except InvalidFile:  # JSON that YAML reads otherwise, such as an escaped emoji
        return Problem(file, 1, 1, message)
