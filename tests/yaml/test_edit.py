"""Entries are added to and taken out of a YAML file; all other characters stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.errors import EtuiError
from etui.yaml.edit import insert_entry, remove_entry, set_value
from etui.yaml.tree import parse_tree

NEW = ["# from a hub", "size: 1B parameters, Q4_0", "sources: [{path: /a}]"]
DATA = {"size": "1B parameters, Q4_0", "sources": [{"path": "/a"}]}
MINE = """\
# My models.
models:

    # the first
    one: {size: 1 GB,   bytes: 1} # kept

    two: # a block
        size: |
            2 GB
        stop: ["a", # why
               "b"]
    # the end
"""
FILES = {
    "blocks": MINE,
    "windows": MINE.replace("\n", "\r\n"),
    "no line break at the end": MINE.rstrip(),
    "end of the document": MINE + "...\n",
    "more keys": MINE + "other: 1\n",
    "anchors": "models:\n  one: &x {size: 1}\n  two: *x\n",
    "quoted": 'models:\n  "one": {size: 1}\n',
    "one line": "models: {one: {size: 1}}  # mine\n",
    "one line with a comma": "models: {one: {size: 1},}\n",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_an_entry_more_changes_nothing_else(text):
    changed = insert_entry(text, "models", "new", NEW)
    before = parse_tree(text, "").data
    assert parse_tree(changed, "").data == before | {"models": before["models"] | {"new": DATA}}
    for line in text.splitlines():
        assert line.rstrip("} \t")[:20] in changed
    assert ("\r\n" in changed) == ("\r\n" in text)
    if "models: {" not in text:
        assert "# from a hub" in changed
        back = remove_entry(changed, "models", "new")
        assert back.rstrip() == text.rstrip()


@pytest.mark.parametrize(
    "text", ["", "# only a comment", "models:\n", "models: {}\n", "models: # none yet\n"]
)
def test_a_file_without_entries_gets_its_first(text):
    changed = insert_entry(text, "models", "new", NEW)
    assert parse_tree(changed, "").data == {"models": {"new": DATA}}
    assert all(word in changed for word in text.split("#")[1:])
    assert parse_tree(remove_entry(changed, "models", "new"), "").data == {"models": {}}


def test_an_entry_goes_with_the_comments_inside_it():
    left = remove_entry(MINE, "models", "two")
    assert "# a block" not in left
    assert "# the end" in left
    assert "# the first" in left
    assert parse_tree(left, "").data == {"models": {"one": {"size": "1 GB", "bytes": 1}}}


def test_an_entry_that_others_refer_to_is_not_taken_out():
    with pytest.raises(EtuiError, match="because of how it is written"):
        remove_entry(FILES["anchors"], "models", "one")


KEYS = st.text("abc", min_size=1, max_size=3)
VALUES = st.recursive(
    st.integers(0, 9) | st.text("ab#: \n", max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(KEYS, VALUES, max_size=3), st.booleans(), st.integers(1, 4))
def test_any_file_keeps_its_data(entries, flow, indent):
    import yaml

    text = yaml.safe_dump({"models": entries}, default_flow_style=flow, indent=indent + 1)
    before = parse_tree(text, "").data["models"] or {}
    changed = insert_entry(text, "models", "new", NEW)
    assert parse_tree(changed, "").data == {"models": {**before, "new": DATA}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "theme: nord\n"),
        ("pue: 1.2", "pue: 1.2\ntheme: nord\n"),
        ("# a\r\npue: 1.2\r\n", "# a\r\npue: 1.2\r\ntheme: nord\r\n"),
        ("theme: etui-dark # b\npue: 1.2\n", "theme: nord # b\npue: 1.2\n"),
        ("theme: 'etui-dark'\n", "theme: nord\n"),
        ("theme:\npue: 1.2\n", "theme: nord\npue: 1.2\n"),
        ("{theme: etui-dark, pue: 1.2}\n", "{theme: nord, pue: 1.2}\n"),
    ],
)
def test_a_value_is_set_and_nothing_else_changes(before, after):
    assert set_value(before, "theme", "nord") == after


@given(st.text(max_size=12) | st.integers(0, 999), st.booleans())
def test_any_value_is_read_back(value, there):
    try:
        changed = set_value("theme: a\n" if there else "x: 1\n", "theme", value)
    except EtuiError:
        assert not str(value).isprintable()
        return
    assert parse_tree(changed, "").data["theme"] == value


def test_a_file_whose_style_does_not_allow_it_is_left():
    with pytest.raises(EtuiError, match="because of how it is written"):
        set_value("{pue: 1.2}\n", "theme", "nord")
