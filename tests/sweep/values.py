"""Values of a sweep that tests share."""

from __future__ import annotations

from etui.sweep.blocks import Block, PhaseCost, Stage, Visit
from etui.sweep.config import Axis, Setting, SweepConfig, SweepDesign

ONE = Setting((("threads", 1), ("kv_type", "f16")))
TWO = Setting((("threads", 2), ("kv_type", "f16")))
DESIGN = SweepDesign((ONE, TWO), floor_blocks=2, race_rounds=1, confirm_blocks=2)
CONFIG = SweepConfig(
    id="20990101-100000-m-abcd",
    created="2099-01-01T10:00:00+00:00",
    model="m",
    model_sha256="ab",
    policy=None,
    arm=None,
    axes=(Axis("threads", (1, 2)), Axis("kv_type", ("f16",))),
    design=DESIGN,
    workload="chat",
    workload_sha256="cd",
    output_tokens=32,
    window_s=2.0,
    cool_down_s=1.0,
    cool_down_celsius=None,
    cap=None,
    suite=None,
    questions=0,
    channels=("gpu:1",),
    provenance={"machine": "a machine", "etui": "0"},
)


def make_visit(setting: Setting, copy: int = 0, joules: float = 10.0, start_s: float = 0) -> Visit:
    """A visit of 4 s: two answers, each with ``joules``."""
    start = int(start_s * 1e9)
    return Visit(
        setting=setting.key,
        copy=copy,
        answers=2,
        prefill=PhaseCost(20, joules / 4, 0.1, 0.5),
        decode=PhaseCost(32, joules * 3 / 4, 0.2, 1.5),
        start_ns=start,
        end_ns=start + 4_000_000_000,
        kind="counter",
        mean_watts=joules / 2,
    )


def make_block(number: int, stage: Stage = "floor") -> Block:
    """A complete block of both settings (the floor: the baseline twice)."""
    others = (ONE, 1) if stage == "floor" else (TWO, 0)
    visits = (
        make_visit(ONE, start_s=10 * number),
        make_visit(*others, start_s=10 * number + 5),
    )
    return Block(number, stage, visits, repeated=("a note",), seconds=10.0)
