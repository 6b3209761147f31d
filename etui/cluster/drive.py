"""Loop of a run on several nodes: give pieces, take answers, and cope with nodes that are lost.

Ray starts a process that died again. What is left here is what Ray cannot know: that the first
answer to a question counts, and which joules gave none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal

from etui.bench.config import RunConfig
from etui.bench.machines import MachineShare, is_comparison, split_system
from etui.bench.sample import Sample
from etui.bench.schedule import Piece
from etui.cluster.messages import (
    Answers,
    CurvePoint,
    Died,
    Ended,
    Failed,
    Message,
    Opening,
    Task,
    Wasted,
)
from etui.cluster.open_nodes import TICK_SECONDS, NodeDriver
from etui.cluster.ray_carrier import ClusterNode
from etui.cluster.tally import Losses, NodeTally
from etui.errors import EtuiError, Stopped, UsageError
from etui.measure.progress import Progress
from etui.measure.run import Ending
from etui.units import count_text, seconds_text

Key = tuple[str, str, int]  # System, subject and row of a question


def list_keys(piece: Piece) -> tuple[Key, ...]:
    """List the keys of the questions of a piece, in order."""
    return tuple((piece.system, piece.subject, row) for row in piece.rows)


class PieceBoard:
    """The pieces of a run on several machines; the first answer to a question counts.

    A piece that is lost is asked again without the rows that were answered meanwhile. Nothing here
    waits, sends or reads a clock. With ``compare``, the system of a piece names the only machine
    that may answer it.
    """

    def __init__(self, answered: Collection[Key] = (), *, compare: bool = False) -> None:
        self._answered = set(answered)
        self._compare = compare
        self._left: set[Key] = set()
        self._waiting: deque[Piece] = deque()
        self._flights: dict[str, Piece] = {}
        self._losers: dict[Piece, list[str]] = {}

    @property
    def left(self) -> int:
        """Number of unanswered questions."""
        return len(self._left)

    def ask(self, pieces: Iterable[Piece]) -> None:
        """Add pieces, which wait for a machine."""
        for piece in pieces:
            self._waiting.append(piece)
            self._left |= set(list_keys(piece)) - self._answered

    def take(self, machine: str, silent: Collection[str] = ()) -> Task | None:
        """Give a machine the next piece that it may answer; None if there is none now.

        Others may answer the pieces of ``silent`` machines too, once no piece waits. ValueError if
        it has a piece already.
        """
        if machine in self._flights:
            raise ValueError(f"{machine} has a piece already")
        while self._waiting and not self._unanswered(self._waiting[0]):
            self._waiting.popleft()
        busy = {piece for other, piece in self._flights.items() if other not in silent}
        stuck = [self._flights[other] for other in silent if other in self._flights]
        for piece in chain(self._waiting, stuck):
            mine = not self._compare or split_system(piece.system)[1] == machine
            left = self._unanswered(piece)
            if mine and left and piece not in busy:
                if piece in self._waiting:
                    self._waiting.remove(piece)
                self._flights[machine] = piece
                return Task(piece, tuple(key[2] for key in list_keys(piece) if key not in left))
        return None

    def add(self, keys: Sequence[Key]) -> list[bool]:
        """Count answers; return for each whether it is the first to its key."""
        first = []
        for key in keys:
            first.append(key in self._left)
            self._left.discard(key)
        self._answered.update(key for key, is_first in zip(keys, first, strict=True) if is_first)
        return first

    def in_flight(self, machine: str) -> tuple[Key, ...]:
        """Return the unanswered keys of the piece that a machine has."""
        piece = self._flights.get(machine)
        return () if piece is None else self._unanswered(piece)

    def finish(self, machine: str) -> Piece | None:
        """Take back the piece of a machine; rows that are unanswered wait again, before others."""
        piece = self._flights.pop(machine, None)
        if piece is not None and self._unanswered(piece) and piece not in self._flights.values():
            self._waiting.appendleft(piece)
        return piece

    def lose(self, machine: str) -> tuple[str, ...]:
        """Take back the piece of a machine, because it died or failed.

        Returns the machines that lost this piece, one for each time; none if nothing of it was left
        to answer, or if the machine had none.
        """
        piece = self.finish(machine)
        if piece is None or not self._unanswered(piece):
            return ()
        losers = self._losers.setdefault(piece, [])
        losers.append(machine)
        return tuple(losers)

    def _unanswered(self, piece: Piece) -> tuple[Key, ...]:
        return tuple(key for key in list_keys(piece) if key in self._left)


MOST_FAILURES = 3
"""Deaths and errors in a row, without an answer between them, after which a node is given up."""
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
    opening: Opening  # What its process opens if Ray restarted it
    tally: NodeTally = field(default_factory=NodeTally)
    stage: Stage = "idle"
    is_open: bool = True  # False from its death until it has opened the run again
    heard: float = 0.0  # When it said something last
    system: str = ""  # System of its piece
    longest: float | None = None  # Its longest time to an answer, in seconds
    group: int = 1  # Most questions that it answered together
    failures: int = 0  # Without an answer between them
    was_silent: bool = False  # Whether others may have answered questions of its piece
    is_stopped: bool = False  # Whether it was asked to end its piece


class ClusterLoop:
    """Has nodes answer the questions of a run.

    Args:
        before: The answers that the run has already.
        write: Takes answers that count; raises :class:`EtuiError` if they cannot be written.
        keep_point: Takes the key of a machine and a point of a curve that it measured.
    """

    def __init__(
        self,
        driver: NodeDriver,
        nodes: Sequence[RunNode],
        config: RunConfig,
        before: Sequence[Sample],
        write: Callable[[Sequence[Sample]], None],
        keep_point: Callable[[str, CurvePoint], None] = lambda machine, point: None,
    ) -> None:
        self._driver = driver
        self._carrier = driver.carrier
        self._say = driver.say
        self._now = driver.now
        self._nodes = {each.node.id: each for each in nodes}
        self._config = config
        self._compare = is_comparison(config)
        self._write = write
        self._keep_point = keep_point
        self._heard: deque[tuple[str, Message]] = deque()
        self._joules = 0.0
        answered = {(config.contender(each.arm), each.subject, each.row) for each in before}
        self._board = PieceBoard(answered, compare=self._compare)
        self._means: dict[str, tuple[float, int]] = {}
        for sample in before:
            self._add(sample)

    def run(
        self, blocks: Iterable[Iterable[Piece]], check: Callable[[float], Ending | None]
    ) -> Ending:
        """Answer everything that is left; a block is asked for once the last one is answered.

        Stopped if no node is left that can go on; UsageError if every node would fail alike;
        EtuiError if a piece failed on several nodes, or the answers cannot be written.
        """
        try:
            ending: Ending = "complete"
            for pieces in blocks:
                self._board.ask(pieces)
                if found := self._answer(check):
                    ending = found
                    break
        except EtuiError:
            self._stop_all()  # the others have answers under way
            raise
        self._stop_all()
        return ending

    def _answer(self, check: Callable[[float], Ending | None]) -> Ending | None:
        while self._board.left:
            if ending := check(self._joules):
                return ending
            self._give_pieces()
            self._refuse_dead_end()
            for node, message in self._hear():
                self._take(node, message)
            self._note_silence()
            self._stop_overtaken()
        return None

    def _hear(self) -> Iterator[tuple[RunNode, Message]]:
        """Yield what nodes say; what is left when an error ends the run is kept for its end."""
        self._heard = self._heard or deque(self._carrier.wait(TICK_SECONDS))
        while self._heard:
            at, message = self._heard.popleft()
            yield self._nodes[at], message

    def _in(self, *stages: Stage) -> list[RunNode]:
        return [node for node in self._nodes.values() if node.stage in stages]

    def _give_pieces(self) -> None:
        silent = [node.key for node in self._in("silent")]
        for node in self._in("idle"):
            if task := self._board.take(node.key, silent):
                node.stage, node.system = "working", task.piece.system
                node.was_silent = node.is_stopped = False
                if node.is_open:
                    node.heard = self._now()
                if self._compare:
                    system = split_system(node.system)[0]
                    task = replace(task, piece=replace(task.piece, system=system))
                self._carrier.call(node.node.id, "answer", replace(task, opening=node.opening))

    def _take(self, node: RunNode, message: Message) -> None:
        if node.stage == "silent" and not isinstance(message, Failed | Died | Ended):
            node.stage = "working"
            self._say(f"node {node.name} answers again")
        if isinstance(message, Answers):
            node.longest = max(node.longest or 0.0, self._now() - node.heard)
        if node.is_open or not isinstance(message, Died):
            node.heard = self._now()
        match message:
            case Progress():
                self._say(f"{node.name}: {message.text}")
            case RunConfig():
                if node.is_open:  # it died while it waited for a piece
                    node.tally.deaths += 1
                node.is_open = True
                if message.versions != node.versions:
                    self._give_up(node, "came back with other versions")
            case Answers() | Wasted() | CurvePoint():
                self._count(node, message)
            case Failed(what, fix, exit_code):
                if not node.is_open:
                    self._give_up(node, f"did not come back: {what}")
                elif exit_code == UsageError.exit_code:
                    raise UsageError(f"node {node.name}: {what}", fix)
                else:
                    self._lose(node, "failed", what)
            case Died(why, gone):
                node.stage = "idle"
                if node.is_open:
                    self._count_death(node)
                    self._lose(node, "died", why)
                else:  # the same death: Ray has not started it again yet
                    self._board.finish(node.key)
                if gone:
                    self._give_up(node, f"is gone: {why}")
            case Ended():
                self._board.finish(node.key)
                node.stage = "idle"

    def _count(self, node: RunNode, message: Answers | Wasted | CurvePoint) -> None:
        """Count what a node measured; of answers, the first to a question, others are losses."""
        if isinstance(message, Wasted):
            node.tally.losses += Losses.measure(message, tries=1)
            return
        if isinstance(message, CurvePoint):
            points = dict(node.opening.points or {})
            points[message.model] = (*points.get(message.model, ()), message.point)
            node.opening = replace(node.opening, points=points)
            self._joules += message.joules
            self._keep_point(node.key, message)
            return
        node.group = max(node.group, len(message.samples))
        node.failures = 0
        share = MachineShare(node.key, self._compare)
        samples = [share.place(each) for each in message.samples]
        keys = [(self._config.contender(each.arm), each.subject, each.row) for each in samples]
        firsts = self._board.add(keys)
        if new := [sample for sample, first in zip(samples, firsts, strict=True) if first]:
            self._write(new)
        for sample, first in zip(samples, firsts, strict=True):
            if first:
                self._add(sample)
            else:
                node.tally.losses += Losses.measure(sample, doubled=1)
        seconds = node.opening.seconds + sum(sample.seconds for sample in new)
        node.opening = replace(node.opening, seconds=seconds)

    def _add(self, sample: Sample) -> None:
        if sample.joules is not None:
            self._joules += sample.joules
            system = self._config.contender(sample.arm)
            joules, count = self._means.get(system, (0.0, 0))
            self._means[system] = joules + sample.joules, count + 1

    def _count_death(self, node: RunNode) -> None:
        node.is_open = False
        node.tally.deaths += 1
        self._count_lost(node)
        self._leave_host(node)

    def _count_lost(self, node: RunNode) -> None:
        """Count what a dead node was answering: at most as many as it answers together."""
        unanswered = len(self._board.in_flight(node.key))
        # What others have answered meanwhile it was answering too, for nothing.
        if unanswered or node.was_silent:
            joules, count = self._means.get(node.system, (0.0, 0))
            questions = min(node.group, max(1, unanswered))
            node.tally.losses += Losses.estimate(questions, joules / count if count else None)

    def _lose(self, node: RunNode, how: str, why: str) -> None:
        """Take the piece of a node back after its process died, or failed and lived."""
        node.failures += 1
        keys = self._board.in_flight(node.key)
        losers = self._board.lose(node.key)
        back = f", {count_text(len(keys), 'question')} given back" if keys else ""
        self._say(f"node {node.name} {how}{back}: {why}")
        if len(losers) >= MOST_LOSSES and len(set(losers)) > 1:
            raise EtuiError(
                f"{keys[0][0]}, {keys[0][1]}: {count_text(len(losers), 'try', 'tries')} on "
                f"{count_text(len(set(losers)), 'node')} failed, the last because {why}",
                "the answers so far are kept; look at the log of these nodes, then resume the run",
            )
        if node.failures >= MOST_FAILURES:
            self._give_up(node, f"failed {node.failures} times in a row: {why}")

    def _give_up(self, node: RunNode, why: str) -> None:
        if node.stage == "gone":
            return
        self._board.finish(node.key)
        node.stage = "gone"
        node.tally.given_up = why
        self._say(f"node {node.name} {why}; the others go on")
        self._carrier.end(node.node.id)
        self._leave_host(node)

    def _leave_host(self, node: RunNode) -> None:
        """Have the others of its host pay for all that is used there, until it works again."""
        if share := node.opening.host:
            with suppress(EtuiError):  # the ledger may be lost with it
                share.ledger.end(share.number)

    def _limit_silence(self, node: RunNode) -> float:
        if not node.is_open:
            return self._driver.patience.opening
        return self._driver.patience.limit_silence(node.longest)

    def _note_silence(self) -> None:
        for node in self._in("working"):
            silent = self._now() - node.heard
            if silent <= self._limit_silence(node):
                continue
            if not node.is_open:
                self._give_up(node, "did not come back")
                continue
            node.stage, node.was_silent = "silent", True
            back = count_text(len(self._board.in_flight(node.key)), "question")
            since = seconds_text(silent)
            self._say(f"node {node.name} has been silent for {since}: {back} given back")

    def _stop_overtaken(self) -> None:
        """Have nodes end a piece that others have answered; they would only double the answers."""
        for node in self._in("working", "silent"):
            if node.was_silent and not node.is_stopped and not self._board.in_flight(node.key):
                node.is_stopped = True
                self._carrier.stop(node.node.id)

    def _refuse_dead_end(self) -> None:
        """End the run if no node is answering, and none that is idle may answer what is left."""
        silent = self._in("silent")
        if self._in("working"):
            return
        if silent:
            waited = self._now() - max(node.heard for node in silent)
            if waited <= 2 * max(self._limit_silence(node) for node in silent):
                return
        gone = "; ".join(
            f"node {node.name} {node.tally.given_up or 'is silent'}"
            for node in self._in("silent", "gone")
        )
        raise Stopped(f"no node can answer the {self._board.left:,} questions left: {gone}")

    def _stop_all(self) -> None:
        """Have the nodes end their current question, and take what they still answer.

        What a node spent that does not reply is lost, and stays unknown.
        """
        busy = set(self._in("working"))
        for node in busy:
            self._carrier.stop(node.node.id)
        until = self._now() + self._driver.patience.stopping
        while busy and self._now() < until:
            for node, message in self._hear():
                match message:
                    case Answers() | Wasted() | CurvePoint():
                        self._count(node, message)
                    case Ended():
                        busy.discard(node)
                        node.stage = "idle"
                    case Died():
                        busy.discard(node)
                        if node.is_open:
                            self._count_death(node)
        for node in busy | set(self._in("silent")):
            if node.is_open:
                self._count_lost(node)
