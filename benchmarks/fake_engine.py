"""An engine process whose model computes nothing: what is left is the cost of etui itself.

It is the worker of ``etui serve`` with a session that draws a word at once, so that requests pass
through admission, shared batches, reasoning and the pipe as they always do.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from etui.arm import Sampling, Speculate
from etui.backends.worker import Worker
from etui.chat import Message
from etui.engine import residency
from etui.engine.compute_thread import ComputeThread, StepClock
from etui.engine.context import ContextOptions
from etui.engine.session import ModelFacts, PromptScores, Sampled, Step, TokenSequence
from etui.engine.thread_count import ThreadControl, ThreadLimits
from etui.events import Loaded, Residence, Unloaded, Verified
from etui.models.spec import ModelSpec

CONTEXT_TOKENS = 1 << 20
SEQUENCES = 256
BATCH_TOKENS = 2048
WORDS = 997
STEP_SECONDS = "ETUI_BENCH_STEP_SECONDS"
"""Environment variable: how long a batch takes."""
PIECES = tuple(f" w{number}".encode() for number in range(WORDS))


@dataclass(slots=True)
class InstantSequence:
    """A sequence of tokens that are computed as soon as they are asked for."""

    id: int
    tokens: list[int]
    cached: int = 0
    computed: int = field(default=0)
    reused: None = None  # Nothing is kept that could be
    lost: int = 0

    @property
    def pending(self) -> int:
        """Number of tokens that are queued."""
        return len(self.tokens) - self.computed


class InstantSession:
    """A session without a model: every batch is done at once, and draws the next word."""

    def __init__(self, name: str) -> None:
        self.facts = ModelFacts(name, CONTEXT_TOKENS, (), batch_tokens=BATCH_TOKENS)
        self.options = ContextOptions(CONTEXT_TOKENS, threads=1, batch_tokens=BATCH_TOKENS)
        self.threads = ThreadControl(ThreadLimits(1, 1))
        self.compute = ComputeThread()
        self.embedder = SimpleNamespace(why_no_answers="")
        self.pictures = None
        self.steps = StepClock()
        self.planned: Mapping[int, int] = {}
        self._live: dict[int, InstantSequence] = {}
        self._made = 0

    def share_among_clients(self) -> None:
        """Ignore it: nothing is cached."""

    @property
    def free_tokens(self) -> int:
        """Room that is never used up."""
        return CONTEXT_TOKENS

    @property
    def free_sequences(self) -> int:
        """Room that is never used up."""
        return SEQUENCES

    def render(
        self, messages: Sequence[Message], *, think_tokens: int | None = None, tools: str = ""
    ) -> str:
        """Join the messages."""
        return "\n".join(message.content for message in messages)

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """Return one number for each word."""
        return [len(word) for word in text.split()] or [0]

    def open(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        script: Sequence[int] | None = None,
        scores: PromptScores | None = None,
        *,
        owner: str = "",
        label: str = "",
    ) -> InstantSequence:
        """Open a sequence."""
        return self._add(list(tokens), 0)

    def recall(self, label: str, owner: str = "") -> None:
        """Keep nothing to be recalled."""

    def fork(self, sequence: TokenSequence, sampling: Sampling) -> InstantSequence:
        """Copy a sequence."""
        return self._add(list(sequence.tokens), self._live[sequence.id].computed)

    def _add(self, tokens: list[int], computed: int) -> InstantSequence:
        self._made += 1
        made = self._live[self._made] = InstantSequence(self._made, tokens, computed, computed)
        return made

    def extend(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Queue tokens."""
        self._live[sequence.id].tokens.extend(tokens)

    def rollback(self, sequence: TokenSequence, count: int) -> bool:
        """Remove the last tokens."""
        own = self._live[sequence.id]
        del own.tokens[len(own.tokens) - count :]
        own.computed = min(own.computed, len(own.tokens))
        return True

    def step(self, sequences: Sequence[TokenSequence], *, draw: bool = True) -> Step:
        """Compute everything that is queued."""
        return self.step_mixed([(each, draw) for each in sequences], prompt_limit=None)

    def step_mixed(
        self, wanted: Sequence[tuple[TokenSequence, bool]], *, prompt_limit: int | None
    ) -> Step:
        """Compute everything that is queued, and draw a word for each sequence."""
        now = time.monotonic_ns()
        time.sleep(float(os.environ.get(STEP_SECONDS, "0")))
        computed: dict[int, int] = {}
        sampled: list[Sampled] = []
        for sequence, draw in wanted:
            own = self._live[sequence.id]
            computed[own.id] = max(1, own.pending)
            own.computed = len(own.tokens)
            if draw:
                token = own.computed**2 * 7 % WORDS  # no text that repeats itself
                own.tokens.append(token)
                sampled.append(Sampled(own.id, token, PIECES[token], -0.5, False))
        self.planned = computed
        return Step(now, time.monotonic_ns(), computed, tuple(sampled))

    def logprobs(self, sequence: TokenSequence, tokens: Sequence[int]) -> list[float]:
        """Return equal log-probabilities."""
        return [-1.0 for _ in tokens]

    def speculate(self, sequence: TokenSequence, method: Speculate) -> str:
        """Refuse: there is nothing to gain."""
        return "nothing is computed"

    def settle(self, sequence: TokenSequence) -> tuple[Verified, ...]:
        """Return nothing."""
        return ()

    def close(self, sequence: TokenSequence, *, keep: bool = True) -> None:
        """Forget a sequence."""
        self._live.pop(sequence.id, None)

    def count_cells(self, sequences: Iterable[TokenSequence]) -> int:
        """Count tokens."""
        return sum(len(each.tokens) for each in sequences)

    def set_price(self, joules_per_prompt_token: float) -> None:
        """Do nothing: there is no cache."""

    def forget(self) -> None:
        """Keep nothing anyway."""


class InstantResidency:
    """Models that are always in memory once they were asked for."""

    def __init__(self, *_args: Any, **_options: Any) -> None:
        self._sessions: dict[str, InstantSession] = {}

    def session(self, spec: ModelSpec, path: Path, draft: object = None) -> Any:
        """Load a model, which takes no time."""
        yield from self._load(spec.name)
        return self._sessions[spec.name]

    def _load(self, name: str) -> Iterator[Residence]:
        if name not in self._sessions:
            self._sessions[name] = InstantSession(name)
            now = time.monotonic_ns()
            yield Loaded(name, now, now, 0, 0)

    def find(self, spec: ModelSpec, path: Path, draft: object = None) -> InstantSession | None:
        """Return a model that is in memory."""
        return self._sessions.get(spec.name)

    def hold(self, name: str) -> None:
        """Ignore it: nothing is unloaded."""

    def release(self, name: str) -> None:
        """Ignore it: nothing is unloaded."""

    def answered(self, name: str) -> None:
        """Ignore it: nothing is unloaded."""

    def keep_warm(self, name: str, seconds: float | None) -> None:
        """Ignore it: nothing is unloaded."""

    def seconds_to_unload(self) -> float | None:
        """Nothing is ever due."""
        return None

    def unload_idle(self) -> tuple[Unloaded, ...]:
        """Unload nothing."""
        return ()

    def close(self) -> None:
        """Nothing is held."""


def run_worker(models: type[InstantResidency]) -> None:
    """Run the worker on standard input and output, with these models in place of real ones."""
    residency.Residency = models  # type: ignore[assignment]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    Worker(sys.stdin.buffer, replies).run()


if __name__ == "__main__":
    run_worker(InstantResidency)
