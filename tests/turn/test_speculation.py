"""Drafted tokens: how they are counted, and which joules belong to them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Query
from etui.codec import from_document
from etui.energy.types import Energy, Kind
from etui.events import Answer, Finished, Prefilled, Verified
from etui.models.spec import ModelSpec
from etui.routing.decision import Decision
from etui.turn.accounting import TimeInterval
from etui.turn.interfaces import ResolvedModel
from etui.turn.record import SpeculationRecord
from etui.turn.speculation import WINDOW_NS, account_speculation, sum_speculation
from etui.turn.text import energy_line, speculation_text
from tests.support.gpu import GpuLoad, SimulatedGpu
from tests.turn.play import run_turn, serve_one_model
from tests.turn.scripted import DECISION, SPEC, Meter10W, S, Saved, Scripted, finished, turn
from tests.turn.stage import LARGE, QUICK, Part, Stage, decided, play

PROMPT = 200


@dataclass
class Speculating:
    """A session that verifies drafts of random length until its answer is long enough."""

    gpu: SimulatedGpu
    tokens: int
    seed: int
    verified: list[Verified] = field(default_factory=list)

    def cancel(self) -> None: ...

    def hurry(self) -> None: ...

    def answer(self, request):
        rng, gpu, method = random.Random(self.seed), self.gpu, request.arm.speculate
        start_ns = gpu.clock()
        gpu.work(0, PROMPT)
        prefill_end_ns = gpu.clock()
        yield Prefilled(start_ns, prefill_end_ns, PROMPT, 0, PROMPT)
        output = 0
        while output < self.tokens:
            drafted = rng.randint(0, 8)
            draft_start_ns = gpu.clock()
            for _ in range(drafted if method == "draft" else 0):
                gpu.rest(0.0002)
                gpu.work(PROMPT + output, 1)
            batch_ns = gpu.clock()
            gpu.work(PROMPT + output, 1 + drafted)
            end_ns = gpu.clock()
            accepted = rng.randint(0, drafted)
            if drafted:
                begun_ns = draft_start_ns if method == "draft" else batch_ns
                counts = (1 + drafted, drafted, accepted)
                event = Verified(batch_ns, end_ns, begun_ns, method, *counts)
                self.verified.append(event)
                yield event
            gpu.rest(0.0004)  # the sampler works on the CPU
            output += accepted + 1
            yield Answer(end_ns, "word ", accepted + 1)
        yield Finished(
            start_ns=start_ns,
            prefill_end_ns=prefill_end_ns,
            thinking_end_ns=prefill_end_ns,
            end_ns=end_ns,
            first_token_ns=prefill_end_ns,
            status="complete",
            why="",
            answer="word",
            thinking="",
            prompt_tokens=PROMPT,
            cached_tokens=0,
            computed_tokens=PROMPT,
            thinking_tokens=0,
            output_tokens=output,
        )


@pytest.mark.parametrize("method", ["lookup", "draft"])
@pytest.mark.parametrize("seed", range(4))
def test_the_joules_of_a_turn_are_told_apart_within_their_half_widths(method, seed) -> None:
    gpu = SimulatedGpu(GpuLoad(), seed=seed)
    gpu.rest(1.5)
    session = Speculating(gpu, 1200, seed)
    saved = Saved()
    turn = run_turn(
        Query("Go on."),
        Decision(Arm("quick", "m", speculate=method), None, None, "named"),
        serve=serve_one_model(SPEC, Path("m.gguf")),
        answerer=session,
        meter=gpu,
        writer=saved,
        clock_ns=gpu.clock,
    )
    list(turn)
    (record,) = saved.turns
    found, events = record.speculation, session.verified
    assert found is not None
    assert (found.batches, found.drafted) == (len(events), sum(e.drafted for e in events))
    truth = [gpu.truth(event.start_ns, event.end_ns) for event in events]
    drafting = math.fsum(gpu.truth(event.draft_start_ns, event.start_ns) for event in events)
    waste = math.fsum(
        joules * (event.drafted - event.accepted) / event.rows
        for joules, event in zip(truth, events, strict=True)
    )
    assert abs(found.verify_joules - math.fsum(truth)) <= found.verify_uncertainty
    assert abs(found.draft_joules - drafting) <= found.draft_uncertainty
    assert abs(found.waste_joules - waste) <= found.waste_uncertainty
    if method == "lookup":
        assert (found.draft_joules, found.draft_uncertainty) == (0.0, 0.0)
        assert found.verify_uncertainty <= 0.25 * found.verify_joules
    phases = record.energy.phases
    assert phases["prefill"] + phases["decode"] == pytest.approx(record.energy.joules)
    assert found.verify_joules + found.draft_joules <= phases["decode"]
    assert found.waste_joules + found.accepted_joules <= found.verify_joules


MS = 1_000_000
DECODE = (TimeInterval(11 * S, 15 * S),)


def verified(start_ns, end_ns, drafted=4, accepted=3, *, draft_start_ns=None, method="lookup"):
    begin_ns = start_ns if draft_start_ns is None else draft_start_ns
    return Verified(start_ns, end_ns, begin_ns, method, drafted + 1, drafted, accepted)


class Stepped:
    """A meter whose power follows steps: (until_ns, watts); counts the intervals it was asked."""

    def __init__(self, steps, half_width=0.0):
        self._steps = steps
        self._half_width = half_width
        self.asked = 0

    def energy(self, start_ns, end_ns):
        self.asked += 1
        joules, begin_ns = 0.0, 0
        for until_ns, watts in self._steps:
            inside = min(end_ns, until_ns) - max(start_ns, begin_ns)
            joules += watts * max(0, inside) / S
            begin_ns = until_ns
        return Energy(start_ns, end_ns, joules, self._half_width, Kind.COUNTER, 1.0)


CONSTANT = Stepped(((100 * S, 10.0),), half_width=0.5)


def test_an_answer_without_drafts_has_no_record() -> None:
    assert account_speculation([], DECODE, CONSTANT.energy) is None
    alone = verified(11 * S, 12 * S, drafted=0, accepted=0)
    assert account_speculation([alone], DECODE, CONSTANT.energy) is None


def test_the_joules_of_a_batch_are_split_by_its_rows() -> None:
    # 5 rows in 2 s at 10 W: 4 J a row; one row is the answer's own token, 3 accepted, 1 rejected.
    record = account_speculation([verified(12 * S, 14 * S)], DECODE, CONSTANT.energy)
    assert record is not None
    assert (record.batches, record.rows, record.drafted, record.accepted) == (1, 5, 4, 3)
    assert record.verify_joules == pytest.approx(20)
    assert record.accepted_joules == pytest.approx(12)
    assert record.waste_joules == pytest.approx(4)
    assert record.draft_joules == 0.0
    assert record.draft_seconds == 0.0
    assert record.verify_uncertainty == pytest.approx(0.5)
    assert record.waste_uncertainty == pytest.approx(0.1)
    assert record.joules_per_accepted_token == pytest.approx(16 / 3)
    assert record.joules_per_accepted_token_uncertainty == pytest.approx(0.4 / 3)


def test_the_joules_of_a_draft_model_are_counted_apart() -> None:
    meter = Stepped(((12 * S, 10.0), (13 * S, 4.0), (20 * S, 10.0)))
    event = verified(13 * S, 14 * S, draft_start_ns=12 * S, method="draft")
    record = account_speculation([event], DECODE, meter.energy)
    assert record is not None
    assert record.draft_joules == pytest.approx(4)
    assert record.draft_seconds == 1
    assert record.verify_joules == pytest.approx(10)
    assert record.joules_per_accepted_token == pytest.approx((10 * 4 / 5 + 4) / 3)


def test_nothing_accepted_is_all_waste_but_the_own_row() -> None:
    event = verified(12 * S, 14 * S, accepted=0)
    record = account_speculation([event], DECODE, CONSTANT.energy)
    assert record is not None
    assert record.waste_joules == pytest.approx(16)
    assert record.accepted_joules == 0
    assert record.joules_per_accepted_token is None
    assert speculation_text(record, "counter") == "drafted 4, accepted 0 (0 %)"


def test_short_batches_are_measured_together() -> None:
    meter = Stepped(((100 * S, 10.0),), half_width=0.01)
    starts = range(11 * S, 15 * S, 10 * MS)
    events = [verified(start, start + 9 * MS, accepted=i % 5) for i, start in enumerate(starts)]
    record = account_speculation(events, DECODE, meter.energy)
    assert record is not None
    assert len(events) == 400
    assert meter.asked <= 1 + 4 * S // WINDOW_NS
    assert record.verify_joules == pytest.approx(36)
    assert record.verify_seconds == pytest.approx(3.6)
    # What the batches did not take may belong to them, and no more than this.
    assert record.verify_uncertainty == pytest.approx(0.01 + 4, abs=0.5)
    assert record.waste_joules == pytest.approx(36 * 2 / 5)


def test_a_long_pause_between_two_batches_is_not_theirs() -> None:
    # Plain tokens are decoded in between, at another power.
    meter = Stepped(((11 * S + 10 * MS, 10.0), (14 * S, 200.0), (20 * S, 10.0)))
    events = [verified(11 * S, 11 * S + 10 * MS), verified(14 * S, 14 * S + 10 * MS)]
    record = account_speculation(events, DECODE, meter.energy)
    assert record is not None
    assert record.verify_joules == pytest.approx(0.2)


def test_unmeasured_is_none_and_never_zero() -> None:
    record = account_speculation([verified(12 * S, 14 * S)], DECODE, Meter10W(False).energy)
    assert record is not None
    assert (record.drafted, record.accepted, record.verify_seconds) == (4, 3, 2)
    names = [name for name in record.to_json() if name.endswith(("joules", "uncertainty"))]
    assert len(names) == 9
    assert {record.to_json()[name] for name in names} == {None}


def test_a_batch_that_ends_after_the_answer_is_cut() -> None:
    record = account_speculation([verified(14 * S, 16 * S)], DECODE, CONSTANT.energy)
    assert record is not None
    assert record.verify_joules == pytest.approx(10)


TIMES = st.integers(0, 3 * S)


@st.composite
def answers(draw):
    """Verified batches in any order, even overlapping, and a meter with steps of power."""
    events = []
    for _ in range(draw(st.integers(1, 12))):
        drafting_ns, start_ns, end_ns = sorted(draw(st.tuples(TIMES, TIMES, TIMES)))
        drafted = draw(st.integers(1, 16))
        accepted = draw(st.integers(0, drafted))
        events.append(verified(start_ns, end_ns, drafted, accepted, draft_start_ns=drafting_ns))
    ends = sorted(draw(st.sets(TIMES, max_size=6)) | {4 * S})
    watts = st.floats(0, 500)
    half_width = draw(st.floats(0, 20))
    return events, Stepped([(end, draw(watts)) for end in ends], half_width)


@given(answers(), st.integers(S, 3 * S))
def test_the_parts_never_exceed_the_decode(answer, end_ns) -> None:
    events, meter = answer
    decode = (TimeInterval(S // 2, end_ns),)
    whole = meter.energy(S // 2, end_ns)
    record = account_speculation(events, decode, meter.energy)
    assert record is not None
    verify, draft, waste = record.verify_joules, record.draft_joules, record.waste_joules
    assert verify is not None
    assert draft is not None
    assert waste is not None
    assert record.accepted_joules is not None
    slack = 1e-9 * (1 + whole.joules)
    assert min(verify, draft, waste, record.accepted_joules) >= 0
    assert verify + draft <= whole.joules + slack
    assert waste + record.accepted_joules <= verify + slack
    assert record.verify_seconds + record.draft_seconds <= decode[0].seconds + 1e-9
    assert record.verify_uncertainty <= whole.uncertainty + whole.joules + slack
    assert record.waste_uncertainty <= record.verify_uncertainty + slack
    if record.accepted == record.drafted:
        assert waste == pytest.approx(0, abs=slack)


@given(answers())
def test_a_constant_power_is_split_exactly(answer) -> None:
    events, _ = answer
    meter = Stepped(((4 * S, 100.0),))
    record = account_speculation(events, (TimeInterval(0, 4 * S),), meter.energy)
    assert record is not None
    assert record.verify_joules == pytest.approx(100 * record.verify_seconds, abs=1e-6)
    assert record.draft_joules == pytest.approx(100 * record.draft_seconds, abs=1e-6)


class Refreshed:
    """A counter that is refreshed every 50 ms, and read in between as if the power were constant.

    Its half width is the error that this can cause at the two ends of an interval.
    """

    PERIOD_NS = 50 * MS

    def __init__(self, truth, most_watts):
        self._truth = truth
        self._half_width = 2 * most_watts * self.PERIOD_NS / S

    def energy(self, start_ns, end_ns):
        joules = self._counter(end_ns) - self._counter(start_ns)
        return Energy(start_ns, end_ns, joules, self._half_width, Kind.COUNTER, 1.0)

    def _counter(self, t_ns):
        before_ns = t_ns // self.PERIOD_NS * self.PERIOD_NS
        low, high = self._truth(before_ns), self._truth(before_ns + self.PERIOD_NS)
        return low + (high - low) * (t_ns - before_ns) / self.PERIOD_NS


@given(
    st.integers(2, 60),
    st.integers(1, 60),
    st.integers(0, 40),
    st.floats(1, 400),
    st.floats(0.5, 2),
    st.floats(0, 1),
)
def test_the_half_width_covers_what_the_meter_cannot_resolve(
    verify_ms, pause_ms, draft_ms, watts, light, quiet
) -> None:
    """Batches draw ``watts``, drafting ``light`` times as much, a pause ``quiet`` of the less."""
    cycle_ns = (draft_ms + verify_ms + pause_ms) * MS
    high_ns = (draft_ms + verify_ms) * MS
    draft_watts, pause_watts = watts * light, quiet * watts * min(light if draft_ms else 1, 1)
    cycle = [(draft_ms * MS, draft_watts), (high_ns, watts), (cycle_ns, pause_watts)]
    per_cycle = Stepped(cycle).energy(0, cycle_ns).joules

    def truth(t_ns):
        cycles, inside_ns = divmod(t_ns, cycle_ns)
        return cycles * per_cycle + Stepped(cycle).energy(0, inside_ns).joules

    starts = range(0, 3 * S - cycle_ns, cycle_ns)
    events = [
        verified(start + draft_ms * MS, start + high_ns, draft_start_ns=start) for start in starts
    ]
    meter = Refreshed(truth, max(watts, draft_watts))
    record = account_speculation(events, (TimeInterval(0, 3 * S),), meter.energy)
    assert record is not None
    for joules, half_width, seconds, level in (
        (record.verify_joules, record.verify_uncertainty, record.verify_seconds, watts),
        (record.draft_joules, record.draft_uncertainty, record.draft_seconds, draft_watts),
    ):
        assert abs(joules - seconds * level) <= half_width + 1e-6


@given(st.lists(answers(), min_size=2, max_size=3))
def test_a_sum_has_the_counts_and_joules_of_its_parts(found) -> None:
    decode = (TimeInterval(0, 3 * S),)
    records = [account_speculation(events, decode, meter.energy) for events, meter in found]
    total = sum_speculation([None, *records])
    assert total is not None
    for name in ("batches", "rows", "drafted", "accepted", "verify_joules", "waste_uncertainty"):
        parts = [getattr(record, name) for record in records]
        assert math.isclose(getattr(total, name), math.fsum(parts), abs_tol=1e-9)


def test_a_sum_names_each_method_once_and_is_none_where_a_part_is_unmeasured() -> None:
    one = account_speculation([verified(12 * S, 14 * S)], DECODE, CONSTANT.energy)
    other = account_speculation(
        [verified(12 * S, 14 * S, method="draft")], DECODE, Meter10W(False).energy
    )
    assert one is not None
    assert other is not None
    total = sum_speculation([one, other, one])
    assert total is not None
    assert total.method == "lookup+draft"
    assert total.drafted == 12
    assert total.verify_joules is None
    assert total.joules_per_accepted_token is None
    assert sum_speculation([None]) is None
    assert sum_speculation([None, one]) is one


EVENTS = [
    Prefilled(10 * S, 11 * S, 20, 5, 15),
    verified(11 * S, 12 * S),
    Answer(12 * S, "Four", 4),
    verified(13 * S, 14 * S, accepted=1),
    Answer(14 * S, ".", 2),
    finished(thinking="", thinking_tokens=0, thinking_end_ns=11 * S),
]


def test_a_turn_records_its_drafts_and_its_phases_still_sum() -> None:
    saved = Saved()
    list(turn(Scripted(EVENTS), saved=saved))
    record = saved.turns[0]
    assert record.speculation is not None
    assert (record.speculation.drafted, record.speculation.accepted) == (8, 4)
    assert record.speculation.verify_joules == pytest.approx(20)
    assert record.speculation.waste_joules == pytest.approx(10 * 1 / 5 + 10 * 3 / 5)
    phases = record.energy.phases
    assert phases["prefill"] + phases["decode"] == pytest.approx(record.energy.joules)
    document = record.to_json()["speculation"]
    assert document["method"] == "lookup"
    assert document["draft_joules"] == 0
    assert document["joules_per_accepted_token"] == pytest.approx(4)
    assert from_document(SpeculationRecord, document, extra="ignore") == record.speculation
    assert "drafted 8, accepted 4 (50 %), 4.00 J per accepted token" in energy_line(record)
    assert record.settings["speculate"] == "off"  # that of the arm, which is part of a script here


def test_the_draft_model_goes_to_the_backend() -> None:
    small = ModelSpec("small", "tiny", ())
    answerer = Scripted(EVENTS)
    served = ResolvedModel(SPEC, Path("m.gguf"), draft=(small, Path("d.gguf")))
    events = run_turn(
        Query("2+2?"),
        DECISION,
        serve=lambda arm: served,
        answerer=answerer,
        meter=Meter10W(),
        writer=Saved(),
        clock_ns=lambda: 16 * S,
    )
    list(events)
    assert answerer.request.draft == (small, Path("d.gguf"))


def test_a_stopped_turn_keeps_the_drafts_it_had() -> None:
    saved = Saved()
    events = turn(Scripted(EVENTS), saved=saved)
    for event in events:
        if event is EVENTS[2]:
            break
    events.close()
    assert saved.turns[0].status == "stopped"
    assert saved.turns[0].speculation.drafted == 4


def test_an_estimate_is_marked() -> None:
    record = account_speculation([verified(12 * S, 14 * S)], DECODE, CONSTANT.energy)
    text = speculation_text(record, "estimate")
    assert text == "drafted 4, accepted 3 (75 %), ≈5.3 J per accepted token"


class Drafting(Stage):
    """Arms that verify one batch of drafts at the start of their decode."""

    def answer(self, request):
        for event in super().answer(request):
            yield event
            if isinstance(event, Prefilled):
                yield verified(event.end_ns, event.end_ns + S // 2, method=request.arm.speculate)


def test_each_hop_has_its_own_drafts() -> None:
    quick, large = replace(QUICK, speculate="lookup"), replace(LARGE, speculate="draft")
    stage = Drafting({"quick": Part(confidence=0.2), "large": Part(confidence=0.9)})
    record = play(stage, decided(quick, large)).record
    assert [hop.speculation.method for hop in record.hops] == ["lookup", "draft"]
    assert record.speculation == sum_speculation([hop.speculation for hop in record.hops])
    assert record.to_json()["hops"][1]["speculation"]["drafted"] == 4
    assert record.settings["speculate"] == "draft"
