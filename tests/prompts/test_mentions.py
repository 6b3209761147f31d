"""What counts as an attached file in a question, and what stays text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.prompts.attachments import find_mentions, find_open_mention, write_mention


def paths(text: str) -> list[str]:
    return [mention.path for mention in find_mentions(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sum up @notes.md", ["notes.md"]),
        ("@a.md and @b/c.py, please", ["a.md", "b/c.py"]),
        ("(see @notes.md)", ["notes.md"]),
        ("what is in @notes.md?", ["notes.md"]),
        ("what is in @notes.md…", ["notes.md"]),
        ('read @"my notes.md" first', ["my notes.md"]),
        ("@~/x.txt @../y.txt @/etc/hosts", ["~/x.txt", "../y.txt", "/etc/hosts"]),
        ("@v1.2.md.", ["v1.2.md"]),
        ("@notizen_für_ölpreis.md", ["notizen_für_ölpreis.md"]),
    ],
)
def test_a_path_after_an_at_sign_is_a_mention(text: str, found: list[str]) -> None:
    assert paths(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "mail a@b.c today",
        "a.b@c.de",
        "@",
        "@ home",
        '@""',
        "@app.route('/x')",
        "@pytest.fixture()",
        "@property\ndef f(self): ...",
        "@cached_property\n    async def f(self): ...",
        "@a.b\n@c.d\nclass X: pass",
        "in `@dataclass` there",
        "```python\n@cache\nx = 1\n```",
        "```\n@notes.md",
        "~~~\n@notes.md\n~~~",
        "foo@notes.md",
        "x=@notes.md",
    ],
)
def test_emails_decorators_and_code_stay_text(text: str) -> None:
    assert paths(text) == []


def test_a_mention_after_a_fence_counts_again() -> None:
    assert paths("```\n@a.md\n```\n@b.md") == ["b.md"]


@given(st.text(max_size=200))
def test_mentions_lie_in_the_text_in_order_and_never_overlap(text: str) -> None:
    end = 0
    for mention in find_mentions(text):
        assert end <= mention.start < mention.end <= len(text)
        assert text[mention.start] == "@"
        assert mention.path in text[mention.start : mention.end]
        end = mention.end


@given(st.text(st.characters(exclude_characters='"\n', exclude_categories=("Cs",)), min_size=1))
def test_any_path_without_a_quote_is_read_back_as_it_was_written(path: str) -> None:
    (mention,) = find_mentions(f"see {write_mention(path)} now")
    assert mention.path == path


@given(st.emails())
def test_an_email_is_never_a_file(address: str) -> None:
    if not set('"`([{') & set(address):  # after these, a mention may begin
        assert [p for p in paths(f"write to {address}") if f"{p}" in address.split("@")[-1]] == []


@pytest.mark.parametrize(
    ("before", "found"),
    [
        ("see @no", (4, "no")),
        ("@", (0, "")),
        ('@"my no', (0, "my no")),
        ("a@b", None),
        ("@a b", None),
        ("```\n@a", None),
        ('@"a b" ', None),
    ],
)
def test_the_mention_being_typed(before: str, found: tuple[int, str] | None) -> None:
    assert find_open_mention(before) == found
