"""The user's own policy files: named, made from others, written in one step, removed."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from etui.atomic import write_text
from etui.errors import EtuiError, InvalidFile, UsageError

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.routing.library import PolicyPlace

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}\Z")


class ChangedOnDisk(EtuiError):
    """The file is not what it was when it was read; nothing was written."""


def text_of(path: Path) -> str:
    """A whole text file, its line ends as they are.

    Raises:
        InvalidFile: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:  # UnicodeDecodeError, and a NUL in a name
        raise InvalidFile(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}",
            "name a file that can be read",
        ) from None


def check_name(name: str) -> None:
    """Refuse what is no name for a policy.

    Raises:
        UsageError: It is empty, a path, or has an ending.
    """
    if not _NAME.match(name) or name.endswith((".yaml", ".yml")):
        raise UsageError(
            f"{name!r} is no name for a policy", "use letters, digits, '.', '_' and '-'"
        )


def own_file(name: str, config: Config) -> Path:
    """Where the user's own policy of a name lies, or would lie."""
    return config.policies_dir / f"{name}.yaml"


def file_to_change(place: PolicyPlace, config: Config) -> Path:
    """The file that a change of a policy goes to: a shipped one is changed in a copy."""
    return own_file(place.path.stem, config) if place.origin == "shipped" else place.path


def make_folder(config: Config) -> None:
    """Make the folder of the user's policies, with the schema that the files name for editors.

    Raises:
        EtuiError: It cannot be written.
    """
    from etui.config.config import make_home
    from etui.routing.schema.policy_file import json_schema

    make_home(config)
    try:
        config.policies_dir.mkdir(exist_ok=True)
        schema = json.dumps(json_schema(), indent=2) + "\n"
        (config.policies_dir / "policy.schema.json").write_text(schema, encoding="utf-8")
    except OSError as error:
        raise unwritable(config.policies_dir, error) from error


def create(name: str, text: str, config: Config) -> Path:
    """A new policy of the user's, and its file.

    Raises:
        UsageError: That is no name for a policy, or one is called so already.
        EtuiError: It cannot be written.
    """
    check_name(name)
    target = own_file(name, config)
    make_folder(config)
    try:
        with target.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(
            f"there is a policy {name!r} already: {target}",
            f"change it with `etui policy edit {name}`, or take another name",
        ) from None
    except OSError as error:
        raise unwritable(target, error) from error
    return target


def draft_of(target: Path, text: str) -> Path:
    """Write a text for an editor to a new file in the folder of the target.

    Raises:
        EtuiError: It cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(
            prefix=f"{target.stem}-draft-", suffix=".yml", dir=target.parent
        )
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: half a surrogate is no text
        raise unwritable(target, error) from error
    return Path(name)


def replace_text(target: Path, text: str, like: Path) -> None:
    """Write a policy in one step, with the permissions of ``like``.

    Raises:
        EtuiError: It cannot be written; the file is as it was.
    """
    try:
        write_text(target, text, like=like)
    except (OSError, ValueError) as error:  # ValueError: half a surrogate is no text
        raise unwritable(target, error) from error


def content(path: Path) -> bytes | None:
    """What a file holds now; None where there is none.

    Raises:
        EtuiError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidFile(
            f"{path}: cannot be read: {error.strerror or error}", "make it readable"
        ) from error


def save(target: Path, text: str, before: bytes | None, like: Path) -> bytes:
    """Write a policy as it was typed, in one step, and only over what was read.

    Args:
        target: The file; a link keeps pointing to what is written.
        text: What it will hold.
        before: What it held when it was read; None where it was not there.
        like: File whose permissions it takes.

    Returns:
        What the file holds now.

    Raises:
        ChangedOnDisk: It holds something else than ``before``.
        EtuiError: It cannot be written; the file is as it was.
    """
    target = Path(os.path.realpath(target))
    if content(target) != before:
        raise ChangedOnDisk(f"{target} changed on disk since it was read")
    replace_text(target, text, target if before is not None else like)
    return text.encode("utf-8")


def remove(place: PolicyPlace) -> None:
    """Delete a policy of the user's.

    Raises:
        UsageError: It is not the user's own.
        EtuiError: It cannot be deleted.
    """
    if place.origin != "user":
        raise UsageError(
            f"policy {place.name!r} is not in your folder", "only your own policies can be deleted"
        )
    try:
        place.path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(place.path, error) from error


def unwritable(path: Path, error: OSError | ValueError) -> EtuiError:
    """The error that says a file cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return EtuiError(f"cannot write {path}: {reason}", "make the folder writable, or free space")
