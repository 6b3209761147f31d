"""The place of an arm cannot answer: the next place of the same weights does."""

from __future__ import annotations

from etui.errors import ModelUnavailable, RemoteFailed
from etui.routing.decision import Fallbacks
from tests.turn.stage import Part, Stage, decided, play
from tests.turn.test_cascade import LARGE, QUICK

GONE = ModelUnavailable("the desk cannot be reached", "start it")
PLACES = {LARGE.name: ("big-desk", "big-rack")}


def test_the_next_place_answers_and_the_turn_says_so():
    stage = Stage({LARGE.name: Part("Mars.")}, missing={LARGE.model: GONE})
    record = play(stage, decided(LARGE, places=PLACES)).record
    assert (record.answer, record.status) == ("Mars.", "complete")
    assert [request.model.name for request in stage.requests] == ["big-desk"]
    assert [hop.model for hop in record.hops] == [LARGE.model, "big-desk"]
    assert record.why.startswith("rule: because; large failed: the desk cannot be reached")


def test_each_place_is_tried_once_and_then_the_fallback_of_the_policy():
    gone = dict.fromkeys((LARGE.model, "big-desk", "big-rack"), GONE)
    stage = Stage({QUICK.name: Part("small")}, missing=gone)
    record = play(stage, decided(LARGE, places=PLACES, load_failed=QUICK)).record
    assert record.answer == "small"
    assert [hop.model for hop in record.hops] == [
        LARGE.model, "big-desk", "big-rack", QUICK.model,
    ]  # fmt: skip


def test_a_place_that_began_is_not_paid_twice():
    part = Part("Mars.", failure=RemoteFailed("the desk broke off"), fails_at="decode")
    stage = Stage({LARGE.name: part})
    record = play(stage, decided(LARGE, places=PLACES)).record
    assert record.status == "error"
    assert len(stage.requests) == 1


def test_in_a_cascade_the_place_comes_before_the_next_arm():
    stage = Stage(
        {QUICK.name: Part("a", confidence=0.9), LARGE.name: Part("b", confidence=0.99)},
        missing={QUICK.model: GONE},
    )
    decision = decided(QUICK, LARGE, places={QUICK.name: ("tiny-desk",)}, accept_at=0.5)
    record = play(stage, decision).record
    assert record.answer == "a"
    assert [request.model.name for request in stage.requests] == ["tiny-desk"]


def test_a_decision_without_places_has_none():
    assert Fallbacks().places == {}
