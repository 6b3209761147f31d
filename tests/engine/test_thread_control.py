"""The thread counts of a context: set between batches, recorded, and without effect on results."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.backends.local import LocalBackend
from etui.backends.worker import open_engine
from etui.chat import Message
from etui.config.config import Config
from etui.engine import thread_count as thread_limits
from etui.engine.context import DECODED, Context
from etui.engine.cpu_limits import FreeCpus
from etui.engine.library import Library
from etui.engine.model import Model
from etui.engine.thread_count import ThreadControl, ThreadLimits
from etui.events import Event, Finished, ThreadsChanged
from etui.models.spec import ModelSpec
from tests.engine.conftest import OPTIONS
from tests.engine.simulated_cores import SimulatedCores

Answer = Callable[[int | None], list[Event]]
SPEC = ModelSpec("one", "135M", (), context=512, sha256="ab" * 32)


class Simulated:
    """A control over a simulated machine: batches take the time that its cores need."""

    def __init__(
        self,
        cores: SimulatedCores,
        limit: int,
        prefill_limit: int | None = None,
        *,
        adapt: bool = True,
        note: str = "",
    ) -> None:
        self.cores = cores
        self.set: list[tuple[int, int]] = []
        self._single = self._batch = limit
        self.control = ThreadControl(
            ThreadLimits(limit, prefill_limit or limit, adapt, note),
            FreeCpus(
                range(cores.cores),
                Path("no procfs"),
                read_idle_seconds=lambda: cores.idle_ns / 1e9,
                read_own_ns=lambda: int(cores.own_ns),
            ),
            lambda: cores.now_ns,
        )

    def compute(self, rows: int = 1, times: int = 1, *, failed: bool = False) -> None:
        for _ in range(times):
            counts = self.control.counts(rows)
            if counts != (self._single, self._batch):
                self.set.append(counts)
                self._single, self._batch = counts
            self.control.start_batch()
            self.cores.compute(self._single if rows == 1 else self._batch, rows)
            self.control.end_batch(rows, failed=failed)


def test_a_busy_core_and_its_return_are_set_and_recorded():
    machine = Simulated(SimulatedCores(2), 2)
    machine.compute(times=100)
    assert machine.set == []
    machine.cores.busy = 1
    machine.compute(times=20)
    machine.cores.busy = 0
    machine.compute(times=60)
    assert machine.set == [(1, 1), (2, 2)]
    lowered, raised = machine.control.take_changes()
    assert (lowered.decode_threads, lowered.prefill_threads) == (1, 1)
    assert lowered.why == "1.6 cores are free"
    assert (raised.decode_threads, raised.prefill_threads) == (2, 2)
    assert raised.why == "2.0 cores are free"
    assert lowered.t_ns < raised.t_ns
    assert machine.control.take_changes() == ()


@pytest.mark.parametrize("is_working", [False, True])
def test_time_between_two_batches_is_not_lost(is_working):
    machine = Simulated(SimulatedCores(2), 2)
    for _ in range(200):
        machine.compute()
        machine.cores.pass_time(3_000_000, is_working)  # a token is written, or waits
        machine.cores.own_ns += 3_000_000 * is_working
    assert machine.control.decode_threads == 2
    assert machine.set == []


def test_a_busy_core_is_noticed_where_every_token_waits_for_its_reader():
    machine = Simulated(SimulatedCores(2), 2)
    for number in range(80):
        machine.cores.busy = int(number >= 40)
        machine.compute()
        machine.cores.pass_time(30_000_000, machine.cores.busy)
    assert machine.control.decode_threads == 1


def test_what_a_prefill_found_out_holds_for_the_decode():
    machine = Simulated(SimulatedCores(4, busy=1), 4)
    machine.compute(rows=128, times=4)
    assert machine.control.prefill_threads == 3
    machine.compute(rows=1)
    assert machine.set == [(3, 3)]


def test_short_batches_run_with_the_decode_count():
    machine = Simulated(SimulatedCores(4, busy=1), 4)
    machine.compute(rows=4, times=20)
    assert machine.control.decode_threads == 3
    assert machine.set == [(3, 3)]


def test_decode_and_prefill_have_limits_of_their_own():
    machine = Simulated(SimulatedCores(4), 1, 4, adapt=False)
    machine.compute(rows=128)
    machine.compute(rows=1)
    machine.compute(rows=4)  # short: with the decode count
    assert machine.set == [(1, 4), (1, 1)]
    machine.control.begin_answer()
    assert machine.control.take_changes() == ()  # the limits are no change


def test_a_prefill_with_more_threads_than_decode_gives_cores_back_and_takes_them_again():
    machine = Simulated(SimulatedCores(4, busy=2), 2, 4)
    machine.compute(rows=128, times=6)
    assert machine.control.prefill_threads == 2
    assert machine.control.decode_threads == 2  # its two threads have their cores
    machine.cores.busy = 0
    machine.compute(rows=128, times=6)
    assert machine.control.prefill_threads == 4
    assert machine.control.decode_threads == 2


def test_limits_change_between_answers_and_counts_begin_with_them():
    machine = Simulated(SimulatedCores(4), 4, adapt=False)
    machine.compute(times=3)
    machine.control.set_limits(ThreadLimits(1, 2, adapt=False))
    machine.compute(rows=128)
    machine.compute()
    assert machine.set == [(1, 2), (1, 1)]
    machine.control.set_limits(ThreadLimits(4, 4))
    assert machine.control.adapts
    machine.cores.busy = 1
    machine.compute(times=40)
    assert machine.control.decode_threads == 3
    machine.control.set_limits(ThreadLimits(4, 4))  # the same: what was found out stays
    assert machine.control.decode_threads == 3
    machine.control.set_limits(ThreadLimits(4, 4, adapt=False, note="held"))
    machine.control.begin_answer()
    (change,) = machine.control.take_changes()
    assert (change.decode_threads, change.why) == (4, "held")


def test_a_fixed_count_is_kept():
    machine = Simulated(SimulatedCores(2, busy=1), 2, adapt=False)
    machine.compute(times=50)
    machine.control.begin_answer()
    assert machine.set == []
    assert machine.control.take_changes() == ()


def test_a_batch_that_failed_teaches_nothing():
    machine = Simulated(SimulatedCores(2, busy=1), 2)
    machine.compute(times=50, failed=True)
    assert machine.control.decode_threads == 2


def test_the_load_of_a_model_shows_what_is_free():
    machine = Simulated(SimulatedCores(4, busy=2), 4)
    machine.cores.run_fixed(1, 0.3)  # loading: one thread works, one core is idle
    machine.control.restart()
    assert machine.control.decode_threads == machine.control.prefill_threads == 2
    machine.control.begin_answer()
    (event,) = machine.control.take_changes()
    assert (event.decode_threads, event.why) == (2, "2.0 cores are free")


def test_what_other_processes_of_etui_compute_takes_no_threads():
    machine = Simulated(SimulatedCores(2, front=1), 2)
    machine.cores.run_fixed(1, 0.3)  # the template process keeps the other core busy
    machine.control.restart()
    for rows in (128, 1, 8):
        machine.compute(rows=rows, times=100)
    machine.cores.pass_time(5_000_000_000, 1)
    machine.cores.own_ns += 5_000_000_000
    machine.control.begin_answer()
    machine.compute(times=100)
    assert machine.set == []
    assert machine.control.take_changes() == ()


def test_an_answer_after_a_rest_starts_with_what_was_free_meanwhile():
    machine = Simulated(SimulatedCores(4), 4)
    machine.compute(times=50)
    machine.cores.busy = 2
    machine.cores.pass_time(60_000_000_000, 2)
    machine.control.begin_answer()
    (event,) = machine.control.take_changes()
    assert (event.decode_threads, event.prefill_threads) == (2, 2)
    assert event.why == "2.0 cores are free"
    machine.cores.busy = 0
    machine.cores.pass_time(60_000_000_000, 0)
    machine.control.begin_answer()
    assert machine.control.take_changes() == ()
    machine.compute(times=50)
    assert machine.control.decode_threads == 4


def test_a_prefill_of_long_batches_that_began_with_too_few_threads_gets_them_back():
    machine = Simulated(SimulatedCores(2, token_ns=3e7), 2)
    machine.cores.pass_time(30_000_000_000, 2)  # another program ran until the question came
    machine.control.begin_answer()
    assert machine.control.prefill_threads == 1
    machine.compute(rows=128)
    assert machine.control.prefill_threads == 2
    machine.compute(rows=128, times=5)
    assert machine.set == [(1, 1), (2, 2)]


def test_a_pause_says_nothing_of_the_next_batch():
    machine = Simulated(SimulatedCores(2), 2)
    machine.compute(times=50)
    machine.cores.pass_time(5_000_000_000, 2)  # another program ran while the reader read
    machine.compute(times=50)
    assert machine.set == []


def test_the_work_of_a_load_is_not_capacity_of_the_rest_after_it():
    machine = Simulated(SimulatedCores(4), 4)
    machine.cores.run_fixed(1, 9)
    machine.control.restart()
    assert machine.control.decode_threads == 4
    machine.cores.pass_time(2_000_000_000, 2)
    machine.control.begin_answer()
    assert machine.control.decode_threads == 2


def test_a_short_pause_keeps_the_counts():
    machine = Simulated(SimulatedCores(4), 4)
    machine.compute(times=50)
    machine.cores.pass_time(500_000_000, 4)  # nothing idle meanwhile
    machine.control.begin_answer()
    assert machine.control.decode_threads == 4


def test_a_load_of_many_seconds_shows_what_is_free():
    machine = Simulated(SimulatedCores(4, busy=3), 4)
    machine.cores.run_fixed(1, 20)
    machine.control.restart()
    assert machine.control.prefill_threads == 1


def test_a_limit_below_the_setting_is_told_with_every_answer():
    machine = Simulated(SimulatedCores(2), 2, adapt=False, note="fewer CPUs than threads")
    for _ in range(2):
        machine.control.begin_answer()
        (event,) = machine.control.take_changes()
        assert (event.decode_threads, event.why) == (2, "fewer CPUs than threads")


# With llama.cpp.


def logits_with(library: Library, model: Model, threads: int) -> np.ndarray:
    context = Context(library, model, replace(OPTIONS, threads=threads))
    with closing(_Freed(context)):
        tokens = model.tokenize("Once upon a time there was a small village", bos=True)
        context.batch.add(0, tokens, 0, with_logits=True)
        assert context.decode() == 0
        return np.array(context.logits(len(tokens) - 1))


class _Freed:
    def __init__(self, context: Context) -> None:
        self.close = context.free


def test_results_do_not_depend_on_the_count_beyond_the_last_bits(library, model):
    one, two = logits_with(library, model, 1), logits_with(library, model, 2)
    assert one.argmax() == two.argmax()
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)


def test_the_count_takes_effect_between_batches(library, model):
    control = ThreadControl(ThreadLimits(2, 2))
    context = Context(library, model, replace(OPTIONS, threads=2))
    context.threads = control
    with closing(_Freed(context)):
        counts = lambda: (  # noqa: E731
            library.api._lib.llama_n_threads(context.handle),
            library.api._lib.llama_n_threads_batch(context.handle),
        )
        assert counts() == (2, 2)
        control._count = replace(control._count, most=1)
        context.batch.add(0, [10], 0, with_logits=True)
        assert context.decode() == 0
        assert counts() == (1, 1)  # one row, with the decode count


@pytest.fixture
def answer(config: Config, starter_model: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Answers one question with a number of threads, on a machine of two CPUs."""
    monkeypatch.setattr(
        thread_limits, "choose_threads", lambda threads, sysfs: min(threads or 2, 2)
    )

    def run(threads: int | None) -> list[Event]:
        arm = Arm("quick", "one", max_tokens=2)
        request = AnswerRequest(SPEC, starter_model, (Message("user", "Hi"),), arm)
        with closing(LocalBackend(replace(config, threads=threads))) as engine:
            return list(engine.answer(request))

    return run


def test_an_answer_reports_a_setting_that_is_held_to_the_cpus(answer):
    events = answer(999)
    (change,) = (event for event in events if isinstance(event, ThreadsChanged))
    assert (change.decode_threads, change.prefill_threads) == (2, 2)
    assert change.why == "this process may run on 2 of the 999 CPUs that `threads` needs"
    assert isinstance(events[-1], Finished)


def test_an_answer_with_a_count_that_can_be_had_reports_nothing(answer):
    events = answer(1)
    assert not any(isinstance(event, ThreadsChanged) for event in events)


def test_a_context_that_drafts_follows_the_counts_of_its_model(library, model, monkeypatch):
    control = Simulated(SimulatedCores(2), 2).control
    options = replace(OPTIONS, threads=2, sequences=1)
    applied: list[tuple[int, int]] = []
    context = Context(library, model, options, control, drafts=True)
    monkeypatch.setattr(
        library.api, "llama_set_n_threads", lambda _, *counts: applied.append(counts)
    )
    # 1 of 2 threads at a time: another process takes a core, and gives it back.
    for count, rows in ((2, 1), (1, 1), (1, 64), (2, 1)):
        control._count = replace(control._count, most=count)
        context.remove(0, 0)
        context.batch.clear()
        context.batch.add(0, [1] * rows, 0, with_logits=True)
        assert context.decode() == DECODED
    context.free()
    assert applied == [(1, 1), (2, 2)]
    assert control.take_changes() == ()  # what it computes says nothing of the model's batches


def test_the_parent_of_an_engine_process_and_its_template_process_are_no_other_programs(config):
    with closing(open_engine(config)) as engine:
        loader = engine._residency._loader
        assert loader._list_relatives() == [os.getppid()]
        loader.templates.start()
        assert loader._list_relatives() == [os.getppid(), loader.templates.pid]
    with closing(LocalBackend(config)) as engine:
        assert engine._residency._loader._list_relatives() == []
