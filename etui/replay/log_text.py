"""Text of a replay of the log, for the app and the command line."""

from __future__ import annotations

from collections.abc import Iterator

from etui import units
from etui.replay.documents import MovedAccuracy, MovedJoules, TurnsDocument
from etui.text import sanitize
from etui.turn.text import about_joules


def replayed_lines(document: TurnsDocument) -> Iterator[str]:
    """Yield the number of questions that would move, and joules and accuracy of both sides.

    Args:
        document: The document from :func:`etui.replay.log_replay.build_turns_document`.
    """
    if not document["n"]:
        yield "the log has no turns yet"
        return
    yield sanitize(
        f"policy {document['policy']}: {document['moved']:,} of "
        f"{units.count_text(document['n'], 'question')} would move to another arm"
    )
    if document["undecided"]:
        count = units.count_text(document["undecided"], "question")
        yield f"{count} for which no arm is available on this machine"
    yield from _joules_lines(document["joules"])
    yield _accuracy_line(document["accuracy"])
    if document["cascades"]:
        count = units.count_text(document["cascades"], "question")
        yield f"{count} to a cascade, counted by its first step unless the turn started with it"


def move_rows(document: TurnsDocument) -> list[tuple[str, str, str]]:
    """Return (from, to, questions) of every move, most frequent first."""
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
        yield "predicted: unknown, no data about the models yet; see `etui calibrate`"
        return
    before, after = joules["predicted_before"] or 0.0, joules["predicted_after"] or 0.0
    yield (
        f"predicted, without loads: {about_joules(before)} before, "
        f"{about_joules(after)} after, over {units.count_text(joules['predicted_turns'], 'turn')}"
    )


def _accuracy_line(accuracy: MovedAccuracy) -> str:
    if not accuracy["predicted_turns"]:
        return "expected accuracy: unknown, nothing was fitted; see `etui policy fit`"
    before, after = accuracy["predicted_before"], accuracy["predicted_after"]
    return (
        f"expected accuracy: {units.accuracy_text(before)} before, "
        f"{units.accuracy_text(after)} after, over "
        f"{units.count_text(accuracy['predicted_turns'], 'turn')}"
    )
