"""Split what a batch computed among the requests in it. Pure functions over members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etui.engine.batching.member import Member
from etui.engine.session import Sampled, Step
from etui.events import BatchShare, Verified


def split_step(step: Step, members: Sequence[Member]) -> list[Step]:
    """Return each member's own part of a step, with the times of the whole batch.

    Args:
        members: The requests whose sequences it has, with what they wanted.
    """
    if len(members) == 1:
        return [step]
    place = {
        sequence.id: index for index, member in enumerate(members) for sequence, _ in member.wanted
    }
    computed: list[dict[int, int]] = [{} for _ in members]
    for id_, count in step.computed.items():
        computed[place[id_]][id_] = count
    sampled: list[list[Sampled]] = [[] for _ in members]
    for each in step.sampled:
        sampled[place[each.sequence_id]].append(each)
    verified: dict[int, list[Verified]] = {}
    for event, id_ in zip(step.verified, step.verified_ids, strict=True):
        verified.setdefault(place[id_], []).append(event)
    return [
        Step(
            step.start_ns,
            step.end_ns,
            computed[index],
            tuple(sampled[index]),
            tuple(verified.get(index, ())),
        )
        for index in range(len(members))
    ]


def build_shares(tokens: Mapping[int, int], members: Sequence[Member]) -> tuple[BatchShare, ...]:
    """Build the share of each member with tokens in a batch.

    Args:
        tokens: Number of tokens by sequence id.
        members: The requests in the batch, with what they wanted; ``prefilled`` as before it.
    """
    shares = []
    for member in members:
        count = sum(tokens.get(sequence.id, 0) for sequence, _ in member.wanted)
        if count and member.prefilled:
            shares.append(BatchShare(member.number, 0, count))
        elif count:
            shares.append(BatchShare(member.number, count, 0))
    return tuple(shares)
