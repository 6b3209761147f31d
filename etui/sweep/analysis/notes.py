"""Notes of a sweep's result: what a reader of its figures should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from etui.stats.tests import SIGNIFICANCE
from etui.sweep.analysis.costs import to_percent
from etui.sweep.analysis.floor import Repeatability, SweepRepeatability
from etui.sweep.blocks import Block, Visit
from etui.sweep.result import Accuracy
from etui.units import accuracy_text, change_text, count_text

_LONGEST_LIST = 4


def list_notes(
    blocks: Sequence[Block],
    noise: SweepRepeatability,
    accuracy: Mapping[str, Accuracy],
    indistinct: Sequence[tuple[str, str]],
    dropped: Sequence[str] = (),
) -> tuple[str, ...]:
    """List what a reader should know, the most important first.

    Args:
        accuracy: Empty without a suite.
        indistinct: Neighbours on the frontier that are equal in joules within noise.
        dropped: Settings on the frontier that were dropped in the race.
    """
    visits = [visit for block in blocks for visit in block.visits]
    return (
        *_note_kinds(visits),
        *_note_unequal_copies(noise.joules, "joules"),
        *_note_unequal_copies(noise.seconds, "seconds"),
        *_note_visits(visits),
        *_note_failures(blocks),
        *_note_indistinct(indistinct),
        *_note_dropped(dropped),
        *_note_accuracy(accuracy),
    )


def _note_kinds(visits: Sequence[Visit]) -> Iterator[str]:
    kinds = Counter(visit.kind for visit in visits if visit.joules is not None)
    unmeasured = sum(visit.joules is None for visit in visits)
    if "estimate" in kinds:
        yield (
            "joules are an estimate from CPU time: differences show what the estimate sees "
            "(utilisation and time), not what the hardware draws"
        )
    if len(kinds) > 1:
        counts = ", ".join(
            f"{kind or 'unknown'} in {count_text(count, 'visit')}" for kind, count in kinds.items()
        )
        yield f"energy was determined in several ways, which do not compare: {counts}"
    if unmeasured and kinds:
        yield f"joules are unmeasured in {unmeasured} of {count_text(len(visits), 'visit')}"
    elif unmeasured:
        yield "joules are unmeasured: only seconds are compared"


def _note_unequal_copies(noise: Repeatability, name: str) -> Iterator[str]:
    """Note a difference between equal settings, which the design cannot explain."""
    if noise.p is None or noise.difference is None or noise.p >= SIGNIFICANCE / 2:
        return
    difference = change_text(to_percent(noise.difference))
    yield (
        f"the second visit of the baseline differs from the first by {difference} of the {name}: "
        "the detection floor is not below that"
    )


def _note_visits(visits: Sequence[Visit]) -> Iterator[str]:
    counts = Counter(note for visit in visits for note in dict.fromkeys(visit.notes))
    for note, count in counts.items():
        yield f"{note} ({_share_text(count, visits)})"
    shared = sum(visit.shared for visit in visits)
    if shared:
        yield f"other processes used the measured devices ({_share_text(shared, visits)})"


def _note_failures(blocks: Sequence[Block]) -> Iterator[str]:
    failures = {failure.setting: failure.why for block in blocks for failure in block.failures}
    for setting, why in failures.items():
        yield f"{setting} could not run: {why}"


def _note_indistinct(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    for one, other in pairs:
        yield f"the joules of {one} and {other} are the same within noise"


def _note_dropped(keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        yield (
            f"{key} is on the frontier as the best of its accuracy; it was dropped, so its joules "
            "and seconds are those of the race and were not confirmed"
        )


def _note_accuracy(accuracy: Mapping[str, Accuracy]) -> Iterator[str]:
    shared: dict[str, list[str]] = {}
    for key, one in accuracy.items():
        if one.measured_as != key:
            shared.setdefault(one.measured_as, []).append(key)
        lost = one.difference_points
        if one.p is not None and one.p < SIGNIFICANCE and lost is not None and lost.value < 0:
            yield (
                f"{key} answers fewer questions right: {accuracy_text(one.share.value)}, "
                f"{abs(lost.value):.1f} points less than the baseline"
            )
    for source, keys in shared.items():
        yield f"accuracy of {_join(keys)} is that of {source}, which computes the same numbers"


def _share_text(count: int, visits: Sequence[Visit]) -> str:
    return f"in {count} of {count_text(len(visits), 'visit')}"


def _join(keys: Sequence[str]) -> str:
    if len(keys) > _LONGEST_LIST:
        return f"{', '.join(keys[:_LONGEST_LIST])} and {len(keys) - _LONGEST_LIST} more"
    return ", ".join(keys)
