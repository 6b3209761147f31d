"""The work of the policies screen: files, checks, explanations, replays.

Every function here may wait for the disk or work for long: a thread calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.config.config import Config, shipped_dir
from etui.errors import EtuiError, InvalidFile, Problem, UsageError
from etui.routing.editing import (
    ChangedOnDisk,
    content,
    create,
    file_to_change,
    make_folder,
    own_file,
    remove,
    save,
    text_of,
)
from etui.routing.library import Checked, PolicyPlace, check_text, find_policy, list_policies
from etui.tui.policies.messages import (
    About,
    CheckVerdict,
    Clash,
    Compared,
    Draft,
    Explained,
    Fact,
    HasErrors,
    PolicyCatalogue,
    PolicyContext,
    PolicyDeleted,
    PolicyEntry,
    PolicyOpened,
    PolicyTaskFailed,
    Replayed,
    Saved,
    Subject,
)
from etui.units import count_text
from etui.yaml.load import MAX_BYTES

if TYPE_CHECKING:
    from etui.routing.policy import Policy

REPLAYED_TURNS = 5000
"""Newest turns of the log that are replayed: a few seconds on a laptop."""


def read_policies(config: Config, also: str) -> PolicyCatalogue:
    """Every policy with its description.

    Args:
        config: Folders and settings.
        also: What the route in force calls its policy; a path joins the list.

    Raises:
        InvalidFile: models.yaml cannot be used.
    """
    from etui.models.catalogue import load_catalogue
    from etui.routing.library import check_place

    catalogue = load_catalogue(config)
    places = {place.name: place for place in list_policies(config)}
    names = tuple(places)
    if also not in places:
        with suppress(UsageError):  # it was deleted meanwhile: the next question says so
            places[also] = find_policy(also, config)
    found = (
        PolicyEntry(
            named, place, _description(check_place(place, catalogue.models, policies=names))
        )
        for named, place in places.items()
    )
    return PolicyCatalogue(PolicyContext(config, catalogue, names), tuple(found))


def _description(checked: Checked) -> str | None:
    return None if checked.policy is None else checked.policy.description


def open_policy(on: PolicyEntry, config: Config) -> PolicyOpened:
    """A policy to look at and to change.

    Raises:
        InvalidFile: It cannot be read, is too large, or is not UTF-8.
    """
    place = on.place
    if place.path.is_file() and place.path.stat().st_size > MAX_BYTES:
        raise InvalidFile(f"{place.path}: larger than {MAX_BYTES:,} bytes, so it is not read")
    text = text_of(place.path)
    target = file_to_change(place, config)
    before = text.encode("utf-8") if target == place.path else content(target)
    return PolicyOpened(on.named, place, text, target, before)


def make_policy(name: str, template: PolicyEntry | None, config: Config) -> PolicyOpened:
    """A new policy of the user's, like another or blank.

    Raises:
        UsageError: One is called so already.
        EtuiError: The template cannot be read, or the file not be written.
    """
    like = shipped_dir() / "policies" / "blank.yml" if template is None else template.place.path
    path = create(name, text_of(like), config)
    place = PolicyPlace(name, path, "user")
    return open_policy(PolicyEntry(name, place, None), config)


def delete_policy(place: PolicyPlace) -> PolicyDeleted:
    """Delete a policy of the user's.

    Raises:
        EtuiError: It is not the user's, or cannot be deleted.
    """
    remove(place)
    return PolicyDeleted(place)


def check(subject: Subject, edit: int) -> CheckVerdict:
    """What is wrong with a text, and which of its own probes fail."""
    from etui.routing.probes import run_probes

    checked = _checked(subject)
    failing: tuple[Problem, ...] = ()
    if checked.policy is not None:
        file = str(subject.place.path)
        failing = tuple(
            Problem(file, outcome.probe.line, 1, f"probe: {'; '.join(outcome.failures)}")
            for outcome in run_probes(checked.policy)
            if outcome.failures
        )
    return CheckVerdict(edit, checked, failing)


def _checked(subject: Subject) -> Checked:
    place, desk = subject.place, subject.desk
    if len(subject.text.encode("utf-8", "replace")) > MAX_BYTES:
        message = f"larger than {MAX_BYTES:,} bytes: it would not be read"
        return Checked(place, (Problem(str(place.path), 0, 0, message),), (), None)
    return check_text(subject.text, place, desk.catalogue.models, desk.names)


def _policy_of(subject: Subject) -> Policy:
    """The rules of a text.

    Raises:
        EtuiError: It has errors.
    """
    checked = _checked(subject)
    if checked.policy is None:
        count = count_text(len(checked.errors), "error")
        raise EtuiError(f"the policy has {count}", "mend what stands below the editor")
    return checked.policy


def explain(question: str, subject: Subject) -> Explained:
    """Who would answer a question, and why.

    Raises:
        EtuiError: The text has errors, its policy comes to no arm, or what was fitted for it is
            damaged.
    """
    from etui.chat import Query
    from etui.runtime import explain as explaining
    from etui.runtime.open import open_runtime

    policy = _policy_of(subject)
    with open_runtime(subject.desk.config) as runtime:
        return Explained(question, explaining.explain(Query(question), policy, runtime))


def replay(subject: Subject) -> Replayed:
    """What a text would do with the questions of the log.

    Raises:
        EtuiError: The text has errors, the log cannot be read, or what was fitted for the policy
            is damaged.
    """
    from etui.replay.log_replay import replay_log, turns_document
    from etui.runtime.open import open_runtime

    policy = _policy_of(subject)
    with open_runtime(subject.desk.config) as runtime:
        replayed = replay_log(policy, runtime, REPLAYED_TURNS)
    return Replayed(turns_document(policy.name, replayed), len(replayed) >= REPLAYED_TURNS)


def compare(subject: Subject, other: Path, called: str) -> Compared:
    """What a text changes against a file: values and answers where both are sound, then lines.

    Raises:
        InvalidFile: The file cannot be read.
    """
    from etui.routing.diff import changes, other_answers, probe_questions
    from etui.routing.diff_text import diff_lines

    before = text_of(other)
    if before == subject.text:
        return Compared(called, ("nothing differs",))
    lines: list[str] = []
    place = replace(subject.place, path=other)
    one, two = _checked(replace(subject, text=before, place=place)), _checked(subject)
    if one.policy and two.policy and one.file and two.file:
        differing = changes(one.file, two.file)
        asked = probe_questions(one.policy, two.policy)
        answers = other_answers(one.policy, two.policy, asked, lambda _: True)
        lines += [*diff_lines(differing, answers, len(asked)), ""]
    return Compared(called, (*lines, *_unified(before, subject.text)))


def _unified(before: str, after: str) -> list[str]:
    """Lines that come and go, with one around them."""
    from difflib import unified_diff

    lines = unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++"))]


def save_draft(
    draft: Draft, desk: PolicyContext, *, with_errors: bool, over: bool
) -> Saved | HasErrors | Clash:
    """Write a draft.

    Args:
        draft: The text and where it goes.
        desk: What it is checked against.
        with_errors: Whether it is written though it has errors.
        over: Whether it is written over what came to its file since it was read.

    Raises:
        EtuiError: It cannot be written; the file is as it was.
    """
    place = PolicyPlace(draft.name, draft.target, "user")
    errors = _checked(Subject(draft.text, place, desk)).errors
    if errors and not with_errors:
        return HasErrors(draft, len(errors))
    if draft.target == own_file(draft.name, desk.config):
        make_folder(desk.config)
    before = content(draft.target) if over else draft.before
    try:
        return Saved(draft, save(draft.target, draft.text, before, draft.like))
    except ChangedOnDisk as clash:
        called = f"there is a policy {draft.name!r} already" if draft.before is None else clash.what
        return Clash(draft, called)


def told(ask: Callable[[], Fact], about: About = "") -> Fact:
    """What came of it, or why nothing did."""
    try:
        return ask()
    except EtuiError as error:
        return PolicyTaskFailed(error.what, error.fix, about)
    except OSError as error:
        return PolicyTaskFailed(f"cannot read it: {error}", "mend the file or its folder", about)
