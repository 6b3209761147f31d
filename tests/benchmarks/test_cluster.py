"""The benchmark of the cluster: what it compares, whom it kills, and what it calls a failure."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import psutil
import pytest

from benchmarks import cluster
from benchmarks.cluster import Killer, NodesRun, compare_processes, find_failures, kill_node

pytestmark = pytest.mark.slow

KILLED = {
    "questions": 60, "killed": 7, "lost": 0, "doubled": 0, "changed": 0, "deaths": 1,
    "lost_tries": 1, "wasted_joules": None, "estimated_joules": 3.0,
    "said": "wasted: 1 node died or hung while answering 1 question: unknown joules",
}  # fmt: skip


def test_nodes_are_compared_with_one_in_the_same_round():
    found = {1: [NodesRun(10, 100, 100), NodesRun(20, 200, 200)], 2: [NodesRun(5, 90, 100)] * 2}
    figures = {figure.name: figure for figure in compare_processes(found)}
    assert figures["2 nodes, time : 1 node"].value == pytest.approx(0.375)
    assert figures["2 nodes, joules of the answers : 1 node"].low == pytest.approx(0.45)
    assert figures["2 nodes, joules of the answers : meter"].value == pytest.approx(0.9)
    assert figures["1 node, joules of the answers : meter"].value == 1.0


class Child:
    def __init__(self, pid, name, killed, *, gone=""):
        self.pid, self.name, self.killed, self.gone = pid, name, killed, gone

    def cmdline(self):
        if self.gone == "listed":
            raise psutil.NoSuchProcess(self.pid)
        return [self.name] if self.name else []

    def kill(self):
        if self.gone == "read":
            raise ProcessLookupError
        self.killed.append(self.pid)


def test_processes_that_have_ended_are_passed_over(monkeypatch):
    killed = []
    children = [
        Child(1, "raylet", killed),
        Child(2, "ray::NodeActor", killed, gone="listed"),
        Child(3, "ray::NodeActor.call", killed, gone="read"),
        Child(4, "", killed),
        Child(5, "ray::NodeActor.call", killed),
        Child(6, "ray::NodeActor.call", killed),
    ]
    monkeypatch.setattr(
        psutil, "Process", lambda: SimpleNamespace(children=lambda recursive: children)
    )
    assert kill_node() == 5
    assert killed == [5]
    del children[4:]
    assert kill_node() is None


def test_a_node_is_killed_once_in_the_middle_of_a_piece(monkeypatch):
    monkeypatch.setattr(cluster, "kill_node", lambda: 7)
    killer = Killer(Counter(logic=2, algebra=2, history=2))
    at = []
    for subject in ("logic", "logic", "algebra", "history", "algebra", "history"):
        killer([SimpleNamespace(subject=subject)])
        at.append(killer.killed)
    assert at == [None, None, 7, 7, 7, 7]  # the second answer was the last of its piece


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"killed": None}, "no process of a node was found"),
        ({"lost": 2}, "of 60 answers 2 were lost"),
        ({"changed": 1}, "of 60 answers 1 were changed"),
        ({"deaths": 2}, "one death was counted 2 times"),
        ({"lost_tries": 0}, "had just ended its piece and lost nothing: run it again"),
        ({"wasted_joules": 1.0}, "are not unknown with an estimate"),
        ({"said": ""}, "are not named at the end"),
    ],
)
def test_a_failure_is_named(changes, message):
    failures = list(find_failures({**KILLED, **changes}))
    assert failures == [] if message is None else [message in each for each in failures] == [True]
