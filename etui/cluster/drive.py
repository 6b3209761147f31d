"""Loop of a run on several nodes: give pieces, take answers, and cope with nodes that are lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from etui.cluster.losses import Losses, MeanJoules
from etui.cluster.messages import (
    Answers,
    ClusterNode,
    Died,
    Ended,
    Failed,
    Message,
    Note,
    Opened,
    Report,
    Said,
    Task,
    Wasted,
    read_message,
    write_request,
)
from etui.cluster.open_nodes import MOST_DEATHS, MOST_LOSSES, NodeDriver
from etui.cluster.piece_board import PieceBoard
from etui.codec import DocumentError
from etui.errors import EtuiError, Stopped, UsageError
from etui.units import count_text, seconds_text

if TYPE_CHECKING:
    from etui.bench.sample import Sample
    from etui.measure.run import Ending

_TICK_SECONDS = 0.25

Stage = Literal["opening", "idle", "working", "silent", "gone"]


@dataclass(slots=True)
class NodeTally:
    """What a machine did in a run."""

    answers: int = 0
    joules: float | None = 0.0  # Their joules; None once one is unmeasured
    seconds: float = 0.0
    deaths: int = 0  # How often its process died or failed
    given_up: str = ""  # Why it was given up; empty if it was not
    losses: Losses = field(default_factory=Losses)  # What it spent without an answer that counts

    def add(self, sample: Sample) -> None:
        """Add an answer that counts."""
        self.answers += 1
        self.seconds += sample.seconds
        known = self.joules is not None and sample.joules is not None
        self.joules = (self.joules or 0.0) + (sample.joules or 0.0) if known else None


class RunSink(Protocol):
    """Where the answers of a run go: its folder, its log, its audience."""

    def place(self, machine: str, sample: Sample) -> Sample:
        """Return an answer of a machine with its name in this run."""

    def system_of(self, sample: Sample) -> str:
        """Return the system that a placed answer belongs to."""

    def task_system(self, system: str) -> str:
        """Return the name that a node knows a system by."""

    def write(self, samples: Sequence[Sample]) -> None:
        """Write and show answers that count.

        Raises:
            EtuiError: They cannot be written.
        """


@dataclass(slots=True)
class _NodeState:
    node: ClusterNode
    heard: float
    stage: Stage = "idle"
    system: str = ""
    longest: float | None = None
    group: int = 1
    deaths_in_a_row: int = 0
    stop_sent: bool = False


@dataclass(frozen=True, slots=True)
class OpenNode:
    """A node that is ready for a run."""

    node: ClusterNode
    name: str  # For messages
    versions: Mapping[str, object]  # Those it was opened with


class ClusterLoop:
    """Has nodes answer the pieces of a board.

    Args:
        nodes: Key of the machine -> node.
        opening: Text of the request that opens a node again after its process has died.
        mean: Mean joules of a question so far.
        tallies: Key of the machine -> what it did so far.
    """

    def __init__(
        self,
        driver: NodeDriver,
        nodes: Mapping[str, OpenNode],
        opening: str,
        board: PieceBoard,
        sink: RunSink,
        mean: MeanJoules,
        tallies: dict[str, NodeTally],
    ) -> None:
        self._carrier = driver.carrier
        self._patience = driver.patience
        self._say = driver.say
        self._now = driver.now
        self._board = board
        self._sink = sink
        self._opening = opening
        self._mean = mean
        self._versions = {machine: each.versions for machine, each in nodes.items()}
        self._names = {machine: each.name for machine, each in nodes.items()}
        self.tallies = tallies
        self._states = {
            machine: _NodeState(each.node, self._now()) for machine, each in nodes.items()
        }
        self._machines = {each.node.id: machine for machine, each in nodes.items()}

    @property
    def wasted_joules(self) -> float:
        """Joules without an answer that counts, as far as nodes measured them."""
        return sum(tally.losses.reported_joules for tally in self.tallies.values())

    def run(self, joules: float, check: Callable[[float], Ending | None]) -> Ending:
        """Answer everything that is left on the board.

        Args:
            joules: Joules of the answers so far.
            check: Takes the joules used so far; returns why the run ends now, or None.

        Raises:
            Stopped: No node is left that can go on.
            UsageError: Every node would fail alike.
            EtuiError: A piece failed on several nodes, or the answers cannot be written.
        """
        self._joules = joules
        try:
            ending = self._answer(check)
        except EtuiError:
            self._stop_all()  # the others have answers under way
            raise
        self._stop_all()
        return ending

    def _answer(self, check: Callable[[float], Ending | None]) -> Ending:
        while not self._board.is_complete:
            if ending := check(self._joules + self.wasted_joules):
                return ending
            self._give_pieces()
            for report in self._carrier.wait(_TICK_SECONDS):
                self._take(report)
            self._note_silence()
            self._stop_overtaken()
            self._refuse_dead_end()
        return "complete"

    # -- nodes ---------------------------------------------------------------

    def _give_pieces(self) -> None:
        for machine, state in self._states.items():
            if state.stage != "idle":
                continue
            assignment = self._board.take(machine)
            if assignment is None:
                continue
            piece = assignment.piece
            system = self._sink.task_system(piece.system)
            task = Task(system, piece.subject, piece.rows, assignment.done)
            state.stage, state.system = "working", piece.system
            state.heard, state.stop_sent = self._now(), False
            self._carrier.call(state.node.id, "answer", write_request(task))

    def _take(self, report: Report) -> None:
        machine = self._machines.get(report.node)
        if machine is None or self._states[machine].stage == "gone":
            return
        state = self._states[machine]
        if isinstance(report, Said):
            self._hear(machine, state, self._read(machine, report.text))
            state.heard = self._now()
        elif isinstance(report, Ended):
            self._end_piece(machine, state)
        else:
            self._lose(machine, state, report.why, died=True)

    def _read(self, machine: str, text: str) -> Message:
        try:
            return read_message(text)
        except DocumentError as error:
            raise EtuiError(
                f"node {self._names[machine]}: {error}", "install the same etui there"
            ) from error

    def _hear(self, machine: str, state: _NodeState, message: Message) -> None:
        if state.stage == "silent" and not isinstance(message, Failed):
            state.stage = "working"
            self._say(f"node {self._names[machine]} answers again")
        if isinstance(message, Answers):
            seconds = self._now() - state.heard
            state.longest = max(state.longest or 0.0, seconds)
            state.group = max(state.group, len(message.samples))
            state.deaths_in_a_row = 0
            self._count(machine, [self._sink.place(machine, each) for each in message.samples])
        elif isinstance(message, Wasted):
            tally = self.tallies[machine]
            tally.losses = tally.losses.add_reported(
                message.joules, message.uncertainty, message.kind
            )
        elif isinstance(message, Note):
            self._say(f"{self._names[machine]}: {message.text}")
        elif isinstance(message, Opened):
            found = message.config.get("versions")
            if found != self._versions[machine]:
                self._give_up(machine, state, "came back with other versions")
        elif isinstance(message, Failed):
            if state.stage == "opening":
                self._give_up(machine, state, f"did not come back: {message.what}")
            elif message.exit_code == UsageError.exit_code:
                raise UsageError(f"node {self._names[machine]}: {message.what}", message.fix)
            else:
                self._lose(machine, state, message.what, died=False)

    def _count(self, machine: str, samples: Sequence[Sample]) -> None:
        """Count answers; the first to a question is written, any other is a loss."""
        keys = [(self._sink.system_of(each), each.subject, each.row) for each in samples]
        firsts = self._board.add(machine, keys)
        tally = self.tallies[machine]
        new = [sample for sample, first in zip(samples, firsts, strict=True) if first]
        if new:
            self._sink.write(new)
        for sample, (system, _, _), first in zip(samples, keys, firsts, strict=True):
            if not first:
                tally.losses = tally.losses.add_doubled(sample)
                continue
            tally.add(sample)
            self._mean.add(system, sample)
            self._joules += sample.joules or 0.0

    def _end_piece(self, machine: str, state: _NodeState) -> None:
        if state.stage in ("working", "silent"):
            self._board.finish(machine)
        if state.stage != "gone":
            state.stage = "idle"

    def _lose(self, machine: str, state: _NodeState, why: str, *, died: bool) -> None:
        """Take the piece of a node back after its process died, or failed and lived."""
        tally = self.tallies[machine]
        tally.deaths += 1
        state.deaths_in_a_row += 1
        keys = self._board.in_flight(machine)
        if died:
            self._count_lost(machine, state, len(keys))
        lost = self._board.lose(machine)
        back = f", {count_text(len(keys), 'question')} given back" if keys else ""
        self._say(f"node {self._names[machine]} {'died' if died else 'failed'}{back}: {why}")
        if lost is not None and lost.times >= MOST_LOSSES and lost.machines > 1:
            raise EtuiError(
                f"{keys[0][0]}, {keys[0][1]}: {count_text(lost.times, 'try', 'tries')} on "
                f"{count_text(lost.machines, 'node')} failed, the last because {why}",
                "the answers so far are kept; look at the log of these nodes, then resume the run",
            )
        if state.deaths_in_a_row >= MOST_DEATHS:
            self._give_up(machine, state, f"failed {state.deaths_in_a_row} times in a row: {why}")
        elif died and state.node.id not in {node.id for node in self._carrier.list_nodes()}:
            self._give_up(machine, state, f"is gone: {why}")
        elif died:
            state.stage, state.heard = "opening", self._now()
            self._carrier.start(state.node)
            self._carrier.call(state.node.id, "open", self._opening)

    def _give_up(self, machine: str, state: _NodeState, why: str) -> None:
        self._board.lose(machine)
        state.stage = "gone"
        self.tallies[machine].given_up = why
        self._say(f"node {self._names[machine]} {why}; the others go on")
        self._carrier.end(state.node.id)

    def _note_silence(self) -> None:
        now = self._now()
        for machine, state in self._states.items():
            if state.stage == "opening" and now - state.heard > self._patience.opening:
                self._give_up(machine, state, "did not come back")
            if state.stage != "working":
                continue
            limit = self._patience.limit_silence(state.longest)
            if now - state.heard > limit:
                state.stage = "silent"
                back = self._board.give_back(machine)
                since = seconds_text(now - state.heard)
                self._say(
                    f"node {self._names[machine]} has been silent for {since}: "
                    f"{count_text(back, 'question')} given back"
                )

    def _stop_overtaken(self) -> None:
        """Have nodes end a piece that others have answered; they would only double the answers."""
        for machine, state in self._states.items():
            if state.stage not in ("working", "silent") or state.stop_sent:
                continue
            if self._board.is_answered_by_others(machine):
                state.stop_sent = True
                self._carrier.stop(state.node.id)

    def _refuse_dead_end(self) -> None:
        """End the run if no node can answer what is left."""
        live = [m for m, state in self._states.items() if state.stage not in ("silent", "gone")]
        if self._board.is_complete or self._board.can_continue(live):
            return
        silent = [state for state in self._states.values() if state.stage == "silent"]
        waited = max((state.heard for state in silent), default=None)
        if waited is not None:
            limit = max(self._patience.limit_silence(state.longest) for state in silent)
            if self._now() - waited <= 2 * limit:
                return
        gone = "; ".join(
            f"node {self._names[machine]} {self.tallies[machine].given_up or 'is silent'}"
            for machine, state in self._states.items()
            if state.stage in ("silent", "gone")
        )
        raise Stopped(f"no node can answer the {self._board.left:,} questions left: {gone}")

    def _stop_all(self) -> None:
        """Have the nodes end their current question, and take what they still answer.

        What a node spent that does not reply is lost, and stays unknown.
        """
        busy = {key for key, state in self._states.items() if state.stage == "working"}
        for key in busy:
            self._carrier.stop(self._states[key].node.id)
        until = self._now() + self._patience.stopping
        while busy and self._now() < until:
            for report in self._carrier.wait(_TICK_SECONDS):
                machine = self._machines.get(report.node)
                if machine is None or machine not in busy:
                    continue
                state = self._states[machine]
                if isinstance(report, Said):
                    message = self._read(machine, report.text)
                    if isinstance(message, Answers | Wasted):
                        self._hear(machine, state, message)
                else:
                    busy.discard(machine)
                    state.stage = "idle" if isinstance(report, Ended) else "gone"
                    if isinstance(report, Died):
                        self.tallies[machine].deaths += 1
                        self._count_lost(machine, state, len(self._board.in_flight(machine)))
        for machine, state in self._states.items():
            if machine in busy or state.stage == "silent":
                self._count_lost(machine, state, len(self._board.in_flight(machine)))

    def _count_lost(self, machine: str, state: _NodeState, unanswered: int) -> None:
        """Count what a dead node was answering: at most as many as it answers together."""
        # What others have answered meanwhile it was answering too, in vain.
        if unanswered or self._board.is_answered_by_others(machine):
            questions = min(state.group, max(1, unanswered))
            mean = self._mean.of_system(state.system)
            tally = self.tallies[machine]
            tally.losses = tally.losses.add_lost(questions, mean)
