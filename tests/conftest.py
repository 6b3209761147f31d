"""Fixtures for every test: etui never sees the user's real folders."""

from __future__ import annotations

import gc
import itertools
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.marks import Marks

if TYPE_CHECKING:
    from etui.config.config import Config

# Before anything of etui is imported.
MARKS = Marks("etui") if os.environ.get("ETUI_COVERAGE") else None

# OpenBLAS has other kernels, and so other last digits, on each processor; a fitted forest turns
# them into another answer. With one kernel, frozen numbers are equal on every x86-64 since 2013.
os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")

# How fast an example runs says something about the machine and nothing about etui. The profile is
# loaded before any test is collected, so that it holds for all of them in any order.
# A test that suppresses a health check itself gets the others back, and fails on a busy machine.
# 25 examples find what a change usually breaks, the same ones each time: a run fails by its change
# and not by its luck. `HYPOTHESIS_PROFILE=thorough` draws other examples each time, and more.
for name, examples in (("default", 25), ("thorough", 200)):
    settings.register_profile(
        f"etui-{name}",
        max_examples=examples,
        derandomize=name == "default",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
settings.load_profile(f"etui-{os.environ.get('HYPOTHESIS_PROFILE', 'default')}")

pytest_plugins = [
    "tests.fixtures.hub",
    "tests.fixtures.many_channels",
    "tests.fixtures.models",
    "tests.fixtures.nvml",
    "tests.fixtures.questions",
    "tests.fixtures.turns",
]


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than CPUs, since tests wait a third of their time; nine fill the memory."""
    count = os.cpu_count() or 1
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    return min(count + 1, 8)


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker a CPU of its own where there are enough.

    A model of two threads waits by spinning: on CPUs that it shares with another worker's model, a
    token takes a hundred times as long. Where workers share CPUs, its threads wait asleep.
    """
    config.option.loadscopereorder = False  # in the order of the collection, see below
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker and sys.platform == "linux":
        cpus = sorted(os.sched_getaffinity(0))
        if int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) > len(cpus):
            os.environ.setdefault("GOMP_SPINCOUNT", "0")
            return
        os.sched_setaffinity(0, {cpus[int(worker) % len(cpus)]})


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file to one worker, and so all files that need the scenarios of the contract."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "played" if file in SHARE_SCENARIOS else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let workers begin with the files that run models and scenarios, and then the longest.

    One of those, begun as the last, would leave the other workers without work for a while.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {"starter_model", "tiny_starter", "played"}
        first = {item.path for item in items if slow & {*getattr(item, "fixturenames", ())}}
        sizes = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path not in first, -sizes[item.path]))


SHARE_SCENARIOS = {"tests/contract/test_files.py", "tests/contract/test_json.py"}


def pytest_collection_finish() -> None:
    """Leave what is there by now out of later collections of garbage: it stays to the end."""
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if MARKS is not None:
        MARKS.save(session.config.rootpath)


_FOLDERS = itertools.count()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test; pytest's own lists the thousands before it to find a free number."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    folder = tmp_path_factory.getbasetemp() / f"{name}-{next(_FOLDERS)}"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(autouse=True)
def etui_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh ETUI_HOME, an empty models folder and an empty sysfs for each test."""
    home = tmp_path / "home"
    sysfs = tmp_path / "sysfs"
    home.mkdir()
    sysfs.mkdir()
    monkeypatch.setenv("ETUI_HOME", str(home))
    monkeypatch.setenv("ETUI_SYSFS", str(sysfs))
    monkeypatch.delenv("ETUI_MODELS", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it for its workers
    return home


@pytest.fixture
def config(etui_home: Path) -> Config:
    """The Config of the test's own folders."""
    from etui.config.config import load_config

    return load_config()


@pytest.fixture(scope="session")
def starter_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model's GGUF, from the folder ETUI_TEST_MODELS (default ``.models``).

    Pulled there once if need be; tests that use it are skipped where it cannot be had.
    """
    from etui.config.config import Config
    from etui.errors import EtuiError
    from etui.models.catalogue import load_catalogue
    from etui.models.download import pull
    from etui.models.files import require
    from etui.models.spec import STARTER

    checkout = Path(__file__).parent.parent
    folder = Path(os.environ.get("ETUI_TEST_MODELS") or checkout / ".models").absolute()
    config = Config(home=tmp_path_factory.mktemp("starter"), models_dir=folder)
    spec = load_catalogue(config).models[STARTER]
    try:
        return require(spec, config)
    except EtuiError:
        pass
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return pull(spec, config)
    except (EtuiError, OSError) as error:
        pytest.skip(f"no starter model in {folder}, and it cannot be pulled: {error}")


@pytest.fixture(scope="session")
def tiny_starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 1.5 MB under the starter's name, alone in its folder; it answers ``B.``

    For tests that need a model of llama.cpp, and not what a model of language says.
    """
    from etui.config.config import Config
    from etui.models.catalogue import load_catalogue
    from etui.models.files import FileRecord, write_record
    from etui.models.spec import STARTER
    from tests.contract.tiny_model import write_tiny_model

    folder = tmp_path_factory.mktemp("tiny")
    path = write_tiny_model(folder / f"{STARTER}.gguf")
    spec = load_catalogue(Config(home=folder, models_dir=folder)).models[STARTER]
    assert spec.sha256 is not None
    state = path.stat()
    record = FileRecord(str(path), state.st_size, state.st_mtime_ns, spec.sha256, pinned=True)
    write_record(STARTER, folder, record)
    return path
