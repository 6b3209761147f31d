"""Drafted tokens on a simulated GPU with a real recorder, whose joules are known exactly."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from etui.arm import Arm
from etui.chat import Query
from etui.events import Answer, Finished, Prefilled, Verified
from etui.routing.decision import Decision
from tests.support.gpu import GpuLoad, SimulatedGpu
from tests.turn.play import run_turn, serve_one_model
from tests.turn.scripted import SPEC, Saved

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
