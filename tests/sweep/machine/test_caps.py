"""Power limits of a sweep on two simulated CPU packages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.energy.power_limits.limit import CapRequest, LimitFiles
from etui.energy.power_limits.limits import open_power_limits
from etui.errors import EtuiError
from etui.models.catalogue import load_catalogue
from etui.sweep._machine import Baseline, MachineFacts, combine_limits, read_machine_facts
from etui.sweep.blocks import SettingFailed
from etui.sweep.workbench import open_cap
from tests.contract.tiny_model import write_tiny_model
from tests.support.power_limits import read_package, write_package


def refuse_to_ask(asked: CapRequest) -> None:
    pytest.fail("the user was asked")


@pytest.fixture
def packages(config: Config) -> tuple[Path, Path]:
    first, second = (
        write_package(config.sysfs_dir, number, long_watts=65.0, short_watts=None)
        for number in (0, 1)
    )
    return first, second


@pytest.fixture
def facts(config: Config) -> MachineFacts:
    config.models_dir.mkdir(parents=True, exist_ok=True)
    path = write_tiny_model(config.models_dir / "tiny.gguf")
    catalogue = load_catalogue(config)
    return read_machine_facts(config, Baseline(catalogue.get("tiny"), path), catalogue, gpus=())


def test_a_limit_that_changed_since_the_plan_is_refused(
    config: Config, facts: MachineFacts, packages: tuple[Path, Path]
) -> None:
    """As by another sweep that ends now: the baseline would be the limit that it had set."""
    with open_power_limits(config) as limits:
        planned = replace(facts, power=combine_limits(limits.read(), "package"))
    with open_cap("set", planned, config, refuse_to_ask, lambda text: None):
        pass
    write_package(config.sysfs_dir, 1, long_watts=30.0, short_watts=None)
    refused = pytest.raises(EtuiError, match="changed while the sweep was prepared")
    with refused, open_cap("set", planned, config, refuse_to_ask, lambda text: None):
        pytest.fail("the sweep began")


def test_all_packages_get_the_limit_and_all_are_restored(
    config: Config, facts: MachineFacts, packages: tuple[Path, Path]
) -> None:
    notes: list[str] = []
    with open_cap("set", facts, config, refuse_to_ask, notes.append) as cap:
        assert cap.apply(40.0) == ""
        assert [read_package(folder) for folder in packages] == [(40.0,), (40.0,)]
        assert cap.check() == (40.0, "")
    assert [read_package(folder) for folder in packages] == [(65.0,), (65.0,)]
    assert any("restored" in note for note in notes)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_they_are_restored_after_an_error_too(
    config: Config,
    facts: MachineFacts,
    packages: tuple[Path, Path],
    error: type[BaseException],
) -> None:
    def fail() -> None:
        with open_cap("set", facts, config, refuse_to_ask, lambda text: None) as cap:
            cap.apply(40.0)
            assert read_package(packages[0]) == (40.0,)
            raise error

    with pytest.raises(error):
        fail()
    assert [read_package(folder) for folder in packages] == [(65.0,), (65.0,)]


def test_the_lowest_limit_of_the_devices_is_in_force(
    config: Config, facts: MachineFacts, packages: tuple[Path, Path]
) -> None:
    with open_cap("set", facts, config, refuse_to_ask, lambda text: None) as cap:
        cap.apply(40.0)
        write_package(config.sysfs_dir, 1, long_watts=30.0, short_watts=None)
        watts, why = cap.check()
    assert watts == 30.0
    assert why.startswith("the power limit changed from 40")


def test_a_limit_that_one_device_refuses_cannot_be_compared(
    config: Config,
    facts: MachineFacts,
    packages: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = LimitFiles.write

    def stubborn(self: LimitFiles, path: Path, microwatts: int) -> None:
        if path.parent != packages[1]:
            write(self, path, microwatts)

    monkeypatch.setattr(LimitFiles, "write", stubborn)
    with (
        open_cap("set", facts, config, refuse_to_ask, lambda text: None) as cap,
        pytest.raises(SettingFailed, match=r"the power limit of 40(\.0)? W"),
    ):
        cap.apply(40.0)
    assert read_package(packages[0]) == (65.0,)


@dataclass
class User:
    """Sets each limit as asked."""

    folders: dict[str, Path]
    asked: list[CapRequest] = field(default_factory=list)

    def __call__(self, asked: CapRequest) -> None:
        self.asked.append(asked)
        limit = self.folders[asked.scope] / "constraint_0_power_limit_uw"
        limit.write_text(f"{round(asked.watts * 1e6)}\n")


def test_a_user_is_asked_for_each_device(
    config: Config, facts: MachineFacts, packages: tuple[Path, Path]
) -> None:
    user = User({f"package:{number}": folder for number, folder in enumerate(packages)})
    with open_cap("user", facts, config, user, lambda text: None) as cap:
        assert cap.apply(40.0) == ""
        assert [asked.watts for asked in user.asked] == [40.0, 40.0]
    assert [read_package(folder) for folder in packages] == [(65.0,), (65.0,)]


def test_without_an_axis_nothing_is_opened(config: Config, facts: MachineFacts) -> None:
    with open_cap(None, facts, config, refuse_to_ask, lambda text: None) as cap:
        assert cap.apply(40.0) == ""
    assert not config.power_limits_file.exists()
