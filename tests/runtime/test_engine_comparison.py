"""What a build of llama.cpp gains: ratios of paired rounds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.engine.builds import Build
from etui.errors import EngineFailed
from etui.runtime import engine_comparison
from etui.runtime.engine_build import find_unused_instructions
from etui.runtime.engine_comparison import compare_builds, compute_gain
from etui.runtime.gpu_run import Order, RunResult, Timed
from etui.runtime.try_gpu import Attempt, PerToken

speeds = st.floats(0.1, 1e4)


@given(st.lists(speeds, min_size=2, max_size=20), st.floats(0.1, 10))
def test_a_constant_ratio_has_an_interval_of_no_width(old: list[float], ratio: float) -> None:
    gain = compute_gain("decode_tokens_per_second", old, [value * ratio for value in old])
    assert gain is not None
    assert gain.ratio == pytest.approx(ratio)
    assert gain.low == pytest.approx(gain.high)


@given(st.lists(st.tuples(speeds, speeds), min_size=2, max_size=20))
def test_the_other_way_round_the_ratio_is_inverted(pairs: list[tuple[float, float]]) -> None:
    old, new = zip(*pairs, strict=True)
    there = compute_gain("decode_tokens_per_second", old, new)
    back = compute_gain("decode_tokens_per_second", new, old)
    assert there is not None
    assert back is not None
    assert there.ratio * back.ratio == pytest.approx(1)
    assert math.log(there.low) == pytest.approx(-math.log(back.high), abs=1e-9)
    assert there.low <= there.ratio <= there.high


def test_an_interval_is_the_one_of_students_t() -> None:
    # log ratios 0, ln 2: mean 0.3466, standard error 0.3466, t(1 degree, 97.5 %) = 12.706
    gain = compute_gain("decode_tokens_per_second", [1.0, 1.0], [1.0, 2.0])
    assert gain is not None
    assert gain.ratio == pytest.approx(math.sqrt(2))
    assert gain.high == pytest.approx(math.sqrt(2) * math.exp(12.7062 * math.log(2) / 2), rel=1e-4)
    assert not gain.certain


@pytest.mark.parametrize("values", [[], [1.0], [1.0, None], [1.0, 0.0], [None, None]])
def test_a_missing_value_gives_no_gain_and_never_a_zero(values: list[float | None]) -> None:
    assert compute_gain("decode_joules_per_token", values, values) is None


def result(prefill: float, decode: float) -> RunResult:
    timed = [Timed(int(1000 * rate), 0, 10**12) for rate in (prefill, decode)]
    return RunResult(0, 0, 1, 1.0, *timed, (), (), None)


def test_builds_run_in_turn_and_who_begins_alternates(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def run(
        _order: Order, _meter: object, _report: object, *, variables: dict[str, str]
    ) -> Attempt:
        folder = variables["LLAMA_CPP_LIB_PATH"]
        assert variables["MTMD_CPP_LIB"] == folder
        assert variables["ETUI_ENGINE"] == folder  # here a folder has the name of its build
        order.append(folder)
        speed = {"old": 1.0, "new": 2.0}[folder]
        joules = PerToken(4.0 / speed, 0.1, "counter")
        return Attempt("auto", result(10 * speed, speed), "", joules, joules)

    monkeypatch.setattr(engine_comparison, "run_once", run)
    monkeypatch.setattr(engine_comparison, "name_for_child", lambda spec: spec.name)
    spec = type("Spec", (), {"name": "tiny"})()
    old, new = (Build("built", name, Path(name)) for name in ("old", "new"))
    found = compare_builds(old, new, spec, None, lambda *_: None, 3)  # type: ignore[arg-type]
    assert order == ["old", "new", "new", "old", "old", "new"]
    ratios = {gain.figure: (gain.ratio, gain.certain) for gain in found.gains}
    assert ratios == {
        "prefill_tokens_per_second": (pytest.approx(2), True),
        "decode_tokens_per_second": (pytest.approx(2), True),
        "prefill_joules_per_token": (pytest.approx(0.5), True),
        "decode_joules_per_token": (pytest.approx(0.5), True),
    }
    assert found.kind == "counter"
    again = compare_builds(new, new, spec, None, lambda *_: None, 2)  # type: ignore[arg-type]
    assert {gain.ratio for gain in again.gains} == {1.0}


def test_a_build_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> Attempt:
        return Attempt("auto", None, "llama.cpp crashed with SIGILL (stage load)")

    monkeypatch.setattr(engine_comparison, "run_once", run)
    monkeypatch.setattr(engine_comparison, "name_for_child", lambda spec: spec.name)
    spec = type("Spec", (), {"name": "tiny"})()
    build = Build("built", "native", Path("x"))
    with pytest.raises(EngineFailed, match=r"native failed: llama\.cpp crashed with SIGILL"):
        compare_builds(build, build, spec, None, lambda *_: None)  # type: ignore[arg-type]


def test_instructions_that_a_build_does_not_use() -> None:
    flags = {"avx2", "avx512f", "fma"}
    assert find_unused_instructions("CPU : AVX2 = 1 | FMA = 1", flags) == ["AVX512"]
    assert find_unused_instructions("CPU : AVX2 = 1 | AVX512 = 1", flags) == []
    assert find_unused_instructions("", flags) == []
