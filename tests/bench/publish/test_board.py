"""The board: what is in one list, what is ranked, and that names are only names."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.publish.board import rank_runs, render_board
from etui.bench.publish.public_run import Bounds, PublicArm, PublicRun
from etui.bench.publish.read import Skipped, read_folders

ARM = PublicArm(
    "direct",
    ("small",),
    100,
    50,
    Bounds(0.5, 0.4, 0.6),
    "counter",
    Bounds(2.0, 1.9, 2.1),
    Bounds(4.0, 3.5, 4.5),
    by_machine=False,
)
RUN = PublicRun(
    "a", "run-a", "2026-01-01T00:00:00+00:00", "CC-BY-4.0", "mmlu", "test", "cd" * 32, "letters", 1,
    5, "all questions", True, ("A processor",), "0.1.0", (ARM,),
)  # fmt: skip


def arm(value: float, **changes) -> PublicArm:
    return replace(ARM, per_correct=Bounds(value, 0.9 * value, 1.1 * value), **changes)


def run(name: str, *arms: PublicArm, **changes) -> PublicRun:
    return replace(RUN, place=name, run_id=f"run-{name}", arms=arms or (ARM,), **changes)


class Page(HTMLParser):
    """Collects elements and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=9))
def test_arms_are_ranked_by_joules_per_right_answer(values):
    (ranked,) = rank_runs([run(str(at), arm(value)) for at, value in enumerate(values)])
    found = [row.arm.per_correct.value for row in ranked.rows if row.arm.per_correct]
    assert found == sorted(values)
    assert [row.rank for row in ranked.rows] == list(range(1, len(values) + 1))
    for row in ranked.rows:
        assert row.best is not None
        assert row.worst is not None
        assert row.best <= row.rank <= row.worst
    for one, other in pairwise(ranked.rows):
        assert one.best <= other.best
        assert one.worst <= other.worst


def test_the_ranks_that_intervals_allow():
    (ranked,) = rank_runs([run("a", arm(10.0)), run("b", arm(10.5)), run("c", arm(20.0))])
    assert [(row.best, row.worst) for row in ranked.rows] == [(1, 2), (1, 2), (3, 3)]
    unknown = replace(ARM, per_correct=Bounds(1.0, None, None))
    (ranked,) = rank_runs([run("a", arm(10.0)), run("b", unknown)])
    assert [(row.best, row.worst) for row in ranked.rows] == [(1, 2), (1, 2)]


def test_an_estimate_never_ranks_among_measured_ones():
    cheap = arm(0.1, kind="estimate")
    (ranked,) = rank_runs([run("a", cheap), run("b", arm(50.0)), run("c", arm(60.0))])
    assert [(row.standing, row.rank) for row in ranked.rows] == [
        ("measured", 1), ("measured", 2), ("estimate", 1),
    ]  # fmt: skip
    page = render_board([run("a", cheap), run("b", arm(50.0, name="read by a sensor"))], [])
    assert page.index("read by a sensor") < page.index("Estimates, ranked apart")
    assert "(estimate)" in page


@pytest.mark.parametrize(
    "changes",
    [
        {"suite": "gsm8k"},
        {"split": "val"},
        {"data_sha256": "ef" * 32},
        {"format": "cloze"},
        {"format_version": 2},
        {"shots": 0},
        {"selection": "subjects algebra"},
    ],
)
def test_what_was_asked_otherwise_is_in_another_list(changes):
    lists = rank_runs([run("a"), run("b", **changes)])
    assert [len(one.rows) for one in lists] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "arms", "named"),
    [
        ({"complete": False}, (ARM,), "unfinished"),
        ({}, (replace(ARM, kind=None, per_question=None, per_correct=None),), "unmeasured"),
        ({}, (replace(ARM, per_correct=None),), "no right answer"),
        (
            {},
            (replace(ARM, kind=None, per_question=None, per_correct=None, by_machine=True),),
            "by machine only",
        ),
    ],
)
def test_what_cannot_be_compared_is_shown_without_a_rank(changes, arms, named):
    (ranked,) = rank_runs([run("a", *arms, **changes), run("b")])
    assert [row.rank for row in ranked.rows] == [1, None]
    assert named in ranked.rows[1].why
    assert named in render_board([run("a", *arms, **changes)], [])


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202e'


def test_names_of_others_are_text_and_never_markup():
    odd = run(
        "javascript:alert(1)/..%2f",
        replace(ARM, name=HOSTILE, models=(HOSTILE,)),
        suite=HOSTILE,
        format=HOSTILE,
        machines=(HOSTILE,),
        selection=HOSTILE,
        licence=HOSTILE,
        started_at=HOSTILE,
    )
    text = render_board([odd, run("b")], [Skipped(HOSTILE, HOSTILE)], links="")
    page = Page(text)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "embed")]
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["./b/README.md", "./javascript%3Aalert%281%29/..%252f/README.md"] or set(
        links
    ) == {"./b/README.md", "./javascript%3Aalert%281%29/..%252f/README.md"}


def test_the_page_loads_nothing_and_is_labelled(publish, tmp_path):
    publish("one")
    publish("two", ("direct",), kind="estimate", seed=3)
    runs, skipped = read_folders(tmp_path / "public")
    text = render_board(runs, skipped, links="")
    page = Page(text)
    sources = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action")
    ]
    assert all(source.startswith("./") for source in sources)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text
    headings = [attributes for tag, attributes in page.elements if tag == "th"]
    assert all("scope" in attributes for attributes in headings)
    buttons = [a for tag, a in page.elements if tag == "button" and "data-column" in a]
    assert len(buttons) == 9
    regions = [a for _, a in page.elements if a.get("role") == "region"]
    assert all(a["tabindex"] == "0" and a["aria-labelledby"] for a in regions)
    filters = {a["data-filter"] for tag, a in page.elements if tag == "select"}
    assert filters == {"suite", "format", "machine", "model"}
    assert 'data-theme="dark"' in text


def test_without_links_no_folder_is_linked():
    assert "<a " not in render_board([run("a")], [])


def test_a_page_of_broken_folders_alone_names_them():
    text = render_board([], [Skipped("x", "SHA256SUMS is missing")])
    assert "SHA256SUMS is missing" in text
    assert "0 systems in 0 runs" in text
