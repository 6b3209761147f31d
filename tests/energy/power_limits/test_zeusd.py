"""Limits set through zeusd: a server on a Unix socket that speaks its protocol."""

from __future__ import annotations

import socket

import pytest

from etui.energy.power_limits._gpus import Zeusd, ZeusdError, parse_error
from etui.energy.power_limits.hold import LimitHold
from etui.energy.power_limits.limit import WriteRefused
from etui.energy.power_limits.limits import PowerLimits
from tests.energy.power_limits.conftest import Open, StubbornFiles
from tests.energy.power_limits.fake_pynvml import FakeNvml
from tests.energy.power_limits.fake_zeusd import FakeZeusd
from tests.support.power_limits import write_amd_gpu

GPU = "gpu:GPU-fake-0"


def open_with(open_limits: Open, nvml: FakeNvml, daemon: FakeZeusd, token: str = "") -> PowerLimits:
    environ = {"ZEUSD_SOCK_PATH": str(daemon.socket_path), "ZEUSD_TOKEN": token}
    return open_limits(nvml, environ=environ)


def test_zeusd_sets_and_restores_a_limit(open_limits, config, zeusd):
    nvml = FakeNvml(350_000, 300_000, denied=True)
    daemon = zeusd(nvml)
    limits = open_with(open_limits, nvml, daemon)
    assert [limit.setter for limit in limits.read()] == ["zeusd", "zeusd"]
    with LimitHold(config, limits) as hold:
        applied = hold.apply("gpu:GPU-fake-1", 222.5)
        assert applied.note == ""
        assert nvml.limits == [350_000, 222_500]
    assert nvml.limits == [350_000, 300_000]
    assert daemon.requests[:2] == [
        "GET /discover",
        "POST /gpu/set_power_limit?gpu_ids=1&power_limit_mw=222500&block=true",
    ]


def test_the_gpu_is_found_by_its_address_and_not_by_its_number(open_limits, config, zeusd):
    nvml = FakeNvml(350_000, 300_000, denied=True)
    daemon = zeusd(nvml)
    daemon.addresses = list(reversed(daemon.addresses))
    daemon.set_limit = lambda number, milliwatts: nvml.set_limit(1 - number, milliwatts)
    with LimitHold(config, open_with(open_limits, nvml, daemon)) as hold:
        hold.apply("gpu:GPU-fake-1", 200)
        assert nvml.limits == [350_000, 200_000]


def test_an_amd_gpu_is_set_through_zeusd(open_limits, config, zeusd, sysfs):
    folder = write_amd_gpu(sysfs)
    daemon = zeusd(FakeNvml())
    daemon.addresses = ["0000:03:00.0"]
    daemon.set_limit = lambda number, milliwatts: (
        (folder / "power1_cap").write_text(f"{milliwatts * 1000}\n") and None
    )
    environ = {"ZEUSD_SOCK_PATH": str(daemon.socket_path)}
    limits = open_limits(environ=environ, files=StubbornFiles(writable=False))
    [limit] = limits.read()
    assert limit.setter == "zeusd"
    with LimitHold(config, limits) as hold:
        assert hold.apply(limit.scope, 210).applied == 210
    assert limits.read()[0].watts == 250


def test_a_refusal_of_the_driver_is_quoted(open_limits, config, zeusd):
    nvml = FakeNvml(350_000, denied=True)
    daemon = zeusd(nvml, behaviour="refuse")
    with LimitHold(config, open_with(open_limits, nvml, daemon)) as hold:
        applied = hold.apply(GPU, 300)
    assert applied.is_refused
    assert "NVML error: the current user does not have permission" in applied.note
    assert "(HTTP 403)" in applied.note
    assert not config.power_limits_file.exists()


def test_a_daemon_that_dies_is_refused_and_the_journal_is_kept(open_limits, config, zeusd):
    nvml = FakeNvml(350_000, denied=True)
    daemon = zeusd(nvml)
    said: list[str] = []
    with LimitHold(config, open_with(open_limits, nvml, daemon), say=said.append) as hold:
        hold.apply(GPU, 300)
        daemon.behaviour = "die"
        applied = hold.apply(GPU, 250)
        assert applied.is_refused
        assert "cannot be reached" in applied.note
        assert applied.applied == 300
    assert nvml.limits == [300_000]
    assert config.power_limits_file.exists(), "the limit could not be restored"
    assert "cannot restore the power limit of GPU 0 to 350 W" in said[0]
    assert "sudo nvidia-smi -i GPU-fake-0 -pl 350" in said[0]


def test_a_daemon_that_does_not_answer_is_given_up(zeusd):
    daemon = zeusd(FakeNvml(350_000), behaviour="stall")
    client = Zeusd(str(daemon.socket_path), timeout_s=0.05)
    with pytest.raises(WriteRefused, match=r"zeusd: it did not answer within 0\.05 s") as error:
        client.set_power_limit(0, 300)
    assert error.value.may_follow


def test_a_request_that_may_still_be_carried_out_is_undone(open_limits, config, zeusd):
    nvml = FakeNvml(350_000, denied=True)
    daemon = zeusd(nvml, behaviour="die")
    with LimitHold(config, open_with(open_limits, nvml, daemon)) as hold:
        applied = hold.apply(GPU, 300)
        assert applied.is_refused
        assert applied.note.startswith("refused: zeusd: it cannot be reached")
        daemon.behaviour = "good"
    last = daemon.requests[-1]
    assert "power_limit_mw=350000" in last, "the limit is as found, but the request is on its way"
    assert not config.power_limits_file.exists()


@pytest.mark.parametrize(
    ("token", "scopes", "problem"),
    [
        ("", ("gpu-control",), "it requires a token: set ZEUSD_TOKEN"),
        ("wrong", ("gpu-control",), "Invalid token"),
        ("right", ("gpu-read",), "lacks the scope 'gpu-control'"),
        ("right", ("gpu-control",), ""),
    ],
)
def test_a_daemon_may_require_a_token(open_limits, config, zeusd, token, scopes, problem):
    nvml = FakeNvml(350_000, denied=True)
    daemon = zeusd(nvml, token="right", scopes=scopes)
    limits = open_with(open_limits, nvml, daemon, token)
    [limit] = limits.read()
    if problem:
        assert limit.setter == "user"
        assert problem in limits.problems[0]
        return
    assert limits.problems == ()
    with LimitHold(config, limits) as hold:
        assert hold.apply(GPU, 300).applied == 300


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"groups": ("gpu-read",)}, "it does not serve the API group 'gpu-control'"),
        ({"is_old": True}, "update zeusd to 0.5"),
        ({"behaviour": "garbage"}, "is not a JSON object"),
    ],
)
def test_a_daemon_that_cannot_help_is_explained(open_limits, zeusd, options, problem):
    nvml = FakeNvml(350_000, denied=True)
    limits = open_with(open_limits, nvml, zeusd(nvml, **options))
    assert problem in limits.problems[0]
    assert limits.read()[0].setter == "user"


def test_a_socket_without_a_daemon_is_explained(open_limits, tmp_path):
    environ = {"ZEUSD_SOCK_PATH": str(tmp_path / "none.sock")}
    limits = open_limits(FakeNvml(350_000), environ=environ)
    assert "cannot be reached (no such file or directory)" in limits.problems[0]
    assert limits.read()[0].setter == "user"


def test_a_machine_without_gpus_does_not_ask_zeusd(open_limits, tmp_path):
    environ = {"ZEUSD_SOCK_PATH": str(tmp_path / "none.sock")}
    assert open_limits(environ=environ).problems == ()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"errors": {"0": "one.", "1": "two"}}', "one.; two (HTTP 500)"),
        (b'{"error": "no  such\\nthing."}', "no such thing (HTTP 500)"),
        (b"GPU index 7 does not exist.", "GPU index 7 does not exist (HTTP 500)"),
        (b"", "no reason given (HTTP 500)"),
        (b"[1]", "[1] (HTTP 500)"),
        (b"\xff\xfe", "\ufffd\ufffd (HTTP 500)"),
    ],
)
def test_errors_become_one_line(body, text):
    assert parse_error(500, body) == text


def test_a_system_without_unix_sockets_has_no_zeusd(monkeypatch):
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(ZeusdError, match="this system has no unix sockets"):
        Zeusd("zeusd.sock").find_gpus()
