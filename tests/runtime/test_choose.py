"""From overrides to a decision."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import attrgetter
from typing import Any

import pytest

from etui.arm import OPEN_SAMPLING, VOTE_TEMPERATURE, Arm, EarlyExit, Sampling
from etui.chat import Query
from etui.config.config import Config
from etui.errors import (
    BudgetSpent,
    ExitCode,
    InvalidFile,
    InvalidRequest,
    ModelUnavailable,
    UsageError,
)
from etui.log.queries import LogReader
from etui.log.totals import Spending, sum_joules_since
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path
from etui.routing.decision import Cascade, Decision, Fallbacks, PeriodBudget
from etui.runtime.decide import choose, compute_period_start, find_overruns, save_fallback_model
from etui.runtime.model_resolution import (
    find_draft_file,
    find_model_file,
    models_on_disk,
    resolve_sampling,
)
from etui.runtime.overrides import (
    THINK_TOKENS,
    Overrides,
    apply_effort,
    apply_overrides,
    check_effort,
    set_loop_guard,
)
from etui.runtime.runtime import Runtime, open_runtime
from etui.text import utc_now
from etui.turn.record import LoadRecord
from tests.fixtures.turns import TURN
from tests.turn.stage import QUICK, Part, Stage, decided, play

POLICY = """
version: 1
arms:
  think: {model: smollm2-135m, reasoning: cot}
  quick: {model: smollm2-135m, reasoning: direct}
rules: [{name: all, use: think}]
budgets: {hour: {joules: 100, when_exceeded: WAY}, DEGRADE}
"""


@pytest.fixture
def spent(config):
    """Log turns by (minutes ago, joules, kind), and ask what the policy then says."""
    config.policies_dir.mkdir(parents=True)
    config.models_dir.mkdir(parents=True, exist_ok=True)
    (config.models_dir / "smollm2-135m.gguf").touch()

    def log(*turns, load=None):
        with TurnWriter(config) as writer:
            for minutes, joules, kind in turns:
                record = play(Stage({"quick": Part()}), decided(QUICK)).record
                energy = replace(record.energy, joules=joules, kind=kind)
                at = datetime.now(UTC) - timedelta(minutes=minutes)
                stamp = at.isoformat(timespec="milliseconds")
                writer.save_turn(replace(record, created_at=stamp, energy=energy))
                if load is not None:
                    writer.save_load(
                        LoadRecord("l1", stamp, "m", None, None, 1.0, load, 0.0, "counter", 0, 1)
                    )

    return log


def ask(config, way="degrade", degrade="degrade_to: quick", confirm=None, **overrides):
    budgets = POLICY.replace("WAY", way).replace(", DEGRADE", f", {degrade}" if degrade else "")
    (config.policies_dir / "mine.yaml").write_text(budgets)
    overrides = Overrides(policy="mine", **overrides)
    return choose(Query("Why?"), overrides, open_runtime(config), confirm=confirm).decision


def test_within_the_budget_the_policy_decides(spent, config):
    spent((30, 99.0, "counter"), (90, 5000.0, "counter"))
    decision = ask(config)
    assert (decision.arm.name, decision.notices) == ("think", ())


def test_a_spent_hour_degrades_to_the_cheapest_and_says_so(spent, config):
    spent((30, 60.0, "counter"), (5, 41.0, "counter"))
    decision = ask(config)
    assert (decision.arm.name, decision.rule) == ("quick", "all")
    (notice,) = decision.notices
    assert notice == (
        "the last hour took 101 J, but the policy allows 100 J: the cheapest arm, quick, answers"
    )
    assert decision.why.startswith("a budget is spent, so quick answers instead of think")


def test_loads_and_estimates_count_and_unmeasured_turns_are_named(spent, config):
    spent((30, 60.0, "estimate"), (5, None, None), load=41.0)
    (notice,) = ask(config).notices
    assert notice.startswith("the last hour took ≈100 J (estimate), but the policy allows 100 J")
    assert "(1 turn unmeasured and not counted)" in notice


def test_a_named_arm_is_kept_with_a_notice(spent, config):
    spent((5, 500.0, "counter"))
    decision = ask(config, arm="think")
    assert decision.arm.name == "think"
    assert decision.notices[0].endswith("think answers anyway, as it was named")


def test_refuse_refuses_whatever_is_said(spent, config):
    spent((5, 500.0, "counter"))
    with pytest.raises(BudgetSpent, match="500 J") as caught:
        ask(config, "refuse", "", confirm=lambda question: True, over_budget=True)
    assert caught.value.exit_code == ExitCode.GATE == 4


def test_ask_asks_and_a_no_refuses(spent, config):
    spent((5, 500.0, "counter"))
    asked = []
    decision = ask(config, "ask", "", confirm=lambda question: not asked.append(question))
    assert decision.arm.name == "think"
    assert asked == [
        "the hourly budget is spent: the last hour took 500 J, but the policy allows 100 J. "
        "Continue?"
    ]
    for confirm in (None, lambda question: False):
        with pytest.raises(BudgetSpent) as caught:
            ask(config, "ask", "", confirm=confirm)
        assert "--over-budget" in caught.value.fix
    assert ask(config, "ask", "", over_budget=True).arm.name == "think"


def test_a_question_that_only_looks_spends_no_budget(spent, config):
    with LogReader(config) as log:
        assert sum_joules_since(log, datetime.now(UTC)) == Spending(0.0, False, 0)
    spent((5, 500.0, "counter"))
    ask(config)
    runtime = open_runtime(config)
    choice = choose(Query("Why?"), Overrides(policy="mine"), runtime, within_budgets=False)
    assert choice.decision.arm.name == "think"


def test_periods_begin_an_hour_ago_and_at_midnight():
    now = datetime(2026, 3, 1, 13, 20, tzinfo=UTC)
    hour, day = (PeriodBudget(period, 10.0, "degrade") for period in ("hour", "day"))
    assert compute_period_start(hour, now) == datetime(2026, 3, 1, 12, 20, tzinfo=UTC)
    assert compute_period_start(day, now) == datetime(2026, 3, 1, tzinfo=UTC)
    found = find_overruns([hour, day], lambda m: Spending(9.0 if m.hour else 10.0, False, 0), now)
    assert [each.budget for each in found] == [day]
    assert found[0].text == "today took 10.0 J, but the policy allows 10.0 J"


MINE = """
version: 1
arms:
  quick: {model: smollm2-135m}
  think: {model: smollm2-135m, reasoning: cot, think_tokens: 99}
  large: {model: qwen3-8b, reasoning: cot}
rules: [{name: all, use: quick}]
efforts: {high: think, none: quick, xhigh: large}
"""


def decide(arm: Arm, effort: str) -> Decision:
    return apply_effort(Decision(arm, "mine", "all", "all: no rule matched"), effort)


def test_the_ladder_doubles_and_medium_is_the_usual_budget() -> None:
    steps = list(THINK_TOKENS.values())
    assert steps[0] == 0
    assert all(high == 2 * low for low, high in pairwise(steps[1:]))
    assert THINK_TOKENS["medium"] == Arm("a", "m").think_tokens


@pytest.mark.parametrize("effort", [effort for effort in THINK_TOKENS if effort != "none"])
def test_a_direct_arm_thinks_as_much_as_asked(effort: str) -> None:
    decision = decide(Arm("quick", "m", readout="choices", max_tokens=7), effort)
    arm = decision.arm
    assert (arm.reasoning, arm.think_tokens) == ("cot", THINK_TOKENS[effort])
    assert (arm.name, arm.model, arm.readout, arm.max_tokens) == ("quick", "m", "text", 7)
    assert f"reasoning_effort {effort}: up to {arm.think_tokens} thinking tokens" in decision.why
    assert decision.why.startswith("all: no rule matched; ")


def test_none_answers_directly() -> None:
    thinks = Arm("think", "m", "cot", early_exit=EarlyExit(), exchange=3.0, style="native")
    decision = decide(thinks, "none")
    assert decision.arm == replace(
        thinks, reasoning="direct", early_exit=None, exchange=None, style="auto"
    )
    assert decision.why.endswith("reasoning_effort none: without thinking")
    direct = Arm("quick", "m", readout="choices")
    assert decide(direct, "none").arm == direct


def test_votes_think_as_much_each_and_none_takes_one_answer() -> None:
    votes = Arm(
        "votes",
        "m",
        "vote",
        sampling=Sampling(temperature=VOTE_TEMPERATURE, seed=3),
        sampling_from=replace(OPEN_SAMPLING, temperature="vote"),
    )
    high = decide(votes, "high").arm
    assert (high.reasoning, high.votes, high.think_tokens) == ("vote", votes.votes, 512)
    single = decide(votes, "none").arm
    assert (single.reasoning, single.sampling.temperature, single.sampling.seed) == ("direct", 0, 3)
    resolved = resolve_sampling(single, None, "gguf", tags=False)
    assert resolved.sampling.temperature == 0


def test_a_cascade_is_reduced_to_its_first_arm() -> None:
    arms = (Arm("a", "m"), Arm("b", "n"))
    before = Decision(arms[0], "mine", "all", "why", cascade=Cascade(arms, 0.5, 2))
    after = apply_effort(before, "low")
    assert (after.cascade, after.arm.name, after.arm.think_tokens) == (None, "a", 128)
    assert "only a answers, not the cascade" in after.notices[0]


@pytest.mark.parametrize(("text", "near"), [("hihg", "high"), ("LOW", "low"), ("", "use one of")])
def test_an_unknown_effort_is_refused_with_the_nearest(text: str, near: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_effort(text)
    assert caught.value.param == "reasoning_effort"
    assert near in caught.value.fix


@pytest.fixture
def runtime(config: Config) -> Runtime[Any]:
    config.models_dir.mkdir()
    model_path(load_catalogue(config).get("smollm2-135m"), config).touch()
    config.policies_dir.mkdir()
    (config.policies_dir / "mine.yaml").write_text(MINE)
    return open_runtime(config)


@pytest.mark.parametrize(
    ("overrides", "effort", "arm", "reasoning", "tokens"),
    [
        ({"policy": "mine"}, "high", "think", "cot", 99),  # by the table of the policy
        ({"policy": "mine"}, "none", "quick", "direct", 256),
        ({"policy": "mine"}, "max", "quick", "cot", 2048),  # not in the table: the ladder
        ({"policy": "mine"}, "xhigh", "quick", "cot", 1024),  # its arm has no model here
        ({"policy": "mine"}, None, "quick", "direct", 256),
        ({"policy": "mine", "arm": "quick"}, "high", "quick", "cot", 512),  # the arm is named
        ({"model": "smollm2-135m"}, "low", "direct", "cot", 128),
        ({"model": "smollm2-135m"}, "none", "direct", "direct", 256),
        ({"policy": "mine", "reasoning": "cot", "think_tokens": 5}, "max", "quick", "cot", 5),
    ],
)
def test_the_table_comes_before_the_ladder_and_options_before_both(
    runtime: Runtime[Any],
    overrides: dict[str, Any],
    effort: str | None,
    arm: str,
    reasoning: str,
    tokens: int,
) -> None:
    decision = choose(Query("hello"), Overrides(**overrides), runtime, effort=effort).decision
    found = decision.arm
    assert (found.name, found.reasoning, found.think_tokens) == (arm, reasoning, tokens)
    applied = effort is not None and "reasoning" not in overrides
    assert (f"reasoning_effort {effort}" in decision.why) is applied


def test_a_spent_budget_comes_before_the_effort(runtime: Runtime[Any], config: Config) -> None:
    budget = "budgets: {hour: {joules: 0.001, when_exceeded: degrade}, degrade_to: quick}\n"
    (config.policies_dir / "mine.yaml").write_text(MINE + budget)
    with TurnWriter(config) as writer:
        writer.save_turn(replace(TURN, created_at=utc_now()))
    decision = choose(Query("hello"), Overrides(policy="mine"), runtime, effort="high").decision
    assert (decision.arm.name, decision.arm.reasoning) == ("quick", "direct")
    assert "a budget is spent" in decision.why


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("own", [True, False, None])
@pytest.mark.parametrize("option", [True, False, None])
def test_the_option_comes_first_then_the_arm_then_the_config(option, own, default):
    decision = Decision(Arm("a", "m", loop_guard=own), None, None, "")
    decided = set_loop_guard(apply_overrides(decision, Overrides(loop_guard=option)), default)
    expected = next(each for each in (option, own, default) if each is not None)
    assert decided.arm.loop_guard is expected


def test_every_arm_of_a_cascade_and_its_fallback_say_so():
    arms = (Arm("a", "m"), Arm("b", "n", loop_guard=False))
    decision = Decision(
        arms[0],
        None,
        None,
        "",
        cascade=Cascade(arms, 0.5, 2),
        fallbacks=Fallbacks(load_failed=Arm("c", "m")),
    )
    decided = set_loop_guard(decision, True)
    assert decided.cascade is not None
    assert [arm.loop_guard for arm in decided.cascade.arms] == [True, False]
    assert decided.fallbacks.load_failed is not None
    assert decided.fallbacks.load_failed.loop_guard is True
    assert set_loop_guard(Decision(arms[0], None, None, ""), False).cascade is None


def test_options_hold_for_the_arm_that_answers_if_a_load_fails():
    other = Arm("b", "n", "cot", speculate="auto", sampling_from=OPEN_SAMPLING)
    decision = Decision(Arm("a", "m"), None, None, "", fallbacks=Fallbacks(load_failed=other))
    overrides = Overrides(
        reasoning="direct", temperature=0.0, seed=3, speculate="off", loop_guard=False
    )
    decided = apply_overrides(decision, overrides)
    instead = decided.fallbacks.load_failed
    assert instead is not None
    assert (instead.sampling.temperature, instead.sampling.seed) == (0.0, 3)
    assert instead.sampling_from.temperature == "option"  # its model is not asked
    assert (instead.speculate, instead.loop_guard) == ("off", False)
    assert instead.reasoning == "cot"  # as in a cascade, of which only the chosen arm changes this
    assert apply_overrides(decision, Overrides()).fallbacks == decision.fallbacks


def test_the_arm_that_answers_if_a_load_fails_needs_no_draft_model_for_an_option():
    other = Arm("b", "n", speculate="lookup")
    decision = Decision(Arm("a", "m"), None, None, "", fallbacks=Fallbacks(load_failed=other))
    decided = apply_overrides(decision, Overrides(speculate="draft"))
    assert decided.arm.speculate == "draft"
    assert decided.fallbacks.load_failed == other


QUERY = Query("What is a joule?")


@pytest.fixture
def machine(config):
    """A Config, its catalogue, and a way to put (empty) model files on this machine."""

    class Machine:
        def __init__(self):
            self.config = config

        @property
        def catalogue(self):
            return load_catalogue(self.config)

        def has(self, *names):
            config.models_dir.mkdir(exist_ok=True)
            for name in names:
                (config.models_dir / f"{name}.gguf").touch()

        def choose(self, **overrides):
            runtime = open_runtime(self.config)
            return choose(QUERY, Overrides(**overrides), runtime).decision

    return Machine()


DRAFTED = "models:\n  mine: {size: s, draft: drafter, speculate: %s, sources: [{path: m.gguf}]}\n"
DRAFTER = "  drafter: {size: s, sources: [{path: d.gguf}]}\n"
SMALL = {"model": "smollm2-135m"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (SMALL | {"reasoning": "cot", "think_tokens": 32, "seed": 7},
         {"reasoning": "cot", "think_tokens": 32, "sampling.seed": 7, "speculate": "off"}),
        (SMALL | {"reasoning": "vote", "votes": 5},
         {"votes": 5, "stop.rule": "flip", "sampling.temperature": 0.7}),
        (SMALL | {"reasoning": "vote", "temperature": 1.0, "stop": "all"},
         {"stop.rule": "all", "sampling.temperature": 1.0}),
        (SMALL | {"speculate": "auto"}, {"speculate": "auto"}),
        ({"policy": "frugal", "max_tokens": 5, "temperature": 0.5},
         {"model": "smollm2-135m", "max_tokens": 5, "sampling.temperature": 0.5}),
        ({"model": "drafted"}, {"speculate": "auto"}),
        ({"model": "drafted", "reasoning": "cot"}, {"speculate": "auto"}),
        ({"model": "drafted", "reasoning": "vote"}, {"speculate": "off"}),
        ({"model": "drafted", "speculate": "lookup"}, {"speculate": "lookup"}),
    ],
)  # fmt: skip
def test_options_spell_the_arm_out(machine, overrides, expected):
    machine.has("smollm2-135m")
    machine.config.models_file.write_text((DRAFTED % "auto").replace("mine", "drafted") + DRAFTER)
    decision = machine.choose(**overrides)
    assert {path: attrgetter(path)(decision.arm) for path in expected} == expected
    assert decision.policy == overrides.get("policy")
    assert decision.why == "--model smollm2-135m" or overrides.get("model") != "smollm2-135m"


def test_without_options_the_policy_of_the_config_decides(machine):
    machine.has("smollm2-135m")
    file = machine.config.models_dir / "smollm2-135m.gguf"
    assert machine.choose(model=str(file)).arm.model == "smollm2-135m"  # the entry's own file
    decision = machine.choose()
    assert (decision.policy, decision.arm.model) == ("balanced", "smollm2-135m")
    assert decision.rule


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        ({"model": "smollm-135m"}, UsageError, "smollm2-135m"),
        (SMALL | {"policy": "frugal"}, UsageError, "--model"),
        ({"policy": "frugel"}, UsageError, "frugal"),
        ({"arm": "quik"}, UsageError, "no arm 'quik'"),
        ({"policy": "frugal"}, ModelUnavailable, "etui models pull smollm2-135m"),
        (SMALL | {"think_tokens": 10}, UsageError, "--think-tokens"),
        (SMALL | {"votes": 5}, UsageError, "--votes has no effect"),
        (SMALL | {"reasoning": "cot", "stop": "lead"}, UsageError, "--stop has no effect"),
        (SMALL | {"reasoning": "vote", "temperature": 0.0}, UsageError, "all the same"),
        (SMALL | {"reasoning": "vote", "speculate": "auto"}, UsageError,
         "--speculate and votes exclude each other"),
        (SMALL | {"speculate": "draft"}, UsageError, "which --speculate draft needs"),
        (SMALL | {"speculate": "draft"}, UsageError, "add `draft: NAME`"),
    ],
)  # fmt: skip
def test_what_cannot_be_decided_is_refused_with_a_fix(machine, overrides, error, says):
    if error is not ModelUnavailable:
        machine.has("smollm2-135m")
    with pytest.raises(error) as caught:
        machine.choose(**overrides)
    assert says in f"{caught.value} {caught.value.fix}"


def test_the_path_of_a_file_is_a_model(machine, tmp_path):
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"no model")
    decision = machine.choose(model=str(file))
    assert decision.arm.model == str(file)
    with pytest.raises(ModelUnavailable, match="GGUF"):
        find_model_file(decision.arm, machine.config, machine.catalogue)


def test_a_chosen_model_outside_the_policy_stands_in_for_its_missing_models(machine):
    machine.has("gemma-3-270m")  # in no role of the policy
    with pytest.raises(ModelUnavailable):
        machine.choose()
    save_fallback_model(machine.config, "gemma-3-270m")
    decision = machine.choose()
    assert decision.arm.model == "gemma-3-270m"
    assert "gemma-3-270m" in decision.why
    machine.has("smollm2-135m")
    assert machine.choose().arm.model == "smollm2-135m", "a model of the policy comes first"


def test_a_broken_policy_is_located(machine):
    machine.has("smollm2-135m")
    machine.config.policies_dir.mkdir()
    (machine.config.policies_dir / "mine.yaml").write_text("version: 1\nruls: []\n")
    with pytest.raises(InvalidFile, match=r"mine\.yaml:2:1: .*rules"):
        machine.choose(policy="mine")


def test_the_model_of_the_config_answers(machine):
    machine.config = replace(machine.config, model="gemma-3-270m")
    decision = machine.choose()
    assert decision.arm.model == "gemma-3-270m"
    assert "config.yaml" in decision.why


def test_a_damaged_file_does_not_serve(machine):
    machine.has("smollm2-135m")
    with pytest.raises(ModelUnavailable):
        find_model_file(machine.choose(model="smollm2-135m").arm, machine.config, machine.catalogue)


def test_here_knows_names_that_do_not_exist(machine):
    machine.has("smollm2-135m")
    here = models_on_disk(machine.config, machine.catalogue)
    assert here("smollm2-135m")
    assert not here("gemma-3-270m")
    assert not here("no-such-model")


CASCADE = """
version: 1
arms:
  quick: {model: smollm2-135m, reasoning: direct}
  think: {model: smollm2-135m, reasoning: cot}
rules: [{name: all, cascade: {arms: [quick, think], accept_at: 0.7}}]
"""


@pytest.fixture
def climbing(machine):
    machine.has("smollm2-135m")
    machine.config.policies_dir.mkdir()
    (machine.config.policies_dir / "mine.yaml").write_text(CASCADE)
    return machine


def test_the_file_of_the_draft_model_goes_with_the_answer(machine, make_gguf):
    config = machine.config
    config.models_file.write_text(DRAFTED % "draft" + DRAFTER)
    (config.home / "m.gguf").write_bytes(make_gguf(8))
    (config.home / "d.gguf").write_bytes(make_gguf(4))
    runtime = open_runtime(config)
    arm = machine.choose(model="mine").arm
    spec, path = find_draft_file(arm, runtime.catalogue.get("mine"), config, runtime.catalogue)
    assert (spec.name, path) == ("drafter", config.home / "d.gguf")
    for other in ("off", "lookup", "mtp"):
        plain = replace(arm, speculate=other)
        assert (
            find_draft_file(plain, runtime.catalogue.get("mine"), config, runtime.catalogue) is None
        )


def test_a_draft_model_that_is_not_here_is_an_error_for_draft_and_none_for_auto(machine):
    config = machine.config
    config.models_file.write_text(
        "models:\n  mine: {size: s, draft: gemma-3-270m, sources: [{path: m.gguf}]}\n"
        "  alone: {size: s, sources: [{path: m.gguf}]}\n"
    )
    catalogue = machine.catalogue
    arm = machine.choose(model="mine", speculate="draft").arm
    with pytest.raises(ModelUnavailable, match="the draft model of mine cannot be used") as caught:
        find_draft_file(arm, catalogue.get("mine"), config, catalogue)
    assert "etui models pull gemma-3-270m" in caught.value.fix
    with pytest.raises(ModelUnavailable, match="alone has no draft model"):
        find_draft_file(arm, catalogue.get("alone"), config, catalogue)
    auto = replace(arm, speculate="auto")
    assert find_draft_file(auto, catalogue.get("mine"), config, catalogue) is None
    assert find_draft_file(auto, catalogue.get("alone"), config, catalogue) is None


def test_options_for_every_answer_change_every_arm_of_a_cascade(climbing):
    cascade = climbing.choose(policy="mine", max_tokens=9, seed=3, speculate="lookup").cascade
    arms = [(arm.max_tokens, arm.sampling.seed, arm.speculate) for arm in cascade.arms]
    assert arms == [(9, 3, "lookup")] * 2
    with pytest.raises(UsageError, match="which --speculate draft needs"):
        climbing.choose(speculate="draft")


def test_a_way_of_reasoning_that_is_named_ends_the_cascade(climbing):
    decision = climbing.choose(policy="mine", reasoning="cot", think_tokens=40)
    assert (decision.cascade, decision.arm.name, decision.arm.think_tokens) == (None, "quick", 40)
    assert decision.notices == (
        "only quick answers, not the cascade: a reasoning option was given",
    )


def test_a_damaged_fit_is_told_before_a_cascade_begins(climbing):
    (climbing.config.policies_dir / "mine.fitted.json").write_text("{")
    with pytest.raises(InvalidFile, match=r"mine\.fitted\.json"):
        climbing.choose(policy="mine")
