"""The loop guard on real loops of models, and on texts that repeat with reason.

The texts are in `tests/reasoning/loops`. `real` holds answers in which a model got stuck, token by
token as they were decoded; `reasoned` holds tables, code, songs, lists and other texts whose lines
are alike for a reason. The rules were set on these two. `real_held_out` and `reasoned_held_out`
were added afterwards; one false alarm of 24 there (`dosage`) led to the rule that a line that
begins with a new word is progress.

A round of a loop is its unit, or as many units as make 12 tokens if it is shorter. The rounds until
the end count from the beginning of the loop, the first round included. Where a loop begins and how
long its unit is does not come from the guard: `label` tries every period, at every place.

Texts without tokens are cut into words, digits and marks, and with `--models` also by the tokenizer
of each GGUF given.

    python -m benchmarks.loops [--models MODEL.gguf ...] [--json]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figures import Figure
from etui.reasoning.loop_guard import LoopGuard, Repetition, asked_rounds

FOLDER = Path(__file__).parents[1] / "tests" / "reasoning" / "loops"
LEAST_ROUND_TOKENS = 12
MOST_ROUNDS = 3
_SHARE = 0.85
_PIECE = re.compile(r" ?[^\W\d_]+| ?\d| ?[^\s\w]+|_|\n+|\s+(?!\S)|\s")

Token = tuple[int, bytes]
Tokenize = Callable[[str], list[Token]]


@dataclass(frozen=True, slots=True)
class RealLoop:
    """An answer of a model that got stuck.

    Attributes:
        name: Its file.
        model: The model that wrote it.
        question: The question.
        tokens: Its tokens.
        start: Where the loop begins, in tokens.
        period: Tokens of its unit.
    """

    name: str
    model: str
    question: str
    tokens: tuple[Token, ...]
    start: int
    period: int

    @property
    def round_tokens(self) -> int:
        """Tokens of a round."""
        return self.period * -(-LEAST_ROUND_TOKENS // self.period)


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A text that repeats with reason."""

    name: str
    question: str
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """What the guard made of a text.

    Attributes:
        name: The text.
        at: Tokens after which it was ended; None if it was not.
        rounds: Rounds until then; None without a loop, or if it was not ended.
        strict_rounds: The same in single units, however short.
    """

    name: str
    at: int | None
    rounds: float | None = None
    strict_rounds: float | None = None


def read_real(folder: str) -> list[RealLoop]:
    """Read the real loops of a folder of the corpus."""
    return [_parse_loop(path) for path in sorted((FOLDER / folder).glob("*.json"))]


def _parse_loop(path: Path) -> RealLoop:
    document = json.loads(path.read_text(encoding="utf-8"))
    ids: dict[str, int] = {}
    tokens = [
        (ids.setdefault(piece, len(ids)), piece.encode("latin-1")) for piece in document["pieces"]
    ]
    return RealLoop(
        path.stem,
        document["model"],
        document["question"],
        tuple(tokens),
        document["start"],
        document["period"],
    )


def read_reasoned(folder: str) -> list[Reasoned]:
    """Read the texts of a folder of the corpus: the question, an empty line, the text."""
    texts = []
    for path in sorted((FOLDER / folder).glob("*.txt")):
        question, _, text = path.read_text(encoding="utf-8").partition("\n\n")
        texts.append(Reasoned(path.stem, question, text))
    return texts


def label(ids: Sequence[int]) -> tuple[int, int] | None:
    """Find the loop whose third round is complete first: its beginning and its period.

    Every period is tried; 85 % of the tokens of a loop are those of one period before.
    """
    found: tuple[int, int, int] | None = None
    for period in range(1, len(ids) // MOST_ROUNDS + 1):
        unit = period * -(-LEAST_ROUND_TOKENS // period)
        span = MOST_ROUNDS * unit - period
        same = [0]
        for at, token in enumerate(ids):
            same.append(same[-1] + (at >= period and token == ids[at - period]))
        for end in range(MOST_ROUNDS * unit, len(ids) + 1):
            begins = ids[end - span] == ids[end - span - period]
            if begins and same[end] - same[end - span] >= _SHARE * span:
                if found is None or end < found[0]:
                    found = end, end - MOST_ROUNDS * unit, period
                break
    return None if found is None else (found[1], found[2])


def split_words(text: str) -> list[Token]:
    """Cut a text into words, digits and marks, as most tokenizers do before they merge."""
    ids: dict[str, int] = {}
    return [(ids.setdefault(piece, len(ids)), piece.encode()) for piece in _PIECE.findall(text)]


def tokenizer_of(path: Path) -> Tokenize:
    """Return the tokenizer of a GGUF; only its vocabulary is loaded."""
    from llama_cpp import Llama

    llama = Llama(str(path), vocab_only=True, verbose=False)

    def tokenize(text: str) -> list[Token]:
        ids = llama.tokenize(text.encode(), add_bos=False, special=False)
        return [(token, llama.detokenize([token], special=True)) for token in ids]

    return tokenize


def guard_text(tokens: Sequence[Token], question: str) -> tuple[int | None, Repetition | None]:
    """Run the guard over a text; return after how many tokens it ended it, and the loop."""
    guard = LoopGuard(asked_rounds(question))
    for count, (token, piece) in enumerate(tokens, start=1):
        if guard.take(token, piece) is not None:
            return count, guard.found
    return None, None


def end_loop(loop: RealLoop) -> Ended:
    """Run the guard over a real loop."""
    at, _ = guard_text(loop.tokens, loop.question)
    if at is None:
        return Ended(loop.name, None)
    past = at - loop.start
    return Ended(loop.name, at, past / loop.round_tokens, past / loop.period)


def end_reasoned(text: Reasoned, tokenize: Tokenize) -> Ended:
    """Run the guard over a text that repeats with reason."""
    return Ended(text.name, guard_text(tokenize(text.text), text.question)[0])


def in_time(ended: Ended) -> bool:
    """Return whether a loop was ended within three rounds."""
    return ended.rounds is not None and ended.rounds <= MOST_ROUNDS


def quick() -> Iterator[Figure]:
    """Both error rates over all texts, cut into words."""
    loops = [end_loop(loop) for folder in ("real", "real_held_out") for loop in read_real(folder)]
    late = sum(not in_time(ended) for ended in loops)
    yield Figure("loops not ended in 3 rounds : all", 100 * late / len(loops), "%", n=len(loops))
    texts = [*read_reasoned("reasoned"), *read_reasoned("reasoned_held_out")]
    alarms = sum(end_reasoned(text, split_words).at is not None for text in texts)
    yield Figure("false alarms : texts", 100 * alarms / len(texts), "%", n=len(texts))


def main() -> None:
    """Run the guard over the corpus and print both error rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--models", nargs="*", type=Path, default=[])
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    tokenizers: dict[str, Tokenize] = {"words": split_words}
    tokenizers |= {path.stem: tokenizer_of(path) for path in chosen.models}
    real = {folder: [end_loop(x) for x in read_real(folder)] for folder in _REAL}
    reasoned = {
        (folder, name): [end_reasoned(text, tokenize) for text in read_reasoned(folder)]
        for folder in _REASONED
        for name, tokenize in tokenizers.items()
    }
    if chosen.json:
        document = {
            "real": {folder: [asdict(x) for x in found] for folder, found in real.items()},
            "reasoned": {
                f"{folder}/{name}": [asdict(x) for x in found]
                for (folder, name), found in reasoned.items()
            },
        }
        print(json.dumps(document, indent=2))
        return
    for folder, found in real.items():
        print(f"{folder}: {sum(map(in_time, found))} of {len(found)} loops ended in 3 rounds")
        strict = sum(x.strict_rounds is not None and x.strict_rounds <= MOST_ROUNDS for x in found)
        print(f"  in 3 units, however short: {strict} of {len(found)}")
        for ended in found:
            rounds = "never" if ended.rounds is None else f"{ended.rounds:.2f} rounds"
            print(f"  {ended.name:<32} {ended.at or '-':>5} tokens  {rounds}")
    for (folder, name), found in reasoned.items():
        alarms = [ended.name for ended in found if ended.at is not None]
        print(f"{folder}, tokens of {name}: {len(alarms)} false alarms of {len(found)} {alarms}")


_REAL = ("real", "real_held_out")
_REASONED = ("reasoned", "reasoned_held_out")


if __name__ == "__main__":
    main()
