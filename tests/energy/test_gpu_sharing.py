"""GPUs that several processes use, and batches that several sequences share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.sharing import GpuShare, GpuUse, compute_share
from etui.turn.accounting import split_by_tokens

GPU = "gpu:A"


def use(t_ns: int, own: float | None, other: float | None, others: int, unknown: int = 0) -> GpuUse:
    return GpuUse(t_ns, GPU, own, other, others, unknown)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([], GpuShare(False, None)),
        ([use(5, 80, 0, 0)], GpuShare(False, 1.0)),
        ([use(5, 80, 0.4, 1)], GpuShare(False, 1.0)),
        ([use(5, 60, 20, 1), use(6, 60, 20, 1)], GpuShare(True, 0.75)),
        ([use(5, 0, 50, 1)], GpuShare(True, 0.0)),
        ([use(5, None, None, 1)], GpuShare(True, None)),
        ([use(5, None, None, 0)], GpuShare(False, None)),
        ([use(5, 0, 80, 0, unknown=1)], GpuShare(False, None)),
        ([use(5, 0, 80, 0, unknown=2)], GpuShare(True, None)),
        ([use(500, 10, 90, 1)], GpuShare(False, None)),
    ],
)
def test_shares(looks: list[GpuUse], expected: GpuShare) -> None:
    assert compute_share(looks, GPU, 0, 10, 100) == expected


def test_other_gpus_do_not_count() -> None:
    assert compute_share([use(5, 10, 90, 1)], "gpu:B", 0, 10, 0) == GpuShare(False, None)


@given(st.floats(0, 1e6), st.lists(st.integers(0, 4096), min_size=1, max_size=12))
def test_sequences_of_a_batch_share_all_of_it(joules: float, tokens: list[int]) -> None:
    parts = split_by_tokens(joules, tokens)
    assert len(parts) == len(tokens)
    if any(tokens):
        assert sum(parts) == pytest.approx(joules, rel=1e-12, abs=1e-9)
        assert all(part == 0 for part, count in zip(parts, tokens, strict=True) if not count)
    else:
        assert parts == [0.0] * len(tokens)


def test_equal_tokens_cost_the_same() -> None:
    assert split_by_tokens(12.0, [3, 3, 6]) == [3.0, 3.0, 6.0]


MEASURE = """
import json, os, time
from etui.config.config import load_config
from etui.energy.documents import energy_document
from etui.energy.discovery import open_recorder
with open_recorder(load_config()) as recorder:
    time.sleep(0.4)
    start_ns = time.monotonic_ns()
    time.sleep(0.5)
    end_ns = time.monotonic_ns()
    recorder.settle(end_ns)
    found = energy_document(recorder.energy(start_ns, end_ns))
    found["temperature"] = recorder.watch.states[0].temperature_celsius
print(json.dumps(found))
"""


def measured(folder: Path, pids: str) -> dict[str, object]:
    """Energy on the fake GPU while these processes use it; ``%d`` is etui's own number."""
    code = f"import os\nos.environ['FAKE_NVML_PIDS'] = {pids!r} % os.getpid()\n{MEASURE}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML_CURVE": "0:200,1:200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_gpu_of_ones_own_is_not_shared(fake_nvml_dir: Path) -> None:
    found = measured(fake_nvml_dir, "%d:90")
    assert not found["shared"]
    assert found["own_joules"] is None
    assert found["temperature"] == 61


def test_another_process_makes_the_gpu_shared(fake_nvml_dir: Path) -> None:
    found = measured(fake_nvml_dir, f"%d:60,{os.getpid()}:20")
    assert found["shared"]
    assert "shared" in found["flags"]  # type: ignore[operator]
    assert found["own_joules"] == pytest.approx(0.75 * found["joules"], rel=1e-6)  # type: ignore[operator]
