"""Models side by side: curves at equal lengths, equal questions, what is claimed and what not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from etui.bench.model_comparison import compare_models
from etui.bench.run import run_record
from etui.cli.model_tables import build_comparison, format_comparison
from etui.config.machine import machine_name
from etui.curves.operating_curve import FittedPoint
from etui.errors import UsageError
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from tests.bench import synthetic
from tests.log.test_curve_rows import CURVE, NOW

ENTRIES = f"""
models:
  small: {{size: s, sha256: {"ab" * 32}, sources: [{{path: /nowhere/small.gguf}}]}}
  large: {{size: l, sha256: {"ef" * 32}, sources: [{{path: /nowhere/large.gguf}}]}}
  other: {{size: o, sources: [{{path: /nowhere/other.gguf}}]}}
"""
HERE = replace(NOW, machine=machine_name())
RUN = synthetic.config(arms=("direct", "large"), per_subject=4)
ROWS = synthetic.samples(RUN)


def points(factor: float, spread: float = 0.0) -> tuple[FittedPoint, ...]:
    draw = random.Random(1)
    return tuple(
        FittedPoint(computed, 0, output, 0.02 * computed * each, 0.4 * output * each)
        for computed in (32, 128, 512)
        for output in (16, 64, 192)
        for each in [factor * draw.lognormvariate(0, spread)]
    )


def curve(model: str, sha256: str, factor: float, spread: float = 0.0, **changes):
    made = replace(
        CURVE, curve_id=model, model=model, model_sha256=sha256, conditions=HERE,
        points=points(factor, spread),
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture
def compared(config, tmp_path):
    """Compare models after these curves and runs."""

    def compare(*names, curves=(), runs=()):
        config.models_file.write_text(ENTRIES)
        with TurnWriter(config) as writer:
            for one in curves:
                writer.save_curve(one)
            for run, rows in runs:
                folder = synthetic.write(tmp_path / run.run_id, run, rows)
                writer.save_rows("runs", [run_record(run, folder, rows, "complete")])
        catalogue = load_catalogue(config)
        with LogReader(config) as log:
            return compare_models([catalogue.get(name) for name in names], config, log)

    return compare


def test_curves_are_compared_at_the_same_lengths(compared):
    found = compared(
        "small", "large", curves=[curve("small", "ab" * 32, 1.0), curve("large", "ef" * 32, 3.0)]
    )
    small, large = found.models
    assert small.speed.decode_tokens_per_second == 60.0
    assert small.joules_per_token.value == pytest.approx(0.4 + 512e-4)
    assert small.joules_per_token.low < small.joules_per_token.value < small.joules_per_token.high
    assert large.speed_from == "curve"
    decode, prefill = found.contrasts
    assert (decode.figure, decode.basis, decode.pairs) == ("J/token", "curves", 9)
    assert decode.ratio.value == prefill.ratio.value == pytest.approx(3.0)
    # The meter's 1 % of either reading is in the interval of equal ratios.
    assert (decode.ratio.low, decode.ratio.high) == pytest.approx((2.94, 3.06))
    assert decode.shown
    assert prefill.shown
    assert found.notes == ()


def test_no_difference_is_claimed_within_the_error_of_an_estimate(compared):
    estimate = {"meter_share": 0.4, "kind": "estimate"}
    found = compared(
        "small", "large",
        curves=[curve("small", "ab" * 32, 1.0, **estimate),
                curve("large", "ef" * 32, 1.5, **estimate)],
    )  # fmt: skip
    assert [one.shown for one in found.contrasts] == [False, False]
    assert any("no difference shown" in line for line in format_comparison(found))


def test_a_curve_of_another_file_or_machine_is_missing(compared):
    found = compared(
        "small", "large",
        curves=[curve("small", "00", 1.0), curve("large", "ef" * 32, 1.0, conditions=NOW)],
    )  # fmt: skip
    assert found.contrasts == ()
    commands = [one.command for one in found.missing]
    assert {"etui calibrate small", "etui calibrate large"} <= set(commands)
    assert "etui models pull small" in commands
    assert commands[-1] == "etui bench --suite mmlu -n 200 -m small -m large"


def test_answers_to_the_same_questions_are_paired(compared):
    found = compared("small", "large", runs=[(RUN, ROWS)])
    small, large = found.models
    assert found.run == "mmlu letters"
    assert small.cost.questions == large.cost.questions == 4 * 57
    assert small.accuracy.low < small.accuracy.value < small.accuracy.high
    per = large.correct_per_joule
    right = sum(row.correct for row in ROWS if row.arm == "large")
    joules = sum(row.joules for row in ROWS if row.arm == "large")
    assert per.value == pytest.approx(right / joules)
    assert per.low < per.value < per.high
    by_figure = {one.figure: one for one in found.contrasts}
    assert set(by_figure) == {"J/question", "right answers per joule"}  # nothing was decoded
    each = by_figure["J/question"]
    assert each.ratio.low < 9.5 / 3.0 < each.ratio.high
    assert each.shown
    (accuracy,) = found.accuracies
    assert accuracy.questions == 4 * 57
    assert accuracy.difference.value == pytest.approx(large.accuracy.value - small.accuracy.value)


def test_other_questions_and_settings_are_not_mixed(compared):
    own = replace(RUN, run_id="own", arms={"direct": RUN.arms["direct"]})
    longer = replace(RUN, run_id="shots", arms={"large": RUN.arms["large"]}, shots=0)
    rows = {arm: [row for row in ROWS if row.arm == arm] for arm in RUN.arms}
    found = compared("small", "large", runs=[(own, rows["direct"]), (longer, rows["large"])])
    assert found.contrasts == ()
    assert found.accuracies == ()
    assert sum(model.accuracy is not None for model in found.models) == 1
    assert found.missing[-1].command.startswith("etui bench")


def test_two_runs_of_the_same_questions_are_one_comparison(compared):
    own = replace(RUN, run_id="own", arms={"direct": RUN.arms["direct"]})
    other = replace(RUN, run_id="two", arms={"large": RUN.arms["large"]}, threads=16)
    rows = {arm: [row for row in ROWS if row.arm == arm] for arm in RUN.arms}
    found = compared(
        "small", "large", "other", runs=[(own, rows["direct"]), (other, rows["large"])]
    )
    assert {one.figure for one in found.contrasts} == {"J/question", "right answers per joule"}
    assert any("threads" in note for note in found.notes)
    assert found.models[2].accuracy is None
    assert "other" in found.missing[-1].models


def test_another_file_of_the_name_has_no_part_in_it(compared):
    models = (replace(RUN.models[0], sha256="00" * 32), RUN.models[1])
    found = compared("small", "large", runs=[(replace(RUN, models=models), ROWS)])
    assert found.models[0].accuracy is None
    assert found.models[1].accuracy is not None


def test_the_last_turns_stand_in_for_a_curve(config, compared, make_turn):
    plain = {"probes": (), "votes": (), "reasoning": "direct"}
    here = {"machine": machine_name()}
    with TurnWriter(config) as writer:
        writer.save_turn(make_turn(1, model="other", model_sha256=None, settings=here, **plain))
    other = compared("other", "small").models[0]
    assert (other.speed_from, other.kind) == ("log", "counter")
    assert other.joules_per_token.value == pytest.approx(10.0 / 20)
    assert other.joules_per_token.low is None


def test_one_model_is_no_comparison(compared):
    with pytest.raises(UsageError, match="name two models"):
        compared("small")


def test_unmeasured_is_said_and_the_document_has_every_value(compared):
    rows = synthetic.samples(RUN, kind=None)
    found = compared("small", "large", curves=[curve("small", "ab" * 32, 1.0)], runs=[(RUN, rows)])
    document = build_comparison(found)
    assert document["models"][0]["cost"] is None
    assert document["models"][1]["joules_per_token"] is None
    assert [one["what"] for one in document["missing"]][:1] == ["its file is not on this machine"]
    assert "subjects" not in document["accuracies"][0]
    lines = list(format_comparison(found))
    assert lines[0].split() == ["small", "large"]
    assert any(line.startswith("question") and "unmeasured" in line for line in lines)
    assert any("run: etui calibrate large" in line for line in lines)
