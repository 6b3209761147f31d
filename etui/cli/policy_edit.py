"""``etui policy new | edit | diff``: policies of one's own, and what a change of them changes."""

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

from etui.cli.common import load, print_json, say_problems
from etui.errors import EtuiError, ExitCode, UsageError

if TYPE_CHECKING:
    from etui.chat import Query
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.decision import Decision
    from etui.routing.diff import OtherAnswer
    from etui.routing.library import Checked
    from etui.routing.signals.host_state import HostState


@click.command()
@click.argument("name")
@click.option(
    "--from",
    "origin",
    metavar="NAME|FILE",
    default="balanced",
    show_default=True,
    help="Policy to begin with.",
)
def new(name: str, origin: str) -> None:
    """Make a policy of your own from another.

    The new file's path is printed.
    """
    from etui.routing.editing import check_name, create, text_of
    from etui.routing.library import find_policy

    config, _, _ = load()
    check_name(name)
    target = create(name, text_of(find_policy(origin, config).path), config)
    click.echo(target)
    click.echo(f"change it with `etui policy edit {name}`", err=True)


@click.command()
@click.argument("name")
def edit(name: str) -> ExitCode:
    """Change a policy, checked before it is used.

    It opens in $VISUAL or $EDITOR, and takes the old one's place only when it is sound.

    A shipped policy is copied into ETUI_HOME/policies first, and the copy takes its place.
    """
    from etui.routing.editing import draft_of, file_to_change, make_folder, replace_text, text_of
    from etui.routing.library import PolicyPlace, check_text, find_policy, policy_names

    config, catalogue, _ = load()
    place = find_policy(name, config)
    target = file_to_change(place, config)
    if place.origin == "shipped":
        make_folder(config)
    before = text_of(place.path)
    draft = draft_of(target, before)
    while True:
        _run_editor(draft)
        after = text_of(draft)
        if after == before:
            draft.unlink()
            click.echo("nothing changed", err=True)
            return ExitCode.DONE
        draft_place = PolicyPlace(place.name, target, place.origin)
        checked = check_text(after, draft_place, catalogue.models, policy_names(config))
        if checked.policy is not None:
            break
        say_problems(checked)
        if not (sys.stdin.isatty() and click.confirm("edit again?", default=True, err=True)):
            click.echo(f"{target} was not changed; what you wrote is in {draft}", err=True)
            return ExitCode.USAGE
    replace_text(target, after, place.path)
    draft.unlink(missing_ok=True)
    _say_after_edit(checked)
    click.echo(target)
    return ExitCode.DONE


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--questions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Questions to decide by both, one a line.",
)
@click.option(
    "--logged",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Decide the last N questions of the log by both.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def diff(
    before: str, after: str, questions: Path | None, logged: int | None, as_json: bool
) -> None:
    """Show what differs between two policies.

    It also shows which questions they answer otherwise.

    The questions are the probes of both, and those you name. They are decided as if every model
    were on this machine.
    """
    from etui.routing.diff import changes, other_answers, probe_questions
    from etui.routing.diff_text import diff_lines

    config, catalogue, _ = load()
    one, other = (_sound(name, config, catalogue) for name in (before, after))
    assert one.policy is not None
    assert other.policy is not None
    assert one.file is not None
    assert other.file is not None
    asked = probe_questions(one.policy, other.policy)
    asked += [*_questions_of(questions), *_logged(config, logged)]
    differing = changes(one.file, other.file)
    answers = other_answers(one.policy, other.policy, asked, lambda _: True)
    if as_json:
        document = {
            "before": str(one.place.path),
            "after": str(other.place.path),
            "changes": [{"path": c.path, "before": c.before, "after": c.after} for c in differing],
            "questions": len(asked),
            "other_answers": [_answer_json(answer) for answer in answers],
        }
        print_json(document)
        return
    for line in diff_lines(differing, answers, len(asked)):
        click.echo(line)


def _sound(name: str, config: Config, catalogue: Catalogue) -> Checked:
    from etui.errors import InvalidFile
    from etui.routing.library import check_place, find_policy

    checked = check_place(find_policy(name, config), catalogue.models)
    if checked.policy is None:
        raise InvalidFile.of(checked.errors, "mend the file and compare again")
    return checked


def _run_editor(path: Path) -> None:
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    found = next(filter(None, map(shutil.which, ("nano", "vi", "notepad"))), None)
    if not named and not found:
        raise UsageError("there is no editor", "set EDITOR to the one you use")
    command = shlex.split(named) if named else [str(found)]
    try:
        done = subprocess.run([*command, str(path)], check=False)
    except OSError as error:
        raise UsageError(
            f"the editor {named!r} does not run: {error.strerror or error}",
            "set EDITOR to one that does",
        ) from error
    if done.returncode != 0:
        raise EtuiError(
            f"the editor {command[0]!r} ended with exit code {done.returncode}",
            f"the policy was not changed; what you wrote is in {path}",
        )


def _say_after_edit(checked: Checked) -> None:
    from etui.routing.probes import run_probes

    say_problems(checked)
    assert checked.policy is not None
    failed = sum(bool(outcome.failures) for outcome in run_probes(checked.policy))
    if failed:
        name = checked.place.name
        click.echo(f"warning: {failed} probes fail; `etui policy test {name}` says why", err=True)


def _questions_of(path: Path | None) -> Iterator[tuple[Query, HostState]]:
    from etui.chat import Query
    from etui.routing.editing import text_of
    from etui.routing.signals.host_state import HostState

    lines = text_of(path).splitlines() if path is not None else []
    yield from ((Query(line), HostState()) for line in lines if line.strip())


def _logged(config: Config, count: int | None) -> Iterator[tuple[Query, HostState]]:
    if count is None:
        return
    from etui.chat import Query
    from etui.log.queries import LogReader
    from etui.routing.signals.host_state import HostState

    with LogReader(config) as reader:
        turns = reader.list_turns(limit=count)
    yield from ((Query(turn.query), HostState()) for turn in turns if turn.query.strip())


def _answer_json(answer: OtherAnswer) -> dict[str, Any]:
    sides = {"before": answer.before, "after": answer.after}
    return {
        "query": answer.query.text,
        **{side: _decision_json(decision) for side, decision in sides.items()},
    }


def _decision_json(decision: Decision | str) -> dict[str, Any]:
    if isinstance(decision, str):
        return {"undecided": decision}
    cascade = decision.cascade
    return {
        "rule": decision.rule,
        "arm": decision.arm.name,
        "model": decision.arm.model,
        "reasoning": decision.arm.reasoning,
        "cascade": [arm.name for arm in cascade.arms] if cascade is not None else None,
    }
