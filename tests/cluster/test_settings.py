"""Addresses of a cluster, and the rules of who may connect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.cluster.connect import ClusterAddress, build_environment, has_token, parse_address
from etui.cluster.open_nodes import (
    Patience,
    build_patience,
    read_versions,
    refuse_other_hash,
    refuse_other_versions,
)
from etui.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:6379", ("127.0.0.1", 6379)),
        ("localhost:99", ("127.0.0.1", 99)),
        ("[::1]:7000", ("127.0.0.1", 7000)),
        ("127.9.9.9", ("127.0.0.1", 6379)),
        ("desk", ("desk", 6379)),
        ("192.168.1.7:6380", ("192.168.1.7", 6380)),
        ("[fe80::1]", ("fe80::1", 6379)),
    ],
)
def test_addresses(text, expected):
    found = parse_address(text)
    assert (found.host, found.port) == expected
    assert found.is_loopback == (found.host == "127.0.0.1")
    assert parse_address(str(found)) == found


def test_nodes_of_this_machine():
    assert [parse_address(text) for text in ("local", "local:1", " local:16 ")] == [1, 1, 16]
    assert parse_address("local:6379") == ClusterAddress("local", 6379)


@pytest.mark.parametrize(
    "text", ["", ":", "desk:", "desk:0x1", "desk:0", "desk:70000", "a b:1", "a/b", "[::1", "[::1]x"]
)
def test_what_is_no_address(text):
    if text == "desk:":
        assert parse_address(text) == ClusterAddress("desk", 6379)
        return
    with pytest.raises(UsageError, match="not an address"):
        parse_address(text)


def test_a_url_is_refused_with_what_to_give():
    with pytest.raises(UsageError, match="is a URL") as error:
        parse_address("ray://desk:10001")
    assert "HOST:PORT" in error.value.fix


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_usage_error(text):
    try:
        found = parse_address(text)
    except UsageError:
        return
    assert isinstance(found, int) or 0 < found.port < 65536


def test_beyond_this_machine_a_token_is_required(tmp_path):
    desk = ClusterAddress("desk", 6379)
    token = {"RAY_AUTH_TOKEN": "t" * 32}
    for environ in ({}, token, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "disabled", **token}):
        with pytest.raises(UsageError, match="no token"):
            build_environment(desk, environ, tmp_path)
    found = build_environment(desk, {"RAY_AUTH_MODE": "token", **token}, tmp_path)
    assert found["RAY_USAGE_STATS_ENABLED"] == "0"
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in found  # else Ray would dial 127.0.0.1


def test_a_token_may_be_in_a_file(tmp_path):
    assert not has_token({}, tmp_path)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret\n")
    assert has_token({}, tmp_path)
    (tmp_path / "other").write_text(" \n")
    assert not has_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}, tmp_path)


def test_on_this_machine_all_stays_on_loopback(tmp_path):
    local = build_environment(1, {}, tmp_path)
    assert local["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert local["RAY_USAGE_STATS_ENABLED"] == "0"
    assert local["RAY_AUTH_MODE"] == "token"  # other users of this machine stay out
    assert len(local["RAY_AUTH_TOKEN"]) == 64
    # Ray reads it once in the life of a process.
    assert local["RAY_AUTH_TOKEN"] == build_environment(2, {}, tmp_path)["RAY_AUTH_TOKEN"]
    near = build_environment(ClusterAddress("127.0.0.1", 6379), {}, tmp_path)
    assert near["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert "RAY_AUTH_MODE" not in near  # that of the cluster


def test_versions_are_compared_by_name():
    here = {"etui": "0.1.0", "llama-cpp-python": "0.3.36", "Python": "3.11.7", "Ray": "2.60.0"}
    there = {**here, "etui": "0.2.0", "Ray": None}
    with pytest.raises(UsageError) as error:
        refuse_other_versions({"desk": there, "laptop": here}, here)
    assert error.value.what == ("node desk has etui 0.2.0, here 0.1.0, Ray unknown, here 2.60.0")
    refuse_other_versions({"laptop": here}, here)
    assert set(read_versions()) == set(here)


def test_hashes_are_compared_by_name():
    refuse_other_hash("m", None, "ab")
    refuse_other_hash("m", "ab", None)
    refuse_other_hash("m", "ab", "ab")
    with pytest.raises(UsageError, match="m has sha256 abababababab there, here cdcdcdcdcdcd"):
        refuse_other_hash("m", "ab" * 32, "cd" * 32)


def test_patience_grows_with_the_measured_time_and_has_a_floor():
    patience = Patience(first=600, least=60, factor=20)
    assert patience.limit_silence(None) == 600
    assert patience.limit_silence(0.1) == 60
    assert patience.limit_silence(30) == 600
    assert build_patience(5).limit_silence(None) == 5
    assert build_patience(5).limit_silence(1) == 20
    assert build_patience(None) == Patience()
