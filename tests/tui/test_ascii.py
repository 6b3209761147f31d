"""A terminal without Unicode gets ASCII, as wide as what it stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from etui.tui.ascii import choose_driver, name_key, shows_unicode, to_ascii


@given(st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Mn", "Me", "Mc"))))
def test_it_is_ascii_and_as_wide_as_before(text: str) -> None:
    drawn = to_ascii(text)
    assert drawn.isascii()
    assert cell_len(drawn) == cell_len(text)


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("12.3 ± 0.4 J · 50 W", "12.3+/-0.4 J . 50 W"),
        ("❯ What is this?", "> What is this?"),
        ("╭─╮│▁▃█", "+-+|_:#"),
        ("\x1b[31m…\x1b[0m", "\x1b[31m.\x1b[0m"),
        ("大 e", "?? e"),
        ("␛[31m", "[[31m"),
    ],
)
def test_signs_become_those_of_their_kind(text: str, drawn: str) -> None:
    assert to_ascii(text) == drawn


@pytest.mark.parametrize(
    ("environ", "encoding", "shows"),
    [
        ({"LANG": "en_US.UTF-8"}, "utf-8", True),
        ({}, "utf-8", True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "utf-8", False),
        ({"LC_ALL": "C"}, "utf-8", False),
        ({"LANG": "C.UTF-8"}, "utf-8", True),
        ({"LC_ALL": "de_DE.ISO-8859-1", "LANG": "de_DE.UTF-8"}, "utf-8", False),
        ({"LANG": "en_US.UTF-8"}, "iso8859-1", False),
        ({"LANG": "en_US.UTF-8"}, "ascii", False),
    ],
)
def test_the_locale_says_what_the_terminal_shows(
    environ: dict[str, str], encoding: str, shows: bool
) -> None:
    assert shows_unicode(environ, encoding) is shows


def test_the_user_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    assert choose_driver("auto") is not None
    assert choose_driver("never") is None
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    assert choose_driver("auto") is None
    assert choose_driver("always") is not None


@pytest.mark.parametrize(
    ("shown", "named"), [("⏎", "enter"), ("⇧tab", "shift+tab"), ("↑", "up"), ("^n", "^n")]
)
def test_a_key_without_a_sign_is_named(shown: str, named: str) -> None:
    assert name_key(shown) == named
