"""Messages between etui and its engine process: one JSON document per line.

A dataclass is sent as its fields, with the name of its class under ``$``; only the classes listed
here are created when reading. A sequence arrives as a tuple, the type of all sequence fields.
Events of an answer are wrapped in ``EngineEvent``; an ``Unloaded`` between answers is not.

:mod:`etui.codec` cannot read these lines: events and model sources are unions of dataclasses,
and msgspec distinguishes the members of a union only if they are its own structs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from etui import errors
from etui.errors import EtuiError
from etui.events import Event


class WireError(Exception):
    """A line that this version of etui cannot decode."""


@dataclass(frozen=True, slots=True)
class Hello:
    """From the child: it is ready for requests (the first line)."""

    version: str
    pid: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """From the child: it is alive; sent at a fixed interval, even while it computes."""

    t_ns: int
    step: str = ""  # Step of one request that runs for longest; empty for none
    step_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ask:
    """To the child: answer a request; all replies have the same number."""

    number: int
    request: Any  # an AnswerRequest; not annotated, so that this module does not import the models


@dataclass(frozen=True, slots=True)
class Load:
    """To the child: load a model; the replies are those of an ``Ask`` that ends after the load."""

    number: int
    model: Any  # a ModelSpec
    path: Path
    draft: Any = None  # a ModelSpec and its file, or None


@dataclass(frozen=True, slots=True)
class Unload:
    """To the child: unload a model; the reply is ``Unloaded`` if it was in memory."""

    number: int
    model: str


@dataclass(frozen=True, slots=True)
class KeepWarm:
    """To the child: keep a model so long after its last answer; there is no reply."""

    model: str  # Name of the model, in memory or not
    seconds: float | None  # The time; None keeps it until another model needs the memory


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the child: end answer ``number`` within one batch."""

    number: int


@dataclass(frozen=True, slots=True)
class Hurry:
    """To the child: end the thinking of answer ``number``, because its joules are spent."""

    number: int


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """From the child: an event of answer ``number``."""

    number: int
    event: Event


@dataclass(frozen=True, slots=True)
class Done:
    """From the child: answer ``number`` has ended."""

    number: int


@dataclass(frozen=True, slots=True)
class Failed:
    """From the child: answer ``number`` ended with an error."""

    number: int
    kind: str  # Class name of the error in :mod:`etui.errors`
    values: Mapping[str, Any]  # Attributes of the error

    @classmethod
    def of(cls, number: int, error: EtuiError) -> Failed:
        """Create the message for an error."""
        return cls(number, type(error).__name__, dict(vars(error)))

    def error(self) -> EtuiError:
        """Rebuild the error that was raised in the child."""
        kind = getattr(errors, self.kind, errors.EngineFailed)
        if not (isinstance(kind, type) and issubclass(kind, EtuiError)):
            kind = errors.EngineFailed
        error = kind.__new__(kind)  # constructors differ between classes, the attributes do not
        Exception.__init__(error, self.values.get("what", ""))
        vars(error).update({"what": "", "fix": "", **self.values})
        return error


def encode(message: object) -> bytes:
    """Encode a message as one line, newline included."""
    return json.dumps(_to_plain(message), separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Any:
    """Decode a line written by ``encode``.

    Raises:
        WireError: Invalid JSON, an unknown class, or unknown fields.
    """
    try:
        return _from_plain(json.loads(line))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WireError(f"{error}: {line[:200]!r}") from error


def _to_plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        named: dict[str, object] = {"$": type(value).__name__}
        named.update((f.name, _to_plain(getattr(value, f.name))) for f in fields(value))
        return named
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {"$": "dict", "items": [[_to_plain(k), _to_plain(v)] for k, v in value.items()]}
    if isinstance(value, Path):
        return {"$": "Path", "path": str(value)}
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_plain(item) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.pop("$", None)
    if name == "Path":
        return Path(value["path"])
    if name == "dict":
        return {_from_plain(key): _from_plain(item) for key, item in value["items"]}
    kind = _classes().get(name)
    if kind is None:
        raise ValueError(f"unknown class {name!r}")
    return kind(**{key: _from_plain(item) for key, item in value.items()})


@cache
def _classes() -> Mapping[str, Any]:
    """Map the names of the dataclasses that a line may hold: they are values without behaviour."""
    from etui import arm, chat, events
    from etui.backends import base
    from etui.config import backend_spec, config
    from etui.models import spec

    modules = map(vars, (arm, chat, events, base, backend_spec, config, spec))
    found = (each for names in (*modules, globals()) for each in names.values())
    return {each.__name__: each for each in found if isinstance(each, type) and is_dataclass(each)}
