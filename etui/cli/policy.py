"""``etui policy``: the policies there are, whether they are sound, and why they choose what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from etui.cli.policy_common import load, say_problems, text_of
from etui.cli.policy_edit import diff, edit, new
from etui.errors import ExitCode, ModelUnavailable, Problem
from etui.visible import visible

if TYPE_CHECKING:
    from etui.config import Config
    from etui.routing.policies import Checked, PolicyPlace
    from etui.routing.policy import Policy

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def policy() -> None:
    """Check and explain the policies that route.

    A policy is a YAML file: signals, arms, and the rules that lead from the one to the other. The
    shipped ones are frugal, balanced and best; your own lie in ETUI_HOME/policies.
    """


@policy.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Show every policy that can be named."""
    from etui.routing.policies import check_place, list_policies

    config, catalogue, here = load()
    rows = []
    for place in list_policies(config):
        checked = check_place(place, catalogue.models, here)
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
        _print_json({"policies": rows})
        return
    _print_table(
        ("POLICY", "ORIGIN", "DESCRIPTION"),
        [_listed(row) for row in rows],
    )


@policy.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a policy file as it is."""
    from etui.config import load_config
    from etui.routing.policies import find_policy

    text = text_of(find_policy(name, load_config()).path)
    click.echo(text, nl=not text.endswith("\n"))


@policy.command()
@click.argument("names", nargs=-1, metavar="[NAME|FILE]...")
@as_json
def check(names: Sequence[str], as_json: bool) -> ExitCode:
    """Check policies: every fault with its line.

    Without a name every one that can be named is checked.

    Errors and warnings go to standard error, one a line with file, line and column. The exit code
    is 2 if there is an error.
    """
    from etui.routing.policies import check_place, policy_names

    config, catalogue, here = load()
    policies = policy_names(config)
    results = [
        check_place(place, catalogue.models, here, policies=policies, thorough=True)
        for place in _places(names, config)
    ]
    for result in results:
        say_problems(result)
    if as_json:
        _print_json({"policies": [_checked_json(result) for result in results]})
    else:
        for result in results:
            if result.policy is not None:
                click.echo(f"{result.place.path}: ok, {_size(result.policy)}")
    sound = all(result.policy is not None for result in results)
    return ExitCode.DONE if sound else ExitCode.USAGE


@policy.command()
@click.argument("query")
@click.option("--policy", "name", metavar="NAME|FILE", help="Default: the policy of config.yaml.")
@as_json
def explain(query: str, name: str | None, as_json: bool) -> None:
    """Say which arm would answer, and why.

    It shows every signal with its value and every rule that was tried.

    Nothing is loaded, so it works before any model is on this machine.
    """
    from etui.cli.question import read_question
    from etui.host import read_host
    from etui.query import Query
    from etui.routing.decide import decide
    from etui.routing.policies import find_policy, load_policy
    from etui.routing.shadow import with_shadow

    query = read_question(query, None, is_terminal=True)
    config, catalogue, here = load()
    chosen = name or config.policy
    place = find_policy(chosen, config)
    loaded = load_policy(chosen, config, catalogue.models)
    host = read_host(config)
    asked = Query(query)
    available = here
    try:
        decision = decide(asked, loaded, available=available, host=host, every_signal=True)
    except ModelUnavailable:
        available = _anything
        decision = decide(asked, loaded, available=available, host=host, every_signal=True)
    decision = with_shadow(
        decision, loaded, asked, config, catalogue.models, available=available, host=host
    )
    plan = loaded.arms[decision.arm.name]
    document = {
        "query": query,
        **decision.trace(),
        "policy_file": str(place.path),
        "reasoning": decision.arm.reasoning,
        "think_tokens": decision.arm.think_tokens if decision.arm.reasoning != "direct" else None,
        "votes": decision.arm.votes if decision.arm.reasoning == "vote" else None,
        "max_tokens": decision.arm.max_tokens,
        "on_disk": here(decision.arm.model),
        "candidates": [{"model": model, "on_disk": here(model)} for model in plan.models],
    }
    if as_json:
        _print_json(document)
    else:
        _print_explained(document)
    if not document["on_disk"]:
        model = decision.arm.model
        click.echo(f"{model} is not on this machine; run `etui models pull {model}`", err=True)


@policy.command()
@click.argument("names", nargs=-1, metavar="[NAME|FILE]...")
@as_json
def test(names: Sequence[str], as_json: bool) -> ExitCode:
    """Run the probes of policies.

    Without a name those of the default policy.

    The exit code is 4 if a probe fails.
    """
    from etui.routing.policies import load_policy
    from etui.routing.probes import run_probes

    config, catalogue, _ = load()
    rows: list[dict[str, Any]] = []
    for name in names or (config.policy,):
        loaded = load_policy(name, config, catalogue.models)
        if not loaded.probes:
            click.echo(f"policy {loaded.name} has no probes", err=True)
        for outcome in run_probes(loaded):
            decision = outcome.decision
            rows.append(
                {
                    "policy": loaded.name,
                    "file": str(loaded.path),
                    "line": outcome.probe.line,
                    "query": outcome.probe.query,
                    "passed": not outcome.failures,
                    "failures": list(outcome.failures),
                    "rule": decision.rule if decision is not None else None,
                    "arm": decision.arm.name if decision is not None else None,
                    "why": decision.why if decision is not None else None,
                }
            )
    failed = [row for row in rows if not row["passed"]]
    if as_json:
        _print_json({"probes": rows, "passed": len(rows) - len(failed), "failed": len(failed)})
    else:
        for row in failed:
            place = f"{row['file']}:{row['line']}"
            click.echo(f"{place}: {_short(row['query'])!r}: {'; '.join(row['failures'])}", err=True)
            if row["why"]:
                click.echo(f"  {visible(row['why'])}", err=True)
        click.echo(f"{len(rows) - len(failed)} of {len(rows)} probes passed")
    return ExitCode.GATE if failed else ExitCode.DONE


@policy.command()
def schema() -> None:
    """Print the JSON Schema of a policy file.

    Editors complete and check YAML with it.
    """
    from etui.routing.schema import json_schema

    _print_json(json_schema())


def _anything(_: str) -> bool:
    """As if every model were on this machine."""
    return True


def _places(names: Sequence[str], config: Config) -> list[PolicyPlace]:
    from etui.routing.policies import find_policy, list_policies

    return [find_policy(name, config) for name in names] or list(list_policies(config))


def _listed(row: Mapping[str, Any]) -> tuple[str, str, str]:
    name, origin = row["name"], row["origin"]
    return (
        f"{name} (default)" if row["default"] else name,
        f"{origin}, in place of the shipped" if row["replaces_shipped"] else origin,
        visible(row["description"])
        if row["valid"]
        else f"invalid: `etui policy check {name}` says why",
    )


def _checked_json(result: Checked) -> dict[str, Any]:
    return {
        "name": result.place.name,
        "path": str(result.place.path),
        "valid": result.policy is not None,
        "errors": [_problem_json(problem) for problem in result.errors],
        "warnings": [_problem_json(problem) for problem in result.warnings],
    }


def _problem_json(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line or None,
        "column": problem.column or None,
        "message": problem.message,
    }


def _size(loaded: Policy) -> str:
    return (
        f"{_count(len(loaded.rules), 'rule')}, {_count(len(loaded.arms), 'arm')}, "
        f"{_count(len(loaded.signals), 'signal')}, {_count(len(loaded.probes), 'probe')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_explained(document: dict[str, Any]) -> None:
    thinking = document["think_tokens"]
    way = document["reasoning"] + (f", {thinking} tokens of thought" if thinking else "")
    if document["votes"]:
        way += f", {document['votes']} votes"
    here = "" if document["on_disk"] else " (not on this machine)"
    click.echo(f"policy     {document['policy']}")
    click.echo(f"rule       {document['rule']}")
    click.echo(f"arm        {document['arm']}: {way}, {document['max_tokens']} tokens of answer")
    click.echo(f"model      {document['model']}{here}")
    click.echo(f"why        {visible(document['why'])}")
    shadow = document["shadow"]
    if shadow is not None:
        click.echo(f"shadow     {shadow['policy']}: {visible(_shadow_text(shadow))}")
    click.echo("predicted  uncalibrated: no joules and no accuracy were fitted")
    if document["signals"]:
        click.echo()
        _print_table(
            ("SIGNAL", "HOLDS", "VALUE", "ASKS FOR", "FOUND"),
            [
                (
                    s["name"],
                    "yes" if s["holds"] else "no",
                    _value(s["value"]),
                    s["test"],
                    s["detail"],
                )
                for s in document["signals"]
            ],
        )
    click.echo()
    _print_table(
        ("RULE", "PRIORITY", "MATCHED", "FIRST CONDITION THAT FAILED"),
        [
            (r["name"], str(r["priority"]), _YES[r["matched"]], visible(r["failed"] or ""))
            for r in document["rules"]
        ],
    )


_YES = {True: "yes", False: "no"}


def _shadow_text(shadow: Mapping[str, Any]) -> str:
    if shadow["arm"] is None:
        return f"could not decide: {shadow['why']}"
    return f"{shadow['rule']} -> {shadow['arm']}: {shadow['model']}, {shadow['reasoning']}"


def _value(value: float | str | None) -> str:
    if value is None:
        return "unknown"
    return value if isinstance(value, str) else f"{value:g}"


def _short(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= 60 else line[:59] + "…"


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


for _command in (new, edit, diff):
    policy.add_command(_command)
