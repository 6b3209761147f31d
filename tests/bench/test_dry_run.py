"""Prompt tokens from the vocabulary alone are those that a run computes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.arm import Arm
from etui.bench.dry_run import count_prompts
from etui.bench.formats import FORMATS
from etui.bench.plan import RunRequest, make_plan
from etui.bench.scoring import SubjectWork
from etui.bench.turns import TurnArm, decide_always
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.runtime.runtime import open_runtime

ARMS = {
    "direct": Arm("direct", STARTER, max_tokens=2),
    "cot": Arm("cot", STARTER, "cot", think_tokens=4, max_tokens=2),
    "vote": Arm("vote", STARTER, "vote", think_tokens=0, max_tokens=2, votes=2),
    "choices": Arm("choices", STARTER, readout="choices"),
}


@pytest.fixture
def here(config, tiny_starter):
    return replace(config, models_dir=tiny_starter.parent)


def test_counts_are_those_of_the_answers(here):
    plan = make_plan(
        RunRequest("sample", models=(STARTER,), reasonings=("direct",), limit=4),
        here,
        load_catalogue(here),
    )
    plan = replace(plan, arms=ARMS)
    counts = count_prompts(plan, here, load_catalogue(here))
    with open_runtime(here) as runtime:
        for name, arm in ARMS.items():
            system = TurnArm(decide_always(arm), runtime)
            for subject, questions in plan.drawn.items():
                work = SubjectWork(subject, questions, (), ())
                for answered in system.answer(work):
                    sample = answered.sample
                    counted = counts.mean(arm, [[(subject, sample.row)]])
                    assert counted == pytest.approx(sample.tokens.prompt, abs=1), name


def test_a_format_that_reads_letters_counts_its_own_prompts(here):
    plan = make_plan(
        RunRequest("sample", models=(STARTER,), limit=20, shots=1), here, load_catalogue(here)
    )
    assert plan.format == FORMATS["letters"]
    counts = count_prompts(plan, here, load_catalogue(here))
    (arm,) = plan.arms.values()
    pieces = [[(subject, q.row) for q in questions] for subject, questions in plan.drawn.items()]
    mean = counts.mean(arm, pieces)
    assert mean is not None
    assert 20 < mean < 400
    alone = counts.mean(arm, [[key] for piece in pieces for key in piece])
    assert alone is not None
    assert alone > mean
    assert counts.mean(arm, []) is None
    assert counts.mean(replace(arm, model="other"), pieces) is None


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("format_", ["chat", "mmlu-pro"])
def test_examples_are_counted_as_often_as_a_run_computes_them(here, format_, reuse):
    plan = make_plan(
        RunRequest("sample", models=(STARTER,), format="chat", shots=2),
        here,
        load_catalogue(here),
    )
    worked = {
        subject: tuple(replace(each, solution="It is so.") for each in examples)
        for subject, examples in plan.examples.items()
    }
    names = ("direct",) if FORMATS[format_].raw else ("direct", "cot")
    plan = replace(plan, arms={name: ARMS[name] for name in names}, examples=worked).change(
        prefix_reuse=reuse, format=format_
    )
    counts = count_prompts(plan, here, load_catalogue(here))
    subject, questions = max(plan.drawn.items(), key=lambda item: len(item[1]))
    assert len(questions) >= 3
    with open_runtime(here) as runtime:
        for name, arm in plan.arms.items():
            system = TurnArm(decide_always(arm), runtime, format=plan.format, reuse=reuse)
            work = SubjectWork(subject, questions, (), plan.examples[subject])
            computed = [answered.sample.tokens.computed for answered in system.answer(work)]
            counted = counts.mean(arm, [[(subject, q.row) for q in questions]])
            assert counted == pytest.approx(sum(computed) / len(computed), abs=3), name
            assert (computed[1] < 0.8 * computed[0]) == reuse
