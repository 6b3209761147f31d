"""Visits of the starter model with one thread: real tokens, real drafts, an estimate of joules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from etui.chat import Message
from etui.config.config import Config
from etui.energy.recorder import Recorder
from etui.energy.sources.estimate import EstimateSource
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.sweep._measurer import Devices, LocalMeasurer, MachineWatch, SweptWork
from etui.sweep.blocks import SettingFailed
from etui.sweep.config import PLAIN_WORK, Setting, SweepConfig, WorkShape
from etui.sweep.workload import WorkItem, Workload, hash_items
from tests.sweep.simulated_rig import Runnable

CODE = "def add(first, second):\n    total = first + second\n    return total\n"
ITEMS = (
    WorkItem((Message("user", "What is rain?"),), None, 6),
    WorkItem((Message("user", f"Write this again:\n{CODE}"),), CODE, 40),
)
OFF, LOOKUP, Q8, DRAFT = (
    Setting((("speculate", "off"),)),
    Setting((("speculate", "lookup"),)),
    Setting((("kv_type", "q8_0"),)),
    Setting((("speculate", "draft"),)),
)
QUICK = SweepConfig(window_s=0.02, cool_down_s=0.0)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder([EstimateSource(10.0, 50.0)], hz=100.0) as recorder:
        yield recorder


def open_rig(
    config: Config, recorder: Recorder, path: Path, shape: WorkShape = PLAIN_WORK
) -> LocalMeasurer:
    one = replace(config, threads=1)
    spec = load_catalogue(config).models[STARTER]

    def configure(setting: Setting) -> Runnable:
        values = dict(setting.values)
        if "kv_type" in values:
            changed = replace(spec, kv_type="q8_0", flash_attention="on")
            return Runnable(changed, path, one)
        return Runnable(replace(spec, speculate=values["speculate"]), path, one)  # type: ignore[arg-type]

    workload = Workload("mine", hash_items(ITEMS), ITEMS)
    return LocalMeasurer(
        SweptWork(workload, OFF, configure, shape),  # type: ignore[arg-type]
        Devices(recorder, MachineWatch(config.sysfs_dir, recorder), recorder),
        QUICK,
    )


def test_settings_of_the_starter_compute_the_same_tokens(config, recorder, starter_model):
    with open_rig(config, recorder, starter_model) as rig:
        first, drafted, other = (rig.visit(setting, 0) for setting in (OFF, LOOKUP, Q8))
        with pytest.raises(SettingFailed, match="no `draft` is set"):
            rig.visit(DRAFT, 0)
        again = rig.visit(OFF, 1)
        assert rig.session_for(OFF).facts.name == STARTER
    for visit in (first, drafted, other, again):
        assert visit.prefill.tokens == first.prefill.tokens > 30
        assert visit.decode.tokens == first.decode.tokens > 10
        assert visit.start_ns < visit.end_ns
        assert visit.seconds > 0
    assert drafted.drafted >= drafted.accepted > 0
    assert (first.drafted, other.drafted, again.drafted) == (0, 0, 0)
    assert (again.setting, again.copy) == (first.setting, 1)


def test_votes_are_decoded_in_parallel_from_one_prefill(config, recorder, starter_model):
    shape = WorkShape(think_tokens=4, answer_tokens=5, sequences=3)
    with open_rig(config, recorder, starter_model, shape) as rig:
        visit = rig.visit(LOOKUP, 0)
        session = rig.session_for(LOOKUP)
        assert session.free_tokens == session.facts.context_tokens
    assert visit.decode.tokens == 3 * (4 + 5 - 1)
    assert visit.drafted == 0  # votes are never speculated


def test_the_option_letters_take_a_prefill_alone(config, recorder, starter_model):
    with open_rig(config, recorder, starter_model, WorkShape(reads_letters=True)) as rig:
        visit = rig.visit(OFF, 0)
    assert visit.decode.tokens == visit.decode.seconds == 0
    assert visit.prefill.tokens > 30
