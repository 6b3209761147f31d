"""``etui policy new | edit | diff``: policies of one's own, and what a change of them changes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etui.cli.policy_common import load, say_problems, text_of
from etui.errors import EtuiError, ExitCode, UsageError
from etui.visible import visible

if TYPE_CHECKING:
    from etui.config import Config
    from etui.models import Catalogue
    from etui.query import Query
    from etui.routing.decision import Decision
    from etui.routing.diff import Change, OtherAnswer
    from etui.routing.host import HostState
    from etui.routing.policies import Checked

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}\Z")


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
    from etui.routing.policies import find_policy

    config, _, _ = load()
    if not _NAME.match(name) or name.endswith((".yaml", ".yml")):
        raise UsageError(
            f"{name!r} is no name for a policy", "use letters, digits, '.', '_' and '-'"
        )
    target = config.policies_dir / f"{name}.yaml"
    text = text_of(find_policy(origin, config).path)
    _make_folder(config)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(
            f"there is a policy {name!r} already: {target}",
            f"change it with `etui policy edit {name}`, or take another name",
        ) from None
    except OSError as error:
        raise _unwritable(target, error) from error
    click.echo(target)
    click.echo(f"change it with `etui policy edit {name}`", err=True)


@click.command()
@click.argument("name")
def edit(name: str) -> ExitCode:
    """Change a policy, checked before it is used.

    It opens in $VISUAL or $EDITOR, and takes the old one's place only when it is sound.

    A shipped policy is copied into ETUI_HOME/policies first, and the copy takes its place.
    """
    from etui.routing.policies import PolicyPlace, check_text, find_policy, policy_names

    config, catalogue, _ = load()
    place = find_policy(name, config)
    target = place.path
    if place.origin == "shipped":
        target = config.policies_dir / place.path.name
        _make_folder(config)
    before = text_of(place.path)
    draft = _draft(target, before)
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
    try:
        shutil.copymode(place.path, draft)  # a draft is readable by nobody else
        os.replace(draft, target)
    except OSError as error:
        raise _unwritable(target, error) from error
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
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for change in differing:
        click.echo(visible(_change_text(change)))
    click.echo(f"{len(answers)} of {len(asked)} questions are answered otherwise")
    for answer in answers:
        text = visible(" ".join(answer.query.text.split()))
        click.echo(f"  {text if len(text) <= 70 else text[:69] + '…'}")
        settings = _settings(answer)
        for sign, decision in (("-", answer.before), ("+", answer.after)):
            if isinstance(decision, str):
                click.echo(f"    {sign} undecided: {visible(decision)}")
                continue
            arm = decision.arm
            differing_settings = "".join(f", {key} {asdict(arm)[key]}" for key in settings)
            click.echo(
                f"    {sign} {decision.rule} -> {arm.name}: {arm.model}, {arm.reasoning}"
                f"{differing_settings}"
            )


def _sound(name: str, config: Config, catalogue: Catalogue) -> Checked:
    from etui.errors import InvalidFile
    from etui.routing.policies import check_place, find_policy

    checked = check_place(find_policy(name, config), catalogue.models)
    if checked.policy is None:
        raise InvalidFile.of(checked.errors, "mend the file and compare again")
    return checked


def _make_folder(config: Config) -> None:
    """The folder of the user's policies, with the schema that the files name for editors."""
    from etui.config import make_home
    from etui.routing.schema import json_schema

    make_home(config)
    try:
        config.policies_dir.mkdir(exist_ok=True)
        schema = json.dumps(json_schema(), indent=2) + "\n"
        (config.policies_dir / "policy.schema.json").write_text(schema, encoding="utf-8")
    except OSError as error:
        raise _unwritable(config.policies_dir, error) from error


def _unwritable(path: Path, error: OSError) -> EtuiError:
    return EtuiError(
        f"cannot write {path}: {error.strerror or error}", "make the folder writable, or free space"
    )


def _draft(target: Path, text: str) -> Path:
    """A copy beside the target, so that taking its place is one step."""
    try:
        handle, name = tempfile.mkstemp(
            prefix=f"{target.stem}-draft-", suffix=".yml", dir=target.parent
        )
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise _unwritable(target, error) from error
    return Path(name)


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
    from etui.query import Query
    from etui.routing.host import HostState

    lines = text_of(path).splitlines() if path is not None else []
    yield from ((Query(line), HostState()) for line in lines if line.strip())


def _logged(config: Config, count: int | None) -> Iterator[tuple[Query, HostState]]:
    if count is None:
        return
    from etui.log.queries import LogReader
    from etui.query import Query
    from etui.routing.host import HostState

    with LogReader(config) as reader:
        turns = reader.list_turns(limit=count)
    yield from ((Query(turn.query), HostState()) for turn in turns if turn.query.strip())


def _change_text(change: Change) -> str:
    if change.before is None:
        return f"+ {change.path}: {_plain(change.after)}"
    if change.after is None:
        return f"- {change.path}: {_plain(change.before)}"
    if isinstance(change.before, list) and isinstance(change.after, list):
        gone = [f"-{_plain(item)}" for item in change.before if item not in change.after]
        come = [f"+{_plain(item)}" for item in change.after if item not in change.before]
        if gone or come:
            return f"~ {change.path}: {' '.join([*gone, *come])}"
    return f"~ {change.path}: {_plain(change.before)} -> {_plain(change.after)}"


def _settings(answer: OtherAnswer) -> list[str]:
    """Settings that differ, where the arms are called alike and run the same model."""
    if isinstance(answer.before, str) or isinstance(answer.after, str):
        return []
    one, other = asdict(answer.before.arm), asdict(answer.after.arm)
    if any(one[key] != other[key] for key in ("name", "model", "reasoning")):
        return []
    return [key for key in one if one[key] != other[key]]


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


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
