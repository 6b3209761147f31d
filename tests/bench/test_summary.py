"""What a run comes to."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from etui.bench.accuracy import oracle
from etui.bench.summary import Summary, group_by_system, summarise, summary_document
from etui.bench.summary_text import headline, markdown
from etui.codec import from_document, to_document
from etui.datasets.mmlu import read_labels
from etui.errors import InvalidFile
from tests.bench import synthetic
from tests.fixtures.turns import SPECULATION


def test_one_unmeasured_answer_leaves_the_joules_unknown() -> None:
    grouped = group_by_system([replace(ROWS[0], joules=None), *ROWS[1:]], RUN)
    found, whole = oracle(grouped), oracle(group_by_system(ROWS, RUN))
    assert found.joules_per_question is None
    assert (found.questions, found.accuracy) == (whole.questions, whole.accuracy)


def test_there_is_no_oracle_over_one_arm_or_no_common_question() -> None:
    grouped = group_by_system(ROWS, RUN)
    name, rows = next(iter(grouped.items()))
    assert oracle({}) is None
    assert oracle({name: rows}) is None
    assert oracle({"one": rows[:3], "other": rows[3:]}) is None
    found = oracle({"one": rows[:4], "other": rows[3:]})
    assert found.questions == 1


RUN = synthetic.config(per_subject=3)
ROWS = synthetic.samples(RUN)


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarise(ROWS, RUN)


def test_the_order_of_the_answers_changes_nothing(summary: Summary) -> None:
    shuffled = ROWS[:]
    random.Random(3).shuffle(shuffled)
    assert json.dumps(without_courses(summarise(shuffled, RUN))) == json.dumps(
        without_courses(summary)
    )


def without_courses(summary: Summary) -> Any:
    """All but what depends on the order of the answers."""
    document = to_document(summary)
    for arm in document["arms"].values():
        del arm["courses"]
    return document


def test_a_summary_of_an_earlier_version_is_read(summary: Summary) -> None:
    document = without_courses(summary)
    for arm in document["arms"].values():
        del arm["percentiles"]
    found = from_document(Summary, json.loads(json.dumps(document)))
    assert found.arms["direct"].percentiles is None
    assert "1st, 2nd" not in markdown(found, RUN)


def test_the_course_follows_the_order_of_the_answers() -> None:
    rows = [row for row in ROWS if row.arm == "think"]
    (course,) = summarise(rows, RUN).arms["think"].courses
    assert [one.joules for one in course.early_answers] == [rows[at].joules for at in (0, 1, 9)]
    apart = [replace(row, machine="ab"[at % 2]) for at, row in enumerate(rows)]
    first, second = summarise(apart, RUN).arms["think"].courses
    assert (first.machine, second.machine) == ("a", "b")
    assert second.early_answers[0].joules == rows[1].joules


def test_unmeasured_stays_unmeasured() -> None:
    found = summarise(synthetic.samples(RUN, kind=None), RUN)
    assert all(arm.energy is None for arm in found.arms.values())
    assert found.hull == []
    assert found.oracle.joules_per_question is None
    assert "energy unmeasured" in headline(found)


def test_one_unknown_uncertainty_leaves_the_sensor_unknown() -> None:
    rows = [replace(row, uncertainty=None if row.row == 0 else 1.0) for row in ROWS]
    cost = summarise(rows, RUN).arms["direct"].energy
    assert cost.uncertainty is None
    assert cost.per_question.sensor is None
    assert cost.per_question.low < cost.per_question.value


def test_without_a_right_answer_there_are_no_joules_per_right_answer() -> None:
    rows = [replace(row, correct=False) for row in ROWS]
    assert summarise(rows, RUN).arms["direct"].energy.per_correct is None


def test_a_run_without_answers_has_a_summary() -> None:
    found = summarise([], RUN)
    assert found.arms == {}
    assert not found.complete
    assert headline(found) == "MMLU 5-shot letters@1: no question answered"
    assert markdown(found, RUN)


def test_one_question_has_a_summary() -> None:
    run = synthetic.config(arms=("direct",), drawn={"anatomy": 1})
    found = summarise(synthetic.samples(run), run)
    assert found.arms["direct"].accuracy.questions == 1
    json.dumps(to_document(found), allow_nan=False)


def test_a_low_letter_mass_is_warned_of() -> None:
    rows = [replace(row, letter_mass=0.2) for row in ROWS]
    warnings = summarise(rows, RUN).warnings
    assert any("prefers to write something else" in text for text in warnings)
    cloze = summarise(rows, replace(RUN, format="cloze")).warnings
    assert not any("prefers to write something else" in text for text in cloze)


NUMBERS = replace(
    synthetic.config(arms=("large",), per_subject=3),
    suite="gsm8k", format="gsm8k", chance=0.0, grading="gsm8k-flexible@1",
    drawn={"gsm8k": 40}, sizes={"gsm8k": 1319},
)  # fmt: skip


def number_rows(strict=True, status="answered"):
    return [
        replace(
            row, answer="18", choice="18" if at % 2 else None, correct=at % 2 == 1,
            status="answered" if at % 2 else status, logprobs=None, letter_mass=None,
            strict=at % 4 == 1 if strict else None,
        )
        for at, row in enumerate(synthetic.samples(NUMBERS))
    ]  # fmt: skip


def test_a_run_over_numbers_has_no_chance_and_no_constant_letter() -> None:
    found = summarise(number_rows(), NUMBERS)
    assert (found.chance, found.constant_letter, found.grading) == (0.0, None, "gsm8k-flexible@1")
    text = markdown(found, NUMBERS)
    assert "5-shot gsm8k@1 graded by gsm8k-flexible@1\n" in text
    assert "A number cannot be guessed, so chance is 0." in text
    assert "always" not in text


def test_both_readings_of_gsm8k_are_reported() -> None:
    found = summarise(number_rows(), NUMBERS)
    accuracy = found.arms["large"].accuracy
    assert (accuracy.micro.value, accuracy.strict.accuracy) == (0.5, 0.25)
    assert "50.0 % micro" in headline(found)
    assert "25.0 % strict-match" in headline(found)
    assert "25.0 % (" in markdown(found, NUMBERS)
    other = summarise(number_rows(strict=False), replace(NUMBERS, grading="number@1"))
    assert other.arms["large"].accuracy.strict is None
    assert "strict" not in headline(other)


def test_a_summary_leaves_out_what_it_does_not_use(summary: Summary) -> None:
    document = summary_document(summary)
    assert "grading" not in document
    assert all("strict" not in arm["accuracy"] for arm in document["arms"].values())
    assert from_document(Summary, json.loads(json.dumps(document))) == summary
    numbers = summarise(number_rows(), NUMBERS)
    document = summary_document(numbers)
    assert document["grading"] == "gsm8k-flexible@1"
    assert from_document(Summary, json.loads(json.dumps(document))) == numbers


def test_an_unfinished_run_says_so() -> None:
    found = summarise(ROWS[:100], RUN)
    assert not found.complete
    assert any("of 171 questions answered" in text for text in found.warnings)


def test_a_policys_answers_belong_to_the_policy() -> None:
    run = synthetic.routed(per_subject=3)
    rows = [row for at, row in enumerate(ROWS) if at % 4 == (at // 4) % 4]
    found = summarise(rows, run)
    assert list(found.arms) == ["balanced"]
    assert sum(found.arms["balanced"].routes.values()) == len(rows)
    assert found.oracle is None


def test_labels_are_of_mmlus_test_questions_only(tmp_path) -> None:
    labels = {"anatomy": {0: "ok", 1: "wrong_groundtruth"}, "virology": {2: "ok"}}
    arm = summarise(ROWS, RUN, labels).arms["direct"]
    assert arm.accuracy.labelled.all.questions == 3
    assert arm.accuracy.labelled.clean.questions == 2
    other = summarise(ROWS, replace(RUN, split="val"), labels).arms["direct"]
    assert other.accuracy.labelled is None


def test_an_index_of_labels_is_read_or_refused(tmp_path) -> None:
    file = tmp_path / "index.json"
    file.write_text(json.dumps({"anatomy": [{"test_row": 4, "error_type": "ok"}]}))
    assert read_labels(file) == {"anatomy": {4: "ok"}}
    for text in ("[]", "{", '{"anatomy": [{"row": 1}]}', '{"anatomy": 3}'):
        file.write_text(text)
        with pytest.raises(InvalidFile, match="not an index"):
            read_labels(file)


def test_drafted_tokens_are_summed_over_the_answers_that_had_any() -> None:
    first, second, *others = (row for row in ROWS if row.arm == RUN.contenders[0])
    drafted = [replace(row, speculation=SPECULATION) for row in (first, second)]
    found = summarise([*drafted, *others], RUN)
    arm = found.arms[RUN.contenders[0]]
    assert (arm.speculation.questions, arm.speculation.drafted) == (2, 24)
    assert arm.speculation.acceptance == 0.75
    assert arm.speculation.waste_joules == pytest.approx(2.4)
    assert arm.speculation.joules_per_accepted_token == pytest.approx(0.7)
    assert from_document(Summary, json.loads(json.dumps(to_document(found)))) == found
    first_line = headline(found).splitlines()[0]
    assert first_line.endswith("drafted 24, accepted 18 (75 %), 0.700 J per accepted token")
    assert summarise(ROWS, RUN).arms[RUN.contenders[0]].speculation is None


def test_an_arm_that_speculates_and_drafts_nothing_is_warned_of() -> None:
    name = "think"
    run = replace(RUN, arms={**RUN.arms, name: {**RUN.arms[name], "speculate": "mtp"}})
    warning = f"{name}: nothing was drafted (speculate: mtp)"
    assert warning in summarise(ROWS, run).warnings
    drafted = [replace(row, speculation=SPECULATION) for row in ROWS]
    assert warning not in summarise(drafted, run).warnings
    assert not any("drafted" in text for text in summarise(ROWS, RUN).warnings)


def test_markdown_keeps_names_in_their_cells() -> None:
    run = synthetic.config(arms=("a|<b>",), per_subject=3)
    text = markdown(summarise(synthetic.samples(run), run), run)
    assert "a\\|&lt;b>" in text
    assert "<b>" not in text


@pytest.mark.parametrize(
    ("every", "found"), [(1, "better than"), (4, "no better than"), (1000, "worse than")]
)
def test_the_headline_says_whether_it_was_better_than_guessing(every: int, found: str) -> None:
    arms = [[row for row in ROWS if row.arm == name] for name in RUN.contenders]
    rows = [
        replace(row, correct=at % every == every - 1) for arm in arms for at, row in enumerate(arm)
    ]
    lines = headline(summarise(rows, RUN)).splitlines()
    assert lines[1] == f"  {found} guessing (25.0 %)"
    assert "guessing" not in headline(summarise(number_rows(), NUMBERS))
