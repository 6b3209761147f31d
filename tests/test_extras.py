"""Without its heavy libraries etui says what is missing before it works, and the rest goes on."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from etui import extras
from etui.cli.main import run
from etui.errors import ExitCode, UsageError

HEAVY = ("matplotlib", "scipy", "sklearn")


@pytest.mark.parametrize("extra", list(extras._MODULES))
def test_a_missing_extra_is_said_with_the_line_that_installs_it(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extras.require_extra(extra, "x")
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(UsageError) as caught:
        extras.require_extra(extra, "`etui policy fit`")
    assert caught.value.what == f"`etui policy fit` needs etui[{extra}]"
    assert caught.value.fix == f"pip install 'etui[{extra}]'"
    with pytest.raises(UsageError, match="or use the other"):
        extras.require_extra(extra, "x", "use the other")


def test_every_extra_is_one_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert extras._MODULES.keys() < project["project"]["optional-dependencies"].keys()


@pytest.mark.parametrize(
    "command",
    [
        ("curves", "--svg", "x.svg"),
        ("policy", "fit", "balanced", "--log"),
        ("policy", "replay", "balanced", "--outcomes", "{home}/outcomes.csv"),
        ("bench", "publish", "last", "--to", "{home}/public"),
        ("bench", "--design", "seed", "--dry-run"),
        ("bench", "--suite", "sample", "--cluster", "local"),
        ("serve",),
        ("power", "serve"),
        ("power", "export", "--listen", "127.0.0.1:0"),
        ("--web",),
    ],
    ids=" ".join,
)
def test_commands_that_need_one_say_so_first(
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    etui_home: object,
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    words = [word.format(home=etui_home) for word in command]
    (etui_home / "outcomes.csv").write_text("subject,row,quick\nx,0,1\n")  # type: ignore[operator]
    assert run(words) == ExitCode.USAGE
    assert "pip install 'etui[" in capsys.readouterr().err


def test_curves_intervals_and_reports_need_none_of_them() -> None:
    program = f"""
import sys
for name in {HEAVY}:
    sys.modules[name] = None  # an import fails
import numpy as np
from etui.curves.fit import PhasePoint, fit_phase
from etui.stats.tests import estimate_paired_mean, mcnemar, wilson
import etui.bench.page, etui.bench.summary, etui.sweep.page, etui.sweep.verdict
points = [PhasePoint(0, n, 3.0 * n + 1, 0.1) for n in (10, 50, 90, 200, 300, 400)]
print(fit_phase(points, "decode").slope, wilson(3, 4), mcnemar(1, 5))
print(estimate_paired_mean(np.array([1.0, 0.0, -1.0, 1.0])))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3.0")
