"""The count of a vote: which votes count, whether another one is wanted, how it came out.

Votes are counted in the order they were numbered, not in the order they end. The latter depends on
how many fit into one batch, and would favour short answers once a rule stops early; so the same
seeds come to the same result at any width.
"""

from __future__ import annotations

from etui.arm import Arm
from etui.reasoning.ballot import Ballot
from etui.reasoning.stop_rules import Cast, Verdict, VoteTally, tally, verdict
from etui.units import count_text, percent_text


class Poll:
    """The votes of one question.

    Attributes:
        counted: Ballots that count, in their order.
        verdict: The rule's last word on them.
    """

    def __init__(self, arm: Arm) -> None:
        self._votes = arm.votes
        self._stop = arm.stop
        self._behind: dict[int, Ballot] = {}
        self.counted: list[Ballot] = []
        self.verdict = Verdict(False, arm.stop.rule)

    @property
    def decided(self) -> bool:
        """No further vote is wanted."""
        return self.verdict.stop

    @property
    def uncounted(self) -> list[Ballot]:
        """Ballots behind a vote that is still under way, or behind the one that decided."""
        return [self._behind[index] for index in sorted(self._behind)]

    @property
    def tally(self) -> VoteTally:
        """The count so far."""
        return tally([ballot.cast for ballot in self.counted])

    @property
    def winner(self) -> Ballot | None:
        """The first vote for the answer that leads; the first of all where none gave an answer."""
        key = self.tally.key
        return next((b for b in self.counted if key is None or b.extracted.key == key), None)

    def add(self, ballot: Ballot) -> list[Ballot]:
        """Take a ballot; those that count now, in their order."""
        self._behind[ballot.index] = ballot
        news: list[Ballot] = []
        while not self.decided and len(self.counted) in self._behind:
            news.append(self._behind.pop(len(self.counted)))
            self.counted.append(news[-1])
            left = self._votes - len(self.counted)
            self.verdict = verdict(self.tally, left, self._stop)
        return news

    def count_all(self) -> list[Ballot]:
        """Count what came to its end, gaps or not: the vote is broken off here."""
        news = self.uncounted
        self.counted += news
        self._behind.clear()
        return news

    def wants_another(self, under_way: int) -> bool:
        """Whether to begin a further vote beside those under way.

        Not where these would decide if they all agreed with the leader: a token saved is a joule
        saved, and should one of them differ, the next begins then.
        """
        ended = [ballot.cast for ballot in (*self.counted, *self.uncounted)]
        left = self._votes - len(ended) - under_way
        if self.decided or left <= 0:
            return False
        if under_way == 0:
            return True
        leader = tally(ended).key or ""
        agreed = [*ended, *[Cast(leader)] * under_way]
        return not verdict(tally(agreed), left, self._stop).stop

    def why(self, started: int, cut_off: int) -> str:
        """In words how it came out: ``flip: 3 of 3 votes agree, ...; 5 votes saved``.

        Args:
            started: Votes that were begun.
            cut_off: Votes among them that were dropped before their end.
        """
        state = self.tally
        count = count_text(state.count, "vote")
        if state.key is None:
            parts = [f"{self._stop.rule}: none of {count} gave an answer"]
        else:
            parts = [f"{self.verdict.rule}: {state.for_leader} of {count} agree"]
        left = self._votes - state.count
        chance = percent_text(self.verdict.chance) if self.verdict.chance is not None else ""
        match self.verdict.rule:
            case "lead" if self.decided:
                parts[0] += ", the rest cannot change it"
            case "flip" if self.decided:
                parts[0] += f", {chance} chance to flip"
            case "adaptive" if self.decided:
                parts[0] += f", {chance} sure to be the majority"
        saved = min(left, self._votes - started)
        if saved > 0:
            parts.append(f"{count_text(saved, 'vote')} saved")
        if cut_off:
            parts.append(f"{count_text(cut_off, 'vote')} cut off under way")
        return "; ".join(parts)
