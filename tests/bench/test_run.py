"""A run over contenders that need no model: stopped, resumed, out of joules, out of disk."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from etui.arm import Arm
from etui.bench.arms import ArmOverrides, build_arms, check_format, parse_arm, to_json
from etui.bench.config import RunConfig
from etui.bench.folder import RunFolder, read_run
from etui.bench.formats import FORMATS
from etui.bench.plan import RunPlan, RunRequest, make_plan
from etui.bench.run import (
    SampleWriter,
    answer_all,
    collect_done_rows,
    refuse_changes,
)
from etui.bench.sample import Sample
from etui.bench.schedule import build_schedule
from etui.bench.scoring import SubjectWork
from etui.bench.summary import summarise, summary_document
from etui.bench.summary_text import headline, markdown
from etui.config.config import Config
from etui.energy.tariff import Rate, Tariff
from etui.energy.types import Energy, Kind
from etui.errors import EtuiError, Stopped, UsageError
from etui.measure.run import RunLimits, StopRequested
from etui.models.catalogue import load_catalogue
from etui.turn.record import Tokens
from tests.bench import synthetic

JOULES = 2.0


@dataclass
class Meter:
    settled: list[int] = field(default_factory=list)

    def settle(self, end_ns: int) -> None:
        self.settled.append(end_ns)

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        return Energy(start_ns, end_ns, JOULES, 0.1, Kind.COUNTER, 1.0)


@dataclass(frozen=True)
class One:
    arm: str
    question: object
    end_ns: int = 5

    def samples(self, energy_of) -> list[Sample]:
        energy, q = energy_of(0, self.end_ns), self.question
        return [
            Sample(
                arm=self.arm, subject=q.subject, row=q.row, answer=q.answer, choice="A",
                correct=q.answer == "A", status="answered", text="", logprobs=None,
                letter_mass=None, confidence=None, margin=None, shots=0,
                tokens=Tokens(9, 0, 9, 0, 1), prefix_tokens=0.0, joules=energy.joules,
                uncertainty=energy.uncertainty, kind=energy.kind.value, prefill_joules=1.0,
                decode_joules=1.0, seconds=1.0, prompt_sha256="ab" * 8,
            )
        ]  # fmt: skip


@dataclass
class Answerer:
    """Answers until it has given ``stop_after`` answers."""

    name: str
    stop_after: int | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)

    def answer(self, work: SubjectWork):
        for question in work.questions:
            if question.row in work.done:
                continue
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise StopRequested
            self.asked.append((question.subject, question.row))
            yield self.give(question)

    def give(self, question) -> One:
        return One(self.name, question)


@pytest.fixture
def plan(questions_csv, config: Config) -> RunPlan:
    return make_plan(RunRequest(str(questions_csv), shots=2), config, load_catalogue(config))


def run_config(plan: RunPlan, *arms: str) -> RunConfig:
    made = synthetic.config(arms=("direct",))
    return replace(
        made,
        drawn={subject: len(rows) for subject, rows in plan.drawn.items()},
        arms=dict.fromkeys(arms, made.arms["direct"]),
    )


def go(folder: RunFolder, plan: RunPlan, contenders, samples=(), config=None, **limits):
    shown: list[Sample] = []
    sink = SampleWriter(folder, Meter(), shown.extend, sum(s.joules for s in samples))
    done = collect_done_rows(config, samples) if config else {}
    try:
        schedule = build_schedule(plan, contenders)
        check = RunLimits(**limits).start(lambda: False)
        ending = answer_all(plan, schedule, contenders, done, sink, check)
    finally:
        sink.close()
    return ending, shown


def test_each_answer_has_the_price_of_its_time_and_keeps_it(plan, tmp_path):
    config = run_config(plan, "a")
    prices = iter([0.1, -0.2, 0.3])
    tariff = Tariff(Rate(None, 100.0, "EUR"))
    first = Answerer("a").give(next(iter(plan.drawn.values()))[0])
    with RunFolder.start(tmp_path / "run", config) as folder:
        shown: list[Sample] = []
        sink = SampleWriter(folder, Meter(), shown.extend, tariff=tariff)
        sink.put(first)
        sink.close()
    [sample] = read_run(tmp_path / "run").samples
    assert sample.cost is not None
    assert sample.cost.grams_co2e == pytest.approx(100 * sample.joules / 3.6e6)
    costs = [Rate(price, None, "EUR").of(3.6e6) for price in prices]
    samples = [replace(sample, row=n, cost=cost) for n, cost in enumerate(costs)]
    summary = summarise(samples, config)
    assert summary.cost is not None
    assert summary.cost.price == pytest.approx(0.2)
    line = "the answers cost 0.20 EUR, each at the price of its time"
    assert line in headline(summary)
    assert f"- {line}" in markdown(summary, config)
    assert summary_document(summary)["cost"]["price"] == pytest.approx(0.2)
    bare = summarise([replace(sample, cost=None)], config)
    assert "cost" not in summary_document(bare)
    assert "price of its time" not in headline(bare) + markdown(bare, config)


def test_every_contender_answers_the_same_questions_subject_by_subject(plan, tmp_path):
    contenders = {name: Answerer(name) for name in ("a", "b")}
    config = run_config(plan, "a", "b")
    with RunFolder.start(tmp_path / "run", config) as folder:
        ending, shown = go(folder, plan, contenders)
    assert ending == "complete"
    assert contenders["a"].asked == contenders["b"].asked
    order = [(s.subject, s.arm) for s in shown]
    subjects = list(plan.drawn)
    assert order == [(s, arm) for s in subjects for arm in "ab" for _ in range(3)]
    assert read_run(tmp_path / "run").samples == tuple(shown)


def test_a_run_that_was_stopped_goes_on_where_it_was(plan, tmp_path):
    config = run_config(plan, "a", "b")
    place = tmp_path / "run"
    with RunFolder.start(place, config) as folder:
        stopping = {"a": Answerer("a"), "b": Answerer("b", stop_after=2)}
        ending, shown = go(folder, plan, stopping)
    assert (ending, len(shown)) == ("stopped", 5)
    folder, recorded = RunFolder.resume(place)
    with folder:
        again = {"a": Answerer("a"), "b": Answerer("b")}
        ending, _ = go(folder, plan, again, recorded.samples, config)
    assert ending == "complete"
    keys = [sample.key for sample in read_run(place).samples]
    assert len(keys) == len(set(keys)) == 12
    assert len(again["a"].asked) == 3
    assert len(again["b"].asked) == 4


def test_a_policys_answers_are_done_whichever_arm_gave_them(plan):
    config = replace(
        run_config(plan, "small", "large"), routed=True, policy=synthetic.NamedText("p", "")
    )
    question = next(iter(plan.drawn.values()))[0]
    samples = [s for arm in ("small", "large") for s in One(arm, question).samples(Meter().energy)]
    assert collect_done_rows(config, samples) == {("p", question.subject): {question.row}}


def test_joules_that_are_spent_end_the_run(plan, tmp_path):
    """Those of an earlier part count, too."""
    config = run_config(plan, "a")
    before = One("a", next(iter(plan.drawn.values()))[0]).samples(Meter().energy)
    with RunFolder.start(tmp_path / "run", config) as folder:
        answerer = {"a": Answerer("a")}
        ending, shown = go(folder, plan, answerer, before, config, joules=JOULES)
        assert (ending, shown) == ("joules", [])
        ending, shown = go(folder, plan, answerer, before, config, joules=100 * JOULES)
        assert (ending, len(shown)) == ("complete", 5)


def test_a_disk_that_fills_ends_the_run_with_its_message(plan, tmp_path, monkeypatch):
    config = run_config(plan, "a")
    with RunFolder.start(tmp_path / "run", config) as folder:

        def full(samples):
            raise Stopped("the disk is full", "free some room")

        monkeypatch.setattr(folder, "add_samples", full)
        with pytest.raises(Stopped, match="the disk is full"):
            go(folder, plan, {"a": Answerer("a")})


def test_a_fault_while_writing_is_not_swallowed(plan, tmp_path):
    class Broken(One):
        def samples(self, energy_of):
            raise ZeroDivisionError("by zero")

    class Breaks(Answerer):
        def answer(self, work):
            yield Broken(self.name, work.questions[0])

    with (
        RunFolder.start(tmp_path / "run", run_config(plan, "a")) as folder,
        pytest.raises(ZeroDivisionError),
    ):
        go(folder, plan, {"a": Breaks("a")})


def test_a_run_made_otherwise_is_refused_with_what_differs():
    one = synthetic.config(arms=("direct",))
    refuse_changes(one, replace(one, run_id="other"))
    other = replace(one, threads=one.threads + 1, versions={**one.versions, "etui": "9"})
    with pytest.raises(UsageError) as caught:
        refuse_changes(one, other)
    assert f"threads was {one.threads} and is now {one.threads + 1}" in caught.value.what
    assert "versions.etui" in caught.value.what


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (RunRequest("sample", models=("m",), arms=("a",)), "--model cannot be combined"),
        (RunRequest("sample", reasonings=("cot",)), "--reasoning needs --model"),
        (RunRequest("sample", limit=3, per_subject=1), "cannot be combined"),
        (RunRequest("sample", models=("smollm2-135",)), "no model is called"),
        (
            RunRequest("sample", format="letters", models=("smollm2-135m",), reasonings=("cot",)),
            "letters",
        ),
        (
            RunRequest("sample", format="cot", models=("smollm2-135m",), reasonings=("direct",)),
            "directly",
        ),
        (RunRequest("sample", format="cot", shots=2), "no worked examples with thinking"),
        (
            RunRequest("sample", policy="frugal", format="letters"),
            "cannot be used with a policy that chooses the arms",
        ),
        (
            RunRequest("sample", policy="frugal", overrides=ArmOverrides(votes=3)),
            "options for arms",
        ),
        (RunRequest("sample", policy="frugl"), "frugl"),
        (
            RunRequest("sample", overrides=ArmOverrides(think_tokens=8)),
            "--think-tokens has no effect",
        ),
        (RunRequest("sample", overrides=ArmOverrides(votes=3)), "--votes has no effect"),
        (RunRequest("sample", subjects=("logik",)), "unknown subject 'logik'"),
        (RunRequest("sample", split="dev", shots=5), "needs 5 worked examples"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(config, ask, said):
    with pytest.raises(EtuiError) as caught:
        make_plan(ask, config, load_catalogue(config))
    assert said in str(caught.value)


def test_every_pair_of_model_and_reasoning_is_an_arm():
    arms = build_arms(
        ["m", "n"], ["direct", "vote"], ArmOverrides(votes=3, think_tokens=40), FORMATS["chat"]
    )
    assert list(arms) == ["m direct", "m vote 3x40", "n direct", "n vote 3x40"]
    assert arms["m vote 3x40"].sampling.temperature == pytest.approx(0.7)
    assert arms["m direct"].sampling.temperature == 0
    check_format(arms, FORMATS["chat"])


def test_an_arm_comes_back_from_the_configuration():
    import json

    from etui.arm import EarlyExit, Sampling, VoteStop

    arm = Arm("a", "m", "cot", early_exit=EarlyExit(12), sampling=Sampling(0.3, seed=4),
              stop=VoteStop("lead"), max_joules=9.5)  # fmt: skip
    assert parse_arm(json.loads(json.dumps(to_json(arm)))) == arm
