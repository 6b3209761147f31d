"""A question with attachments is made to fit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etui.prompts.attachments import Attachment, Part, describe_excess, fit_attachments, join

LINES = st.integers(0, 200).map(lambda n: "".join(f"line {i}\n" for i in range(n)))


def count(text: str) -> int:
    return len(text.split())


@given(st.lists(LINES, max_size=4), st.sampled_from(["head", "tail", "ends"]), st.integers(0, 900))
def test_the_whole_question_fits_and_short_texts_stay_whole(
    texts: list[str], part: Part, most: int
) -> None:
    attached = [Attachment(f"{n}.txt", text) for n, text in enumerate(texts)]
    kept = fit_attachments("What is this?", attached, part, most, count)
    if most >= 3 + 16 * len(texts):
        assert count(join("What is this?", kept)) <= most
    if count(join("What is this?", attached)) + 16 * len(texts) <= most:
        assert [each.text for each in kept] == [text for text in texts if text]
    assert [each.name for each in kept] == sorted(each.name for each in kept)


def test_a_long_path_takes_room_too() -> None:
    long = Attachment("a very long path " * 20 + "notes.txt", "word\n" * 500)
    for most in range(100, 200):
        assert count(join("q", fit_attachments("q", [long], "ends", most, count))) <= most


def test_only_the_longest_is_cut_if_that_is_enough() -> None:
    short, long = Attachment("a", "a b c\n"), Attachment("b", "word\n" * 500)
    kept = fit_attachments("q", [short, long], "head", 200, count)
    assert kept[0].text == "a b c\n"
    assert 100 < (kept[1].tokens or 0) < 200


def test_the_sentence_has_both_numbers() -> None:
    notes = Attachment("notes.txt", "", 51_000)
    assert describe_excess([notes], 51_012, 8192, "qwen3-4b", exact=True) == (
        "the question with notes.txt has 51,012 tokens; the context of qwen3-4b holds 8,192"
    )
    assert "about 9,000 tokens" in describe_excess([], 9000, 8192, "x", exact=False)
