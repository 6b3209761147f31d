"""Loop of a run on several nodes: give pieces, take answers, and cope with nodes that are lost."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from etui.bench.config import RunConfig
from etui.bench.machines import MachineShare, is_comparison, name_system, split_system
from etui.bench.sample import Sample
from etui.bench.schedule import Piece
from etui.cluster.messages import (
    Answers,
    Died,
    Ended,
    Failed,
    Message,
    Note,
    Opened,
    Opening,
    Task,
    Wasted,
)
from etui.cluster.open_nodes import TICK_SECONDS, NodeDriver
from etui.cluster.ray_carrier import ClusterNode
from etui.cluster.tally import Losses, NodeTally
from etui.errors import EtuiError, Stopped, UsageError
from etui.measure.run import Ending
from etui.units import count_text, seconds_text

Key = tuple[str, str, int]
"""System, subject and row of a question."""


def list_keys(piece: Piece) -> tuple[Key, ...]:
    """List the keys of the questions of a piece, in order."""
    return tuple((piece.system, piece.subject, row) for row in piece.rows)


@dataclass(slots=True)
class _Flight:
    """A piece that a machine was given."""

    piece: Piece
    owner: str | None
    keys: frozenset[Key]
    given_back: bool = False  # Whether others may answer it too, since the machine has been silent
    overtaken: bool = False  # Whether another machine has answered one of its questions meanwhile


class PieceBoard:
    """The pieces of a run on several machines; the first answer to a question counts.

    A piece that is given back is asked again without the rows that were answered meanwhile. Nothing
    here waits, sends or reads a clock.

    Args:
        pieces: Machine that has to answer -> its pieces; those of None are for any machine.
        answered: Keys that are answered already.
    """

    def __init__(
        self, pieces: Mapping[str | None, Iterable[Piece]], answered: Collection[Key] = ()
    ) -> None:
        self._waiting = {owner: deque(inside) for owner, inside in pieces.items()}
        self._flights: dict[str, _Flight] = {}
        self._losers: dict[Piece, list[str]] = {}
        every = {
            key for inside in self._waiting.values() for piece in inside for key in list_keys(piece)
        }
        self._left = every.difference(answered)

    @property
    def left(self) -> int:
        """Number of unanswered questions."""
        return len(self._left)

    def take(self, machine: str) -> Task | None:
        """Give a machine the next piece that it may answer; None if there is none now.

        Raises:
            ValueError: It has a piece already.
        """
        if machine in self._flights:
            raise ValueError(f"{machine} has a piece already")
        for owner in (machine, None):
            waiting = self._waiting.get(owner)
            while waiting:
                piece = waiting.popleft()
                left = self._unanswered(piece)
                if left:
                    keys = list_keys(piece)
                    self._flights[machine] = _Flight(piece, owner, frozenset(keys))
                    return Task(piece, tuple(key[2] for key in keys if key not in left))
        return None

    def add(self, machine: str, keys: Sequence[Key]) -> list[bool]:
        """Count answers of a machine; return for each whether it is the first to its key."""
        for other, flight in self._flights.items():
            if other != machine and not flight.keys.isdisjoint(keys):
                flight.overtaken = True
        first = []
        for key in keys:
            first.append(key in self._left)
            self._left.discard(key)
        return first

    def in_flight(self, machine: str) -> tuple[Key, ...]:
        """Return the unanswered keys of the piece that a machine has."""
        flight = self._flights.get(machine)
        return self._unanswered(flight.piece) if flight is not None else ()

    def finish(self, machine: str) -> None:
        """Note that a machine has ended its piece; rows it left out wait again."""
        self._release(machine)

    def lose(self, machine: str) -> tuple[str, ...]:
        """Take the piece of a machine back, because it died or failed.

        Returns:
            The machines that lost this piece, one for each time; none if nothing of it was left to
            answer, or if the machine had none.
        """
        flight = self._release(machine)
        if flight is None or not self._unanswered(flight.piece):
            return ()
        losers = self._losers.setdefault(flight.piece, [])
        losers.append(machine)
        return tuple(losers)

    def give_back(self, machine: str) -> int:
        """Let other machines answer the piece of a silent machine, whose late answers still count.

        Returns:
            The number of questions given back.
        """
        flight = self._flights.get(machine)
        if flight is None or flight.given_back:
            return 0
        self._wait_again(flight)
        flight.given_back = True
        return len(self._unanswered(flight.piece))

    def is_answered_by_others(self, machine: str) -> bool:
        """Return whether others have helped to answer all of the piece that a machine has."""
        flight = self._flights.get(machine)
        return flight is not None and flight.overtaken and not self._unanswered(flight.piece)

    def can_continue(self, machines: Collection[str]) -> bool:
        """Return whether these machines are enough to answer, or are answering, what is left."""
        if any(machine in self._flights for machine in machines):
            return True
        return any(
            self._unanswered(piece)
            for owner, waiting in self._waiting.items()
            if (owner in machines if owner is not None else machines)
            for piece in waiting
        )

    def _release(self, machine: str) -> _Flight | None:
        flight = self._flights.pop(machine, None)
        if flight is not None and not flight.given_back:
            self._wait_again(flight)
        return flight

    def _wait_again(self, flight: _Flight) -> None:
        if self._unanswered(flight.piece):
            self._waiting[flight.owner].appendleft(flight.piece)

    def _unanswered(self, piece: Piece) -> tuple[Key, ...]:
        return tuple(key for key in list_keys(piece) if key in self._left)


MOST_DEATHS = 3
"""Deaths in a row, without an answer between them, after which a node is given up."""
MOST_LOSSES = 3
"""Losses of one piece after which the run ends: the piece, not the nodes, is the cause."""
Stage = Literal["idle", "working", "silent", "gone"]


@dataclass(slots=True, eq=False)
class RunNode:
    """A node in a run, and what it is doing."""

    key: str  # Key of its machine in the run
    name: str  # Its name in messages
    node: ClusterNode
    versions: Mapping[str, object]  # Those it was opened with
    tally: NodeTally
    stage: Stage = "idle"
    is_open: bool = True  # False from its death until it has opened the run again
    heard: float = 0.0  # When it said something last
    system: str = ""  # System of its piece
    longest: float | None = None  # Its longest time to an answer, in seconds
    group: int = 1  # Most questions that it answered together
    deaths_in_a_row: int = 0
    is_stopped: bool = False  # Whether it was asked to end its piece


def split_pieces(pieces: Sequence[Piece], config: RunConfig) -> dict[str | None, Sequence[Piece]]:
    """Say which machine answers which pieces: each all of them in a comparison, else any."""
    if not is_comparison(config):
        return {None: pieces}
    return {
        machine.key: [
            replace(piece, system=name_system(piece.system, machine.key)) for piece in pieces
        ]
        for machine in config.machines or ()
    }


class ClusterLoop:
    """Has nodes answer the questions of a run.

    Args:
        opening: What opens a node again after its process has died.
        config: The run; its machines have the keys of the nodes.
        pieces: What is asked, with the systems of the plan.
        before: The answers that the run has already.
        write: Takes answers that count; raises :class:`EtuiError` if they cannot be written.
    """

    def __init__(
        self,
        driver: NodeDriver,
        nodes: Sequence[RunNode],
        opening: Opening,
        config: RunConfig,
        pieces: Sequence[Piece],
        before: Sequence[Sample],
        write: Callable[[Sequence[Sample]], None],
    ) -> None:
        self._driver = driver
        self._carrier = driver.carrier
        self._say = driver.say
        self._now = driver.now
        self._patience = driver.patience
        self._nodes = {each.node.id: each for each in nodes}
        self._opening = opening
        self._config = config
        self._compare = is_comparison(config)
        self._write = write
        answered = {(config.contender(each.arm), each.subject, each.row) for each in before}
        self._board = PieceBoard(split_pieces(pieces, config), answered)
        self._joules = math.fsum(each.joules for each in before if each.joules is not None)
        self._means: dict[str, tuple[float, int]] = {}
        for sample in before:
            self._add_mean(sample)

    def run(self, check: Callable[[float], Ending | None]) -> Ending:
        """Answer everything that is left.

        Args:
            check: Takes the joules of the answers so far; returns why the run ends now, or None.

        Raises:
            Stopped: No node is left that can go on.
            UsageError: Every node would fail alike.
            EtuiError: A piece failed on several nodes, or the answers cannot be written.
        """
        try:
            ending = self._answer(check)
        except EtuiError:
            self._stop_all()  # the others have answers under way
            raise
        self._stop_all()
        return ending

    def _answer(self, check: Callable[[float], Ending | None]) -> Ending:
        while self._board.left:
            if ending := check(self._joules):
                return ending
            self._give_pieces()
            for node_id, message in self._carrier.wait(TICK_SECONDS):
                node = self._nodes.get(node_id)
                if node is not None and node.stage != "gone":
                    self._take(node, message)
            self._note_silence()
            self._stop_overtaken()
            self._refuse_dead_end()
        return "complete"

    def _give_pieces(self) -> None:
        for node in self._nodes.values():
            task = self._board.take(node.key) if node.stage == "idle" else None
            if task is not None:
                node.stage, node.system = "working", task.piece.system
                node.heard, node.is_stopped = self._now(), False
                if self._compare:
                    system = split_system(node.system)[0]
                    task = replace(task, piece=replace(task.piece, system=system))
                self._carrier.call(node.node.id, "answer", task)

    def _take(self, node: RunNode, message: Message) -> None:
        if node.stage == "silent" and not isinstance(message, Failed | Died | Ended):
            node.stage = "working"
            self._say(f"node {node.name} answers again")
        match message:
            case Note(text):
                self._say(f"{node.name}: {text}")
            case Opened(config):
                node.is_open = True
                if config.versions != node.versions:
                    self._give_up(node, "came back with other versions")
            case Answers() | Wasted():
                self._count(node, message)
            case Failed(what, fix, exit_code):
                if not node.is_open:
                    self._give_up(node, f"did not come back: {what}")
                elif exit_code == UsageError.exit_code:
                    raise UsageError(f"node {node.name}: {what}", fix)
                else:
                    self._lose(node, what, died=False)
            case Died(why):
                self._lose(node, why, died=True)
            case Ended():
                self._board.finish(node.key)
                node.stage = "idle"
        node.heard = self._now()

    def _count(self, node: RunNode, message: Answers | Wasted) -> None:
        """Count answers; the first to a question is written, any other is a loss."""
        if isinstance(message, Wasted):
            node.tally.losses += Losses.measure(
                message.joules, message.uncertainty, message.kind, tries=1
            )
            return
        node.longest = max(node.longest or 0.0, self._now() - node.heard)
        node.group = max(node.group, len(message.samples))
        node.deaths_in_a_row = 0
        share = MachineShare(node.key, self._compare)
        samples = [share.place(each) for each in message.samples]
        keys = [(self._config.contender(each.arm), each.subject, each.row) for each in samples]
        firsts = self._board.add(node.key, keys)
        if new := [sample for sample, first in zip(samples, firsts, strict=True) if first]:
            self._write(new)
        for sample, first in zip(samples, firsts, strict=True):
            if first:
                node.tally.add(sample)
                self._add_mean(sample)
                self._joules += sample.joules or 0.0
            else:
                node.tally.losses += Losses.measure(
                    sample.joules, sample.uncertainty, sample.kind, doubled=1
                )

    def _lose(self, node: RunNode, why: str, *, died: bool) -> None:
        """Take the piece of a node back after its process died, or failed and lived."""
        node.tally.deaths += 1
        node.deaths_in_a_row += 1
        keys = self._board.in_flight(node.key)
        if died:
            self._count_lost(node)
        losers = self._board.lose(node.key)
        back = f", {count_text(len(keys), 'question')} given back" if keys else ""
        self._say(f"node {node.name} {'died' if died else 'failed'}{back}: {why}")
        if len(losers) >= MOST_LOSSES and len(set(losers)) > 1:
            raise EtuiError(
                f"{keys[0][0]}, {keys[0][1]}: {count_text(len(losers), 'try', 'tries')} on "
                f"{count_text(len(set(losers)), 'node')} failed, the last because {why}",
                "the answers so far are kept; look at the log of these nodes, then resume the run",
            )
        if node.deaths_in_a_row >= MOST_DEATHS:
            self._give_up(node, f"failed {node.deaths_in_a_row} times in a row: {why}")
        elif died and node.node.id not in {each.id for each in self._carrier.list_nodes()}:
            self._give_up(node, f"is gone: {why}")
        elif died:
            node.stage, node.is_open = "idle", False
            self._carrier.start(node.node, self._opening)

    def _give_up(self, node: RunNode, why: str) -> None:
        self._board.finish(node.key)
        node.stage = "gone"
        node.tally.given_up = why
        self._say(f"node {node.name} {why}; the others go on")
        self._carrier.end(node.node.id)

    def _limit_silence(self, node: RunNode) -> float:
        if not node.is_open:
            return self._patience.opening
        return self._patience.limit_silence(node.longest)

    def _note_silence(self) -> None:
        for node in self._nodes.values():
            silent = self._now() - node.heard
            if node.stage != "working" or silent <= self._limit_silence(node):
                continue
            if not node.is_open:
                self._give_up(node, "did not come back")
                continue
            node.stage = "silent"
            back = count_text(self._board.give_back(node.key), "question")
            since = seconds_text(silent)
            self._say(f"node {node.name} has been silent for {since}: {back} given back")

    def _stop_overtaken(self) -> None:
        """Have nodes end a piece that others have answered; they would only double the answers."""
        for node in self._nodes.values():
            busy = node.stage in ("working", "silent") and not node.is_stopped
            if busy and self._board.is_answered_by_others(node.key):
                node.is_stopped = True
                self._carrier.stop(node.node.id)

    def _refuse_dead_end(self) -> None:
        """End the run if no node can answer what is left."""
        nodes = self._nodes.values()
        live = [node.key for node in nodes if node.stage not in ("silent", "gone")]
        if not self._board.left or self._board.can_continue(live):
            return
        silent = [node for node in nodes if node.stage == "silent"]
        if silent:
            waited = self._now() - max(node.heard for node in silent)
            if waited <= 2 * max(self._limit_silence(node) for node in silent):
                return
        gone = "; ".join(
            f"node {node.name} {node.tally.given_up or 'is silent'}"
            for node in nodes
            if node.stage in ("silent", "gone")
        )
        raise Stopped(f"no node can answer the {self._board.left:,} questions left: {gone}")

    def _stop_all(self) -> None:
        """Have the nodes end their current question, and take what they still answer.

        What a node spent that does not reply is lost, and stays unknown.
        """
        busy = {node for node in self._nodes.values() if node.stage == "working"}
        for node in busy:
            self._carrier.stop(node.node.id)
        until = self._now() + self._patience.stopping
        while busy and self._now() < until:
            for node_id, message in self._carrier.wait(TICK_SECONDS):
                found = self._nodes.get(node_id)
                if found is None or found not in busy:
                    continue
                match message:
                    case Answers() | Wasted():
                        self._count(found, message)
                    case Ended():
                        busy.discard(found)
                    case Died():
                        busy.discard(found)
                        found.tally.deaths += 1
                        self._count_lost(found)
        for node in self._nodes.values():
            if node in busy or node.stage == "silent":
                self._count_lost(node)

    def _count_lost(self, node: RunNode) -> None:
        """Count what a dead node was answering: at most as many as it answers together."""
        unanswered = len(self._board.in_flight(node.key))
        # What others have answered meanwhile it was answering too, in vain.
        if node.is_open and (unanswered or self._board.is_answered_by_others(node.key)):
            joules, count = self._means.get(node.system, (0.0, 0))
            questions = min(node.group, max(1, unanswered))
            mean = joules / count if count else None
            node.tally.losses += Losses.estimate(questions, mean)

    def _add_mean(self, sample: Sample) -> None:
        if sample.joules is not None:
            system = self._config.contender(sample.arm)
            joules, count = self._means.get(system, (0.0, 0))
            self._means[system] = joules + sample.joules, count + 1
