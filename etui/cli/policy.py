"""``etui policy``: list, check, test and explain policies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui.atomic import write_text
from etui.chat import Query
from etui.cli.output import (
    count_progress,
    json_option,
    load_context,
    print_json,
    print_json_line,
    print_problems,
    print_result,
    table_lines,
)
from etui.cli.param_types import (
    TEXT,
    WholeNumber,
    flag,
    number_option,
    parse_since,
    path_option,
    text_option,
)
from etui.cli.policy_edit import diff, edit, new
from etui.cli.policy_fit import fit
from etui.cli.policy_replay import replay
from etui.cli.policy_test import build_problem, test
from etui.cli.streams import data_stream
from etui.config.config import Config, load_config
from etui.errors import EtuiError, ExitCode, InvalidFile, Problem, UsageError, writing
from etui.learning.predictor import get_fitted_path
from etui.log.filters import TurnFilter
from etui.routing.library import (
    CheckedPolicy,
    check_place,
    find_policy,
    list_policies,
    load_policy,
    policy_names,
    read_text,
)
from etui.text import sanitize
from etui.units import count_text

if TYPE_CHECKING:
    from etui.learning.fitted_file import FittedModel
    from etui.learning.logged_cases import LoggedCases
    from etui.runtime import explain as explaining
    from etui.runtime.fit_health import FitTrace
    from etui.yaml.named_files import NamedFile


_COUNTED = ("rule", "arm", "signal", "probe")


@click.command()
@click.argument("name", type=TEXT, metavar="NAME|FILE")
@flag("--from-log", help="Make cases from the questions of the log.")
@text_option(
    "--since", metavar="WHEN", help="Only questions since WHEN: today, 12h, 7d, or a date or time."
)
@number_option(
    WholeNumber(1, 100_000),
    "--limit",
    default=200,
    show_default=True,
    help="Maximum number of cases.",
)
@path_option(
    *("-o", "--output"),
    metavar="FILE",
    help="Write a new file, which only you can read, instead of printing.",
)
def cases(name: str, from_log: bool, since: str | None, limit: int, output: Path | None) -> None:
    """Make cases for `etui policy test` from your own questions.

    Each distinct question becomes a case, near-duplicates one, spread over the rules and arms that
    decide them now, the newest first. The policy has to decide it as it does now, unless you
    corrected that: by asking the same question again of another arm, or by a grade. Questions that
    are cases already are left out, so `>> NAME.cases.jsonl` adds what is new.

    The cases hold your questions as you typed them. They stay on this machine; read them before
    you give them to others.
    """
    from etui.learning.logged_cases import read_logged_cases
    from etui.log.queries import LogReader
    from etui.routing.probes import load_cases

    if not from_log:
        raise UsageError(
            "nothing says what to make cases from", "add --from-log: the questions of the log"
        )
    if output is not None and output.exists():
        raise UsageError(
            f"{output} exists already",
            "name a new file, or add to this one with `>>` in place of -o",
        )
    moment = None if since is None else parse_since(since, datetime.now().astimezone())
    config, catalogue, _ = load_context()
    policy = load_policy(name, config, catalogue.models)
    known = [case.query.text for case in (*policy.probes, *load_cases(policy, config))]
    turn_filter = None if moment is None else TurnFilter(since=moment)
    with LogReader(config) as log, count_progress("reading questions") as report:
        found = read_logged_cases(
            log, policy, turn_filter=turn_filter, limit=limit, known=known, report=report
        )
    if not found.cases:
        raise EtuiError(
            f"no new case in {count_text(found.questions, 'question')} of the log",
            "ask something first, or choose an earlier time with --since",
        )
    if output is None:
        for case in found.cases:
            print_json_line(case.document())
    else:
        text = "".join(f"{json.dumps(c.document(), ensure_ascii=False)}\n" for c in found.cases)
        with writing(output, "choose another file with -o"):
            write_text(output, text, errors="replace", private=True)
    _report(found, output)


def _report(found: LoggedCases, output: Path | None) -> None:
    corrected = sum(case.is_corrected for case in found.cases)
    parts = [f"{count_text(len(found.cases), 'case')} of {count_text(found.questions, 'question')}"]
    if corrected:
        parts.append(f"{corrected} expect what you corrected")
    if found.left_out:
        parts.append(f"{found.left_out} too long or undecided")
    click.echo(", ".join(parts), err=True)
    where = "these lines hold" if output is None else f"{output} holds"
    click.echo(f"{where} your questions as you typed them: nothing has left this machine", err=True)


@click.command()
@click.argument("query", type=TEXT)
@text_option("--policy", "name", metavar="NAME|FILE", help="Default: the policy of config.yaml.")
@text_option(
    "--metadata",
    "metadata",
    metavar="KEY=VALUE",
    multiple=True,
    help="Metadata of a request of `etui serve`; may be repeated.",
)
@flag("--all", "everything", help="Show every signal, rule and candidate, too.")
@json_option
def explain(
    query: str, name: str | None, metadata: tuple[str, ...], everything: bool, as_json: bool
) -> None:
    """Explain which arm would answer, and why.

    With --all it shows every signal with its value and its distance from the threshold, every rule
    that was tried, and the predicted joules and accuracy of each candidate.

    No model is loaded, so this works even before a model is on this machine.
    """
    from etui.cli.ask import read_question
    from etui.runtime import explain as explaining
    from etui.runtime.runtime import open_runtime

    query = read_question(query, None, is_terminal=True)
    config = load_config()
    with open_runtime(config) as runtime:
        policy = load_policy(name or config.policy, config, runtime.catalogue.models)
        asked = Query(query, metadata=_parse_metadata(metadata))
        document = explaining.explain(asked, policy, runtime)
    form = _format_explanation if everything else explaining.summary_lines
    print_result(document, form(document), as_json)
    if not document["on_disk"]:
        model, machine = document["model"], explaining.find_machine(document)
        if machine is not None:
            click.echo(f"{model} on {machine} is not available; see `etui doctor`", err=True)
        else:
            click.echo(f"{model} is not on this machine; run `etui models pull {model}`", err=True)


def _parse_metadata(given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Parse ``KEY=VALUE``; a key that is repeated has its last value."""
    found: dict[str, str] = {}
    for entry in given:
        key, equals, value = entry.partition("=")
        if not key or not equals:
            raise UsageError(f"--metadata {entry!r} is not KEY=VALUE", "as in --metadata team=lab")
        found[key] = value
    return tuple(found.items())


def _format_explanation(document: explaining.Explanation) -> Iterator[str]:
    from etui.runtime import explain as explaining

    for label, text in explaining.explained_facts(document):
        yield f"{label:<10} {text}"
    if candidates := explaining.candidate_rows(document):
        yield from ("", *table_lines(explaining.CANDIDATE_HEAD, candidates))
        yield from explaining.joules_sources(document)
    if signals := explaining.signal_rows(document):
        yield from ("", *table_lines(explaining.SIGNAL_HEAD, signals))
    yield from ("", *table_lines(explaining.RULE_HEAD, explaining.rule_rows(document)))


@click.group()
def policy() -> None:
    """List, check, explain and edit routing policies.

    A policy is a YAML file of signals, arms, and rules that choose an arm by the signals. The
    shipped policies are frugal, balanced and best; your own are in ETUI_HOME/policies.
    """


@policy.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the shipped policies and your own."""
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
    table = table_lines(("POLICY", "ORIGIN", "DESCRIPTION"), [_format_row(row) for row in rows])
    print_result({"policies": rows}, table, as_json)


@policy.command()
@click.argument("name", type=TEXT)
def show(name: str) -> None:
    """Print a policy file unchanged."""
    text = read_text(find_policy(name, load_config()).path)
    click.echo(text, file=data_stream(), nl=not text.endswith("\n"))


@policy.command()
@click.argument("names", type=TEXT, nargs=-1, metavar="[NAME|FILE]...")
@json_option
def check(names: Sequence[str], as_json: bool) -> ExitCode:
    """Check policies and report every error with its line.

    Without a NAME, checks all policies.

    Errors and warnings go to standard error, one per line, with file, line and column. The exit
    code is 2 if there is an error.

    For a policy with a fit, also says how old it is, what it was fitted on, which arms it does not
    cover, and how it has done on the graded turns since. A damaged fit is an error.
    """
    from etui.runtime.fit_health import build_fit_document, list_fit_facts, read_health

    config, catalogue, is_on_disk = load_context()
    policies = policy_names(config)
    results: list[tuple[CheckedPolicy, FitTrace | None]] = []
    for place in [find_policy(name, config) for name in names] or list_policies(config):
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
    document = {"policies": [_build_check(*each) for each in results]}
    print_result(document, (line for each in results for line in _format_valid(*each)), as_json)
    valid = not any(result.errors for result, _ in results)
    return ExitCode.DONE if valid else ExitCode.USAGE


@policy.command()
def schema() -> None:
    """Print the JSON Schema of a policy file.

    Editors use it to complete and check YAML.
    """
    from etui.routing.schema.policy_file import json_schema

    print_json(json_schema())


def _format_valid(result: CheckedPolicy, health: FitTrace | None) -> Iterator[str]:
    """Format the size of a policy without errors, and age, scope and state of its fit."""
    from etui.runtime.fit_health import format_fit

    if result.errors or result.policy is None:
        return
    sizes = {name: len(getattr(result.policy, f"{name}s")) for name in _COUNTED}
    yield f"{result.place.path}: ok, {', '.join(count_text(n, name) for name, n in sizes.items())}"
    yield from (f"  {sanitize(line)}" for line in (() if health is None else format_fit(health)))


def _load_fit(place: NamedFile, config: Config) -> tuple[FittedModel | None, tuple[Problem, ...]]:
    """Load the fit of a policy; None without one, and with the faults of one that is damaged."""
    from etui.learning.fitted_file import load_fitted

    path = get_fitted_path(place, config)
    try:
        return (load_fitted(path) if path.is_file() else None), ()
    except InvalidFile as error:
        faults = (replace(each, message=f"{each.message}; {error.fix}") for each in error.problems)
        return None, tuple(faults)


def _add_faults_of_cases(result: CheckedPolicy, config: Config) -> CheckedPolicy:
    """Add the faults in the cases of a policy, as warnings: the policy can be used without them."""
    from etui.routing.probes import load_cases

    if result.policy is None:
        return result
    try:
        load_cases(result.policy, config)
    except InvalidFile as error:
        return replace(result, warnings=(*result.warnings, *error.problems))
    return result


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
        "errors": list(map(build_problem, result.errors)),
        "warnings": list(map(build_problem, result.warnings)),
        "fit": health,
    }


for _command in (test, cases, explain, new, edit, diff, fit, replay):
    policy.add_command(_command)
