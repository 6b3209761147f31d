"""Questions and suites of them, and the hashes that identify both.

Nothing of a file is stripped; each prompt format strips what it needs.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from etui.errors import UsageError
from etui.text import suggest


def draw(
    sizes: Mapping[str, int], seed: int, limit: int | None = None, per_subject: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Draw the questions of a run.

    Subjects are shuffled, so that an interrupted run has covered all kinds of them. With the same
    seed a larger ``per_subject`` sample includes every smaller one.

    Args:
        seed: Seed of the sample and of the order.
        limit: Total number of questions, split in proportion to the sizes; None is no limit.
        per_subject: Questions of each subject; None is no limit.

    Returns:
        Subject -> indices of its questions, ascending; subjects in the order of the run.
    """
    if limit is not None:
        counts = split_proportionally(sizes, limit)
    else:
        counts = {name: min(size, per_subject or size) for name, size in sizes.items()}
    order = sorted(name for name, count in counts.items() if count)
    random.Random(f"subjects {seed}").shuffle(order)
    drawn: dict[str, tuple[int, ...]] = {}
    for name in order:
        indices = list(range(sizes[name]))
        random.Random(f"questions {seed} {name}").shuffle(indices)
        drawn[name] = tuple(sorted(indices[: counts[name]]))
    return drawn


def order_balanced(sizes: Mapping[str, int], seed: int) -> tuple[tuple[str, int], ...]:
    """Order all questions so that every prefix is a stratified random sample.

    The questions of each subject are shuffled. The k-th of n questions of a subject gets the key
    (k + u) / n, with one u from [0, 1) per subject; sorted by key, a prefix holds of every subject
    its share of the questions, to within one (systematic sampling, Cochran, Sampling Techniques,
    3rd ed., chapter 8).
    """
    keyed: list[tuple[float, str, int]] = []
    for name in sorted(sizes):
        indices = list(range(sizes[name]))
        random.Random(f"questions {seed} {name}").shuffle(indices)
        start = random.Random(f"start {seed} {name}").random()
        keyed += [((at + start) / sizes[name], name, index) for at, index in enumerate(indices)]
    return tuple((name, index) for _, name, index in sorted(keyed))


def split_proportionally(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """Split ``limit`` in proportion to sizes by the largest remainder.

    No share exceeds its size. The shares sum to ``limit``, or to all questions if there are fewer.
    """
    total = sum(sizes.values())
    if limit >= total:
        return dict(sizes)
    shares = {name: limit * size // total for name, size in sizes.items()}
    left = limit - sum(shares.values())
    by_remainder = sorted(sizes, key=lambda name: (-(limit * sizes[name] % total), name))
    for name in by_remainder[:left]:
        shares[name] += 1
    return shares


def match_subjects(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Match subject names; spaces and hyphens may replace underscores.

    Raises:
        UsageError: A subject does not exist; the message suggests the nearest names.
    """
    found: list[str] = []
    for name in names:
        plain = name.strip().lower().replace(" ", "_").replace("-", "_")
        match = next((k for k in known if k.lower() == plain or k == name.strip()), None)
        if match is None:
            near = suggest(plain, known, most=3, cutoff=0.5, quoted=False)
            raise UsageError(
                f"unknown subject {name.strip()!r}", near or f"subjects: {_format_names(known)}"
            )
        if match not in found:
            found.append(match)
    return tuple(found)


def _format_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown


Split = Literal["test", "val", "dev"]
SPLITS: tuple[Split, ...] = ("test", "val", "dev")
LETTERS = ("A", "B", "C", "D")
"""Letters of MMLU's four options, those of a CSV file without further columns."""

ALL_LETTERS = ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J")
"""Letters that a question with options may use: at most ten options."""

Grading = Literal["letter", "number"]
"""How an answer is compared with the right one: by the option's letter, or as a number."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a file, unchanged."""

    subject: str  # `abstract_algebra`
    row: int  # 0-based row of the file, without the header line
    text: str
    choices: tuple[str, ...]
    """The two to ten options, in the order of their letters; empty if the answer is a number."""
    answer: str  # The right letter, or the right number as its file states it
    solution: str = ""
    """Worked solution that the file gives; empty without one. It is shown only in worked examples.
    """
    id: str | None = None  # Identifier that the file gives; None without one

    @property
    def letters(self) -> tuple[str, ...]:
        """Letters of the options; empty if the answer is a number."""
        return ALL_LETTERS[: len(self.choices)]


@dataclass(frozen=True, slots=True)
class Suite:
    """The questions of one split, and the worked examples of every subject."""

    name: str
    """``mmlu`` or another suite with a name, or the stem of a file (its whole name if the stem is
    the name of a suite)."""
    split: str
    sha256: str
    """Hash of the data. Of MMLU, the sample and own files it is :func:`hash_files` of the files of
    questions and examples; of the other suites, which exist in several forms, it is
    :func:`hash_questions` of the questions and then the examples."""
    questions: Mapping[str, Sequence[Question]]  # Subject -> its rows in file order
    examples: Mapping[str, Sequence[Question]]
    """Subject -> worked examples for the prompt; they are never asked."""
    notice: str = ""  # Caveat about the data; empty if there is none
    grading: Grading = "letter"  # How answers are compared with the right ones

    @property
    def sizes(self) -> dict[str, int]:
        """Subject -> its number of questions."""
        return {subject: len(rows) for subject, rows in self.questions.items()}

    @property
    def chance(self) -> float:
        """Accuracy of guessing an option: the mean of 1 / options; 0 if answers are numbers."""
        rows = [question for inside in self.questions.values() for question in inside]
        if self.grading == "number" or not rows:
            return 0.0
        return sum(1 / len(question.choices) for question in rows) / len(rows)


def group_by_subject(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Group questions by subject; subjects and questions keep their order."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.subject, []).append(question)
    return found


def hash_files(files: Mapping[str, bytes]) -> str:
    """Compute the SHA-256 of files concatenated in the byte order of their names."""
    digest = hashlib.sha256()
    for name in sorted(files, key=lambda name: name.encode()):
        digest.update(files[name])
    return digest.hexdigest()


def hash_questions(questions: Iterable[Question]) -> str:
    """Compute the SHA-256 of questions in their order, whatever the form of the file was.

    Each question is one line: its subject, text, options, answer and solution as a JSON array
    without spaces, in UTF-8. Identifiers are left out, since not every form has them.
    """
    digest = hashlib.sha256()
    for one in questions:
        fields = [one.subject, one.text, list(one.choices), one.answer, one.solution]
        line = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()
