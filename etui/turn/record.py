"""Records of a turn, a load and an unload, as the log stores them and JSON shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from etui.energy.documents import energy_document
from etui.text.codec import to_document


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
class TurnEnergy:
    """What a turn cost; joules are None when nothing was measured, never 0 for it.

    ``phases`` holds load, prefill and decode; prefill + decode = ``joules``, load is outside it.
    ``thinking_joules`` is the part of decode that went into the thought. ``shared`` says that other
    processes used a GPU, and ``own_joules`` what is etui's own of it then, None where that cannot
    be told.
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


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """One vote of a majority; ``choice`` and ``status`` as in ``engine.events.Vote``.

    ``joules`` is its part of the decode, by the tokens it had in each batch; the prefill they all
    share is in none. None when nothing was measured.
    """

    index: int
    answer: str
    thinking: str
    tokens: int
    weight: float
    choice: str | None = None
    status: str = "answered"
    joules: float | None = None


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """One look at the answer from the middle of a thought.

    ``probabilities`` is option letter, or the answer in words -> probability; ``tokens`` are those
    the look took, which are no part of the output.
    """

    thinking_tokens: int
    probabilities: dict[str, float]
    tokens: int


@dataclass(frozen=True, slots=True)
class HopRecord:
    """One arm's part of a turn that took several, or that a cascade decided.

    ``probability`` is calibrated, None where nothing was fitted; ``accepted`` says that the answer
    was sure enough, ``taken`` that it is the turn's. ``joules`` and ``seconds`` are without the
    load, and those of all hops sum to the turn's; ``load_joules`` is 0.0 without a load and None
    when it was not measured.
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


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One question, its answer and its price, whatever way it ended."""

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
    """Every arm that answered, where it was not one alone."""
    power_watts: tuple[float | None, ...] = ()
    """Mean watts of equal slices from the turn's start to its end; None where unmeasured."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Decode parameters, build and machine: what is needed to repeat the turn."""
    trace: Mapping[str, object] = field(default_factory=dict)
    """The routing decision, whole."""

    def to_json(self) -> dict[str, Any]:
        """The document of ``etui ask --json``."""
        energy, tokens, seconds = self.energy, self.tokens, self.seconds
        return {
            "turn_id": self.turn_id,
            "created_at": self.created_at,
            "chat_id": self.chat_id,
            "query": self.query,
            "answer": self.answer,
            "thinking": self.thinking,
            "status": self.status,
            "error": self.error,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "arm": self.arm,
            "reasoning": self.reasoning,
            "policy": self.policy,
            "rule": self.rule,
            "why": self.why,
            "tokens": {
                "prompt": tokens.prompt,
                "cached": tokens.cached,
                "computed": tokens.computed,
                "thinking": tokens.thinking,
                "output": tokens.output,
            },
            "votes": [
                {
                    "index": v.index,
                    "answer": v.answer,
                    "thinking": v.thinking,
                    "tokens": v.tokens,
                    "weight": v.weight,
                    "choice": v.choice,
                    "status": v.status,
                    "joules": v.joules,
                }
                for v in self.votes
            ],
            "probes": [
                {
                    "thinking_tokens": p.thinking_tokens,
                    "probabilities": p.probabilities,
                    "tokens": p.tokens,
                }
                for p in self.probes
            ],
            "hops": [to_document(hop) for hop in self.hops],
            "power_watts": list(self.power_watts),
            "confidence": self.confidence,
            "seconds": {
                "load": seconds.load,
                "prefill": seconds.prefill,
                "decode": seconds.decode,
                "total": seconds.total,
                "ttft": seconds.ttft,
            },
            "energy": energy_document(
                energy,
                {
                    "joules_per_token": energy.joules_per_token,
                    "phases": energy.phases,
                    "thinking_joules": energy.thinking_joules,
                },
            ),
            "predicted": {"joules": self.predicted_joules, "accuracy": self.predicted_accuracy},
            "settings": self.settings,
        }


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """One load of a model: a row of its own, charged to no turn's joules.

    ``turn_id`` is the turn that waited for it; None for a load ahead of a question.
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
    """A model given up; ``reason`` and ``freed_bytes`` as in ``engine.events.Unloaded``.

    ``turn_id`` is the turn that needed the room; None where no turn did.
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


REPLACES = "replaces"
"""Setting of a turn that names the turn it took the place of, edited or asked again."""
