"""``etui policy new | edit | diff``: create, edit and compare policies."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui.chat import Query
from etui.cli.output import json_option, load_context, print_problems, print_result
from etui.cli.param_types import TEXT, WholeNumber, number_option, path_option, text_option
from etui.codec import pick
from etui.errors import EtuiError, ExitCode, InvalidFile, UsageError
from etui.routing import library
from etui.routing.signals import HostState
from etui.text import sanitize
from etui.units import count_text
from etui.yaml.named_files import NamedFile

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.decision import Decision
    from etui.routing.diff import DifferingCase
    from etui.routing.policy import Policy, PolicyProbe


@click.command()
@click.argument("name", type=TEXT)
@text_option(
    "--from",
    "origin",
    metavar="NAME|FILE",
    default="balanced",
    show_default=True,
    help="Policy to copy.",
)
def new(name: str, origin: str) -> None:
    """Create your own policy as a copy of another.

    Prints the path of the new file.
    """
    config, _, _ = load_context()
    library.check_name(name)
    target = library.create(
        name, library.read_text(library.find_policy(origin, config).path), config
    )
    click.echo(target)
    click.echo(f"edit it with `etui policy edit {name}`", err=True)


@click.command()
@click.argument("name", type=TEXT)
def edit(name: str) -> ExitCode:
    """Edit a policy and check it before it is used.

    Opens the policy in $VISUAL or $EDITOR, and replaces the old version only if the new one is
    valid.

    A shipped policy is first copied into ETUI_HOME/policies; the copy replaces it.
    """
    config, catalogue, _ = load_context()
    place = library.find_policy(name, config)
    target = library.choose_file_to_edit(place, config)
    if place.origin == "shipped":
        library.make_folder(config)
    before = library.read_text(place.path)
    draft = library.write_draft(target, before)
    while True:
        _run_editor(draft)
        after = library.read_text(draft)
        if after == before:
            draft.unlink()
            click.echo("nothing changed", err=True)
            return ExitCode.DONE
        draft_place = NamedFile(place.name, target, place.origin)
        checked = library.check_text(
            after, draft_place, catalogue.models, library.policy_names(config)
        )
        if checked.policy is not None:
            break
        print_problems(checked)
        if not (sys.stdin.isatty() and click.confirm("edit again?", default=True, err=True)):
            click.echo(f"{target} was not changed; your text is in {draft}", err=True)
            return ExitCode.USAGE
    library.replace_text(target, after, place.path)
    draft.unlink(missing_ok=True)
    _print_warnings(checked, config)
    click.echo(target)
    return ExitCode.DONE


@click.command()
@click.argument("before", type=TEXT, metavar="A")
@click.argument("after", type=TEXT, metavar="B")
@path_option(
    "--questions",
    metavar="FILE",
    help="File of questions to decide with both policies, one per line.",
)
@number_option(
    WholeNumber(1, 1_000_000),
    "--logged",
    help="Decide the last N questions of the log with both policies.",
)
@json_option
def diff(
    before: str, after: str, questions: Path | None, logged: int | None, as_json: bool
) -> None:
    """Show the differences between two policies.

    Also shows the questions that they decide differently, and the cases of NAME.cases.jsonl with
    what is expected and which of the two policies decides so.

    The questions are the probes of both policies and those of --questions and --logged; the cases
    are those of both policies. They are decided as if every model were on this machine and nothing
    were fitted.
    """
    from etui.routing.diff import (
        case_lines,
        diff_lines,
        find_changes,
        find_differing_cases,
        find_other_answers,
        join_cases,
        list_probe_questions,
    )

    config, catalogue, _ = load_context()
    first, second = (_load_valid(name, config, catalogue) for name in (before, after))
    assert first.policy is not None
    assert second.policy is not None
    assert first.file is not None
    assert second.file is not None
    asked = list_probe_questions(first.policy, second.policy)
    asked += [*_read_questions(questions), *_read_logged(config, logged)]
    differing = find_changes(first.file, second.file)
    answers = find_other_answers(first.policy, second.policy, asked, lambda _: True)
    cases = join_cases(*(_load_cases(policy, config) for policy in (first.policy, second.policy)))
    differing_cases = find_differing_cases(first.policy, second.policy, cases)
    document = {
        "before": str(first.place.path),
        "after": str(second.place.path),
        "changes": [pick(change, "path", "before", "after") for change in differing],
        "questions": len(asked),
        "other_answers": [
            {
                "query": answer.query.text,
                "before": _build_decision(answer.before),
                "after": _build_decision(answer.after),
            }
            for answer in answers
        ],
        "cases": len(cases),
        "other_cases": [_build_case(each) for each in differing_cases],
    }
    lines = (
        *diff_lines(differing, answers, len(asked)),
        *case_lines(differing_cases, len(cases)),
    )
    print_result(document, lines, as_json)


def _load_cases(policy: Policy, config: Config) -> tuple[PolicyProbe, ...]:
    """Load the cases of a policy; without them, and with a message, if they have errors."""
    from etui.routing.probes import load_cases

    try:
        return load_cases(policy, config)
    except InvalidFile as error:
        for problem in error.problems:
            click.echo(sanitize(str(problem)), err=True)
        click.echo(f"the cases of {policy.name} are left out until they are fixed", err=True)
        return ()


def _load_valid(name: str, config: Config, catalogue: Catalogue) -> library.CheckedPolicy:
    checked = library.check_place(library.find_policy(name, config), catalogue.models)
    if checked.policy is None:
        raise InvalidFile.of(checked.errors, "fix the file and compare again")
    return checked


def split_command(text: str) -> list[str]:
    """Split a command line into words; on Windows a backslash is a part of a path."""
    if sys.platform != "win32":
        return shlex.split(text)
    if shutil.which(text):
        return [text]  # a path with spaces
    return [word.strip('"') for word in shlex.split(text, posix=False)]


def _run_editor(path: Path) -> None:
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    found = next(filter(None, map(shutil.which, ("nano", "vi", "notepad"))), None)
    if not named and not found:
        raise UsageError("no editor was found", "set EDITOR to your editor")
    command = split_command(named) if named else [str(found)]
    try:
        done = subprocess.run([*command, str(path)], check=False)
    except OSError as error:
        raise UsageError(
            f"cannot run the editor {named!r}: {error.strerror or error}",
            "set EDITOR to an editor that runs",
        ) from error
    if done.returncode != 0:
        raise EtuiError(
            f"the editor {command[0]!r} ended with exit code {done.returncode}",
            f"the policy was not changed; your text is in {path}",
        )


def _print_warnings(checked: library.CheckedPolicy, config: Config) -> None:
    from etui.routing.probes import load_cases, run_probes

    print_problems(checked)
    policy = checked.policy
    assert policy is not None
    see = f"see `etui policy test {checked.place.name}`"
    try:
        cases = load_cases(policy, config)
    except InvalidFile as error:
        faults = count_text(len(error.problems), "fault")
        click.echo(f"warning: {faults} in its cases; {see}", err=True)
        cases = ()
    outcomes = run_probes(policy, (*policy.probes, *cases))
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    if failed:
        what = "probes and cases" if cases else "probes"
        click.echo(f"warning: {failed} of {len(outcomes)} {what} fail; {see}", err=True)


def _read_questions(path: Path | None) -> Iterator[tuple[Query, HostState]]:
    text = "" if path is None else library.read_text(path).removeprefix("\ufeff")
    lines = text.splitlines()
    yield from ((Query(line), HostState()) for line in lines if line.strip())


def _read_logged(config: Config, count: int | None) -> Iterator[tuple[Query, HostState]]:
    from etui.log.queries import LogReader

    if count is None:
        return

    with LogReader(config) as reader:
        turns = reader.list_turns(limit=count)
    yield from ((Query(turn.query), HostState()) for turn in turns if turn.query.strip())


def _build_case(each: DifferingCase) -> dict[str, Any]:
    case = each.case
    return {
        **pick(case, "file", "line"),
        "id": case.id or None,
        "query": case.query.text,
        "expected": {
            **pick(case, "rule", "not_rule", "arm", "not_arm"),
            "signals": dict(case.signals),
        },
        **{
            side: {
                **_build_decision(outcome.decision or "; ".join(outcome.failures)),
                "passed": not outcome.failures,
                "failures": list(outcome.failures),
            }
            for side, outcome in (("before", each.before), ("after", each.after))
        },
    }


def _build_decision(decision: Decision | str) -> dict[str, Any]:
    if isinstance(decision, str):
        return {"undecided": decision}
    cascade = decision.cascade
    return {
        "rule": decision.rule,
        "arm": decision.arm.name,
        **pick(decision.arm, "model", "reasoning"),
        "cascade": [arm.name for arm in cascade.arms] if cascade is not None else None,
    }
