"""A replay of the log in words: the same in the app and on the command line."""

from __future__ import annotations

from collections.abc import Iterator

from etui import units
from etui.replay.documents import MovedAccuracy, MovedJoules, TurnsDocument
from etui.text.sanitize import sanitize
from etui.turn.text import about_joules


def replayed_lines(document: TurnsDocument) -> Iterator[str]:
    """How many questions would move, and what both sides come to.

    Args:
        document: What :func:`etui.replay.log_replay.turns_document` gives.
    """
    if not document["n"]:
        yield "the log holds no turn yet"
        return
    yield sanitize(
        f"policy {document['policy']}: {document['moved']:,} of "
        f"{units.count_text(document['n'], 'question')} would be answered otherwise"
    )
    if document["undecided"]:
        yield f"{units.count_text(document['undecided'], 'question')} it can bring to no arm here"
    yield from _joules_lines(document["joules"])
    yield _accuracy_line(document["accuracy"])
    if document["cascades"]:
        count = units.count_text(document["cascades"], "question")
        yield f"{count} to a cascade, reckoned by its first arm unless it began with that one"


def move_rows(document: TurnsDocument) -> list[tuple[str, str, str]]:
    """(from, to, questions) of every move, the commonest first."""
    return [
        (sanitize(move["from"]), sanitize(move["to"]), f"{move['n']:,}")
        for move in document["moves"]
    ]


def _joules_lines(joules: MovedJoules) -> Iterator[str]:
    kinds = joules["kinds"]
    measured = units.energy_text(joules["measured"], None, kinds[0] if len(kinds) == 1 else None)
    mixed = f" ({', '.join(kinds)})" if len(kinds) > 1 else ""
    turns = units.count_text(joules["measured_turns"], "turn")
    yield f"measured: {measured}{mixed} over {turns}"
    if not joules["predicted_turns"]:
        yield "predicted: nothing is known of the models yet; see `etui calibrate`"
        return
    before, after = joules["predicted_before"] or 0.0, joules["predicted_after"] or 0.0
    yield (
        f"predicted, loads left out: {about_joules(before)} as they were answered, "
        f"{about_joules(after)} now, over {units.count_text(joules['predicted_turns'], 'turn')}"
    )


def _accuracy_line(accuracy: MovedAccuracy) -> str:
    if not accuracy["predicted_turns"]:
        return "expected accuracy: unknown, as nothing was fitted; see `etui policy fit`"
    before, after = accuracy["predicted_before"], accuracy["predicted_after"]
    return (
        f"expected accuracy: {units.accuracy_text(before)} as they were answered, "
        f"{units.accuracy_text(after)} now, over "
        f"{units.count_text(accuracy['predicted_turns'], 'turn')}"
    )
