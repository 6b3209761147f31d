"""``etui policy``: list, check, test and explain policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from etui.cli.common import load_context, print_json, print_problems, print_table
from etui.cli.param_types import TEXT
from etui.cli.policy_cases import cases
from etui.cli.policy_edit import diff, edit, new
from etui.cli.policy_explain import explain
from etui.cli.policy_fit import fit
from etui.cli.policy_replay import replay
from etui.cli.policy_test import test
from etui.cli.streams import data_stream
from etui.errors import ExitCode, Problem
from etui.text.sanitize import sanitize

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.routing.accuracy.fitted_file import FittedModel
    from etui.routing.library import CheckedPolicy
    from etui.routing.policy import Policy
    from etui.runtime.fit_health_text import FitTrace
    from etui.yaml.named_files import NamedFile

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def policy() -> None:
    """List, check, explain and edit routing policies.

    A policy is a YAML file of signals, arms, and rules that choose an arm by the signals. The
    shipped policies are frugal, balanced and best; your own are in ETUI_HOME/policies.
    """


@policy.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the shipped policies and your own."""
    from etui.routing.library import check_place, list_policies

    config, catalogue, is_on_disk = load_context()
    rows = []
    for place in list_policies(config):
        checked = check_place(place, catalogue.models, is_on_disk)
        found = checked.policy
        rows.append(
            {
                "name": place.name,
                "default": place.name == config.policy,
                "origin": place.origin,
                "replaces_shipped": place.hides,
                "path": str(place.path),
                "valid": found is not None,
                "description": found.description if found is not None else None,
            }
        )
    if as_json:
        print_json({"policies": rows})
        return
    print_table(
        ("POLICY", "ORIGIN", "DESCRIPTION"),
        [_format_row(row) for row in rows],
    )


@policy.command()
@click.argument("name", type=TEXT)
def show(name: str) -> None:
    """Print a policy file unchanged."""
    from etui.config.load import load_config
    from etui.routing.editing import read_text
    from etui.routing.library import find_policy

    text = read_text(find_policy(name, load_config()).path)
    click.echo(text, file=data_stream(), nl=not text.endswith("\n"))


@policy.command()
@click.argument("names", type=TEXT, nargs=-1, metavar="[NAME|FILE]...")
@as_json
def check(names: Sequence[str], as_json: bool) -> ExitCode:
    """Check policies and report every error with its line.

    Without a NAME, checks all policies.

    Errors and warnings go to standard error, one per line, with file, line and column. The exit
    code is 2 if there is an error.

    For a policy with a fit, also says how old it is, what it was fitted on, which arms it does not
    cover, and how it has done on the graded turns since. A damaged fit is an error.
    """
    from etui.routing.library import check_place, policy_names
    from etui.runtime.fit_health import list_fit_facts, read_health
    from etui.runtime.fit_health_text import build_fit_document

    config, catalogue, is_on_disk = load_context()
    policies = policy_names(config)
    results: list[tuple[CheckedPolicy, FitTrace | None]] = []
    for place in _find_places(names, config):
        fit, faults = _load_fit(place, config)
        result = check_place(
            place,
            catalogue.models,
            is_on_disk,
            policies=policies,
            fit=None if faults else list_fit_facts(fit, catalogue.models),
            thorough=True,
        )
        result = _add_faults_of_cases(replace(result, errors=(*result.errors, *faults)), config)
        health = None
        if fit is not None and result.policy is not None:
            health = build_fit_document(read_health(config, result.policy, fit, is_on_disk))
        results.append((result, health))
    for result, _ in results:
        print_problems(result)
    if as_json:
        print_json({"policies": [_build_check(*each) for each in results]})
    else:
        for result, health in results:
            _print_valid(result, health)
    valid = not any(result.errors for result, _ in results)
    return ExitCode.DONE if valid else ExitCode.USAGE


@policy.command()
def schema() -> None:
    """Print the JSON Schema of a policy file.

    Editors use it to complete and check YAML.
    """
    from etui.routing.schema.policy_file import json_schema

    print_json(json_schema())


def _print_valid(result: CheckedPolicy, health: FitTrace | None) -> None:
    """Print the size of a policy without errors, and age, scope and state of its fit."""
    from etui.runtime.fit_health_text import format_fit

    if result.errors or result.policy is None:
        return
    click.echo(f"{result.place.path}: ok, {_format_size(result.policy)}")
    for line in () if health is None else format_fit(health):
        click.echo(f"  {sanitize(line)}")


def _load_fit(place: NamedFile, config: Config) -> tuple[FittedModel | None, tuple[Problem, ...]]:
    """Load the fit of a policy; None without one, and with the faults of one that is damaged."""
    from etui.errors import InvalidFile
    from etui.routing.accuracy.fitted_file import load_fitted
    from etui.routing.accuracy.predictor import get_fitted_path

    path = get_fitted_path(place, config)
    try:
        return (load_fitted(path) if path.is_file() else None), ()
    except InvalidFile as error:
        faults = (replace(each, message=f"{each.message}; {error.fix}") for each in error.problems)
        return None, tuple(faults)


def _add_faults_of_cases(result: CheckedPolicy, config: Config) -> CheckedPolicy:
    """Add the faults in the cases of a policy, as warnings: the policy can be used without them."""
    from etui.errors import InvalidFile
    from etui.routing.cases import load_cases

    if result.policy is None:
        return result
    try:
        load_cases(result.policy, config)
    except InvalidFile as error:
        return replace(result, warnings=(*result.warnings, *error.problems))
    return result


def _find_places(names: Sequence[str], config: Config) -> list[NamedFile]:
    from etui.routing.library import find_policy, list_policies

    return [find_policy(name, config) for name in names] or list(list_policies(config))


def _format_row(row: Mapping[str, Any]) -> tuple[str, str, str]:
    name, origin = row["name"], row["origin"]
    return (
        f"{name} (default)" if row["default"] else name,
        f"{origin}, replaces the shipped one" if row["replaces_shipped"] else origin,
        sanitize(row["description"])
        if row["valid"]
        else f"invalid; see `etui policy check {name}`",
    )


def _build_check(result: CheckedPolicy, health: FitTrace | None) -> dict[str, Any]:
    return {
        "name": result.place.name,
        "path": str(result.place.path),
        "valid": not result.errors,
        "errors": [_build_problem(problem) for problem in result.errors],
        "warnings": [_build_problem(problem) for problem in result.warnings],
        "fit": health,
    }


def _build_problem(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line or None,
        "column": problem.column or None,
        "message": problem.message,
    }


def _format_size(loaded: Policy) -> str:
    return (
        f"{_format_count(len(loaded.rules), 'rule')}, {_format_count(len(loaded.arms), 'arm')}, "
        f"{_format_count(len(loaded.signals), 'signal')}, "
        f"{_format_count(len(loaded.probes), 'probe')}"
    )


def _format_count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


for _command in (test, cases, explain, new, edit, diff, fit, replay):
    policy.add_command(_command)
