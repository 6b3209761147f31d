"""Find policies by name or path, check them and compile them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etui.config.config import Config, shipped_dir
from etui.errors import InvalidFile, Problem
from etui.routing.policy import Policy
from etui.yaml.named_files import NamedFile, find_named_file, list_named_files

if TYPE_CHECKING:
    from etui.routing.check.checker import Findings
    from etui.routing.check.fit_warnings import FitFacts
    from etui.routing.schema.policy_file import PolicyFile
    from etui.yaml.load import Located


@dataclass(frozen=True, slots=True)
class CheckedPolicy:
    """A policy file after its checks.

    Attributes:
        errors, warnings: The problems found, in the order of the file.
    """

    place: NamedFile
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    policy: Policy | None  # The compiled policy; None if there are errors
    file: PolicyFile | None = None
    """The content of the file; None if it could not be read as a policy."""


def list_policies(config: Config) -> tuple[NamedFile, ...]:
    """List every policy that has a name, sorted; the user's own replace shipped ones."""
    return list_named_files(shipped_dir() / "policies", config.policies_dir)


def policy_names(config: Config) -> tuple[str, ...]:
    """List the names of all policies."""
    return tuple(place.name for place in list_policies(config))


def find_policy(name: str, config: Config) -> NamedFile:
    """Find a policy by name; a name that ends in ``.yaml`` or contains a slash is a path.

    Raises:
        UsageError: There is no policy of that name.
    """
    shipped = shipped_dir() / "policies"
    return find_named_file(name, shipped, config.policies_dir, "policy", "policies")


def load_policy(name: str, config: Config, models: Collection[str]) -> Policy:
    """Load a policy by name or path, check it and compile it.

    Args:
        config: Holds the folder of the user's own policies.

    Raises:
        UsageError: There is no policy of that name.
        InvalidFile: The file has errors; ``problems`` holds every one.
    """
    checked = check_place(find_policy(name, config), models, policies=policy_names(config))
    if checked.policy is None:
        raise InvalidFile.of(checked.errors, f"fix {checked.place.path} and check it again")
    return checked.policy


def check_place(
    place: NamedFile,
    models: Collection[str],
    is_available: Callable[[str], bool] | None = None,
    *,
    policies: Collection[str] | None = None,
    fit: FitFacts | None = None,
    thorough: bool = False,
) -> CheckedPolicy:
    """Check one policy file, and compile it if it has no errors.

    Args:
        is_available: Whether a model is on this machine; None skips this check.
        policies: Valid names of a shadow policy; None skips this check.
        fit: What was fitted for the policy; None skips this check.
        thorough: Also try every pattern on texts made to slow it down.
    """
    from etui.routing.schema.policy_file import PolicyFile
    from etui.yaml.load import load_yaml

    try:
        located = load_yaml(place.path, PolicyFile)
    except InvalidFile as error:
        return CheckedPolicy(place, error.problems, (), None)
    return _check_located(place, located, models, is_available, policies, fit, thorough)


def check_text(
    text: str,
    place: NamedFile,
    models: Collection[str],
    policies: Collection[str] | None = None,
    fit: FitFacts | None = None,
) -> CheckedPolicy:
    """Check the text of a policy that is not saved yet, and compile it if it has no errors.

    Args:
        policies: Valid names of a shadow policy; None skips this check.
        fit: What was fitted for the policy; None skips this check.
    """
    from etui.routing.schema.policy_file import PolicyFile
    from etui.yaml.load import parse_yaml

    try:
        located = parse_yaml(text, PolicyFile, file=str(place.path))
    except InvalidFile as error:
        return CheckedPolicy(place, error.problems, (), None)
    return _check_located(place, located, models, None, policies, fit)


def compile_text(text: str, name: str, models: Collection[str]) -> Policy:
    """Compile the text of a policy that is not read from a file, such as that of a run.

    Raises:
        InvalidFile: The text has errors; ``problems`` holds every one.
    """
    checked = check_text(text, NamedFile(name, Path(f"{name}.yaml"), "file"), models)
    if checked.policy is None:
        raise InvalidFile.of(checked.errors, f"fix the policy {name} and check it again")
    return checked.policy


def _check_located(
    place: NamedFile,
    located: Located[PolicyFile],
    models: Collection[str],
    is_available: Callable[[str], bool] | None,
    policies: Collection[str] | None,
    fit: FitFacts | None = None,
    thorough: bool = False,
) -> CheckedPolicy:
    from etui.routing.check.checker import check_policy
    from etui.routing.compile import compile_policy

    findings: Findings = check_policy(
        located, models, is_available, policies=policies, fit=fit, thorough=thorough
    )
    policy = None if findings.errors else compile_policy(located, place.name, models)
    return CheckedPolicy(place, findings.errors, findings.warnings, policy, located.model)
