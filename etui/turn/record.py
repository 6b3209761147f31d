"""The record of a turn, as stored in the log and written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from etui.codec import to_document
from etui.energy.documents import energy_document
from etui.energy.types import WallEnergy
from etui.units import decode_speed


@dataclass(frozen=True, slots=True)
class SpeculationRecord:
    """Drafted tokens of an answer and the joules of verifying them; joules are None if unmeasured.

    Each batch has as rows the last token of the answer and the drafted ones, and gives one token
    more than it accepts. Accepted and waste are shares of ``verify_joules``, split by the rows of
    accepted and of rejected tokens; the other rows are the tokens that are computed without
    speculation too. Each ``_uncertainty`` is a half width in joules.
    """

    method: str  # `lookup`, `draft` or `mtp`; several are joined by `+`
    batches: int
    rows: int
    drafted: int
    accepted: int  # Those of the drafted tokens that the model drew too
    verify_seconds: float
    draft_seconds: float  # Of drafting by a model
    verify_joules: float | None  # Joules of these batches, a part of the decode phase
    verify_uncertainty: float | None
    draft_joules: float | None  # Another part of it; 0.0 for `lookup`
    draft_uncertainty: float | None
    accepted_joules: float | None
    accepted_uncertainty: float | None
    waste_joules: float | None
    waste_uncertainty: float | None

    @property
    def joules_per_accepted_token(self) -> float | None:
        """Joules of all drafted rows and of the drafting, per accepted token; None without one."""
        return self._per_accepted(self.accepted_joules, self.waste_joules, self.draft_joules)

    @property
    def joules_per_accepted_token_uncertainty(self) -> float | None:
        """Half width of ``joules_per_accepted_token``, as if its parts had the same cause."""
        return self._per_accepted(
            self.accepted_uncertainty, self.waste_uncertainty, self.draft_uncertainty
        )

    def _per_accepted(self, *parts: float | None) -> float | None:
        known = [part for part in parts if part is not None]
        return sum(known) / self.accepted if self.accepted and len(known) == len(parts) else None

    def to_json(self) -> dict[str, Any]:
        """Build the document ``speculation`` of ``etui ask --json``."""
        return {
            **asdict(self),
            "joules_per_accepted_token": self.joules_per_accepted_token,
            "joules_per_accepted_token_uncertainty": self.joules_per_accepted_token_uncertainty,
        }


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """One load of a model, whose joules count for no turn.

    ``turn_id`` is the turn that waited for it; None for a load before a question.
    """

    load_id: str
    created_at: str
    model: str
    model_sha256: str | None
    turn_id: str | None
    seconds: float
    joules: float | None
    uncertainty: float | None
    kind: str | None
    gpu_layers: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class UnloadRecord:
    """An unload; ``reason`` and ``freed_bytes`` as in :class:`etui.events.Unloaded`.

    ``turn_id`` is the turn that needed the memory; None if no turn did. The idle watts are those
    of the machine in the last seconds before the unload, in a few seconds after the engine's
    process has ended (only after the last model), and of the cold baseline at that time; half
    widths at 95 %. They are None if they were not measured.
    """

    unload_id: str
    created_at: str
    model: str
    model_sha256: str | None
    turn_id: str | None
    reason: str
    seconds: float
    joules: float | None
    uncertainty: float | None
    kind: str | None
    freed_bytes: int
    idle_before_watts: float | None = None
    idle_before_uncertainty: float | None = None
    idle_after_watts: float | None = None
    idle_after_uncertainty: float | None = None
    idle_cold_watts: float | None = None
    idle_cold_uncertainty: float | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of a turn: prompt = cached + computed; output = thinking + answer."""

    prompt: int
    cached: int
    computed: int
    thinking: int
    output: int


@dataclass(frozen=True, slots=True)
class Seconds:
    """Durations of a turn in seconds; ``total`` and ``ttft`` exclude the load."""

    load: float
    prefill: float
    decode: float
    total: float
    ttft: float | None


@dataclass(frozen=True, slots=True)
class Attribution:
    """How a turn's joules were separated from those of others that ran at the same time."""

    method: str
    """``exclusive`` if nothing else ran, ``shapley`` or ``tokens`` if it shared batches, ``none``
    if its own part is not known (others used a remote machine)."""
    share: float | None = 1.0
    """Its joules divided by those of its batches; 1.0 if exclusive, None if unknown."""
    batch_joules: float | None = None
    """Joules of all batches that it took part in; None if unmeasured."""
    spread: float | None = None
    """Difference in joules between the shares by tokens and by Shapley values, which is the error
    of the method, apart from that of the sensor; None without a curve."""
    batches: int = 0
    mean_requests: float = 1.0


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """Where a turn came from, if a client of ``etui serve`` asked for it."""

    endpoint: str  # Path of the request (`/v1/chat/completions`)
    key: str = ""  # Name of the client's key, never the key; empty without keys
    request_id: str = ""  # Id in the response's `x-request-id`
    queue_seconds: float = 0.0  # Seconds that the request waited before its work began


@dataclass(frozen=True, slots=True)
class TurnEnergy:
    """Energy of a turn; joules are None if unmeasured, never 0.

    ``phases`` has the joules of load, prefill and decode, and if pictures were encoded those of
    ``image``; prefill + image + decode = ``joules``, which excludes the load. ``thinking_joules``
    is the part of decode spent on thinking. ``shared`` is True if other processes used a GPU, or
    the CPUs of an estimate; ``own_joules`` is then etui's share, None if unknown.
    """

    joules: float | None
    uncertainty: float | None
    net_joules: float | None
    idle_watts: float | None
    kind: str | None
    coverage: float
    mean_watts: float | None
    peak_watts: float | None
    joules_per_token: float | None
    phases: dict[str, float | None]
    thinking_joules: float | None
    channels: dict[str, float]
    unmeasured: tuple[str, ...]
    flags: tuple[str, ...]
    start_ns: int
    end_ns: int
    shared: bool = False
    own_joules: float | None = None
    attribution: Attribution | None = None
    wall: WallEnergy | None = None  # Predicted joules at the wall, beside the measured ones


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """One vote of a majority vote; ``choice`` and ``status`` as in :class:`etui.events.Vote`.

    ``joules`` is its share of the decode, by its tokens in each batch; the shared prefill is not
    included. None if unmeasured. ``raw_answer`` and ``raw_thinking`` hold all rounds of a loop.
    """

    index: int
    answer: str
    thinking: str
    tokens: int
    weight: float
    choice: str | None = None
    status: str = "answered"
    joules: float | None = None
    ended: str = ""
    raw_answer: str = ""
    raw_thinking: str = ""


def _vote_document(vote: VoteRecord) -> dict[str, Any]:
    """Build the document of one of the ``votes``; most did not end by repeating themselves."""
    document = asdict(vote)
    if not vote.ended:
        for name in ("ended", "raw_answer", "raw_thinking"):
            del document[name]
    return document


@dataclass(frozen=True, slots=True)
class LoopRecord:
    """What was left out of a turn, or not decoded, because its text repeats itself."""

    raw_answer: str  # With all decoded rounds; empty where nothing was cut
    raw_thinking: str
    saved_tokens: int  # Tokens that were not decoded, up to the limits of the arm
    saved_joules: float | None
    """Estimate of their joules, at the turn's own joules per decoded token; None if unmeasured. The
    model might have ended before its limit, so it is the most it would have cost."""


@dataclass(frozen=True, slots=True)
class PictureRecord:
    """The encoding of a turn's pictures, the phase ``image``; joules are None if unmeasured.

    Pictures whose tokens were in the cache are not encoded again.
    """

    tokens: int  # Tokens of the prompt that they take
    seconds: float
    joules: float | None
    uncertainty: float | None


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """The prompt tokens of a turn that were not computed again, and what that saved."""

    tier: str
    """Where the KV cache was: `context`, `memory` or `disk`; of several arms that of the most."""
    tokens: int
    size_bytes: int
    restore_seconds: float  # Of bringing it back
    keep_seconds: float  # Of saving the caches of any chat since the turn before
    saved_joules: float | None  # Of computing the tokens, by `source`; None if unknown
    saved_uncertainty: float | None  # Half width
    cost_joules: float | None
    """Measured joules of bringing it back, and those of saving by their seconds and the mean power
    of the turn; None if unmeasured."""
    source: str = ""

    @property
    def net_joules(self) -> float | None:
        """Joules saved less the joules that keeping cost; None if either is unknown."""
        if self.saved_joules is None or self.cost_joules is None:
            return None
        return self.saved_joules - self.cost_joules

    def to_json(self) -> dict[str, Any]:
        """Build the object ``cache`` of a turn's document."""
        return {**asdict(self), "net_joules": self.net_joules}


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """One probe of the answer in the middle of the thinking.

    ``probabilities`` maps an option letter, or the answer in words, to its probability; ``tokens``
    counts the tokens of the probe, which are not part of the output.
    """

    thinking_tokens: int
    probabilities: dict[str, float]
    tokens: int


ToolStatus = Literal["done", "failed", "timeout", "refused", "stopped"]


@dataclass(frozen=True, slots=True)
class ToolCallRecord:
    """One call of a tool, and the time in which the turn waited for it.

    ``round`` is the number, from 1, of the round that asked for it; ``result`` is the text that the
    model read. The energy is the machine's; None if unmeasured. A refused call took no time. A
    ``stopped`` one was broken off, or the wait for the user before it, and has no result.
    """

    round: int
    name: str
    arguments: str
    status: ToolStatus
    result: str
    start_ns: int
    end_ns: int
    joules: float | None = None

    @property
    def seconds(self) -> float:
        """Length of the wait in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class ToolLoopRecord:
    """The joules of a turn that called tools: ``rounds`` + ``idle`` + ``loads`` = ``joules``.

    ``joules`` is what the meter has from the start of the first round, or of the load before it, to
    the end of the last. ``rounds`` are the turn's own joules, ``idle`` those of the time between
    the rounds, in which tools ran, the user was asked and the next arm was chosen. None where
    unmeasured. ``predicted`` has the joules that were predicted for each round from the second on.
    """

    calls: tuple[ToolCallRecord, ...]
    most_calls: int
    most_joules: float | None  # Limit of the joules; None without one
    predicted: tuple[float | None, ...] = ()
    joules: float | None = None
    uncertainty: float | None = None
    rounds: float | None = None
    idle: float | None = None
    idle_seconds: float = 0.0
    loads: float | None = None  # Those of loads and unloads
    kind: str | None = None  # How the joules of this machine were obtained; None if unmeasured


@dataclass(frozen=True, slots=True)
class HopRecord:
    """The part of one arm in a turn with several arms, in a cascade, or in a loop of tools.

    ``probability`` is calibrated, None without a fit; ``accepted`` means that the answer was sure
    enough, ``taken`` that it is the answer of the turn. ``joules`` and ``seconds`` exclude the
    load, and their sums over all hops are the turn's; ``load_joules`` is 0.0 without a load and
    None if unmeasured. ``kind`` says how ``joules`` were obtained; None in turns of older versions.
    ``step`` is the number, from 1, of the cascade's step: the hops of arms that had to agree share
    one. It is None outside of a cascade, and in turns of older versions. ``round`` is the number,
    from 1, of the round of a turn that called tools; None for other turns.
    """

    arm: str
    model: str
    model_sha256: str | None
    reasoning: str
    answer: str
    status: str
    confidence: float | None
    margin: float | None
    probability: float | None
    accepted: bool
    taken: bool
    tokens: Tokens
    joules: float | None
    uncertainty: float | None
    load_joules: float | None
    seconds: float
    why: str
    speculation: SpeculationRecord | None = None
    kind: str | None = None
    step: int | None = None
    round: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Build the document of one of the ``hops``."""
        speculation = self.speculation.to_json() if self.speculation is not None else None
        document: dict[str, Any] = to_document(self)
        if self.round is None:
            del document["round"]
        return document | {"speculation": speculation}


_HEAD = (
    *("turn_id", "created_at", "chat_id", "parent_id", "query", "answer", "thinking", "status"),
    *("ended", "error", "model", "model_sha256", "arm", "reasoning", "policy", "rule", "why"),
)
"""The first keys of a turn's document."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One question, its answer and its energy, however the turn ended."""

    turn_id: str
    created_at: str
    chat_id: str | None
    query: str
    system: str | None
    answer: str
    thinking: str
    status: str
    error: str | None
    model: str
    model_sha256: str | None
    arm: str
    reasoning: str
    policy: str | None
    rule: str | None
    why: str
    tokens: Tokens
    seconds: Seconds
    energy: TurnEnergy
    predicted_joules: float | None = None
    predicted_accuracy: float | None = None
    confidence: float | None = None
    votes: tuple[VoteRecord, ...] = ()
    probes: tuple[ProbeRecord, ...] = ()
    hops: tuple[HopRecord, ...] = ()
    """The hops, if the turn had several arms or a cascade."""
    power_watts: tuple[float | None, ...] = ()
    """Mean watts of equal slices from the turn's start to its end; None if unmeasured."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Decode parameters, build and machine, as needed to repeat the turn."""
    trace: Mapping[str, object] = field(default_factory=dict)
    """The complete routing decision."""
    speculation: SpeculationRecord | None = None
    """Drafted tokens of all hops; None if nothing was drafted."""
    ended: str = ""
    """``repeats`` if the answer was ended because it repeats itself, ``thinking_repeats`` if only
    its thinking was."""
    loop: LoopRecord | None = None
    """The repetition that was cut; None if there was none."""
    tool_calls: str = ""
    """The tools that the answer calls, a JSON array in the OpenAI form; empty without any."""
    client: ClientRecord | None = None
    """The request of ``etui serve`` that asked for it; None for other front ends."""
    parent_id: str | None = None
    """Id of the turn before it in its chat; None for the first turn of a branch."""
    cache: CacheRecord | None = None
    """What was reused of earlier prompts; None if all of the prompt was computed."""
    tools: ToolLoopRecord | None = None
    """The tools that were called, and the tree of joules; None if none was."""
    pictures: PictureRecord | None = None  # None if no picture was encoded

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of its decode, see :func:`etui.units.decode_speed`: the tok/s shown everywhere."""
        answers = max(1, len(self.hops)) + max(0, len(self.votes) - 1)
        return decode_speed(self.tokens.output, self.seconds.decode, answers)

    def to_json(self) -> dict[str, Any]:
        """Build the document of ``etui ask --json``."""
        energy = self.energy
        # A turn of before there was an attribution ran alone.
        found = energy.attribution or Attribution("exclusive", batch_joules=energy.joules)
        return {
            **{name: getattr(self, name) for name in _HEAD},
            "tokens": asdict(self.tokens),
            "votes": [_vote_document(vote) for vote in self.votes],
            "probes": [asdict(probe) for probe in self.probes],
            "hops": [hop.to_json() for hop in self.hops],
            "power_watts": list(self.power_watts),
            "confidence": self.confidence,
            "seconds": asdict(self.seconds),
            "energy": energy_document(
                energy,
                {
                    "joules_per_token": energy.joules_per_token,
                    "phases": energy.phases,
                    "thinking_joules": energy.thinking_joules,
                    "attribution": asdict(found) | {"batches": found.batches or None},
                },
            ),
            "speculation": self.speculation.to_json() if self.speculation is not None else None,
            "predicted": {"joules": self.predicted_joules, "accuracy": self.predicted_accuracy},
            "loop": to_document(self.loop),
            "cache": self.cache.to_json() if self.cache is not None else None,
            **({"tools": to_document(self.tools)} if self.tools is not None else {}),
            **({"pictures": asdict(self.pictures)} if self.pictures is not None else {}),
            "settings": self.settings,
            **({"tool_calls": json.loads(self.tool_calls)} if self.tool_calls else {}),
            **({"client": asdict(self.client)} if self.client is not None else {}),
        }


CONTINUES = "continues"
"""Setting of a turn with the id of the turn whose answer it goes on with; it has the whole text."""

CUT = "cut"
"""Setting of a turn whose texts the log has in part: name of each such column -> its bytes."""

DRAFTS_STOPPED = "drafts_stopped"
"""Setting of a turn with the reason why the engine drafted no more from some token on."""

INTERRUPTED = "interrupted"
"""Status of a turn whose process was killed before the turn had a record."""

NAMES = "names"
"""Setting of a turn that only gave a chat its title, with the id of that chat."""

OWN_SYSTEM = "own_system"
"""Setting of a turn whose system prompt is the one that the user set for its model."""

REPLACES = "replaces"
"""Setting of a turn with the id of the turn it replaces, after an edit or a repetition."""

SAVED_PROMPT = "prompt"
"""Setting of a turn with the name of the saved prompt whose system prompt and arm it has."""
