"""Tasks of the policies screen: files, checks, explanations, replays.

Every function may wait for the disk or run for long: call it from a thread.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.config.config import Config, shipped_dir
from etui.errors import EtuiError, InvalidFile, Problem, UsageError
from etui.routing.library import (
    ChangedOnDisk,
    CheckedPolicy,
    check_text,
    choose_file_to_edit,
    create,
    find_policy,
    get_own_path,
    list_policies,
    make_folder,
    read_content,
    read_text,
    save,
)
from etui.units import count_text
from etui.yaml.load import MAX_BYTES
from etui.yaml.named_files import NamedFile

if TYPE_CHECKING:
    from etui.learning.log_replay import TurnsDocument
    from etui.models.catalogue import Catalogue
    from etui.routing.library import FitFacts
    from etui.routing.policy import Policy, PolicyProbe
    from etui.runtime.explain import Explanation

MOST_CASES = 1000
"""Cases that are run after an edit: half a second on a laptop. `etui policy test` runs all."""

REPLAYED_TURNS = 5000  # Number of newest turns of the log to replay: a few seconds on a laptop


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One policy of the list."""

    named: str  # How a route refers to it: by its name, or the path that was given
    place: NamedFile
    description: str | None  # Description in the file; None if the policy has errors


@dataclass(frozen=True, slots=True)
class PolicyCatalogue:
    """All policies of this machine, and what a text is checked against; for many checks."""

    config: Config
    catalogue: Catalogue
    names: tuple[str, ...]
    policies: tuple[PolicyEntry, ...] = ()

    def find(self, named: str) -> PolicyEntry | None:
        """Return the policy that a route refers to as ``named``, if it is listed."""
        return next((entry for entry in self.policies if entry.named == named), None)


@dataclass(frozen=True, slots=True)
class PolicyOpened:
    """A policy as it was read, or as it is edited."""

    named: str  # How a route refers to it
    place: NamedFile
    text: str  # Content of that file, or what is edited
    target: Path  # File that edits are saved to
    before: bytes | None  # Content of `target`; None if it does not exist


@dataclass(frozen=True, slots=True)
class Subject:
    """The current, perhaps unsaved text of a policy, and what it is checked against.

    ``fit`` is what was fitted for it; None without a fit, or until that is read.
    """

    text: str
    place: NamedFile
    context: PolicyCatalogue
    fit: FitFacts | None = None


@dataclass(frozen=True, slots=True)
class FitRead:
    """The fit of a policy."""

    summary: str = ""  # Its age and what is amiss, in a few words; empty without a fit
    is_amiss: bool = False  # Whether it is time for a new one
    facts: FitFacts | None = None  # What was fitted; None without a fit, or if it cannot be used


@dataclass(frozen=True, slots=True)
class CasesVerdict:
    """Result of the cases of a text: how many were decided, and how many of those failed."""

    count: int
    failed: int
    problems: int = 0
    """Number of faults in the files of cases; nothing was decided if there are any."""


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """Result of the check of a text."""

    checked: CheckedPolicy  # Errors and warnings, and the policy if it has no errors
    failing: tuple[Problem, ...]  # Probes of the policy that fail, at their lines
    cases: CasesVerdict | None = None
    """Result of its cases; None without a file of cases, or with errors."""

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return (*self.checked.warnings, *self.failing)


def read_policies(config: Config, active: str) -> PolicyCatalogue:
    """Read every policy with its description."""
    from etui.models.catalogue import load_catalogue
    from etui.routing.library import check_place

    catalogue = load_catalogue(config)
    places = {place.name: place for place in list_policies(config)}
    names = tuple(places)
    if active not in places:
        with suppress(UsageError):  # it was deleted meanwhile: the next question reports that
            places[active] = find_policy(active, config)
    entries = []
    for named, place in places.items():
        policy = check_place(place, catalogue.models, policies=names).policy
        entries.append(PolicyEntry(named, place, None if policy is None else policy.description))
    return PolicyCatalogue(config, catalogue, names, tuple(entries))


def list_files(config: Config) -> frozenset[tuple[str, int]]:
    """Return (name, time of the last change in ns) of the user's policy files; fast enough to poll.

    A folder that cannot be read has none.
    """
    with suppress(OSError), os.scandir(config.policies_dir) as entries:
        return frozenset(
            (entry.name, entry.stat().st_mtime_ns)
            for entry in entries
            if entry.name.endswith(".yaml")
        )
    return frozenset()


def open_policy(entry: PolicyEntry, config: Config) -> PolicyOpened:
    place = entry.place
    if place.path.is_file() and place.path.stat().st_size > MAX_BYTES:
        raise InvalidFile(f"{place.path}: larger than {MAX_BYTES:,} bytes, so it is not read")
    text = read_text(place.path)
    target = choose_file_to_edit(place, config)
    before = text.encode("utf-8") if target == place.path else read_content(target)
    return PolicyOpened(entry.named, place, text, target, before)


def make_policy(name: str, template: PolicyEntry | None, config: Config) -> PolicyOpened:
    """Create a policy of the user from a template or a blank file."""
    like = shipped_dir() / "policies" / "blank.yml" if template is None else template.place.path
    path = create(name, read_text(like), config)
    place = NamedFile(name, path, "user")
    return open_policy(PolicyEntry(name, place, None), config)


def check(subject: Subject) -> CheckVerdict:
    from etui.routing.probes import run_probes

    checked = _checked(subject)
    if checked.policy is None:
        return CheckVerdict(checked, ())
    failing = tuple(
        Problem(
            str(subject.place.path), outcome.probe.line, 1, f"probe: {'; '.join(outcome.failures)}"
        )
        for outcome in run_probes(checked.policy)
        if outcome.failures
    )
    return CheckVerdict(checked, failing, _run_cases(checked.policy, subject.context.config))


def read_fit(subject: Subject) -> FitRead:
    """Read age and state of the fit of a policy; nothing without one, or if the text has errors."""
    from etui.learning.predictor import load_accuracy
    from etui.runtime.fit_health import (
        build_fit_document,
        format_briefly,
        is_amiss,
        list_fit_facts,
        read_health,
    )
    from etui.runtime.model_resolution import models_on_disk

    context, policy = subject.context, _checked(subject).policy
    try:
        heads = load_accuracy(policy, context.config) if policy is not None else None
    except InvalidFile:
        return FitRead("its fit is damaged: see Explain", is_amiss=True)
    if heads is None or policy is None:
        return FitRead()
    is_on_disk = models_on_disk(context.config, context.catalogue)
    found = build_fit_document(read_health(context.config, policy, heads.model, is_on_disk))
    facts = list_fit_facts(heads.model, context.catalogue.models)
    return FitRead(format_briefly(found), is_amiss(found), facts)


def _run_cases(policy: Policy, config: Config) -> CasesVerdict | None:
    """Run the first cases of a policy; None if it has none."""
    from etui.routing.probes import load_cases, run_probes

    try:
        cases = load_cases(policy, config)
    except InvalidFile as error:
        return CasesVerdict(0, 0, len(error.problems))
    outcomes = run_probes(policy, cases[:MOST_CASES])
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    return CasesVerdict(len(outcomes), failed) if outcomes else None


def _checked(subject: Subject) -> CheckedPolicy:
    place, context = subject.place, subject.context
    if len(subject.text.encode("utf-8", "replace")) > MAX_BYTES:
        message = f"larger than {MAX_BYTES:,} bytes: etui would not read it"
        return CheckedPolicy(place, (Problem(str(place.path), 0, 0, message),), (), None)
    models = context.catalogue.models
    return check_text(subject.text, place, models, context.names, subject.fit)


def _require_policy(subject: Subject) -> Policy:
    checked = _checked(subject)
    if checked.policy is None:
        count = count_text(len(checked.errors), "error")
        raise EtuiError(f"the policy has {count}", "fix the errors listed below the editor")
    return checked.policy


def explain(question: str, subject: Subject) -> Explanation:
    from etui.chat import Query
    from etui.runtime.explain import explain as explain_query
    from etui.runtime.runtime import open_runtime

    policy = _require_policy(subject)
    with open_runtime(subject.context.config) as runtime:
        return explain_query(Query(question), policy, runtime)


def replay(subject: Subject) -> tuple[TurnsDocument, bool]:
    """Replay the questions of the log under a text.

    Returns:
        The moves, and whether only the newest turns of the log were replayed.
    """
    from etui.learning.log_replay import build_turns_document
    from etui.runtime.replay import replay_log
    from etui.runtime.runtime import open_runtime

    policy = _require_policy(subject)
    with open_runtime(subject.context.config) as runtime:
        replayed = replay_log(policy, runtime, REPLAYED_TURNS)
    return build_turns_document(policy.name, replayed), len(replayed) >= REPLAYED_TURNS


def compare(subject: Subject, other: Path) -> list[str]:
    """Compare a text with a file: values, decisions and cases if both are valid, then lines."""
    from etui.routing.diff import (
        case_lines,
        diff_lines,
        find_changes,
        find_differing_cases,
        find_other_answers,
        join_cases,
        list_probe_questions,
    )

    before = read_text(other)
    if before == subject.text:
        return ["no differences"]
    lines: list[str] = []
    place = replace(subject.place, path=other)
    one, two = _checked(replace(subject, text=before, place=place)), _checked(subject)
    if one.policy and two.policy and one.file and two.file:
        differences = find_changes(one.file, two.file)
        questions = list_probe_questions(one.policy, two.policy)
        answers = find_other_answers(one.policy, two.policy, questions, lambda _: True)
        config = subject.context.config
        cases = join_cases(*(_load_cases(policy, config) for policy in (one.policy, two.policy)))
        cases = cases[:MOST_CASES]
        differing = find_differing_cases(one.policy, two.policy, cases)
        lines += diff_lines(differences, answers, len(questions))
        lines += [*case_lines(differing, len(cases)), ""]
    return [*lines, *_unified(before, subject.text)]


def _load_cases(policy: Policy, config: Config) -> tuple[PolicyProbe, ...]:
    """Load the cases of a policy; none if they have faults, which the check reports."""
    from etui.routing.probes import load_cases

    try:
        return load_cases(policy, config)
    except InvalidFile:
        return ()


def _unified(before: str, after: str) -> list[str]:
    """Return the removed and added lines, with one line of context."""
    from difflib import unified_diff

    lines = unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++"))]


def count_errors(name: str, edited: PolicyOpened, context: PolicyCatalogue) -> int:
    place = NamedFile(name, edited.target, "user")
    return len(_checked(Subject(edited.text, place, context)).errors)


def write(name: str, edited: PolicyOpened, config: Config, *, over: bool = False) -> bytes:
    """Write a text to its file, and return the content of the file.

    Args:
        over: Whether to overwrite a file that has changed since it was read.

    Raises:
        ChangedOnDisk: It has changed, or it exists already.
    """
    if edited.target == get_own_path(name, config):
        make_folder(config)
    before = read_content(edited.target) if over else edited.before
    try:
        return save(edited.target, edited.text, before, edited.place.path)
    except ChangedOnDisk:
        if edited.before is None:
            raise ChangedOnDisk(f"policy {name!r} already exists") from None
        raise
