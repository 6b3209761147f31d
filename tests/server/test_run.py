"""What the server listens on, and what it refuses to listen on."""

from __future__ import annotations

import signal
import socket
import stat
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from etui.errors import EtuiError, UsageError
from etui.server.context import ServerSettings
from etui.server.run import GuardedServer, format_address, open_sockets, raise_file_limit
from tests.server.fakes import FakePool, serving
from tests.server.raw import ask, exchange

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "some-name", ""])
def test_another_address_without_a_key_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="there is no key"):
        open_sockets(ServerSettings(host=host, port=0))


def test_another_address_with_a_key_is_opened() -> None:
    sockets, settings = open_sockets(
        ServerSettings(host="0.0.0.0", port=0, keys={"a": "0123456789abcdef"})
    )
    assert settings.port > 0
    for opened in sockets:
        opened.close()


def test_a_taken_port_is_an_error_with_a_fix() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EtuiError, match=f"cannot listen on 127.0.0.1:{port}") as raised:
            open_sockets(ServerSettings(port=port))
    assert str(raised.value).count(str(port)) == 1
    assert "--port" in raised.value.fix


def test_the_address_is_shown_as_clients_use_it() -> None:
    assert format_address(ServerSettings(port=5)) == "http://127.0.0.1:5/v1"
    assert format_address(ServerSettings(host="::1", port=5)) == "http://[::1]:5/v1"


@needs_unix
def test_a_unix_socket_is_for_its_owner_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving(FakePool(), unix=str(path)) as server:
        assert path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) == 0
        assert exchange(server, ask(server)).status == 200
        with pytest.raises(EtuiError, match="already"):
            open_sockets(ServerSettings(unix=str(path)))
        other = ask(server).replace(b"Connection", b"Origin: http://evil.example\r\nConnection", 1)
        assert exchange(server, other).status == 403


@needs_unix
def test_a_socket_that_was_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    [opened], _ = open_sockets(ServerSettings(unix=str(path)))
    opened.close()
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(EtuiError, match="is no socket"):
        open_sockets(ServerSettings(unix=str(file)))
    assert file.read_text() == "mine"


def test_the_end_of_a_response_does_not_wait_for_an_acknowledgement() -> None:
    (opened, *others), _ = open_sockets(ServerSettings(port=0))
    with opened, socket.create_connection(opened.getsockname()):
        accepted, _ = opened.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    for other in others:
        other.close()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_does_not_stop_what_nohup_started(nohup: bool) -> None:
    server = GuardedServer(_answer_nothing, ServerSettings(port=0))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    try:
        with server.capture_signals():
            signal.raise_signal(signal.SIGHUP)
        assert server.should_exit is not nohup
    finally:
        signal.signal(signal.SIGHUP, before)


async def _answer_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing."""


def test_the_limit_of_open_files_is_raised_and_never_lowered() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (250, before[1]))
        raise_file_limit(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, before[1])
        raise_file_limit(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
