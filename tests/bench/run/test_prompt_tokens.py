"""Prompt tokens from the vocabulary alone are those that a run computes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.arm import Arm
from etui.bench.prompts.formats import FORMATS
from etui.bench.run.plan import make_plan
from etui.bench.run.prompt_tokens import count_prompts
from etui.bench.run.run_request import RunRequest
from etui.bench.run.turn_arm import TurnArm, decide_always
from etui.bench.run.work import SubjectWork
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.runtime.open import open_runtime

ARMS = {
    "direct": Arm("direct", STARTER, max_tokens=2),
    "cot": Arm("cot", STARTER, "cot", think_tokens=4, max_tokens=2),
    "vote": Arm("vote", STARTER, "vote", think_tokens=0, max_tokens=2, votes=2),
    "choices": Arm("choices", STARTER, readout="choices"),
}


@pytest.fixture
def here(config, starter_model):
    return replace(config, models_dir=starter_model.parent)


def test_counts_are_those_of_the_answers(here):
    plan = make_plan(
        RunRequest("sample", models=(STARTER,), reasonings=("direct",), limit=4),
        here,
        load_catalogue(here),
    )
    plan = replace(plan, arms=ARMS, models=(STARTER,))
    counts = count_prompts(plan, here, load_catalogue(here))
    with open_runtime(here) as runtime:
        for name, arm in ARMS.items():
            system = TurnArm(decide_always(arm), runtime)
            for subject, questions in plan.drawn.items():
                work = SubjectWork(subject, questions, (), ())
                for answered in system.answer(work):
                    sample = answered.sample
                    counted = counts.mean(arm, [(subject, sample.row)])
                    assert counted == pytest.approx(sample.tokens.prompt, abs=1), name


def test_a_format_that_reads_letters_counts_its_own_prompts(here):
    plan = make_plan(
        RunRequest("sample", models=(STARTER,), limit=4, shots=1), here, load_catalogue(here)
    )
    assert plan.format == FORMATS["letters"]
    counts = count_prompts(plan, here, load_catalogue(here))
    (arm,) = plan.arms.values()
    keys = [(subject, q.row) for subject, questions in plan.drawn.items() for q in questions]
    mean = counts.mean(arm, keys)
    assert mean is not None
    assert 20 < mean < 400
    assert counts.mean(arm, []) is None
    assert counts.mean(replace(arm, model="other"), keys) is None
