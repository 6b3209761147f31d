"""Streamed text that may still be cut: held back until it is clear whether it repeats."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.cli.ask_text import AskText, RepeatHold
from etui.events import Answer
from etui.routing.decision import Decision, Fallbacks
from etui.turn.events import Decided, HopEnded, TurnFinished
from tests.turn.scripted import EVENTS, Saved, Scripted, finished, turn

ROUND = ", la femme au martyre"


@given(st.lists(st.text(alphabet="ab .,\n", max_size=5), max_size=60))
def test_every_character_comes_out_in_order(texts):
    hold = RepeatHold()
    assert "".join(map(hold.push, texts)) + hold.finish() == "".join(texts)


def test_a_second_round_is_held_and_new_text_frees_it():
    hold = RepeatHold()
    assert "".join(map(hold.push, ["Paris", ROUND, ROUND, ROUND])) == "Paris" + ROUND
    assert hold.push(" but no more") == ROUND * 2 + " but no"


def test_new_words_wait_only_until_they_are_complete():
    hold = RepeatHold()
    assert [hold.push(f" {word}") for word in ("all", "of", "this", "is", "new")] == [
        *("", " all", " of", " this", " is"),
    ]


def shown(capsys, *, guarded, instead=False, **changes):
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished(**changes)]), saved=saved))
    arm = Arm("quick", "m", loop_guard=guarded)
    fallbacks = Fallbacks(load_failed=replace(arm, loop_guard=instead))
    text = AskText("Why?", quiet=True)
    text.show(Decided(Decision(arm, None, None, "", fallbacks=fallbacks)))
    for piece in ["Paris", *[ROUND] * 4]:
        text.show(Answer(1, piece, 5))
    text.show(TurnFinished(saved.turns[0]))
    return capsys.readouterr().out


def test_ask_prints_the_first_round(capsys):
    out = shown(capsys, guarded=True, answer="Paris" + ROUND, ended="repeats")
    assert out == f"Paris{ROUND}\n"


def test_ask_prints_the_first_round_of_the_arm_that_answers_instead(capsys):
    out = shown(capsys, guarded=False, instead=True, answer="Paris" + ROUND, ended="repeats")
    assert out == f"Paris{ROUND}\n"


def test_ask_prints_what_the_cut_kept_beyond_the_held_text(capsys):
    out = shown(capsys, guarded=True, answer=f"Paris{ROUND}, la.", ended="repeats")
    assert out == f"Paris{ROUND}, la.\n"


@pytest.mark.parametrize("guarded", [True, False])
def test_ask_prints_all_where_nothing_was_cut(capsys, guarded):
    out = shown(capsys, guarded=guarded, answer="Paris" + ROUND * 4)
    assert out == f"Paris{ROUND * 4}\n"


def test_the_result_of_a_hop_does_not_break_the_line_of_the_answer(capsys):
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished(answer="It is Paris.")]), saved=saved))
    text = AskText("Why?", quiet=False)
    text.show(Decided(Decision(Arm("quick", "m", loop_guard=True), None, None, "a rule")))
    text.show(Answer(1, "It is Paris.", 5))
    before = capsys.readouterr()
    assert before.out == "It is Paris"
    text.show(HopEnded(2, "quick", "m", 0.9, 0.9, True, 3.0, "90 % sure", True))
    assert capsys.readouterr() == ("", "")
    text.show(TurnFinished(saved.turns[0]))
    after = capsys.readouterr()
    assert after.out == ".\n"
    assert after.err.startswith("quick on m: 90 % sure\n")


@pytest.mark.parametrize("more", ["", "no speculation: a reason"])
def test_a_repetition_is_said_once(capsys, more):
    saved = Saved()
    list(turn(Scripted([*EVENTS, finished(answer="Paris", ended="repeats")]), saved=saved))
    why = "; ".join(filter(None, ["the answer repeats itself (7 tokens, 5.2 times)", more]))
    record = replace(saved.turns[0], settings={"ended": why})
    AskText("Why?", quiet=False).show(TurnFinished(record))
    err = capsys.readouterr().err
    assert err.count("the answer repeats itself") == (2 if more else 1)
    assert more in err
