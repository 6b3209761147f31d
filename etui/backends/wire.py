"""What crosses the pipe between etui and its engine process: one JSON document a line.

Dataclasses travel as their fields with their class's name under ``$``; only the classes listed
here are ever made on the other side. A sequence arrives as a tuple, which is what all of them hold.
Events of an answer come as ``EngineEvent``; an ``Unloaded`` between answers comes by itself.

``codec.documents`` cannot read these lines: events and sources of models are unions of
dataclasses, and msgspec tells the classes of a union apart only where they are its own structs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from etui import errors
from etui.chat import Message
from etui.config.config import Config
from etui.errors import EtuiError
from etui.events import Event


class WireError(Exception):
    """A line that this version of etui does not understand."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The child's first line: it is ready for requests."""

    version: str
    pid: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The child lives; sent at a fixed interval, whatever it does."""

    t_ns: int


@dataclass(frozen=True, slots=True)
class Ask:
    """To the child: answer this; what comes back carries the same number."""

    number: int
    request: Any  # an AnswerRequest; spelled so that the events need not import the models


@dataclass(frozen=True, slots=True)
class Load:
    """To the child: bring this model into memory; answered as an ``Ask`` that ends with that."""

    number: int
    model: Any  # a ModelSpec
    path: Path


@dataclass(frozen=True, slots=True)
class Unload:
    """To the child: give this model up; answered as a ``Load``, with ``Unloaded`` if it was there.

    Attributes:
        model: Name of the model.
    """

    number: int
    model: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the child: end answer ``number`` within one batch."""

    number: int


@dataclass(frozen=True, slots=True)
class Hurry:
    """To the child: answer ``number`` has spent its joules and should come to its end."""

    number: int


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """From the child: an event of answer ``number``."""

    number: int
    event: Event


@dataclass(frozen=True, slots=True)
class Done:
    """From the child: answer ``number`` is over."""

    number: int


@dataclass(frozen=True, slots=True)
class Failed:
    """From the child: answer ``number`` ended with an error.

    Attributes:
        kind: Class of the error in ``etui.errors``.
        values: Its attributes.
    """

    number: int
    kind: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, number: int, error: EtuiError) -> Failed:
        """The error as a line."""
        return cls(number, type(error).__name__, dict(vars(error)))

    def error(self) -> EtuiError:
        """The error, as it was raised on the other side."""
        kind = getattr(errors, self.kind, errors.EngineFailed)
        if not (isinstance(kind, type) and issubclass(kind, EtuiError)):
            kind = errors.EngineFailed
        error = kind.__new__(kind)  # each class has its own arguments; the attributes are the error
        Exception.__init__(error, self.values.get("what", ""))
        vars(error).update({"what": "", "fix": "", **self.values})
        return error


def encode(message: object) -> bytes:
    """One line, the newline included."""
    return json.dumps(_plain(message), separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Any:
    """What ``encode`` was given.

    Raises:
        WireError: No JSON, an unknown class, or fields the class does not have.
    """
    try:
        return _made(json.loads(line))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WireError(f"{error}: {line[:200]!r}") from error


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        named: dict[str, object] = {"$": type(value).__name__}
        named.update((f.name, _plain(getattr(value, f.name))) for f in fields(value))
        return named
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {"$": "dict", "items": [[_plain(k), _plain(v)] for k, v in value.items()]}
    if isinstance(value, Path):
        return {"$": "Path", "path": str(value)}
    return value


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_made(item) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.pop("$", None)
    if name == "Path":
        return Path(value["path"])
    if name == "dict":
        return {_made(key): _made(item) for key, item in value["items"]}
    kind = _classes().get(name)
    if kind is None:
        raise ValueError(f"unknown class {name!r}")
    return kind(**{key: _made(item) for key, item in value.items()})


@cache
def _classes() -> Mapping[str, Any]:
    from etui.arm import Arm, EarlyExit, Sampling, TokenCost, VoteStop
    from etui.backends.base import AnswerRequest
    from etui.models.spec import HubSource, ModelSpec, PathSource, WheelPart, WheelsSource

    lines = (Hello, Heartbeat, Ask, Load, Unload, Cancel, Hurry, EngineEvent, Done, Failed)
    sources = (HubSource, PathSource, WheelPart, WheelsSource)
    arms = (Arm, Sampling, VoteStop, EarlyExit, TokenCost)
    requests = (AnswerRequest, ModelSpec, Message, Config)
    return {c.__name__: c for c in (*lines, *sources, *arms, *requests, *get_args(Event))}
