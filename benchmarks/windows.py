"""The second turn of a long chat where the cache forgets: sliding windows and recurrent states.

A prompt of ``--prompt`` tokens is computed and answered. The second turn renders the chat again,
with another header before its answer, as templates do that leave out the thinking, and a question:
its seconds to the first token are divided by those of the first turn. Sessions run in turn on the
same models: with the windows alone and checkpoints (``window``), with every token of every layer
(``full``, the `swa_full` of llama.cpp), and, for hybrids, ``state``. Beside each: seconds of a
decoded token behind the prompt, of a checkpoint, and the bytes that the context added to the
process.

    python -m benchmarks.windows [GEMMA.gguf] [--prompt N] [--threads N] [--tokens N] [--rounds N]
                                 [--json]
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.figures import Figure, Skipped, ratio_of
from benchmarks.sides import arguments
from etui.arm import Sampling
from etui.config.config import load_config
from etui.engine.chat_prompt import ChatTemplate
from etui.engine.context import Context, ContextOptions
from etui.engine.library import Library, default_threads
from etui.engine.llama_session import LlamaSession
from etui.engine.model import Model
from etui.engine.offload import choose_sequences
from etui.engine.session import ModelFacts
from etui.engine.session_loader import CPU_BATCH_TOKENS
from etui.engine.template_process import TemplateProcess
from etui.models.cache_size import cache_size
from etui.models.gguf import check_gguf
from tests.support.tiny_architectures import write_architecture

GEMMA = "gemma-3-270m"
CONTEXT_TOKENS = 8192
QUESTION = 24
"""Tokens of the second question."""

HEADERS = {
    "gemma3": "<end_of_turn>\n<start_of_turn>model\n",
    "granitehybrid": "<|im_end|><|im_start|>assistant\n",
}
THOUGHT = "<think>"
"""Follows the header in the first turn, and is left out of later ones."""

GREEDY = Sampling(temperature=0)


@dataclass(frozen=True, slots=True)
class Round:
    """Times of one chat, in seconds."""

    first: float  # Prefill of the first turn
    token: float  # Decoding of one token behind it
    second: float  # Prefill of the second turn
    checkpoint: float  # Copying of one checkpoint
    cached: int
    lost: int


@dataclass(slots=True)
class Side:
    """A session under one setting of the cache."""

    name: str
    session: LlamaSession
    header: list[int]
    context_bytes: int  # Added to the memory of the process by its context

    def chat(self, text: Sequence[int], tokens: int) -> Round:
        """Answer a text, then the second turn."""
        session = self.session
        session.forget()
        asked = [*text, *self.header]
        prompt = [*asked, *session.tokenize(THOUGHT)]
        sequence = session.open(prompt, GREEDY)
        first = _prefill(session, sequence)
        start = time.perf_counter()
        for _ in range(tokens):
            session.step([sequence])
        token = (time.perf_counter() - start) / tokens
        start = time.perf_counter()
        session._context.save_part(sequence.slot)
        checkpoint = time.perf_counter() - start
        answer = list(sequence.tokens[len(prompt) :])
        session.close(sequence)
        again = [*asked, *answer, *text[:QUESTION], *self.header]
        sequence = session.open(again, GREEDY)
        made = Round(
            first, token, _prefill(session, sequence), checkpoint, sequence.cached, sequence.lost
        )
        session.close(sequence, keep=False)
        return made


def quick() -> Iterator[Figure]:
    """Three chats of 2,000 tokens on a tiny hybrid, and on Gemma if it is on disk."""
    gemma = load_config().models_dir / f"{GEMMA}.gguf"
    with ExitStack() as stack:
        sides = open_sides(stack, gemma if gemma.is_file() else None, default_threads())
        for side in sides:
            made = side_rounds(side, 2000, 16, 3)
            yield ratio_of(
                f"prefill of the second turn : of the first, {side.name}",
                [(each.second, each.first) for each in made],
                "%",
            )
        if not gemma.is_file():
            raise Skipped(f"no {gemma.name} in {gemma.parent}: etui models pull {GEMMA}")


def open_sides(stack: ExitStack, gemma: Path | None, threads: int) -> list[Side]:
    """Open the sessions; the hybrid is made in a folder of its own."""
    folder = Path(stack.enter_context(TemporaryDirectory()))
    library = Library(folder)
    stack.callback(library.close)
    hybrid = write_architecture(folder / "hybrid.gguf", "granitehybrid", width=256)
    sides = []
    for path, name, full in (
        (gemma, "window", False),
        (gemma, "full", True),
        (hybrid, "state", False),
    ):
        if path is None:
            continue
        gguf = check_gguf(path)
        model = Model(library, path)
        stack.callback(model.free)
        options = ContextOptions(
            CONTEXT_TOKENS,
            threads,
            sequences=choose_sequences(cache_size(gguf), 1),
            batch_tokens=CPU_BATCH_TOKENS,
            full_window=full,
        )
        before = psutil.Process().memory_info().rss
        context = Context(library, model, options)
        added = psutil.Process().memory_info().rss - before
        stack.callback(context.free)
        templates = TemplateProcess()
        stack.callback(templates.close)
        template = ChatTemplate(templates, name, None, model.bos_text, model.eos_text)
        facts = ModelFacts(name, CONTEXT_TOKENS, ())
        session = LlamaSession(model, context, facts, template)
        header = session.tokenize(HEADERS[gguf.architecture])
        sides.append(Side(f"{gguf.architecture} {name}", session, header, added))
    return sides


def side_rounds(side: Side, prompt_tokens: int, tokens: int, rounds: int) -> list[Round]:
    """Chat so many times, after one chat to warm up."""
    text = " ".join(f"The {n}th ship left at noon with {n * 7 % 13} sailors." for n in range(900))
    prompt = side.session.tokenize(text, bos=True)[:prompt_tokens]
    side.chat(prompt[:256], 2)
    return [side.chat(prompt, tokens) for _ in range(rounds)]


def main() -> None:
    """Run the rounds and print the table."""
    parser = arguments(__doc__, tokens=32, rounds=3)
    parser.set_defaults(model=load_config().models_dir / f"{GEMMA}.gguf")
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of the first turn")
    chosen = parser.parse_args()
    rows = []
    with ExitStack() as stack:
        path = chosen.model if chosen.model.is_file() else None
        for side in open_sides(stack, path, chosen.threads):
            made = side_rounds(side, chosen.prompt, chosen.tokens, chosen.rounds)
            row: dict[str, object] = {"side": side.name, "context_bytes": side.context_bytes}
            for name in Round.__slots__:
                row[name] = statistics.median(getattr(each, name) for each in made)
            row["second_of_first"] = statistics.median(each.second / each.first for each in made)
            rows.append(row)
    if chosen.json:
        print(json.dumps({"prompt": chosen.prompt, "rounds": chosen.rounds, "sides": rows}))
        return
    for row in rows:
        print(
            f"{row['side']:22} first {row['first']:.2f} s, second {row['second']:.3f} s "
            f"({100 * float(str(row['second_of_first'])):.1f} %, {row['cached']} reused, "
            f"{row['lost']} lost), {1000 * float(str(row['token'])):.2f} ms a token, checkpoint "
            f"{1000 * float(str(row['checkpoint'])):.2f} ms, "
            f"context {int(str(row['context_bytes'])) / 1e6:.0f} MB"
        )


def _prefill(session: LlamaSession, sequence: object) -> float:
    start = time.perf_counter()
    while not session.step([sequence]).sampled:  # type: ignore[list-item]
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
