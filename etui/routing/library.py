"""Finds policies by name or path, and loads them checked and compiled."""

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
    """Where one policy lies.

    Attributes:
        name: Name of the file without its ending.
        path: The file.
        origin: ``user`` (ETUI_HOME/policies), ``shipped``, or ``file`` when a path named it.
        hides: Whether it takes the place of a shipped one of its name.
    """

    name: str
    path: Path
    origin: Literal["user", "shipped", "file"]
    hides: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """A policy file after its checks.

    Attributes:
        place: The file.
        errors, warnings: What was found, in the order of the file.
        policy: The policy, None where there are errors.
        file: What the file says, None where it could not be read as a policy.
    """

    place: PolicyPlace
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    policy: Policy | None
    file: PolicyFile | None = None


def list_policies(config: Config) -> tuple[PolicyPlace, ...]:
    """Every policy that can be named, by name; the user's own in place of shipped ones."""
    shipped = {path.stem: path for path in _files(shipped_dir() / "policies")}
    own = {path.stem: path for path in _files(config.policies_dir)}
    places = [PolicyPlace(name, path, "shipped") for name, path in shipped.items()]
    places = [place for place in places if place.name not in own]
    places += [PolicyPlace(name, path, "user", name in shipped) for name, path in own.items()]
    return tuple(sorted(places, key=lambda place: place.name))


def policy_names(config: Config) -> tuple[str, ...]:
    """Names of every policy that can be named."""
    return tuple(place.name for place in list_policies(config))


def find_policy(name: str, config: Config) -> PolicyPlace:
    """The policy of a name; what ends in ``.yaml`` or holds a slash is a path.

    Raises:
        UsageError: No policy is called so, or there is no such file.
    """
    if name.endswith(_ENDINGS) or "/" in name or "\\" in name:
        path = Path(name).expanduser()
        return PolicyPlace(path.stem, path, "file")
    places = list_policies(config)
    for place in places:
        if place.name == name:
            return place
    names = [place.name for place in places]
    hint = suggest(name.lower(), names) or f"there are: {', '.join(names)}"
    raise UsageError(
        f"no policy is called {name!r}",
        f"{hint}; your own belong into {config.policies_dir}, or name a .yaml file",
    )


def load_policy(name: str, config: Config, models: Collection[str]) -> Policy:
    """The policy of a name or path, checked and compiled.

    Args:
        name: Name or path.
        config: Where the user's own policies lie.
        models: Names of models.yaml.

    Raises:
        UsageError: No policy is called so.
        InvalidFile: The file has errors; ``problems`` holds every one.
    """
    checked = check_place(find_policy(name, config), models, policies=policy_names(config))
    if checked.policy is None:
        raise InvalidFile.of(checked.errors, f"mend {checked.place.path} and check it again")
    return checked.policy


def check_place(
    place: PolicyPlace,
    models: Collection[str],
    here: Callable[[str], bool] | None = None,
    *,
    policies: Collection[str] | None = None,
    fitted: Callable[[str], bool] | None = None,
    thorough: bool = False,
) -> Checked:
    """Every error and warning of one policy file, and the policy if it has no errors.

    Args:
        place: The file.
        models: Names of models.yaml.
        here: Whether a model is on this machine; None leaves that unchecked.
        policies: Names a shadow may have; None leaves that unchecked.
        fitted: Whether an accuracy was fitted for an arm; None leaves that unchecked.
        thorough: Also try every pattern on texts made to slow it down.
    """
    from etui.routing.schema.policy_file import PolicyFile
    from etui.yaml.load import load_yaml

    try:
        located = load_yaml(place.path, PolicyFile)
    except InvalidFile as error:
        return Checked(place, error.problems, (), None)
    return _checked(place, located, models, here, policies, fitted, thorough)


def check_text(
    text: str,
    place: PolicyPlace,
    models: Collection[str],
    policies: Collection[str] | None = None,
) -> Checked:
    """The same for text that is not saved yet."""
    from etui.routing.schema.policy_file import PolicyFile
    from etui.yaml.load import parse_yaml

    try:
        located = parse_yaml(text, PolicyFile, file=str(place.path))
    except InvalidFile as error:
        return Checked(place, error.problems, (), None)
    return _checked(place, located, models, None, policies)


def _checked(
    place: PolicyPlace,
    located: Located[PolicyFile],
    models: Collection[str],
    here: Callable[[str], bool] | None,
    policies: Collection[str] | None,
    fitted: Callable[[str], bool] | None = None,
    thorough: bool = False,
) -> Checked:
    from etui.routing.check.checker import check_policy
    from etui.routing.compile import compile_policy

    findings: Findings = check_policy(
        located, models, here, policies=policies, fitted=fitted, thorough=thorough
    )
    policy = None if findings.errors else compile_policy(located, place.name)
    return Checked(place, findings.errors, findings.warnings, policy, located.model)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix == ".yaml" and path.is_file())
