"""Count the votes: which of them count, whether another one is needed, and the result.

Votes are counted in the order of their numbers, not in the order they end. The latter depends on
how many fit into one batch, and would favour short answers when a rule stops early; so the same
seeds give the same result with any batch size.
"""

from __future__ import annotations

from etui.arm import Arm
from etui.reasoning.ballot import Ballot
from etui.reasoning.stop_rules import Cast, Verdict, VoteTally, tally, verdict
from etui.units import count_text, percent_text


class Poll:
    """The votes of one question.

    Attributes:
        counted: Ballots that count, in the order of their numbers.
        verdict: The current verdict of the stop rule on them.
    """

    def __init__(self, arm: Arm) -> None:
        self._votes = arm.votes
        self._stop = arm.stop
        self._behind: dict[int, Ballot] = {}
        self.counted: list[Ballot] = []
        self.verdict = Verdict(False, arm.stop.rule)

    @property
    def decided(self) -> bool:
        """Whether no further vote is needed."""
        return self.verdict.stop

    @property
    def uncounted(self) -> list[Ballot]:
        """Ballots after a vote that is still running, or after the one that decided."""
        return [self._behind[index] for index in sorted(self._behind)]

    @property
    def tally(self) -> VoteTally:
        """The count so far."""
        return tally([ballot.cast for ballot in self.counted])

    @property
    def winner(self) -> Ballot | None:
        """The first vote for the leading answer; the first of all if none has an answer."""
        key = self.tally.key
        return next((b for b in self.counted if key is None or b.extracted.key == key), None)

    def add(self, ballot: Ballot) -> list[Ballot]:
        """Add a ballot and return those that count now, in the order of their numbers."""
        self._behind[ballot.index] = ballot
        news: list[Ballot] = []
        while not self.decided and len(self.counted) in self._behind:
            news.append(self._behind.pop(len(self.counted)))
            self.counted.append(news[-1])
            left = self._votes - len(self.counted)
            self.verdict = verdict(self.tally, left, self._stop)
        return news

    def count_all(self) -> list[Ballot]:
        """Count all completed votes, despite gaps, because the vote was ended early."""
        news = self.uncounted
        self.counted += news
        self._behind.clear()
        return news

    def wants_another(self, under_way: int) -> bool:
        """Decide whether to start another vote in addition to the running ones.

        None is started if the running ones would decide the vote by agreeing with the leader: this
        saves joules, and if one of them differs, the next vote can still be started.
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

    def why(self, started: int, cut_off: int, looped: int = 0) -> str:
        """Describe the result: ``flip: 3 of 3 votes agree, ...; 5 votes saved``.

        Args:
            cut_off: Number of these that were dropped unfinished.
            looped: Number of these that were ended because they repeat themselves.
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
                parts[0] += ", the remaining votes cannot change it"
            case "flip" if self.decided:
                parts[0] += f", {chance} chance to flip"
            case "adaptive" if self.decided:
                parts[0] += f", {chance} probability of a majority"
        saved = min(left, self._votes - started)
        if saved > 0:
            parts.append(f"{count_text(saved, 'vote')} saved")
        if cut_off:
            parts.append(f"{count_text(cut_off, 'vote')} dropped unfinished")
        if looped:
            parts.append(f"{count_text(looped, 'vote')} ended in a repetition")
        return "; ".join(parts)
