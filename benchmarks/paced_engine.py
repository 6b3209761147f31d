"""An engine process that writes a given text at a given speed and computes nothing.

``benchmarks/app_cpu.py`` starts it: what the app takes per token is then the cost of etui alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.fake_engine import InstantResidency, InstantSession, run_worker
from etui.engine.session import Sampled, Step, TokenSequence
from etui.events import Loaded, Residence

TOKENS_PER_SECOND, TEXT = "ETUI_BENCH_TOKENS_PER_SECOND", "ETUI_BENCH_TEXT"
"""Environment variables: the speed, and the kind of text."""

PIECE_CHARACTERS = 4
_ROOT = Path(__file__).parent.parent


def build_text(kind: str) -> str:
    """Return a long text that does not repeat itself: ``numbers``, ``prose`` or ``code``."""
    if kind == "numbers":
        return ", ".join(map(str, range(1, 20_000)))
    if kind == "prose":
        names = ("meter", "policies", "reasoning", "models", "serve", "bench")
        texts = ((_ROOT / "docs" / f"{name}.md").read_text() for name in names)
        return "\n\n".join(_paragraphs("\n".join(texts)))
    if kind == "code":
        folder = _ROOT / "etui" / "turn"
        code = "\n\n".join(path.read_text() for path in sorted(folder.glob("*.py")))
        return f"A whole package:\n\n```python\n{code}\n```\n"
    raise SystemExit(f"unknown text {kind!r}")


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs and lists of a document, without its tables and its code."""
    blocks = text.split("\n\n")
    return [block for block in blocks if block.strip() and "|" not in block and "```" not in block]


class PacedSession(InstantSession):
    """A session that draws the pieces of a text, each when it is due."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        text = build_text(os.environ[TEXT]).encode()
        cuts = range(0, len(text), PIECE_CHARACTERS)
        self._pieces = [text[at : at + PIECE_CHARACTERS] for at in cuts]
        self._interval_ns = round(1e9 / float(os.environ[TOKENS_PER_SECOND]))
        self._due_ns = self._answering = 0
        self._drawn = 0

    def step_mixed(
        self, wanted: Sequence[tuple[TokenSequence, bool]], *, prompt_limit: int | None
    ) -> Step:
        """Wait until the next token is due, and draw it."""
        start_ns = time.monotonic_ns()
        (sequence, _), *_ = wanted
        own = self._live[sequence.id]
        if own.id != self._answering:
            self._answering, self._drawn, self._due_ns = own.id, 0, start_ns
        self._due_ns += self._interval_ns
        time.sleep(max(0, self._due_ns - time.monotonic_ns()) / 1e9)
        computed = {own.id: max(1, own.pending)}
        own.computed = len(own.tokens)
        piece = self._pieces[self._drawn % len(self._pieces)]
        self._drawn += 1
        own.tokens.append(self._drawn)
        return Step(
            start_ns,
            time.monotonic_ns(),
            computed,
            (Sampled(own.id, self._drawn, piece, -0.5, False),),
        )


class PacedResidency(InstantResidency):
    """Models that write the text."""

    def _load(self, name: str) -> Iterator[Residence]:
        if name not in self._sessions:
            self._sessions[name] = PacedSession(name)
            now = time.monotonic_ns()
            yield Loaded(name, now, now, 0, 0)


if __name__ == "__main__":
    run_worker(PacedResidency)
