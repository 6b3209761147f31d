"""The loop over nodes that die, hang, fail, come back late and disappear."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.schedule import Piece
from etui.cluster.drive import ClusterLoop, RunNode
from etui.cluster.host import HostShare
from etui.cluster.messages import Opening
from etui.cluster.open_nodes import NodeDriver, Patience
from etui.cluster.tally import Losses, NodeTally, sum_losses
from etui.errors import EtuiError, Stopped, UsageError
from tests.bench import synthetic
from tests.cluster.fake_carrier import FakeCarrier, NotingLedger, make_script
from tests.cluster.fake_node import SHA256, Behaviour, make_sample

PATIENCE = Patience(ready=5, opening=5, first=5, least=5, factor=2, stopping=2)
CONFIG = synthetic.config(arms=("a",))
OPENING = Opening(CONFIG, {})
CURVES = Opening(CONFIG, {"m": SHA256}, points={})


@dataclass
class Loop:
    """A loop over scripted nodes, opened."""

    carrier: FakeCarrier
    sizes: tuple[int, ...] = (4, 4)
    written: list = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    tallies: dict[str, NodeTally] = field(default_factory=dict)
    opening: Opening = OPENING
    points: list = field(default_factory=list)
    nodes: list[RunNode] = field(default_factory=list)

    def run(self, check=lambda joules: None, before=(), blocks=None):
        nodes = self.nodes = []
        for script in self.carrier.scripts.values():
            self.carrier.start(script.node)
            script.actor._is_open = True
            name = script.node.host
            self.tallies[name] = NodeTally()
            nodes.append(
                RunNode(name, name, script.node, CONFIG.versions, self.opening, self.tallies[name])
            )
        pieces = [Piece("a", f"s{at}", tuple(range(size)), 0) for at, size in enumerate(self.sizes)]
        driver = NodeDriver(self.carrier, self.said.append, patience=PATIENCE, now=self.carrier.now)
        loop = ClusterLoop(
            driver,
            nodes,
            CONFIG,
            before,
            self.written.extend,
            lambda *each: self.points.append(each),
        )
        return loop.run(blocks or [pieces], check)

    @property
    def keys(self):
        return [(sample.subject, sample.row) for sample in self.written]

    @property
    def losses(self):
        return sum_losses(self.tallies.values())

    def expected(self):
        return [(f"s{at}", row) for at, size in enumerate(self.sizes) for row in range(size)]


def test_nodes_share_the_pieces():
    loop = Loop(FakeCarrier([make_script("x"), make_script("y")]))
    assert loop.run() == "complete"
    assert sorted(loop.keys) == loop.expected()
    assert {sample.machine for sample in loop.written} == {"x", "y"}
    assert loop.losses == Losses()


def test_a_node_that_dies_gives_its_questions_back_and_comes_back():
    x = make_script("x", "say", "say", "die")
    loop = Loop(FakeCarrier([x, make_script("y")]), (4, 4, 4, 4))
    assert loop.run() == "complete"
    assert sorted(loop.keys) == loop.expected()
    assert x.starts == 2  # by Ray
    assert "node x died, 2 questions given back: it die" in loop.said
    assert (loop.losses.lost_tries, loop.losses.lost_questions) == (1, 1)
    assert loop.losses.estimated_joules is not None
    assert loop.losses.wasted_joules is None
    assert loop.tallies["x"].deaths == 1


def test_a_node_that_is_gone_is_not_started_again():
    x = make_script("x", "say", "gone")
    loop = Loop(FakeCarrier([x, make_script("y")]))
    assert loop.run() == "complete"
    assert sorted(loop.keys) == loop.expected()
    assert x.starts == 1
    assert loop.tallies["x"].given_up.startswith("is gone")


def test_a_node_that_dies_again_and_again_is_given_up():
    x = make_script("x", *["die", "say", "say"] * 10)  # a note, it is open, and dies again
    y = make_script("y", *["wait"] * 15)
    loop = Loop(FakeCarrier([x, y]), (2, 2))
    assert loop.run() == "complete"
    assert "3 times in a row" in loop.tallies["x"].given_up
    assert loop.tallies["x"].deaths == 3
    assert {sample.machine for sample in loop.written} == {"y"}


def test_one_death_is_counted_once():
    # Ray answers calls to a process that it has not started again yet with errors of their own.
    x = make_script("x", "say", *["die"] * 4)
    loop = Loop(FakeCarrier([x, make_script("y", *["wait"] * 12)]))
    assert loop.run() == "complete"
    assert sorted(loop.keys) == loop.expected()
    assert (loop.tallies["x"].deaths, loop.losses.lost_tries) == (1, 1)
    assert sum("node x died" in text for text in loop.said) == 1
    assert not loop.tallies["x"].given_up
    assert {sample.machine for sample in loop.written} == {"x", "y"}


def test_a_silent_node_gives_back_and_its_late_answers_count_once():
    x = make_script("x", "say", *["wait"] * 24)
    loop = Loop(FakeCarrier([x, make_script("y", *["wait", "wait", "say"] * 9)]), (4, 1))
    assert loop.run() == "complete"
    assert sorted(loop.keys) == loop.expected()
    assert any("x has been silent" in text and "3 questions" in text for text in loop.said)
    assert "node x answers again" in loop.said
    counted = Counter(sample.machine for sample in loop.written)
    assert counted["x"] + counted["y"] == 5
    assert 1 <= loop.losses.doubled <= 3  # both answered them, each was counted once
    assert loop.losses.wasted_joules == pytest.approx(loop.losses.reported_joules)


def test_a_node_whose_piece_others_answered_is_stopped():
    x = make_script("x", "say", *["wait"] * 400)
    loop = Loop(FakeCarrier([x, make_script("y")]), (4, 4))
    assert loop.run() == "complete"
    assert sorted(loop.keys) == loop.expected()
    assert x.stops == 1


def test_without_any_node_the_run_stops_and_can_resume():
    loop = Loop(FakeCarrier([make_script("x", "say", "gone"), make_script("y", "gone")]))
    with pytest.raises(Stopped, match=r"no node can answer the 7 questions left: .*x is gone"):
        loop.run()
    again = Loop(FakeCarrier([make_script("z")]))
    assert again.run(before=loop.written) == "complete"
    assert sorted(loop.keys + again.keys) == loop.expected()


def test_a_run_of_silent_nodes_ends():
    loop = Loop(FakeCarrier([make_script("x", *["wait"] * 1000)]))
    with pytest.raises(Stopped, match="node x is silent"):
        loop.run()
    assert loop.carrier.seconds < 30


def test_a_question_that_fails_on_every_node_ends_the_run_by_name():
    broken = Behaviour(answer_error="the cache is full")
    nodes = [make_script("x", behaviour=broken), make_script("y", behaviour=broken)]
    with pytest.raises(EtuiError, match=r"a, s0: 3 tries on 2 nodes failed.*the cache is full"):
        Loop(FakeCarrier(nodes), (1,)).run()


def test_a_node_that_fails_is_given_up_and_the_others_go_on():
    broken = make_script("x", behaviour=Behaviour(answer_error="the cache is full"))
    loop = Loop(FakeCarrier([broken, make_script("y", *["wait"] * 30)]), (2, 2))
    assert loop.run() == "complete"
    assert sorted(loop.keys) == loop.expected()
    assert loop.losses.reported_tries == 3  # it lived and measured them
    assert loop.losses.lost_tries == 0


def test_wrong_usage_would_fail_everywhere_and_ends_the_run():
    wrong = Behaviour(answer_error="the prompt is too long", answer_exit_code=2)
    with pytest.raises(UsageError, match="node x: the prompt is too long"):
        Loop(FakeCarrier([make_script("x", behaviour=wrong)])).run()


def test_a_node_that_cannot_open_again_is_given_up():
    x = make_script("x", "say", "die")
    y = make_script("y", *["wait"] * 8)
    carrier = FakeCarrier([x, y])
    loop = Loop(carrier)
    start = carrier.start

    def start_broken(node):
        if node.host == "x" and x.starts:
            x.behaviour = Behaviour(open_error="no room")
        start(node)

    carrier.start = start_broken
    assert loop.run() == "complete"
    assert loop.tallies["x"].given_up == "did not come back: no room"


def test_a_limit_stops_the_nodes_and_takes_what_they_still_say():
    loop = Loop(FakeCarrier([make_script("x"), make_script("y")]), (9, 9))
    ending = loop.run(lambda joules: "stopped" if len(loop.keys) >= 4 else None)
    assert ending == "stopped"
    assert len(loop.keys) == len(set(loop.keys)) >= 4
    assert all(script.stops == 1 for script in loop.carrier.scripts.values())


def test_the_joules_of_a_node_that_hangs_to_the_end_are_unknown():
    hung = make_script("x", "say", *["wait"] * 200)
    loop = Loop(FakeCarrier([hung, make_script("y")]))
    assert loop.run() == "complete"
    assert sorted(loop.keys) == loop.expected()
    assert loop.tallies["x"].losses.lost_tries == 1
    assert loop.losses.wasted_joules is None
    assert loop.losses.estimated_joules is not None


def test_answered_questions_are_not_asked_again():
    loop = Loop(FakeCarrier([make_script("x")]))
    assert loop.run(before=[make_sample("a", "s0", row) for row in range(4)]) == "complete"
    assert {subject for subject, _ in loop.keys} == {"s1"}


ACTIONS = st.lists(
    st.sampled_from(["say"] * 6 + ["wait"] * 3 + ["die"] + ["hang"] + ["gone"]), max_size=40
).map(lambda actions: [each for a in actions for each in (["wait"] * 25 if a == "hang" else [a])])


@given(
    st.lists(ACTIONS, min_size=1, max_size=4),
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
)
def test_every_question_is_counted_once_whatever_happens(scripts, sizes):
    nodes = [make_script(f"n{at}", *actions) for at, actions in enumerate(scripts)]
    loop = Loop(FakeCarrier(nodes), tuple(sizes))
    failed = None
    try:
        loop.run()
    except (Stopped, EtuiError) as error:
        failed = error
    assert len(loop.keys) == len(set(loop.keys))
    if failed is None:
        assert sorted(loop.keys) == loop.expected()
    elif isinstance(failed, Stopped):
        left = len(loop.expected()) - len(loop.keys)
        assert f"the {left} questions left" in failed.what
    deaths = sum(tally.deaths for tally in loop.tallies.values())
    assert loop.losses.lost_tries <= deaths + len(nodes)  # one that never replied did not die


def test_the_next_block_is_asked_once_the_last_one_is_answered():
    loop = Loop(FakeCarrier([make_script("x"), make_script("y", "die")]))
    asked = []

    def blocks():
        for at in range(3):
            asked.append(len(loop.keys))
            yield [Piece("a", f"s{at}-{part}", (0, 1), at) for part in range(2)]

    assert loop.run(blocks=blocks()) == "complete"
    assert asked == [0, 4, 8]
    assert len(set(loop.keys)) == 12


def test_points_of_curves_are_kept_with_their_machine_and_not_measured_again():
    loop = Loop(FakeCarrier([make_script("x", "say", "say")]), (1, 1), opening=CURVES)
    assert loop.run() == "complete"
    assert [(machine, found.model) for machine, found in loop.points] == [("x", "m")] * 2
    (node,) = loop.nodes
    assert [len(points) for points in node.opening.points.values()] == [2]
    assert loop.losses == Losses()


def test_a_node_that_died_pays_no_joules_of_its_host():
    noted = []
    opening = replace(OPENING, host=HostShare(NotingLedger(noted), 0, 1))
    loop = Loop(FakeCarrier([make_script("x", "say", "die")]), (2,), opening=opening)
    assert loop.run() == "complete"
    piece = ["begin", "end"]
    assert noted == [*piece, "end", *piece, *piece]  # its death, opening again, the rest


def test_a_death_between_two_pieces_is_counted_and_loses_nothing():
    x = make_script("x")
    carrier = FakeCarrier([x])
    call = carrier.call

    def restart(node, method, request=None):
        if x.calls == 1:
            carrier.start(x.node)  # by Ray, before the second piece
        call(node, method, request)

    carrier.call = restart
    loop = Loop(carrier, (2, 2))
    assert loop.run() == "complete"
    assert sorted(loop.keys) == loop.expected()
    assert (loop.tallies["x"].deaths, loop.losses) == (1, Losses())


def test_answers_that_come_with_an_error_are_kept():
    wrong = Behaviour(answer_error="the prompt is too long", answer_exit_code=2)
    loop = Loop(FakeCarrier([make_script("x", behaviour=wrong), make_script("y")]), (3, 3))
    with pytest.raises(UsageError):
        loop.run()
    assert loop.keys == [("s1", row) for row in range(3)]
