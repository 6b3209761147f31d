"""Keys of clients: the file, the environment, and that their text is never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from etui.errors import EtuiError, InvalidFile, UsageError
from etui.server.context import ServerSettings
from etui.server.guard import find_key
from etui.server.keys import parse_keys, read_keys

KEY = "0123456789abcdef"


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / "keys.yaml"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_a_file_names_its_keys() -> None:
    text = f"# clients\n\nlaptop: {KEY}\neditor: '{KEY}x:y'\n"
    assert parse_keys(text, "keys.yaml") == (
        {"laptop": KEY, "editor": f"{KEY}x:y"},
        frozenset(),
    )


def test_a_key_may_be_an_admins() -> None:
    text = f"laptop: {KEY}\nowner: '{KEY}2' admin\n"
    assert parse_keys(text, "keys.yaml").admins == {"owner"}
    assert parse_keys(text, "keys.yaml").keys["owner"] == f"{KEY}2"


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("", "keys.yaml", "no key"),
        ("laptop", "keys.yaml:1", "`name: key`"),
        (f": {KEY}", "keys.yaml:1", "`name: key`"),
        (f"a b: {KEY}", "keys.yaml:1", "`name: key`"),
        ("laptop: short", "keys.yaml:1", "16 or more"),
        ("laptop: 0123456789 abcdef", "keys.yaml:1", "16 or more"),
        (f"laptop: {KEY} root", "keys.yaml:1", "`admin`"),
        (f"laptop: {KEY}\nlaptop: {KEY}1", "keys.yaml:2", "twice"),
        (f"laptop: {KEY}\neditor: {KEY}", "keys.yaml:2", "another name"),
    ],
)
def test_a_wrong_line_is_named_and_not_quoted(text: str, place: str, what: str) -> None:
    with pytest.raises(InvalidFile, match=what) as raised:
        parse_keys(text, "keys.yaml")
    assert raised.value.what.startswith(place)
    assert KEY not in str(raised.value)
    assert "short" not in raised.value.what


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(UsageError, match="other users can read"):
        read_keys(write(tmp_path, f"laptop: {KEY}", mode), {})


def test_the_environment_has_one_more(tmp_path: Path) -> None:
    file = write(tmp_path, f"laptop: {KEY}")
    assert read_keys(None, {}).keys == {}
    assert read_keys(None, {"ETUI_API_KEY": KEY}) == ({"default": KEY}, frozenset())
    assert read_keys(file, {"ETUI_API_KEY": f"{KEY}2"}).keys == {
        "laptop": KEY,
        "default": f"{KEY}2",
    }


def test_a_bad_key_of_the_environment_is_refused_and_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ETUI_API_KEY") as raised:
        read_keys(None, {"ETUI_API_KEY": "s3cret"})
    assert "s3cret" not in str(raised.value)
    file = write(tmp_path, f"default: {KEY}")
    with pytest.raises(UsageError, match="both in"):
        read_keys(file, {"ETUI_API_KEY": f"{KEY}2"})


def test_a_missing_file_and_one_that_is_no_text_are_errors(tmp_path: Path) -> None:
    with pytest.raises(EtuiError, match="cannot read"):
        read_keys(tmp_path / "none", {})
    file = tmp_path / "keys"
    file.write_bytes(b"\xff\xfe")
    file.chmod(0o600)
    with pytest.raises(InvalidFile, match="not UTF-8"):
        read_keys(file, {})


def test_a_key_is_found_by_its_whole_text() -> None:
    keys = {"laptop": KEY, "editor": f"{KEY}2"}
    assert find_key(KEY, keys) == "laptop"
    assert find_key(f"{KEY}2", keys) == "editor"
    for given in ("", KEY[:-1], f"{KEY}3", KEY.upper(), "ü", "\udcff"):
        assert find_key(given, keys) is None


def test_settings_do_not_show_keys() -> None:
    assert KEY not in repr(ServerSettings(keys={"laptop": KEY}))
