"""Questions answered in turns: what is asked, how it is graded, what is reused."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path

import pytest

from etui.arm import Arm
from etui.bench.formats import FORMATS
from etui.bench.sample import parse_sample
from etui.bench.scoring import SubjectWork
from etui.bench.turns import TurnArm
from etui.config.config import Config
from etui.datasets.questions import Question
from etui.energy.types import Energy, Kind
from etui.errors import ContextOverflow, EngineFailed
from etui.events import Answer, Finished, Prefilled, Vote
from etui.measure.run import StopRequested
from etui.models.spec import ModelSpec
from etui.routing.decision import Agreement, Cascade, Decision
from etui.runtime.decide import Choice
from etui.runtime.runtime import Runtime
from etui.turn.interfaces import ResolvedModel
from tests.metering import Sliced

S = 1_000_000_000
ARM = Arm("quick", "m")
QUESTIONS = [
    Question("logic", row, f"Question {row}?", ("one", "two", "three", "four"), "B")
    for row in range(3)
]
EXAMPLE = Question("logic", 9, "Shown?", ("w", "x", "y", "z"), "D")


class Meter(Sliced):
    def start(self) -> None:
        """It always records."""

    def settle(self, end_ns: int) -> None:
        """Everything is known at once."""

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        seconds = (end_ns - start_ns) / S
        return Energy(start_ns, end_ns, 10 * seconds, 0.5, Kind.COUNTER, 1.0)


class Answerer:
    """Says what it was told to, one text a question."""

    def __init__(self, *texts, status="complete", failure=None, thinking="") -> None:
        self.texts = list(texts)
        self.status = status
        self.failure = failure
        self.thinking = thinking
        self.requests: list = []
        self.forgotten: list[int] = []

    def forget(self) -> None:
        self.forgotten.append(len(self.requests))

    def answer(self, request, cancel=None):
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        text = self.texts.pop(0)
        yield Prefilled(10 * S, 11 * S, 40, 0, 40)
        yield Answer(12 * S, text, 3)
        yield Finished(
            start_ns=10 * S, prefill_end_ns=11 * S, thinking_end_ns=11 * S, end_ns=13 * S,
            first_token_ns=11 * S, status=self.status, why="", answer=text,
            thinking=self.thinking, prompt_tokens=40, cached_tokens=0, computed_tokens=40,
            thinking_tokens=0, output_tokens=3, confidence=0.8, margin=0.1,
        )  # fmt: skip


class InTurn(Answerer):
    """Answers one after the other, three seconds each."""

    def answer(self, request, cancel=None):
        after_ns = 3 * S * len(self.requests)
        for event in super().answer(request, cancel):
            moved = {
                field.name: getattr(event, field.name) + after_ns
                for field in fields(event)
                if field.name.endswith("_ns")
            }
            yield replace(event, **moved)


class Machine(Runtime):
    """A runtime on which any arm is served."""

    @cached_property
    def recorder(self):
        return Meter()

    def resolve(self, arm: Arm) -> ResolvedModel:
        return ResolvedModel(ModelSpec("m", "tiny", ()), None)


NUMBERS = [Question("gsm8k", row, f"How many of {row}?", (), "1,800") for row in range(2)]
SOLVED = [
    Question("gsm8k", row, f"Solved {row}?", (), "7", "3 + 4 = 7\n#### 7") for row in range(7, 10)
]
TEN = Question("law", 0, "Which?", tuple(f"option {x}" for x in "abcdefghij"), "J")


def arm(answerer, arm_=ARM, **options) -> TurnArm:
    config = Config(home=Path("/nowhere"), models_dir=Path("/nowhere"))
    return TurnArm(
        lambda query: Choice(Decision(arm_, None, "rule-1", "because")),
        Machine(config, lambda _: answerer),
        **options,
    )


def answered(answerer, questions=QUESTIONS[:1], examples=(), done=(), **options):
    work = SubjectWork("logic", questions, frozenset(done), examples)
    return [s for turned in arm(answerer, **options).answer(work) for s in turned.samples(None)]


@pytest.mark.parametrize(
    ("text", "status", "choice", "graded"),
    [
        ("B", "complete", "B", "answered"),
        ("I first thought of A. The answer is (B).", "complete", "B", "answered"),
        ("The answer is C.", "complete", "C", "answered"),
        ("two", "complete", "B", "answered"),
        ("I cannot say.", "complete", None, "no_answer"),
        ("The answer is E.", "complete", None, "no_answer"),
        ("Let us see, the", "truncated", None, "truncated"),
        ("B) two", "budget", "B", "answered"),
    ],
)
def test_the_answer_stated_last_counts(text, status, choice, graded):
    (sample,) = answered(Answerer(text, status=status))
    assert (sample.choice, sample.status, sample.correct) == (choice, graded, choice == "B")


class Voter(Answerer):
    """Draws a vote for each text, and answers with the first one."""

    def answer(self, request, cancel=None):
        *events, end = super().answer(request, cancel)
        yield from events
        for at, text in enumerate((end.answer, *self.texts)):
            yield Vote(12 * S, at, text, "", 3, 1.0)
        yield end


@pytest.mark.parametrize(
    ("answerer", "choice", "stated"),
    [
        (Answerer("The answer is C.\nFinal answer: B"), "B", "C"),
        (Answerer("To find the\nFinal answer: B"), "B", ""),
        (Answerer("Final answer: B"), "B", ""),
        (Answerer("B"), "B", "B"),  # its letter could not be read
        (Voter("A\nFinal answer: B", "C\nFinal answer: B", "C\nFinal answer: C"), "B", "C"),
    ],
)
def test_a_letter_behind_the_text_counts_and_the_text_is_kept_beside_it(answerer, choice, stated):
    behind = replace(ARM, readout="letter", reasoning="vote" if type(answerer) is Voter else "cot")
    (sample,) = answered(answerer, arm_=behind)
    assert (sample.choice, sample.stated, sample.status) == (choice, stated, "answered")
    assert parse_sample(json.loads(json.dumps(sample.to_json()))) == sample
    assert answered(Answerer("B"))[0].stated is None


def test_a_turn_is_accounted_as_any_other():
    (sample,) = answered(Answerer("B", thinking="Hm."))
    assert sample.joules == pytest.approx(30)
    assert (sample.prefill_joules, sample.decode_joules) == (pytest.approx(10), pytest.approx(20))
    assert sample.kind == "counter"
    assert (sample.tokens.prompt, sample.tokens.output) == (40, 3)
    assert (sample.arm, sample.rule, sample.hops) == ("quick", "rule-1", ())
    assert sample.text == "Hm.\n\nB"
    assert sample.confidence == pytest.approx(0.8)
    assert sample.seconds == pytest.approx(3)


@pytest.mark.parametrize(
    ("texts", "right", "joules", "others"),
    [
        (("B", "It is (B)."), True, 60, ("quick",)),
        (("B", "A", "C"), False, 90, ("quick", "other")),
        (("A", "B", "I cannot say."), True, 90, ("quick", "large")),
    ],
)
def test_every_arm_that_had_to_agree_is_charged_and_named(texts, right, joules, others):
    other, large = Arm("other", "m", max_tokens=9), Arm("large", "m", max_tokens=8)
    step = Agreement(("quick", "other"), 0.5)
    cascade = Cascade((ARM, other, large), 0.9, 3, None, (step,))
    decision = Decision(ARM, "p", "rule-1", "because", cascade=cascade)
    config = Config(home=Path("/nowhere"), models_dir=Path("/nowhere"))
    answerer = InTurn(*texts)
    machine = Machine(config, lambda _: answerer)
    asked = TurnArm(lambda query: Choice(decision), machine)
    work = SubjectWork("logic", QUESTIONS[:1], frozenset(), ())
    (sample,) = [s for turned in asked.answer(work) for s in turned.samples(None)]
    assert (sample.correct, sample.joules, sample.hops) == (right, pytest.approx(joules), others)


def test_the_times_of_the_tokens_are_kept():
    class Slow(Answerer):
        def answer(self, request, cancel=None):
            prefilled, only, finished = super().answer(request, cancel)
            yield prefilled
            for second in (11, 12, 12.5):
                yield Answer(int(second * S), only.text, 1)
            yield finished

    (sample,) = answered(Slow("B"))
    assert (sample.ttft_seconds, sample.decode_seconds) == (pytest.approx(1), pytest.approx(2))
    assert sample.inter_token_seconds["p50"] == pytest.approx(0.75)
    assert sum(count for _, count in sample.inter_token_bins) == 2
    assert (sample.coverage, sample.shared) == (1.0, False)
    assert parse_sample(json.loads(json.dumps(sample.to_json()))) == sample


@pytest.mark.parametrize(
    ("examples", "reuse", "forgotten"),
    [([], True, {0, 1, 2}), ([EXAMPLE], True, {0}), ([EXAMPLE], False, {0, 1, 2})],
)
def test_only_worked_examples_are_shared_within_a_subject(examples, reuse, forgotten):
    answerer = Answerer("B", "B", "B")
    answered(answerer, QUESTIONS, examples=examples, reuse=reuse)
    assert set(answerer.forgotten) == forgotten


def test_what_is_done_is_not_asked_again():
    answerer = Answerer("B", "B")
    assert [sample.row for sample in answered(answerer, QUESTIONS, done=[1])] == [0, 2]


def test_a_question_that_does_not_fit_is_an_error_of_its_own():
    (sample,) = answered(Answerer(failure=ContextOverflow(5000, 4096, 8)))
    assert (sample.status, sample.choice, sample.correct) == ("error", None, False)
    assert "912 tokens too long" in (sample.error or "")


def test_an_engine_that_fails_ends_the_run():
    with pytest.raises(EngineFailed, match="gone"):
        answered(Answerer(failure=EngineFailed("gone")))


def test_a_stop_gives_the_answer_under_way_up():
    with pytest.raises(StopRequested):
        answered(Answerer("B", status="stopped"))
    with pytest.raises(StopRequested):
        answered(Answerer("B"), cancelled=lambda: True)


@pytest.mark.parametrize(
    ("text", "choice", "correct", "strict"),
    [
        (" 2 * 900 = 1800\n#### 1,800", "1800", True, True),
        (" 2 * 900 = $1,800.", "1800", True, False),
        (" I do not know", None, False, False),
    ],
)
def test_a_completion_is_raw_and_graded_by_both_readings(text, choice, correct, strict):
    answerer = Answerer(text)
    (sample,) = answered(answerer, NUMBERS[:1], SOLVED, format=FORMATS["gsm8k"])
    (request,) = answerer.requests
    assert [message.role for message in request.messages] == ["user"]
    assert request.messages[0].content.endswith("Question: How many of 0?\nAnswer:")
    assert request.options.raw
    assert request.options.stop == FORMATS["gsm8k"].stop
    assert (sample.answer, sample.choice) == ("1800", choice)
    assert (sample.correct, sample.strict, sample.shots) == (correct, strict, 3)
    assert sample.status == ("answered" if choice else "no_answer")
    assert sample.to_json()["strict"] is strict


def test_a_completion_that_is_too_long_loses_its_examples_one_by_one():
    class Small(Answerer):
        def answer(self, request, cancel=None):
            if request.messages[0].content.count("Solved") > 1:
                self.requests.append(request)
                raise ContextOverflow(5000, 4096, 8)
            yield from super().answer(request, cancel)

    answerer = Small("#### 1800")
    (sample,) = answered(answerer, NUMBERS[:1], SOLVED, format=FORMATS["gsm8k"])
    assert (sample.correct, sample.shots, len(answerer.requests)) == (True, 1, 3)
    assert "Solved 7?" in answerer.requests[-1].messages[0].content


def test_a_number_of_a_chat_is_graded_by_value():
    answerer = Answerer("That makes $1,800.00.")
    (sample,) = answered(answerer, NUMBERS[:1], format=FORMATS["chat"])
    assert answerer.requests[0].options.number
    assert (sample.answer, sample.choice, sample.correct) == ("1800", "1800", True)
    assert sample.strict is None
    assert "strict" not in sample.to_json()


@pytest.mark.parametrize(
    ("format_", "text", "choice"),
    [
        ("chat", "The answer is J.", "J"),
        ("chat", "(I) option i", "I"),
        ("chat", "The answer is K.", None),
        ("mmlu-pro", " It follows. The answer is (J).", "J"),
        ("mmlu-pro", " It follows. Answer: J", None),
    ],
)
def test_ten_options_have_ten_letters(format_, text, choice):
    (sample,) = answered(Answerer(text), [TEN], format=FORMATS[format_])
    assert (sample.choice, sample.correct) == (choice, choice == "J")
