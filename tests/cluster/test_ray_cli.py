"""Ctrl-C of ``etui bench --cluster local``: nodes stop, Ray ends, the run resumes without it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from etui.bench.folder import read_run
from etui.cluster.tally import CLUSTER
from tests.cluster.ray_fixtures import require_ray

pytestmark = pytest.mark.slow

QUESTIONS = ("--suite", "sample", "--subjects", "logic,algebra", "--per-subject", "2")


@pytest.fixture
def environ(starter_model, tmp_path):
    require_ray()
    models = tmp_path / "models"
    models.mkdir()
    (models / starter_model.name).symlink_to(starter_model)
    return {**os.environ, "ETUI_MODELS": str(models), "RAY_AUTH_MODE": "token"}


@pytest.fixture
def place(environ):
    """The folder in which Ray has its files, whose path has to be short."""
    with TemporaryDirectory(prefix="et-") as folder:
        environ["RAY_TMPDIR"] = folder
        yield Path(folder)


def test_ctrl_c_leaves_a_run_that_resumes_without_the_cluster(environ, place, tmp_path):
    out = tmp_path / "run"
    # Thinking takes seconds a question, so that the first answer is not the last.
    arm = ("-m", "smollm2-135m", "-r", "cot", "--think-tokens", "150", "--max-tokens", "40")
    process = subprocess.Popen(
        [sys.executable, "-m", "etui", "bench", *QUESTIONS, *arm, "--cluster", "local", "--jsonl",
         "-o", str(out)],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    children = []
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        children = psutil.Process(process.pid).children(recursive=True)
        (folder,) = place.iterdir()
        assert folder.stat().st_mode & 0o077 == 0  # sockets and logs of Ray
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        rest, errors = process.communicate(timeout=60)
        _, left = psutil.wait_procs(children, timeout=10)
    finally:
        process.kill()
        process.wait()
        for child in children:
            with suppress(psutil.Error):
                child.kill()
    assert process.returncode == 3, errors
    machine = first["machine"]
    assert all(json.loads(line)["machine"] == machine for line in rest.splitlines())
    assert f"resume with: etui bench --resume {out}" in errors
    assert children
    assert left == []  # nothing of Ray outlives the command
    assert list(place.iterdir()) == []
    wasted = json.loads((out / CLUSTER).read_text())["wasted"]
    assert (wasted["reported_tries"], wasted["lost_tries"]) == (1, 0)
    before = len(read_run(out).samples)
    assert 0 < before < 4
    done = subprocess.run(
        [sys.executable, "-m", "etui", "bench", "--resume", str(out), "-q"],
        env=environ, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    recorded = read_run(out)
    assert len({sample.key for sample in recorded.samples}) == len(recorded.samples) == 4
    assert [each.key for each in recorded.config.machines] == [machine]
