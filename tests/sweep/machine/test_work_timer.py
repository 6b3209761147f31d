"""The cost of an answer, from windows of several jobs and runs; lengths of windows."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.types import Channel, Energy, Kind
from etui.sweep._measurer import LEAST_WINDOW_S, MOST_WINDOW_S, choose_window_s
from etui.sweep._work_timer import TimedWork, Window, WorkTimer, compute_cost
from etui.sweep.workload import Job
from tests.engine.speculation.fakes import FakeDrafter, make_fake_session


def meter(watts, relative=0.1, *, kind=Kind.COUNTER, missing=()):
    """A meter of constant power; it has not recorded the intervals that start at ``missing``."""

    def energy(start_ns, end_ns):
        joules = None if start_ns in missing else watts * (end_ns - start_ns) / 1e9
        uncertainty = None if joules is None else relative * joules
        return Energy(start_ns, end_ns, joules, uncertainty, joules and kind, 1.0)

    return energy


class Clock:
    """Moves on by 1 ms at each look."""

    def __init__(self):
        self.now_ns = 0

    def __call__(self):
        self.now_ns += 1_000_000
        return self.now_ns


NO_METER = SimpleNamespace(mark=lambda t_ns: None)
PROMPT, OUTPUT = tuple(range(1, 40)), tuple((7 * i) % 50 for i in range(30))


def draft_two_right(tokens, count):
    """Drafts two tokens of the script and a wrong one."""
    done = len(tokens) - len(PROMPT)
    right = [*OUTPUT, 0, 0, 0][done : done + 2]
    return [*right, 60][:count]


def test_every_run_of_a_drafted_answer_costs_the_same():
    session, context = make_fake_session(lambda tokens: [0.0] * 64, 64)
    drafter = FakeDrafter(draft_two_right)
    session.speculator.add(drafter)
    timer = WorkTimer(session, NO_METER, 0.1, speculate="draft", clock=Clock())
    timer.warm_up([Job(PROMPT, OUTPUT)])
    begun = drafter.forgotten
    work = timer.measure([Job(PROMPT, OUTPUT), Job(PROMPT[:9])])
    (decode,) = work.decodes
    assert decode.runs > 3
    assert len(decode.intervals) == 1
    assert drafter.forgotten == begun + 1 + decode.runs
    # 29 tokens in rounds of three: two drafted ones, and the one that corrects the third.
    assert (decode.drawn, decode.accepted) == (29, 20.0)
    assert decode.drafted == pytest.approx(30, abs=2)
    assert work.computed == work.prefill.runs * (39 + 9)
    assert not any(context.slots.values())
    assert session.free_tokens == context.capacity


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize("tokens", [2, 3, 5])
def test_every_run_of_a_short_answer_computes_its_tokens(tokens, sequences):
    session, context = make_fake_session(lambda tokens: [0.0] * 64, 64)
    timer = WorkTimer(session, NO_METER, 0.1, sequences=sequences, clock=Clock())
    work = timer.measure([Job(PROMPT, OUTPUT[:tokens])])
    (decode,) = work.decodes
    assert decode.runs > 3
    assert decode.drawn == (tokens - 1) * sequences
    steps = [rows for rows in context.decodes if rows == sequences]
    assert len(steps) == decode.runs * (tokens - 1)


def test_an_answer_of_one_token_is_drawn_by_the_prefill():
    session, _ = make_fake_session(lambda tokens: [0.0] * 64, 64)
    work = WorkTimer(session, NO_METER, 0.1, clock=Clock()).measure([Job(PROMPT, (5,))])
    assert work.decodes == ()
    assert session.free_tokens == 2048


lengths = st.integers(1_000, 10**10)


@st.composite
def works(draw):
    """Windows one after another with pauses, some in several intervals."""
    t_ns = 0

    def window(intervals):
        nonlocal t_ns
        found = []
        for _ in range(intervals):
            start_ns = t_ns + draw(st.integers(0, 1000))
            t_ns = start_ns + draw(lengths)
            found.append((start_ns, t_ns))
        return Window(tuple(found), draw(st.integers(1, 50)), 10)

    prefill = window(1)
    decodes = tuple(window(draw(st.integers(1, 3))) for _ in range(draw(st.integers(0, 4))))
    answers = max(1, len(decodes) + draw(st.integers(0, 2)))
    return TimedWork(prefill, decodes, answers, 1000 * prefill.runs)


@given(works(), st.floats(1, 1000))
def test_the_cost_is_power_times_time_of_one_answer(work, watts):
    cost = compute_cost(work, meter(watts))
    for phase in (cost.prefill, cost.decode):
        assert phase.joules == pytest.approx(watts * phase.seconds)
        assert phase.uncertainty == pytest.approx(0.1 * phase.joules)
    once = work.prefill.seconds / work.prefill.runs
    assert cost.prefill.seconds == pytest.approx(once / work.answers)
    each = [window.seconds / window.runs for window in work.decodes]
    assert cost.decode.seconds == pytest.approx(math.fsum(each) / work.answers)
    assert cost.mean_watts == pytest.approx(watts)
    assert cost.prefill.tokens == pytest.approx(1000 / work.answers)
    assert cost.decode.tokens == pytest.approx(10 * len(work.decodes) / work.answers)
    assert cost.kind is Kind.COUNTER


@given(works(), st.data())
def test_a_phase_without_a_record_is_unmeasured_and_the_other_is_not(work, data):
    missing = data.draw(st.sampled_from(work.intervals))
    cost = compute_cost(work, meter(100.0, missing={missing[0]}))
    lost, kept = cost.prefill, cost.decode
    if missing not in work.prefill.intervals:
        lost, kept = kept, lost
    assert (lost.joules, lost.uncertainty) == (None, None)
    assert lost.seconds > 0
    assert kept.joules is not None
    assert (cost.kind, cost.mean_watts) == (None, None)


def test_a_gap_counts_by_its_share_of_the_phase():
    second = 10**9
    prefill = Window(((0, 8 * second),), 2)
    decodes = tuple(Window(((at * second, (at + 1) * second),), 1, 5) for at in (9, 11))

    def energy(start_ns, end_ns):
        coverage = 0.4 if start_ns == 11 * second else 1.0
        return Energy(start_ns, end_ns, 1.0, 0.1, Kind.COUNTER, coverage)

    cost = compute_cost(TimedWork(prefill, decodes, 2, 100), energy)
    assert cost.coverage == pytest.approx(0.7)
    assert compute_cost(TimedWork(prefill, (), 2, 100), energy).coverage == 1.0


def channel(kind=Kind.COUNTER, **changes):
    return Channel("gpu:1", "gpu:1", kind, **changes)


@pytest.mark.parametrize(
    ("channels", "seconds"),
    [
        ([], 1.0),
        ([channel(period_s=0.001)], 1.0),
        ([channel()], 2.0),
        ([channel(period_s=0.1), channel(period_s=0.001)], 2.0),
        ([channel(Kind.INTEGRATED, average_s=1.0, period_s=0.05)], 4.0),
        ([channel(Kind.BATTERY, period_s=5.0)], 10.0),
        ([channel(Kind.ESTIMATE, period_s=0.001)], 1.0),
    ],
)
def test_a_slower_meter_has_a_longer_window(channels, seconds):
    assert choose_window_s(channels) == seconds


@given(
    st.lists(
        st.builds(
            channel,
            st.sampled_from(Kind),
            period_s=st.none() | st.floats(0, 100),
            average_s=st.floats(0, 100),
        )
    )
)
def test_a_window_is_never_too_short_or_endless(channels):
    assert LEAST_WINDOW_S <= choose_window_s(channels) <= MOST_WINDOW_S
