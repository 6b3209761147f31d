"""A run that stops at a precision: fair, the same after an interruption, never before its time."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.bench.config import (
    BenchPart,
    BenchPrecision,
    NamedText,
    cut_subjects,
    list_part,
    parse_run_config,
)
from etui.bench.difficulty import DifficultySource, format_difficulty
from etui.bench.plan import (
    RunPlan,
    RunRequest,
    add_precision,
    check_sources,
    restore_difficulty,
)
from etui.bench.plan import make_plan as make_run_plan
from etui.bench.run import SampleWriter, answer_all, collect_done_rows
from etui.bench.schedule import (
    PrecisionSchedule,
    build_schedule,
    choose_first_check,
    choose_next_check,
    open_precision,
)
from etui.datasets.questions import Question, Suite, draw, order_balanced
from etui.errors import InvalidFile, Stopped, UsageError
from etui.measure.run import RunLimits
from etui.models.catalogue import load_catalogue
from tests.bench import synthetic
from tests.bench.test_run import Answerer, Meter, One

PART_SIZES = st.dictionaries(
    st.sampled_from("abcdefgh"), st.integers(min_value=1, max_value=90), min_size=1
)


@given(PART_SIZES, st.integers(2, 7), st.sampled_from(["subjects", "balanced"]), st.integers(0, 3))
def test_every_question_is_in_one_part(sizes, count, order, seed):
    total = sum(sizes.values())
    parts = [list_part(sizes, order, None, seed, BenchPart(at, count)) for at in range(count)]
    every = [(name, i) for part in parts for name, indices in part.items() for i in indices]
    assert sorted(every) == sorted((name, i) for name, size in sizes.items() for i in range(size))
    counts = [sum(map(len, part.values())) for part in parts]
    if total >= count:
        assert min(counts) > 0
        # the longest job of a list by longest processing time is at most an even share
        assert max(counts) <= 2 * max(1, total // count)


@given(PART_SIZES, st.integers(2, 7))
def test_a_subject_that_fits_into_a_part_stays_whole(sizes, count):
    even = sum(sizes.values()) // count
    for index in range(count):
        for subject, cut in cut_subjects(sizes, BenchPart(index, count)):
            if sizes[subject] <= even:
                assert cut == range(sizes[subject])


def test_a_part_counts_its_own_questions_and_belongs_to_the_plan():
    whole = synthetic.config()
    parts = [replace(whole, part=BenchPart(at, 4)) for at in range(4)]
    assert sum(part.questions for part in parts) == whole.questions
    assert {part.plan_sha256 for part in parts} == {whole.plan_sha256}
    assert len({part.sha256 for part in (whole, *parts)}) == 5
    assert parse_run_config(parts[1].to_json()).part == BenchPart(1, 4)
    for part in parts:
        assert sum(part.asked.values()) == part.questions


LOOK_SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 900), min_size=1)


@given(LOOK_SIZES, st.floats(0.005, 0.4))
def test_the_first_look_is_within_the_questions(sizes, half_width):
    total = sum(sizes.values())
    first = choose_first_check(sizes, half_width)
    assert min(30, total) <= first <= total


def test_the_first_block_has_every_subject_where_that_is_affordable():
    sizes = {f"s{at}": 100 + 23 * at for at in range(57)}
    first = choose_first_check(sizes, 0.03)
    for seed in range(5):
        seen = {subject for subject, _ in order_balanced(sizes, seed)[:first]}
        assert len(seen) == 57
    tiny = {**sizes, "tiny": 1}
    assert choose_first_check(tiny, 0.03) < 200  # one of 40,000: not worth asking for


@given(
    st.integers(1, 5000),
    st.integers(1, 9000),
    st.floats(0, 1),
    st.integers(1, 9000),
    st.one_of(st.none(), st.integers(1, 50)),
)
def test_the_next_look_is_further_and_within_the_questions(asked, needed, error, more, step):
    total = asked + more
    found = choose_next_check(asked, needed, error, total, step)
    assert asked < found <= total
    if step is None and needed > asked + 8:
        assert found <= max(needed * 1.02 + 1, asked + 8)


def test_the_second_block_ends_short_of_an_uncertain_prediction():
    assert choose_next_check(141, 1000, 0.02, 14_000, None) == 920
    assert choose_next_check(141, 1000, 0.3, 14_000, None) == 700
    assert choose_next_check(920, 1000, 0.02, 14_000, None) == 1002
    assert choose_next_check(920, 900, 0.02, 14_000, None) == 928


SIZES = {"algebra": 500, "history": 300, "law": 700, "tiny": 3}
TOTAL = sum(SIZES.values())


@cache
def suite() -> Suite:
    return Suite(
        "made",
        "test",
        "ab" * 32,
        {
            subject: tuple(
                Question(subject, row, f"{subject} {row}?", ("w", "x", "y", "z"), "A")
                for row in range(size)
            )
            for subject, size in SIZES.items()
        },
        dict.fromkeys(SIZES, ()),
    )


def is_right(system: str, subject: str, row: int) -> bool:
    """A system's answer: by its accuracy and a difficulty that all systems share."""
    shared = random.Random(f"{subject} {row}").random()
    own = random.Random(f"{system} {subject} {row}").random()
    level = {"weak": 0.5, "strong": 0.75}.get(system, 0.0)
    if system == "strong q4":
        return is_right("strong", subject, row) if own < 0.98 else own < 0.99
    return 0.7 * shared + 0.3 * own < level


def truth(system: str) -> float:
    rows = [(subject, row) for subject, size in SIZES.items() for row in range(size)]
    return sum(is_right(system, *key) for key in rows) / len(rows)


class Judged(Answerer):
    """Is right on the questions of its own."""

    def give(self, question) -> One:
        right = is_right(self.name, question.subject, question.row)
        return One(self.name, replace(question, answer="A" if right else "B"))


@dataclass
class Folder:
    """A run folder in memory."""

    samples: list = field(default_factory=list)

    def add_samples(self, samples) -> None:
        self.samples.extend(samples)


@dataclass
class Audience:
    said: list[str] = field(default_factory=list)
    expected: list[int] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def expect(self, questions: int) -> None:
        self.expected.append(questions)


def make_plan(*systems: str, limit=None, seed=0, format_="letters", **request) -> RunPlan:
    drawn = {
        subject: tuple(suite().questions[subject][index] for index in rows)
        for subject, rows in draw(SIZES, seed, limit).items()
    }
    run = synthetic.config(
        sizes=SIZES,
        drawn={subject: len(rows) for subject, rows in drawn.items()},
        format=format_,
        shots=0 if format_ == "chat" else 5,
        seed=seed,
        limit=limit,
        per_subject=None,
    )
    arms = {name: Arm(name, "m") for name in systems}
    plan = RunPlan(run, suite(), drawn, dict.fromkeys(drawn, ()), arms)
    return add_precision(plan, **request)


def make_config(plan: RunPlan):
    direct = synthetic.config().arms["direct"]
    return replace(plan.config, arms=dict.fromkeys(plan.arms, direct))


def go(plan: RunPlan, folder: Folder, stop_after=None, **limits):
    """Run a plan on answers that are there; returns ending, schedule and audience."""
    config, audience = make_config(plan), Audience()
    before = list(folder.samples)
    schedule = open_precision(plan, config, lambda: sink.wait(), audience)
    assert isinstance(schedule, PrecisionSchedule)
    sink = SampleWriter(folder, Meter(), schedule.add, sum(s.joules for s in before))
    systems = {name: Judged(name, stop_after) for name in plan.arms}
    try:
        schedule.add(before)
        check = RunLimits(**limits).start(lambda: False)
        done = collect_done_rows(config, before)
        ending = answer_all(plan, schedule.pieces(systems), systems, done, sink, check)
    finally:
        sink.close()
    return ending, schedule, audience


@pytest.fixture(scope="module")
def whole():
    folder = Folder()
    ending, schedule, audience = go(make_plan("weak", "strong", points=4), folder)
    assert ending == "complete"
    return folder, schedule.report, audience


def test_a_run_stops_when_every_accuracy_is_known(whole):
    folder, report, audience = whole
    asked = {
        name: {(s.subject, s.row) for s in folder.samples if s.arm == name}
        for name in ("weak", "strong")
    }
    assert asked["weak"] == asked["strong"]
    assert report.reached
    assert len(asked["weak"]) == report.questions < TOTAL / 2
    assert report.population == TOTAL
    for name, found in report.systems.items():
        assert found.low <= truth(name) <= found.high
        assert found.half_width <= 0.04
        assert found.reached
        assert found.questions <= report.questions
        assert 100 < found.fixed_sample < found.questions
    # the one that needs fewer keeps the interval of the look at which it was reached
    assert len({found.questions for found in report.systems.values()}) == 2
    assert report.looks == tuple(sorted(report.looks))
    assert set(report.differences) == {"strong"}
    assert audience.expected[-1] == report.questions
    assert audience.said[-1] == f"±4 points reached after {report.questions} questions"


@pytest.mark.parametrize("stop_after", [1, 40, 200, 300])
def test_an_interrupted_run_stops_where_an_uninterrupted_one_does(whole, stop_after):
    _, report, _ = whole
    plan = make_plan("weak", "strong", points=4)
    folder = Folder()
    ending, schedule, _ = go(plan, folder, stop_after)
    assert ending == "stopped"
    assert schedule.report is None or not schedule.report.reached
    ending, schedule, _ = go(plan, folder)
    assert ending == "complete"
    assert schedule.report == report
    assert {s.key for s in folder.samples} == {s.key for s in whole[0].samples}
    assert len(folder.samples) == len(whole[0].samples)
    ending, schedule, _ = go(plan, folder)
    assert (ending, schedule.report) == ("complete", report)
    assert len(folder.samples) == len(whole[0].samples)


def test_joules_end_a_run_before_its_precision(whole):
    folder = Folder()
    ending, schedule, _ = go(make_plan("weak", points=4), folder, joules=2.0 * 150)
    assert ending == "joules"
    assert not schedule.report.reached
    found = schedule.report.systems["weak"]
    assert found.low <= truth("weak") <= found.high
    assert found.half_width > 0.04


def test_the_difference_of_like_systems_is_known_much_sooner():
    folder = Folder()
    plan = make_plan("strong", "strong q4", points=3, of="difference")
    _, schedule, _ = go(plan, folder)
    report = schedule.report
    assert report.reached
    assert report.reference == "strong"
    assert set(report.systems) == {"strong q4"}
    assert report.differences is None
    accuracy = Folder()
    _, other, _ = go(make_plan("strong", "strong q4", points=3), accuracy)
    assert report.questions < other.report.questions / 2
    assert other.report.differences["strong q4"] == pytest.approx(report.questions, rel=0.4)
    found = report.systems["strong q4"]
    assert found.low <= truth("strong q4") - truth("strong") <= found.high


def test_the_answers_of_a_policy_are_those_of_one_system():
    plan = make_plan("strong", points=8)
    made = synthetic.config(arms=("direct", "large"))
    config = replace(make_config(plan), arms=made.arms, policy=NamedText("p", ""), routed=True)
    schedule = PrecisionSchedule(plan, config, lambda: None)
    count = 0
    for piece in schedule.pieces(["p"]):
        assert piece.system == "p"
        for row in piece.rows:
            count += 1
            arm = "direct" if row % 2 else "large"
            right = is_right("strong", piece.subject, row)
            question = replace(suite().questions[piece.subject][row], answer="AB"[not right])
            schedule.add(One(arm, question).samples(Meter().energy))
    assert schedule.report.reached
    assert set(schedule.report.systems) == {"p"}
    assert schedule.report.questions == count < 300


def test_a_model_that_is_always_right_is_asked_a_hundred_questions(monkeypatch):
    monkeypatch.setattr(f"{__name__}.is_right", lambda *question: True)
    _, schedule, _ = go(make_plan("weak", points=3), Folder())
    found = schedule.report.systems["weak"]
    assert 60 < found.questions < 140
    assert found.value == found.high == 1.0
    assert found.fixed_sample > 30


def test_a_limit_is_the_most_that_is_asked():
    ending, schedule, audience = go(make_plan("weak", points=2, limit=100), Folder())
    assert ending == "complete"
    report = schedule.report
    assert (report.reached, report.questions, report.population) == (False, 100, TOTAL)
    assert "would need about" in audience.said[-1]


def test_a_width_that_needs_all_questions_asks_all_of_them():
    ending, schedule, audience = go(make_plan("weak", points=0.02), Folder())
    assert ending == "complete"
    report = schedule.report
    assert (report.reached, report.questions) == (True, TOTAL)
    found = report.systems["weak"]
    assert found.low == found.high == pytest.approx(truth("weak"))
    assert any("cannot be reached with fewer than all questions" in text for text in audience.said)


def test_a_format_that_shares_no_examples_is_looked_at_every_few_questions():
    plan = make_plan("weak", points=8, format_="chat")
    assert plan.config.block == 8
    _, schedule, audience = go(plan, Folder())
    looks = schedule.report.looks
    assert len(audience.expected) == len(looks) > len(audience.said)  # not a line at each
    assert {second - first for first, second in pairwise(looks)} == {8}
    assert make_plan("weak", points=8).config.block is None


def test_a_difficulty_that_fits_needs_fewer_questions(tmp_path):
    values = {
        (subject, row): round(1 - random.Random(f"{subject} {row}").random(), 4)
        for subject, size in SIZES.items()
        for row in range(size)
        if row % 10
    }
    table = tmp_path / "difficulty.csv"
    table.write_text(format_difficulty(values, dict.fromkeys(values, 3), None, ()))
    plan = make_plan("weak", points=4, difficulty=table)
    assert plan.config.precision.difficulty_sha256 == plan.difficulty.sha256
    _, schedule, _ = go(plan, Folder())
    _, plain, _ = go(make_plan("weak", points=4), Folder())
    report = schedule.report
    assert report.questions < 0.8 * plain.report.questions
    found = report.systems["weak"]
    assert found.correlation > 0.5
    assert found.low <= truth("weak") <= found.high
    assert report.difficulty_questions == len(values)


def test_a_disk_that_fills_ends_the_run_at_the_look():
    class Full(Folder):
        def add_samples(self, samples) -> None:
            raise Stopped("the disk is full", "free some room")

    with pytest.raises(Stopped, match="the disk is full"):
        go(make_plan("weak", points=4), Full())


BALANCED_SIZES = st.dictionaries(
    st.sampled_from("abcdefgh"), st.integers(min_value=1, max_value=40), min_size=1
)


@given(BALANCED_SIZES, st.integers(min_value=0, max_value=9))
def test_a_prefix_of_the_balanced_order_holds_every_subjects_share(sizes, seed):
    order = order_balanced(sizes, seed)
    assert sorted(order) == sorted((name, i) for name, size in sizes.items() for i in range(size))
    total = sum(sizes.values())
    seen: Counter[str] = Counter()
    for count, (name, _) in enumerate(order, 1):
        seen[name] += 1
        for subject, size in sizes.items():
            # each subject is within one of its share of the keys below the cut, and so is the sum
            assert abs(seen[subject] - count * size / total) <= 1 + len(sizes) * size / total


def test_every_question_is_first_equally_often():
    first = Counter(order_balanced({"a": 3, "b": 1}, seed)[0] for seed in range(2000))
    assert set(first) == {("a", 0), ("a", 1), ("a", 2), ("b", 0)}
    # the first key is the smallest of u/3 (a) and u (b): b comes first with probability 1/6
    assert first["b", 0] / 2000 == pytest.approx(1 / 6, abs=0.03)


@pytest.fixture
def small_plan(questions_csv, config) -> RunPlan:
    made = make_run_plan(RunRequest(str(questions_csv), shots=2), config, load_catalogue(config))
    arms = {name: Arm(name, model) for name, model in (("a", "m"), ("b", "n"), ("c", "m"))}
    return replace(made, arms=arms)


@pytest.mark.parametrize("order", ["subjects", "balanced"])
@pytest.mark.parametrize("block", [1, 2, 4])
def test_every_system_answers_every_question_once(small_plan, order, block):
    pieces = list(build_schedule(small_plan.change(order=order, block=block), small_plan.arms))
    asked = Counter((p.system, p.subject, row) for p in pieces for row in p.rows)
    expected = {
        (system, q.subject, q.row)
        for system in small_plan.arms
        for inside in small_plan.drawn.values()
        for q in inside
    }
    assert asked == Counter(expected)


def asked(small_plan, **changes) -> Counter:
    pieces = build_schedule(small_plan.change(**changes), small_plan.arms)
    return Counter((p.system, p.subject, row) for p in pieces for row in p.rows)


@pytest.mark.parametrize("order", ["subjects", "balanced"])
@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_the_parts_of_a_plan_are_the_plan(small_plan, order, count):
    whole = asked(small_plan, order=order, block=2)
    parts = []
    for index in range(count):
        part = BenchPart(index, count)
        parts.append(asked(small_plan, order=order, block=2, part=part))
        shares = small_plan.change(order=order, block=2, part=part)
        assert sum(parts[-1].values()) == shares.questions * len(small_plan.arms) > 0
        expected = {(s, q.row) for s, inside in shares.asked.items() for q in inside}
        assert {(subject, row) for _, subject, row in parts[-1]} == expected
    assert sum(parts, Counter()) == whole
    assert max(whole.values()) == 1


def test_a_block_keeps_the_arms_of_a_model_together(small_plan):
    for seed in range(20):
        ordered = small_plan.change(order="balanced", block=4, seed=seed)
        pieces = list(build_schedule(ordered, small_plan.arms))
        for block in {piece.block for piece in pieces}:
            models = [small_plan.arms[p.system].model for p in pieces if p.block == block]
            changes = sum(one != other for one, other in pairwise(models))
            assert changes == 1
    firsts = {
        next(build_schedule(small_plan.change(order="balanced", seed=seed), small_plan.arms)).system
        for seed in range(40)
    }
    assert firsts == {"a", "b", "c"}


def write_table(path, data=None, sources=(), keys=(("law", 0), ("law", 1))):
    text = format_difficulty(dict.fromkeys(keys, 0.5), dict.fromkeys(keys, 1), data, tuple(sources))
    path.write_text(text)
    return path


@pytest.fixture
def plan() -> RunPlan:
    return make_plan("weak", points=3).change(precision=None, order="subjects")


def test_a_plan_asks_in_balanced_order(plan):
    made = add_precision(plan, 2.5)
    assert made.config.order == "balanced"
    assert made.config.precision == BenchPrecision(2.5, "accuracy")
    assert made.config.block is None


def test_a_precision_is_in_the_configuration_and_its_hash(plan):
    made = add_precision(plan, 2.5)
    one, two = (make_config(made.change(precision=p)) for p in (None, made.config.precision))
    assert one.sha256 != two.sha256
    assert "precision" not in one.to_json()
    assert two.to_json()["precision"] == {
        "points": 2.5,
        "of": "accuracy",
        "difficulty_sha256": None,
    }


def test_difficulties_of_other_data_are_refused_by_hash(plan, tmp_path):
    path = write_table(tmp_path / "d.csv", data="cd" * 32)
    with pytest.raises(UsageError) as caught:
        add_precision(plan, 3, None, path)
    assert "cdcdcdcdcdcd" in caught.value.what
    assert suite().sha256[:12] in caught.value.what
    path = write_table(tmp_path / "d.csv", keys=(("other", 0),))
    with pytest.raises(UsageError, match="none of the questions"):
        add_precision(plan, 3, None, path)


def test_questions_without_a_difficulty_are_mentioned(plan, tmp_path):
    said: list[str] = []
    path = write_table(tmp_path / "d.csv", data=suite().sha256)
    add_precision(plan, 3, None, path, said.append)
    assert "the difficulty of 2 of 1,503 questions" in said[0]


def test_a_model_is_not_its_own_covariate(plan, tmp_path):
    sources = [
        DifficultySource("small", "ab" * 32, "run one"),
        DifficultySource("big", None, "table t.csv"),
    ]
    path = write_table(tmp_path / "d.csv", sources=sources)
    made = add_precision(plan, 3, None, path)
    check_sources(made, {"other": "ef" * 32, "unknown": None})
    with pytest.raises(UsageError) as caught:
        check_sources(made, {"renamed": "ab" * 32})
    assert "answers of renamed itself (run one)" in caught.value.what
    said: list[str] = []
    check_sources(made, {"big": "ef" * 32}, said.append)
    assert "a model called big (table t.csv)" in said[0]


def test_the_copy_of_a_resumed_run_is_the_table_it_was_started_with(plan, tmp_path):
    path = write_table(tmp_path / "d.csv")
    made = add_precision(plan, 3, None, path)
    run = make_config(made)
    assert restore_difficulty(plan, run, path).difficulty == made.difficulty
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(InvalidFile, match="differs from the one"):
        restore_difficulty(plan, run, path)
    with pytest.raises(InvalidFile, match="is missing"):
        restore_difficulty(plan, run, tmp_path / "none.csv")
    plain = make_config(made.change(precision=None))
    assert restore_difficulty(plan, plain, tmp_path / "none.csv") == plan
