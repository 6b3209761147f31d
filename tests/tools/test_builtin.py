"""The tools of etui itself: they do what they say, and nothing else."""

from __future__ import annotations

import ast
import math
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etui.tools.builtin import MOST_FILE_BYTES, RefusedError, calculate, read_file


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+2", "4"),
        ("17 ** 23", "19967568900859523802559065713"),
        ("17^2", "289"),
        ("0.1 + 0.2", "0.3"),
        ("10 / 4", "2.5"),
        ("-7 // 2", "-4"),
        ("sqrt(2)", "1.4142135623731"),
        ("round(2/3, 2)", "0.67"),
        ("factorial(20)", str(math.factorial(20))),
        ("max(1, 2.5, gcd(12, 18))", "6"),
        ("2 * pi", "6.28318530717959"),
        ("1e3", "1000"),
    ],
)
def test_a_value(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "factorial(100000)",
        "__import__('os').system('true')",
        "(1).__class__",
        "[x for x in (1,)]",
        "'a' * 10**9",
        "1 / 0",
        "log(0)",
        "(-8) ** 0.5",
        "1e999",
        "True + 1",
        "1j",
        "sqrt(1, 2)",
        "sqrt(x=1)",
        "min(*(1, 2))",
        "(" * 150 + "1" + ")" * 150 + "+" * 500 + "1",
        "1+" * 900 + "1",
        "lambda: 1",
        "x",
        "",
        "\0",
        "2 ** 10**9",
        "(10**1000)**1000",
    ],
)
def test_what_is_no_arithmetic_is_refused(expression):
    with pytest.raises(RefusedError):
        calculate(expression)


trees = st.recursive(
    st.integers(0, 1000).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({''.join(t)})"),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(trees)
def test_whole_numbers_are_those_of_python(text):
    assert calculate(text) == str(eval(compile(ast.parse(text, mode="eval"), "", "eval")))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789.+-*/%^()e, sqrtmaxpi", max_size=40))
def test_any_text_is_a_number_or_refused(text):
    try:
        value = calculate(text)
    except RefusedError:
        return
    assert math.isfinite(float(Fraction(value)))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "notes"
    (place / "inner").mkdir(parents=True)
    (place / "a.txt").write_text("alpha")
    (place / "inner" / "b.txt").write_text("beta")
    (tmp_path / "secret.txt").write_text("secret")
    return place


def test_a_file_below_the_folder_is_read(folder):
    assert read_file(folder, "a.txt") == "alpha"
    assert read_file(folder, "inner/../inner/b.txt") == "beta"
    assert read_file(folder, ".") == "a.txt\ninner"
    assert read_file(folder, str(folder / "a.txt")) == "alpha"


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/passwd", "inner/../../secret.txt", "a\0b"])
def test_a_path_outside_is_refused(folder, path):
    with pytest.raises(RefusedError, match="not below"):
        read_file(folder, path)


def test_a_number_is_rounded_to_few_digits_only():
    assert calculate("round(1234.567, 1)") == "1234.6"
    assert calculate("round(1234, -2)") == "1200"
    with pytest.raises(RefusedError, match="2,000 digits"):
        calculate(f"round(1, -{10**12})")


def test_a_link_may_not_lead_outside(folder):
    (folder / "out").symlink_to(folder.parent / "secret.txt")
    (folder / "up").symlink_to(folder.parent, target_is_directory=True)
    (folder / "in").symlink_to(folder / "a.txt")
    assert read_file(folder, "in") == "alpha"
    for path in ("out", "up/secret.txt"):
        with pytest.raises(RefusedError, match="not below"):
            read_file(folder, path)


def test_a_folder_that_becomes_a_link_is_not_followed(folder, monkeypatch):
    """The place is checked, then opened: what is swapped in between leads nowhere."""
    real = os.path.realpath
    hidden = folder.parent / "elsewhere"
    hidden.mkdir()
    (hidden / "b.txt").write_text("stolen")

    def realpath(path, **kwargs):
        found = real(path, **kwargs)
        if str(path).endswith("b.txt") and not (folder / "inner").is_symlink():
            (folder / "inner" / "b.txt").unlink()
            (folder / "inner").rmdir()
            (folder / "inner").symlink_to(hidden)
        return found

    monkeypatch.setattr(os.path, "realpath", realpath)
    with pytest.raises(RefusedError):
        read_file(folder, "inner/b.txt")


def test_what_is_no_text_file_is_refused(folder):
    (folder / "large").write_bytes(b"x" * (MOST_FILE_BYTES + 1))
    (folder / "binary").write_bytes(b"a\0b")
    os.mkfifo(folder / "pipe")
    for path, why in (("large", "larger"), ("binary", "text"), ("pipe", "not a file")):
        with pytest.raises(RefusedError, match=why):
            read_file(folder, path)
    with pytest.raises(RefusedError, match="cannot read"):
        read_file(Path(folder), "missing")
