"""Everything a bench run depends on: ``config.json``, and the hash that identifies it."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal

from etui.codec import DocumentError, from_document, to_document
from etui.datasets.questions import order_balanced
from etui.measure.folder import compare_documents

BLOCK = 8  # Default number of questions of a block
Order = Literal["subjects", "balanced"]
"""``subjects``: one subject after the other; ``balanced``: in blocks of all subjects, so that every
prefix of the run is a stratified random sample."""


@dataclass(frozen=True, slots=True)
class BenchPart:
    """A share of a plan."""

    index: int  # 0-based
    count: int


def cut_subjects(sizes: Mapping[str, int], part: BenchPart) -> list[tuple[str, range]]:
    """Cut a plan that asks subject by subject; return the ranges of drawn questions of one part.

    A subject stays whole, so that its worked examples are computed once, unless it has more
    questions than an even share: it is then cut into the fewest ranges that are not larger. Each
    cut, the largest first, goes to the part with the fewest questions (longest processing time
    first: Graham, Bounds on multiprocessing timing anomalies, 1969). A plan with a question for
    every part leaves none without a cut.

    ``sizes``: subject -> number of drawn questions, in the order of the run, that of the cuts too.
    """
    most = max(1, sum(sizes.values()) // part.count)
    cuts = [(subject, cut) for subject, size in sizes.items() for cut in _cut_evenly(size, most)]
    loads = [(0, index) for index in range(part.count)]
    taken: set[tuple[str, range]] = set()
    for cut in sorted(cuts, key=lambda cut: -len(cut[1])):
        load, index = heapq.heappop(loads)
        heapq.heappush(loads, (load + len(cut[1]), index))
        if index == part.index:
            taken.add(cut)
    return [cut for cut in cuts if cut in taken]


def choose_block_size(questions: int, block: int | None, part: BenchPart | None) -> int:
    """Return the questions of a block in the balanced order; no part is left without a block."""
    size = block or BLOCK
    return size if part is None else max(1, min(size, questions // part.count))


def list_part(
    sizes: Mapping[str, int], order: Order, block: int | None, seed: int, part: BenchPart | None
) -> dict[str, tuple[int, ...]]:
    """List the questions that a part asks; None is the whole plan.

    Returns subject -> indices of its drawn questions, ascending; without subjects that have none.

    Args:
        sizes: Subject -> number of drawn questions, in the order of the run.
        block: Requested questions of a block of the balanced order; None is :data:`BLOCK`.
    """
    if part is None:
        return {subject: tuple(range(size)) for subject, size in sizes.items()}
    found: dict[str, list[int]] = {subject: [] for subject in sizes}
    if order == "subjects":
        for subject, cut in cut_subjects(sizes, part):
            found[subject] += cut
    else:
        length = choose_block_size(sum(sizes.values()), block, part)
        for at, (subject, index) in enumerate(order_balanced(sizes, seed)):
            if at // length % part.count == part.index:
                found[subject].append(index)
    return {subject: tuple(sorted(indices)) for subject, indices in found.items() if indices}


def _cut_evenly(size: int, most: int) -> list[range]:
    count = -(-size // most)
    ends = [size * at // count for at in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(ends)]


CONFIG_VERSION = 1
_WITHOUT_EFFECT = frozenset({"run_id", "started_at", "data_path", "idle"})
"""Fields that do not affect the results of a run."""
_OF_THE_MACHINE = frozenset(
    {"machine", "machines", "merged", "energy", "threads", "group_questions", "part", "versions"}
)
"""Further fields in which the runs of one plan may differ."""


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model of a run, as it was loaded.

    Attributes:
        backend, remote_name: The remote backend that serves it, and its name there; None for a
            model of this machine. What is not known of a remote model is empty or 0.
    """

    name: str
    sha256: str | None  # Hash of the GGUF, and of its adapters if it has any
    file_bytes: int
    gpu_layers: int
    context_tokens: int
    sequences: int
    batch_tokens: int  # Most tokens of one batch; determines the chunking of every prompt
    kv_type: str  # Type of the KV cache and of the attention
    flash_attention: str
    letters: str | None = None
    """``single`` if " A", " B" and so on are one token each after a prompt, ``sequence`` if they
    are scored as sequences; None if the format does not read letters."""
    threads: int | None = None  # Threads of its own; None for those of the run
    prefill_threads: int | None = None
    draft_tokens: int | None = None  # To draft at a time; None chooses it at each step
    backend: str | None = None
    remote_name: str | None = None
    quantisation: str | None = None  # Of the weights, by the header of the file
    adapters: tuple[str, ...] | None = None  # File and scale of each LoRA, part of the hash


_OPTIONAL = (
    *("threads", "prefill_threads", "draft_tokens", "backend", "remote_name", "quantisation"),
    "adapters",
)
"""Settings of a model that are left out where it has none, so that older runs keep their hash."""


@dataclass(frozen=True, slots=True)
class NamedText:
    """The policy or the design of a run: its name and its full text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class BenchPrecision:
    """The width at which a run stops."""

    points: float  # Half width of the 95 % confidence sequence, in percentage points
    of: Literal["accuracy", "difference"]
    """``accuracy`` of every system, or its ``difference`` from the first system."""
    difficulty_sha256: str | None = None
    """Hash of the table of difficulties that is the covariate; None without one. The table itself
    is in the run folder."""


@dataclass(frozen=True, slots=True)
class BenchMachine:
    """A machine that answered questions of a run of several machines."""

    key: str  # Short unique key, as samples name it
    name: str  # As :func:`etui.config.machine.machine_name` describes it
    memory_bytes: int
    threads: int  # Threads of llama.cpp
    models: tuple[BenchModel, ...]  # Its models, as they were loaded there
    versions: Mapping[str, Any]  # As in :class:`RunConfig`
    energy: Mapping[str, Any]
    idle: Mapping[str, Any] | None = None
    devices: tuple[str, ...] | None = None  # Models of its GPUs; None if unknown


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The questions, settings, models, programs and machine of a run."""

    run_id: str
    started_at: str  # ISO 8601, UTC
    suite: str  # `mmlu`, `sample`, or the stem of a CSV file
    split: str  # `test`, `val` or `dev`
    data_path: str | None  # Folder or file given by `--data` or `--suite`; None for etui's own copy
    data_sha256: str  # Hash of the suite's files, those of the split and of the examples
    sizes: Mapping[str, int]  # Subject -> questions of the split, in file order
    drawn: Mapping[str, int]  # Subject -> questions of the plan, in the order they are asked
    format: str
    format_version: int
    shots: int  # Requested number of worked examples
    seed: int  # Seed of the sample and of the order of subjects, and first seed of every answer
    limit: int | None  # Requested number of questions; None is all
    per_subject: int | None
    subjects: tuple[str, ...] | None  # Requested subjects; None is all
    arms: Mapping[str, Mapping[str, Any]]  # Arm -> its settings; all of a policy
    policy: NamedText | None
    """The policy that decides, or that defines the arms; None if the command line defines them."""
    routed: bool
    """Whether the policy decides for each question. A sample's ``arm`` is then the arm that
    answered, and all samples belong to one system, the policy."""
    models: tuple[BenchModel, ...]
    prefix_reuse: bool  # Whether worked examples are computed once per subject, not per question
    group_questions: int  # Most questions whose letters are read from one batch
    threads: int  # Threads of llama.cpp
    versions: Mapping[str, Any]
    """Program -> version; ``llama_cpp`` is the description reported by the build, and
    ``gpu_driver`` is only there with a GPU."""
    machine: Mapping[str, Any]
    """Name and memory of the machine, and ``devices``, its GPUs, if it has any."""
    energy: Mapping[str, Any]
    """``channels`` of the total (id -> kind), the ``unmeasured`` parts, ``sample_hz``; ``devices``
    has the ``label`` and the ``limit_watts`` of channels that have one, and ``pue`` is there if it
    is not 1."""
    idle: Mapping[str, Any] | None = None
    """Idle baseline at the start of the run: ``which`` one and its ``watts``; None if there is
    none."""
    config_version: int = CONFIG_VERSION
    order: Order = "subjects"
    block: int | None = None  # Questions of a block of the balanced order; None otherwise
    chance: float | None = None  # Accuracy of guessing; None is 0.25, four options
    precision: BenchPrecision | None = None  # Width at which the run stops; None asks all questions
    design: NamedText | None = None  # The design that laid out the run; None without one
    part: BenchPart | None = None  # Share of the plan that this run answers; None is the whole plan
    machines: tuple[BenchMachine, ...] | None = None
    """Machines of a merged or a distributed run; None for a run of one machine."""
    merged: tuple[str, ...] | None = None
    """Ids of the runs that were merged into this one; None for a run that answered itself."""
    grading: str | None = None
    """Rule that graded generated answers, as ``name@version`` (:mod:`etui.bench.formats`);
    None is the letter of an option."""

    @property
    def asked(self) -> Mapping[str, int]:
        """Subject -> number of questions that each system answers; of a part, its share."""
        if self.part is None:
            return self.drawn
        shares = list_part(self.drawn, self.order, self.block, self.seed, self.part)
        return {subject: len(indices) for subject, indices in shares.items()}

    @property
    def questions(self) -> int:
        """Number of questions that each system answers."""
        return sum(self.asked.values())

    @property
    def contenders(self) -> tuple[str, ...]:
        """The compared systems: the policy of a routed run, or the arms."""
        if self.routed and self.policy is not None:
            return (self.policy.name,)
        return tuple(self.arms)

    def contender(self, arm: str) -> str:
        """Return the system that a sample of this arm belongs to."""
        return self.contenders[0] if self.routed else arm

    @property
    def sha256(self) -> str:
        """Hash of everything that affects the results; a run resumes only if it is equal."""
        document = {k: v for k, v in self.to_json().items() if k not in _WITHOUT_EFFECT}
        document = _drop_descriptions(document)
        return hashlib.sha256(_canonical(document).encode()).hexdigest()

    @property
    def plan_sha256(self) -> str:
        """Hash of what is asked of which models; the runs of one plan agree in it and may merge."""
        document = self._plan_document()
        document["models"] = [[model.name, model.sha256] for model in self.models]
        return hashlib.sha256(_canonical(document).encode()).hexdigest()

    def _plan_document(self) -> dict[str, Any]:
        left_out = _WITHOUT_EFFECT | _OF_THE_MACHINE
        document = {k: v for k, v in self.to_json().items() if k not in left_out}
        document["models"] = {model.name: model.sha256 for model in self.models}
        return document

    def to_json(self) -> dict[str, Any]:
        """Return the document of ``config.json`` without its hash, as plain JSON values.

        Later additions appear only where they are used, so that an older run keeps its hash.
        """
        document: dict[str, Any] = to_document(self)
        document["subjects"] = None if self.subjects is None else list(self.subjects)
        document["models"] = _drop_unused(document["models"])
        for name, default in _LATER.items():
            if document[name] == default:
                del document[name]
        for machine in document.get("machines", ()):
            machine["models"] = _drop_unused(machine["models"])
            if machine["devices"] is None:
                del machine["devices"]
        return document


_LATER: Mapping[str, Any] = {
    "order": "subjects", "block": None, "chance": None, "precision": None, "design": None,
    "part": None, "machines": None, "merged": None, "grading": None,
}  # fmt: skip
"""Fields that the document leaves out at these values."""


def _drop_unused(models: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in model.items() if k not in _OPTIONAL or v is not None} for model in models
    ]


def _drop_descriptions(document: dict[str, Any]) -> dict[str, Any]:
    """Drop what only describes the machine and the models, which has no effect on the results."""
    return document | {
        "energy": {k: v for k, v in document["energy"].items() if k not in ("devices", "pue")},
        "models": [
            {k: v for k, v in model.items() if k != "quantisation"} for model in document["models"]
        ],
    }


def parse_run_config(document: object) -> RunConfig:
    """Parse a ``config.json``; unknown keys are ignored.

    DocumentError if the document is not a configuration, or one of another version.
    """
    if not isinstance(document, Mapping):
        raise DocumentError("it is not a JSON object")
    version = document.get("config_version")
    if version != CONFIG_VERSION:
        raise DocumentError(f"config_version {version} is not {CONFIG_VERSION}")
    known = {field.name for field in fields(RunConfig)}
    values = {name: value for name, value in document.items() if name in known}
    return from_document(RunConfig, values)


def differences(one: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return path -> both values for all settings that differ and affect the results."""
    first, second = (_drop_descriptions(run.to_json()) for run in (one, other))
    for name in _WITHOUT_EFFECT:
        first.pop(name, None)
        second.pop(name, None)
    return compare_documents(first, second)


def plan_differences(one: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return path -> both values for all settings in which two runs of one plan must agree."""
    return compare_documents(one._plan_document(), other._plan_document())


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"))
