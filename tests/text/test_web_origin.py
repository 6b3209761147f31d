"""Which hosts and pages a server answers; the server and ``--web`` share it."""

from __future__ import annotations

import pytest

from etui.web_origin import build_hosts, is_allowed, is_host, is_origin


def test_a_port_of_its_own_replaces_that_of_the_server():
    assert build_hosts(["a", "b:5", "[::1]"], 9) == {"a:9", "b:5", "[::1]:9"}
    assert build_hosts(["a"], 80) == {"a", "a:80"}


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://a:9", True),
        ("HTTP://A:9", True),
        ("https://a:9", False),
        ("http://a:9/", False),
        ("http://b", True),
        ("http://b.evil", False),
        ("null", False),
        ("", False),
    ],
)
def test_pages(origin, allowed):
    assert is_allowed("a:9", origin, {"a:9"}, {"http://b"}) is allowed


@pytest.mark.parametrize("text", ["https://chat.example", "http://[::1]:3000", "http://a-b:1"])
def test_origins(text):
    assert is_origin(text)


@pytest.mark.parametrize(
    "text", ["", "*", "null", "chat.example", "https://a/", "ftp://a", "https://a b", "https://"]
)
def test_what_is_no_origin(text):
    assert not is_origin(text)


@pytest.mark.parametrize(
    ("text", "is_name"),
    [
        ("a.example", True),
        ("a:1", True),
        ("[::1]", True),
        ("", False),
        ("*", False),
        ("a/b", False),
    ],
)
def test_host_names(text, is_name):
    assert is_host(text) is is_name
