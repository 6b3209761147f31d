"""Everything a bench run depends on: ``config.json``, and the hash that tells two runs apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from etui.text.codec import DocumentError, from_document, to_document

CONFIG_VERSION = 1

_NAMES_ONLY = frozenset({"run_id", "started_at", "data_path", "idle"})
"""What names or accompanies a run without changing any of its results."""


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model of a run, as it lay in memory.

    Attributes:
        name: Name in models.yaml.
        sha256: Hash of the GGUF.
        file_bytes: Its size.
        gpu_layers: Layers on the GPU.
        context_tokens, sequences: Size of the context.
        batch_tokens: Most tokens of one batch: the chunking of every prompt.
        kv_type, flash_attention: Kind of the KV cache and of the attention.
        letters: ``single`` where " A" to " D" are one token each behind a prompt, ``sequence``
            where they are scored as sequences; None where the format reads none.
    """

    name: str
    sha256: str | None
    file_bytes: int
    gpu_layers: int
    context_tokens: int
    sequences: int
    batch_tokens: int
    kv_type: str
    flash_attention: str
    letters: str | None = None


@dataclass(frozen=True, slots=True)
class BenchPolicy:
    """The policy of a run: its name and its whole text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What was run, on what, with what.

    Attributes:
        run_id: Names the run.
        started_at: ISO 8601, UTC.
        suite: ``mmlu``, ``sample``, or the stem of a CSV file.
        split: ``test``, ``val`` or ``dev``.
        data_path: Folder or file that ``--data`` or ``--suite`` named; None for what etui keeps.
        data_sha256: Hash of the suite's files of the split and of its examples.
        sizes: Subject -> questions of the split, in file order.
        drawn: Subject -> questions of the run, in the order they are worked through.
        format, format_version: How a question is put.
        shots: Worked examples asked for.
        seed: Draws the sample, shuffles the subjects, and is the first seed of every answer.
        limit, per_subject: How many were asked for; None is all.
        subjects: Subjects that were named; None is all.
        arms: Arm -> its settings. Of a run of a policy, all arms it has.
        policy: The policy that decides, or from which the arms are; None where they were spelled
            out.
        routed: Whether the policy decides for each question. A sample's ``arm`` is then the arm
            that answered, and all samples belong to one contender, the policy.
        models: The models of the arms.
        prefix_reuse: Whether worked examples are computed once a subject, not once a question.
        group_questions: Most questions whose letters are read from one batch.
        threads: Threads of llama.cpp.
        versions: Program -> version; ``llama_cpp`` holds what the build says of itself.
        machine: What the machine is.
        energy: ``channels`` of the total (id -> kind) and what is ``unmeasured``.
        idle: The idle baseline when the run began: ``which`` it is and its ``watts``; None without.
    """

    run_id: str
    started_at: str
    suite: str
    split: str
    data_path: str | None
    data_sha256: str
    sizes: Mapping[str, int]
    drawn: Mapping[str, int]
    format: str
    format_version: int
    shots: int
    seed: int
    limit: int | None
    per_subject: int | None
    subjects: tuple[str, ...] | None
    arms: Mapping[str, Mapping[str, Any]]
    policy: BenchPolicy | None
    routed: bool
    models: tuple[BenchModel, ...]
    prefix_reuse: bool
    group_questions: int
    threads: int
    versions: Mapping[str, Any]
    machine: Mapping[str, Any]
    energy: Mapping[str, Any]
    idle: Mapping[str, Any] | None = None
    config_version: int = CONFIG_VERSION

    @property
    def questions(self) -> int:
        """Questions that each contender answers."""
        return sum(self.drawn.values())

    @property
    def contenders(self) -> tuple[str, ...]:
        """What is compared: the policy of a routed run, else its arms."""
        if self.routed and self.policy is not None:
            return (self.policy.name,)
        return tuple(self.arms)

    def contender(self, arm: str) -> str:
        """The contender that a sample of this arm belongs to."""
        return self.contenders[0] if self.routed else arm

    @property
    def sha256(self) -> str:
        """Hash of all that the results depend on: equal hashes may be continued as one run."""
        document = {k: v for k, v in self.to_json().items() if k not in _NAMES_ONLY}
        return hashlib.sha256(_canonical(document).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The document of ``config.json`` but for its own hash; plain JSON values."""
        document: dict[str, Any] = to_document(self)
        document["subjects"] = None if self.subjects is None else list(self.subjects)
        document["models"] = list(document["models"])
        return document


def parse_run_config(document: object) -> RunConfig:
    """Make the configuration that a ``config.json`` holds; keys it has besides are ignored.

    Raises:
        DocumentError: The document holds none, or one of another version.
    """
    if not isinstance(document, Mapping):
        raise DocumentError("it is no JSON object")
    version = document.get("config_version")
    if version != CONFIG_VERSION:
        raise DocumentError(f"config_version {version} is not {CONFIG_VERSION}")
    known = {field.name for field in fields(RunConfig)}
    values = {name: value for name, value in document.items() if name in known}
    return from_document(RunConfig, values)


def differences(one: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """What two configurations differ in, of all that results depend on: path -> both values."""
    found: dict[str, tuple[Any, Any]] = {}
    first, second = one.to_json(), other.to_json()
    for name in first:
        if name not in _NAMES_ONLY:
            _compare(name, first[name], second[name], found)
    return found


def _compare(path: str, one: Any, other: Any, found: dict[str, tuple[Any, Any]]) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        if list(one) != list(other) and sorted(one) == sorted(other):
            found[f"{path} (order)"] = (list(one), list(other))
        for key in [*one, *(key for key in other if key not in one)]:
            _compare(f"{path}.{key}", one.get(key), other.get(key), found)
    elif _plain(one) != _plain(other):
        found[path] = (one, other)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"))
