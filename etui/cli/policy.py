"""``etui policy``: list, check, test and explain policies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
    from etui.routing.check.fit_warnings import FitFacts
    from etui.routing.library import CheckedPolicy
    from etui.routing.policy import Policy
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
    """
    from etui.routing.library import check_place, policy_names

    config, catalogue, is_on_disk = load_context()
    policies = policy_names(config)
    results = [
        check_place(
            place,
            catalogue.models,
            is_on_disk,
            policies=policies,
            fit=_load_fit_facts(place, config, catalogue.models),
            thorough=True,
        )
        for place in _find_places(names, config)
    ]
    results = [_add_faults_of_cases(result, config) for result in results]
    for result in results:
        print_problems(result)
    if as_json:
        print_json({"policies": [_build_check(result) for result in results]})
    else:
        for result in results:
            if result.policy is not None:
                click.echo(f"{result.place.path}: ok, {_format_size(result.policy)}")
                for line in _describe_fit(result.policy, config):
                    click.echo(f"  {line}")
    valid = all(result.policy is not None for result in results)
    return ExitCode.DONE if valid else ExitCode.USAGE


@policy.command()
def schema() -> None:
    """Print the JSON Schema of a policy file.

    Editors use it to complete and check YAML.
    """
    from etui.routing.schema.policy_file import json_schema

    print_json(json_schema())


def _describe_fit(loaded: Policy, config: Config) -> list[str]:
    """Describe age, scope and state of a policy's fit; nothing without one, or if it is damaged."""
    from etui.errors import InvalidFile
    from etui.routing.accuracy.predictor import load_heads
    from etui.runtime.fit_health import format_health, read_health

    try:
        heads = load_heads(loaded, config)
    except InvalidFile as error:
        return [error.what]
    if heads is None:
        return []
    health = read_health(config, loaded.name, tuple(loaded.arms), heads.model)
    return [] if health is None else format_health(health)


def _load_fit_facts(place: NamedFile, config: Config, models: Collection[str]) -> FitFacts:
    """Return what was fitted for a policy; an unreadable fit has nothing."""
    from etui.errors import InvalidFile
    from etui.routing.accuracy.fitted_file import load_fitted
    from etui.routing.accuracy.predictor import compute_ceiling, get_fitted_path
    from etui.routing.check.fit_warnings import FitFacts
    from etui.routing.places import find_weights

    path = get_fitted_path(place, config)
    try:
        fit = load_fitted(path) if path.is_file() else None
    except InvalidFile:
        fit = None
    if fit is None:
        return FitFacts()
    return FitFacts(
        {
            name: None if head.model is None else find_weights(models, head.model)
            for name, head in fit.arms.items()
        },
        {head.arms: compute_ceiling(head) for head in fit.agreements},
    )


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


def _build_check(result: CheckedPolicy) -> dict[str, Any]:
    return {
        "name": result.place.name,
        "path": str(result.place.path),
        "valid": result.policy is not None,
        "errors": [_build_problem(problem) for problem in result.errors],
        "warnings": [_build_problem(problem) for problem in result.warnings],
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
