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
from etui.routing import library
from etui.routing.library import ChangedOnDisk, CheckedPolicy
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
    """The current, perhaps unsaved text of a policy, and what it is checked against."""

    text: str
    place: NamedFile
    context: PolicyCatalogue
    fit: FitFacts | None = None  # What was fitted; None without a fit, or until that is read


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

    catalogue = load_catalogue(config)
    places = {place.name: place for place in library.list_policies(config)}
    names = tuple(places)
    if active not in places:
        with suppress(UsageError):  # it was deleted meanwhile: the next question reports that
            places[active] = library.find_policy(active, config)
    entries = []
    for named, place in places.items():
        policy = library.check_place(place, catalogue.models, policies=names).policy
        entries.append(PolicyEntry(named, place, None if policy is None else policy.description))
    return PolicyCatalogue(config, catalogue, names, tuple(entries))


def list_files(config: Config) -> frozenset[tuple[str, int]]:
    """Return name and time of the last change (ns) of the user's policies; fast enough to poll."""
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
    text = library.read_text(place.path)
    target = library.choose_file_to_edit(place, config)
    before = text.encode("utf-8") if target == place.path else library.read_content(target)
    return PolicyOpened(entry.named, place, text, target, before)


def make_policy(name: str, template: PolicyEntry | None, config: Config) -> PolicyOpened:
    """Create a policy of the user from a template or a blank file."""
    like = shipped_dir() / "policies" / "blank.yml" if template is None else template.place.path
    path = library.create(name, library.read_text(like), config)
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
    from etui.runtime import fit_health
    from etui.runtime.model_resolution import models_on_disk

    context, policy = subject.context, _checked(subject).policy
    try:
        heads = load_accuracy(policy, context.config) if policy is not None else None
    except InvalidFile:
        return FitRead("its fit is damaged: see Explain", is_amiss=True)
    if heads is None or policy is None:
        return FitRead()
    is_on_disk = models_on_disk(context.config, context.catalogue)
    health = fit_health.read_health(context.config, policy, heads.model, is_on_disk)
    found = fit_health.build_fit_document(health)
    facts = fit_health.list_fit_facts(heads.model, context.catalogue.models)
    return FitRead(fit_health.format_briefly(found), fit_health.is_amiss(found), facts)


def _run_cases(policy: Policy, config: Config) -> CasesVerdict | None:
    from etui.routing.probes import run_probes

    cases, faults = _load_cases(policy, config)
    outcomes = run_probes(policy, cases[:MOST_CASES]) if cases else ()
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    return CasesVerdict(len(outcomes), failed, faults) if outcomes or faults else None


def _load_cases(policy: Policy, config: Config) -> tuple[tuple[PolicyProbe, ...], int]:
    """Load the cases of a policy; none and the number of faults if their files have some."""
    from etui.routing.probes import load_cases

    try:
        return load_cases(policy, config), 0
    except InvalidFile as error:
        return (), len(error.problems)


def _checked(subject: Subject) -> CheckedPolicy:
    place, context = subject.place, subject.context
    if len(subject.text.encode("utf-8", "replace")) > MAX_BYTES:
        message = f"larger than {MAX_BYTES:,} bytes: etui would not read it"
        return CheckedPolicy(place, (Problem(str(place.path), 0, 0, message),), (), None)
    models = context.catalogue.models
    return library.check_text(subject.text, place, models, context.names, subject.fit)


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
    """Replay the log under a text; also return whether only its newest turns were replayed."""
    from etui.learning.log_replay import build_turns_document
    from etui.runtime.replay import replay_log
    from etui.runtime.runtime import open_runtime

    policy = _require_policy(subject)
    with open_runtime(subject.context.config) as runtime:
        replayed = replay_log(policy, runtime, REPLAYED_TURNS)
    return build_turns_document(policy.name, replayed), len(replayed) >= REPLAYED_TURNS


def compare(subject: Subject, other: Path) -> list[str]:
    """Compare a text with a file: values, decisions and cases if both are valid, then lines."""
    from difflib import unified_diff

    from etui.routing import diff

    before = library.read_text(other)
    if before == subject.text:
        return ["no differences"]
    lines: list[str] = []
    place = replace(subject.place, path=other)
    one, two = _checked(replace(subject, text=before, place=place)), _checked(subject)
    if one.policy and two.policy and one.file and two.file:
        policies, config = (one.policy, two.policy), subject.context.config
        questions = diff.list_probe_questions(*policies)
        answers = diff.find_other_answers(*policies, questions, lambda _: True)
        cases = diff.join_cases(*(_load_cases(policy, config)[0] for policy in policies))
        cases = cases[:MOST_CASES]
        differing = diff.find_differing_cases(*policies, cases)
        changes = diff.find_changes(one.file, two.file)
        lines += diff.diff_lines(changes, answers, len(questions))
        lines += [*diff.case_lines(differing, len(cases)), ""]
    unified = unified_diff(before.splitlines(), subject.text.splitlines(), n=1, lineterm="")
    return [*lines, *(line for line in unified if not line.startswith(("---", "+++")))]


def count_errors(name: str, edited: PolicyOpened, context: PolicyCatalogue) -> int:
    place = NamedFile(name, edited.target, "user")
    return len(_checked(Subject(edited.text, place, context)).errors)


def write(name: str, edited: PolicyOpened, config: Config, *, over: bool = False) -> bytes:
    """Write a text to its file, and return the content of the file.

    ChangedOnDisk if it exists already, or has changed and is not to be written ``over``.
    """
    if edited.target == library.get_own_path(name, config):
        library.make_folder(config)
    before = library.read_content(edited.target) if over else edited.before
    try:
        return library.save(edited.target, edited.text, before, edited.place.path)
    except ChangedOnDisk:
        if edited.before is None:
            raise ChangedOnDisk(f"policy {name!r} already exists") from None
        raise
