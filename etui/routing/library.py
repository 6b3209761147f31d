"""Find policies by name or path, check them and compile them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from etui.config.config import Config, shipped_dir
from etui.errors import InvalidFile, Problem, UsageError
from etui.routing.policy import Policy
from etui.text.suggest import suggest

if TYPE_CHECKING:
    from etui.routing.check.checker import Findings
    from etui.routing.schema.policy_file import PolicyFile
    from etui.yaml.load import Located

_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class PolicyPlace:
    """The location of one policy.

    Attributes:
        name: Name of the file without its extension.
        path: The file.
        origin: ``user`` (ETUI_HOME/policies), ``shipped``, or ``file`` for a policy given by path.
        hides: Whether it replaces a shipped policy of the same name.
    """

    name: str
    path: Path
    origin: Literal["user", "shipped", "file"]
    hides: bool = False


@dataclass(frozen=True, slots=True)
class CheckedPolicy:
    """A policy file after its checks.

    Attributes:
        place: The file.
        errors, warnings: The problems found, in the order of the file.
        policy: The compiled policy; None if there are errors.
        file: The content of the file; None if it could not be read as a policy.
    """

    place: PolicyPlace
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    policy: Policy | None
    file: PolicyFile | None = None


def list_policies(config: Config) -> tuple[PolicyPlace, ...]:
    """List every policy that has a name, sorted; the user's own replace shipped ones."""
    shipped = {path.stem: path for path in _list_files(shipped_dir() / "policies")}
    own = {path.stem: path for path in _list_files(config.policies_dir)}
    places = [PolicyPlace(name, path, "shipped") for name, path in shipped.items()]
    places = [place for place in places if place.name not in own]
    places += [PolicyPlace(name, path, "user", name in shipped) for name, path in own.items()]
    return tuple(sorted(places, key=lambda place: place.name))


def policy_names(config: Config) -> tuple[str, ...]:
    """List the names of all policies."""
    return tuple(place.name for place in list_policies(config))


def find_policy(name: str, config: Config) -> PolicyPlace:
    """Find a policy by name; a name that ends in ``.yaml`` or contains a slash is a path.

    Raises:
        UsageError: There is no policy of that name.
    """
    if name.endswith(_ENDINGS) or "/" in name or "\\" in name:
        path = Path(name).expanduser()
        return PolicyPlace(path.stem, path, "file")
    places = list_policies(config)
    for place in places:
        if place.name == name:
            return place
    names = [place.name for place in places]
    hint = suggest(name.lower(), names) or f"known policies: {', '.join(names)}"
    raise UsageError(
        f"unknown policy {name!r}",
        f"{hint} (put your own policies into {config.policies_dir}, or pass a .yaml file)",
    )


def load_policy(name: str, config: Config, models: Collection[str]) -> Policy:
    """Load a policy by name or path, check it and compile it.

    Args:
        name: Name or path.
        config: Holds the folder of the user's own policies.
        models: Models of models.yaml by name, or only their names.

    Raises:
        UsageError: There is no policy of that name.
        InvalidFile: The file has errors; ``problems`` holds every one.
    """
    checked = check_place(find_policy(name, config), models, policies=policy_names(config))
    if checked.policy is None:
        raise InvalidFile.of(checked.errors, f"fix {checked.place.path} and check it again")
    return checked.policy


def check_place(
    place: PolicyPlace,
    models: Collection[str],
    is_available: Callable[[str], bool] | None = None,
    *,
    policies: Collection[str] | None = None,
    fitted: Callable[[str], bool] | None = None,
    thorough: bool = False,
) -> CheckedPolicy:
    """Check one policy file, and compile it if it has no errors.

    Args:
        place: The file.
        models: Models of models.yaml by name, or only their names.
        is_available: Whether a model is on this machine; None skips this check.
        policies: Valid names of a shadow policy; None skips this check.
        fitted: Whether an accuracy was fitted for an arm; None skips this check.
        thorough: Also try every pattern on texts made to slow it down.
    """
    from etui.routing.schema.policy_file import PolicyFile
    from etui.yaml.load import load_yaml

    try:
        located = load_yaml(place.path, PolicyFile)
    except InvalidFile as error:
        return CheckedPolicy(place, error.problems, (), None)
    return _check_located(place, located, models, is_available, policies, fitted, thorough)


def check_text(
    text: str,
    place: PolicyPlace,
    models: Collection[str],
    policies: Collection[str] | None = None,
) -> CheckedPolicy:
    """Check the text of a policy that is not saved yet, and compile it if it has no errors.

    Args:
        text: The YAML text.
        place: The file it belongs to.
        models: Models of models.yaml by name, or only their names.
        policies: Valid names of a shadow policy; None skips this check.
    """
    from etui.routing.schema.policy_file import PolicyFile
    from etui.yaml.load import parse_yaml

    try:
        located = parse_yaml(text, PolicyFile, file=str(place.path))
    except InvalidFile as error:
        return CheckedPolicy(place, error.problems, (), None)
    return _check_located(place, located, models, None, policies)


def _check_located(
    place: PolicyPlace,
    located: Located[PolicyFile],
    models: Collection[str],
    is_available: Callable[[str], bool] | None,
    policies: Collection[str] | None,
    fitted: Callable[[str], bool] | None = None,
    thorough: bool = False,
) -> CheckedPolicy:
    from etui.routing.check.checker import check_policy
    from etui.routing.compile import compile_policy

    findings: Findings = check_policy(
        located, models, is_available, policies=policies, fitted=fitted, thorough=thorough
    )
    policy = None if findings.errors else compile_policy(located, place.name, models)
    return CheckedPolicy(place, findings.errors, findings.warnings, policy, located.model)


def _list_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == ".yaml" and path.is_file())
