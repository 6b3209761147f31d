"""Find, check, compile and save policies: those that ship with etui, the user's own, and files."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from etui.atomic import write_text
from etui.config.config import Config, shipped_dir
from etui.errors import EtuiError, InvalidFile, Problem, UsageError, writing
from etui.routing.policy import Policy
from etui.yaml.named_files import NamedFile, find_named_file, list_named_files

if TYPE_CHECKING:
    from etui.routing.schema.policy_file import PolicyFile

_FIX = "make the folder writable, or free up disk space"


@dataclass(frozen=True, slots=True)
class FitFacts:
    """What was fitted for a policy."""

    arms: Mapping[str, str | None] = field(default_factory=dict)
    """Fitted arm -> the weights that answered; None for any model."""
    agreed: Mapping[tuple[str, ...], tuple[float, bool]] = field(default_factory=dict)
    """Arms of a step -> the highest probability of an answer that they agree on, and whether that
    is known from their answers: else it is the least that it can be."""

    def covers(self, arm: str, weights: Collection[str]) -> bool:
        """Return whether an arm was fitted, with one of these weights."""
        return arm in self.arms and (self.arms[arm] is None or self.arms[arm] in weights)


@dataclass(frozen=True, slots=True)
class CheckedPolicy:
    """A policy file after its checks."""

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
    """Find a policy by name, or by a path (with ``.yaml`` or a slash); UsageError without one."""
    shipped = shipped_dir() / "policies"
    return find_named_file(name, shipped, config.policies_dir, "policy", "policies")


def load_policy(name: str, config: Config, models: Collection[str]) -> Policy:
    """Load, check and compile a policy by name or path.

    UsageError without one, InvalidFile with every error of its file.
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
    text: str | None = None,
    policies: Collection[str] | None = None,
    fit: FitFacts | None = None,
    thorough: bool = False,
) -> CheckedPolicy:
    """Check the file of a policy, or its unsaved text, and compile it if it has no errors.

    ``thorough`` also tries every pattern on texts made to slow it down.
    """
    from etui.routing._compile import compile_policy
    from etui.routing.check import check_policy
    from etui.routing.schema.policy_file import PolicyFile
    from etui.yaml.load import load_yaml, parse_yaml

    try:
        located = (
            load_yaml(place.path, PolicyFile)
            if text is None
            else parse_yaml(text, PolicyFile, file=str(place.path))
        )
    except InvalidFile as error:
        return CheckedPolicy(place, error.problems, (), None)
    errors, warnings = check_policy(
        located, models, is_available, policies=policies, fit=fit, thorough=thorough
    )
    policy = None if errors else compile_policy(located, place.name, models)
    return CheckedPolicy(place, errors, warnings, policy, located.model)


def check_text(
    text: str,
    place: NamedFile,
    models: Collection[str],
    policies: Collection[str] | None = None,
    fit: FitFacts | None = None,
) -> CheckedPolicy:
    """Check the text of a policy that is not saved yet, as :func:`check_place` does."""
    return check_place(place, models, text=text, policies=policies, fit=fit)


def compile_text(text: str, name: str, models: Collection[str]) -> Policy:
    """Compile the text of a policy, such as that of a run; InvalidFile with every error."""
    checked = check_text(text, NamedFile(name, Path(f"{name}.yaml"), "file"), models)
    if checked.policy is None:
        raise InvalidFile.of(checked.errors, f"fix the policy {name} and check it again")
    return checked.policy


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}\Z")


class ChangedOnDisk(EtuiError):
    """The file changed since it was read; nothing was written."""


def read_text(path: Path) -> str:
    """Read a whole UTF-8 file, and keep its line endings; InvalidFile if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:  # UnicodeDecodeError, and a NUL in a name
        raise InvalidFile(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}",
            "pass a file that can be read",
        ) from None


def check_name(name: str) -> None:
    """UsageError if a name is not valid for a policy: empty, a path, or with an extension."""
    if not _NAME.match(name) or name.endswith((".yaml", ".yml")):
        raise UsageError(
            f"{name!r} is not a valid policy name", "use letters, digits, '.', '_' and '-'"
        )


def get_own_path(name: str, config: Config) -> Path:
    """Return the path of the user's own policy of a name, whether it exists or not."""
    return config.policies_dir / f"{name}.yaml"


def choose_file_to_edit(place: NamedFile, config: Config) -> Path:
    """Return the file to write when a policy is edited; a shipped policy is edited in a copy."""
    return get_own_path(place.path.stem, config) if place.origin == "shipped" else place.path


def make_folder(config: Config) -> None:
    """Create the folder of the user's policies, with the JSON Schema that text editors use."""
    from etui.config.config import make_home
    from etui.routing.schema.policy_file import json_schema

    make_home(config)
    with writing(config.policies_dir, _FIX):
        config.policies_dir.mkdir(exist_ok=True)
        schema = json.dumps(json_schema(), indent=2) + "\n"
        (config.policies_dir / "policy.schema.json").write_text(schema, encoding="utf-8")


def create(name: str, text: str, config: Config) -> Path:
    """Create a policy of the user and return its file; UsageError if the name is bad or taken."""
    check_name(name)
    target = get_own_path(name, config)
    make_folder(config)
    with writing(target, _FIX):
        try:
            with target.open("x", encoding="utf-8", newline="") as file:
                file.write(text)
        except FileExistsError:
            raise UsageError(
                f"policy {name!r} already exists: {target}",
                f"change it with `etui policy edit {name}`, or choose another name",
            ) from None
    return target


def write_draft(target: Path, text: str) -> Path:
    """Write a text to a new draft file in the folder of the target, and return its path."""
    with writing(target, _FIX):
        handle, name = tempfile.mkstemp(
            prefix=f"{target.stem}-draft-", suffix=".yml", dir=target.parent
        )
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    return Path(name)


def replace_text(target: Path, text: str, like: Path) -> None:
    """Write a policy atomically, with the permissions of ``like``; EtuiError if it cannot be."""
    with writing(target, _FIX):
        write_text(target, text, like=like)


def read_content(path: Path) -> bytes | None:
    """Read the bytes of a file; None if it does not exist."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidFile(
            f"{path}: cannot be read: {error.strerror or error}", "make it readable"
        ) from error


def save(target: Path, text: str, before: bytes | None, like: Path) -> bytes:
    """Write a policy atomically; ChangedOnDisk if its content is not ``before``.

    A symbolic link is followed and kept.
    """
    target = Path(os.path.realpath(target))
    if read_content(target) != before:
        raise ChangedOnDisk(f"{target} changed on disk since it was read")
    replace_text(target, text, target if before is not None else like)
    return text.encode("utf-8")


def remove(place: NamedFile) -> None:
    """Delete a policy; UsageError if it is not one of the user's own."""
    if place.origin != "user":
        raise UsageError(
            f"policy {place.name!r} is not in your policy folder",
            "only your own policies can be deleted",
        )
    with writing(place.path, _FIX):
        place.path.unlink(missing_ok=True)
