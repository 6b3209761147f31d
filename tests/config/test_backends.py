"""`backends` in config.yaml: every value is checked, and no key is sent in the clear unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.backend_spec import BackendSpec, find_url_problem, is_exposed, is_loopback
from etui.config.config import load_config
from etui.errors import InvalidFile


def write(home: Path, text: str) -> None:
    (home / "config.yaml").write_text(text)


def test_without_backends_there_are_none(etui_home: Path) -> None:
    assert load_config().backends == {}


def test_a_url_is_enough(etui_home: Path) -> None:
    write(etui_home, "backends: {desk: {url: 'http://127.0.0.1:8080/v1/'}}\n")
    assert load_config().backends == {"desk": BackendSpec("desk", "http://127.0.0.1:8080/v1")}


def test_every_key_reaches_the_config(etui_home: Path) -> None:
    write(
        etui_home,
        """
backends:
  desk:
    url: http://desk:8080/v1
    kind: llama-server
    key_env: DESK_KEY
    meter: http://desk:9911/
    meter_key_env: METER_KEY
    plain_key: true
    connect_seconds: 1
    silent_seconds: 30.5
    retries: 0
    fallbacks: [smollm2-135m]
""",
    )
    assert load_config().backends["desk"] == BackendSpec(
        "desk", "http://desk:8080/v1", "llama-server", "DESK_KEY", "http://desk:9911", "METER_KEY",
        True, 1.0, 30.5, 0, ("smollm2-135m",),
    )  # fmt: skip


FAULTS = {
    "no url": ("a: {}", "missing key 'url'"),
    "unknown key": ("a: {url: 'http://x/v1', kye_env: K}", "'kye_env', did you mean 'key_env'?"),
    "unknown kind": ("a: {url: 'http://x/v1', kind: vlm}", "did you mean 'vllm'?"),
    "another scheme": ("a: {url: 'ftp://x/v1'}", "must begin with http:// or https://"),
    "a file": ("a: {url: 'file:///etc/passwd'}", "must begin with http:// or https://"),
    "no scheme": ("a: {url: 'desk:8080/v1'}", "must begin with http:// or https://"),
    "a password": ("a: {url: 'https://me:secret@x/v1'}", "must not contain a name or a password"),
    "a query": ("a: {url: 'https://x/v1?key=1'}", "must not contain '?' or '#'"),
    "a fragment": ("a: {url: 'https://x/v1#'}", "must not contain '?' or '#'"),
    "no host": ("a: {url: 'http:///v1'}", "is not a URL with a host"),
    "a wrong port": ("a: {url: 'http://x:99999/v1'}", "is not a URL"),
    "a space": ("a: {url: 'http://x /v1'}", "is not a URL with a host"),
    "a key in the clear": ("a: {url: 'http://desk/v1', key_env: K}", "unencrypted"),
    "a meter's key in the clear": (
        "a: {url: 'https://desk/v1', meter: 'http://desk:1', meter_key_env: K}",
        "meter_key_env: the key would be sent unencrypted",
    ),
    "a meter that is no URL": ("a: {url: 'http://x/v1', meter: x}", "meter: must begin"),
    "a meter's key alone": ("a: {url: 'http://x/v1', meter_key_env: K}", "without `meter`"),
    "the key itself": ("a: {url: 'https://x/v1', key_env: sk-abc}", "not the key"),
    "negative time": ("a: {url: 'http://x/v1', silent_seconds: -1}", "must be greater than 0"),
    "endless time": ("a: {url: 'http://x/v1', silent_seconds: .inf}", "a finite number"),
    "many retries": ("a: {url: 'http://x/v1', retries: 11}", "must be at most 10"),
    "a text for a flag": ("a: {url: 'http://x/v1', plain_key: 'yes'}", "true or false"),
    "a bad name": ("'a/b': {url: 'http://x/v1'}", "cannot name a backend"),
    "no mapping": ("a: 'http://x/v1'", "expected a mapping"),
}


@pytest.mark.parametrize(("entry", "what"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_place(etui_home: Path, entry: str, what: str) -> None:
    write(etui_home, f"backends:\n  {entry}\n")
    with pytest.raises(InvalidFile, match=r"config\.yaml:2:\d+: ") as caught:
        load_config()
    assert what in caught.value.what


def test_a_key_in_a_file_is_not_repeated_in_the_message(etui_home: Path) -> None:
    write(etui_home, "backends: {a: {url: 'https://x/v1', key_env: 'sk-secret'}}\n")
    with pytest.raises(InvalidFile) as caught:
        load_config()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]:8/v1", "https://desk/v1"]
)
def test_a_key_may_go_to_this_machine_or_encrypted(etui_home: Path, url: str) -> None:
    write(etui_home, f"backends: {{a: {{url: '{url}', key_env: K}}}}\n")
    assert load_config().backends["a"].key_env == "K"


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True), ("LOCALHOST", True), ("127.0.0.1", True), ("127.9.9.9", True),
        ("::1", True), ("127.0.0.1.evil.com", False), ("localhost.evil.com", False),
        ("0.0.0.0", False), ("192.168.1.5", False), ("127.1", False), ("", False),
        ("::ffff:192.168.1.5", False),
    ],
)  # fmt: skip
def test_what_counts_as_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@given(st.text(max_size=40) | st.text(max_size=20).map("http://{}".format))
def test_any_text_is_a_url_or_not(text: str) -> None:
    problem = find_url_problem(text)
    if problem is None:
        assert text.lower().startswith(("http://", "https://"))
        assert "@" not in text.partition("//")[2].partition("/")[0]
        is_exposed(text)
