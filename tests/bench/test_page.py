"""The page: complete, by itself, and safe whatever the texts are."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.figures import compute_power_steps
from etui.bench.page import (
    _stack_outcomes,
    _stack_phases,
    _stack_tokens,
    embed_json,
    render_page,
)
from etui.bench.results import load_texts
from etui.bench.summary import summarise
from etui.cli.bench_runs import report as command
from etui.config.config import Config
from etui.datasets.mmlu import suite_dir
from etui.datasets.questions import Question
from etui.datasets.suites import load_suite
from tests.bench import synthetic
from tests.support.page import Page, check_loads_nothing

LINES = '{"question": "1 + 1?", "answer": 2}\n{"question": "2 + 2?", "answer": 4}\n'


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etui.models.hub.fetch", lambda *args: pytest.fail("downloaded"))


def write(path: Path, lines: str = LINES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines, encoding="utf-8")
    return path


def test_texts_of_a_local_copy(config: Config, tmp_path: Path) -> None:
    place = write(tmp_path / "data" / "test.jsonl").parent
    sha256 = load_suite("gsm8k", "test", place, config).sha256
    run = synthetic.config(suite="gsm8k", data_path=str(place), data_sha256=sha256)
    texts = load_texts(run, config)
    assert [texts["gsm8k", row].text for row in (0, 1)] == ["1 + 1?", "2 + 2?"]
    moved = write(tmp_path / "moved" / "test.jsonl")
    assert load_texts(run, config, moved) == texts
    write(moved, LINES.replace("4", "5"))
    assert load_texts(run, config, moved) is None


@pytest.mark.parametrize("name", ["mmlu", "gsm8k", "arc-challenge", "mmlu-pro"])
def test_a_suite_that_is_not_here_has_no_texts(config: Config, name: str) -> None:
    run = synthetic.config(suite=name, data_path=None)
    assert load_texts(run, config) is None
    suite_dir(config, name).mkdir(parents=True)
    assert load_texts(run, config) is None


def test_texts_of_a_file_that_is_named_like_a_suite(config: Config, tmp_path: Path) -> None:
    path = write(tmp_path / "gsm8k.jsonl")
    suite = load_suite(str(path), "test", None, config)
    run = synthetic.config(suite=suite.name, data_path=str(path), data_sha256=suite.sha256)
    texts = load_texts(run, config)
    assert texts["gsm8k", 1].answer == "4"


RUN = synthetic.config(per_subject=2)
ROWS = synthetic.samples(RUN)
EVIL = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> \x1b[31mred\x07 ' \" & \u202e"
)


def page_of(run, rows, texts=None, labels=None) -> str:
    return render_page(summarise(rows, run, labels), run, rows, texts)


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(RUN, ROWS)


def test_nothing_is_fetched(page: str) -> None:
    check_loads_nothing(page)


def test_every_section_is_there(page: str) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "Accuracy and energy",
        "Arms",
        "Groups",
        "Subjects",
        "Energy",
        "Tokens",
        "Questions",
        "Configuration",
        "Method",
    ]
    assert page.count("<svg") == 2
    assert page.count('<li data-at="') == 57


def test_every_answer_is_in_the_page(page: str) -> None:
    questions = json.loads(Page(page).json["data"])
    assert len(questions) == 114
    assert all(len(question[5]) == 4 for question in questions)
    right = sum(answer[1] == 0 for question in questions for answer in question[5])
    assert right == sum(row.correct for row in ROWS)


def test_texts_cannot_leave_their_place(drawn_figures) -> None:
    run = replace(
        synthetic.config(arms=(f"arm {EVIL}",), per_subject=2),
        run_id=EVIL,
        drawn={"anatomy": 2, EVIL: 2},
    )
    rows = [replace(row, text=EVIL, error=EVIL) for row in synthetic.samples(run)]
    texts = {
        (row.subject, row.row): Question(row.subject, row.row, EVIL, (EVIL, "b", "c", "d"), "A")
        for row in rows
    }
    page = page_of(run, rows, texts)
    parsed = Page(page)
    assert [tag for tag, _ in parsed.tags].count("script") == 4
    assert not any(tag == "img" for tag, _ in parsed.tags)
    assert not any(name.startswith("on") for _, values in parsed.tags for name in values)
    assert "\x1b" not in page
    assert "\x07" not in page
    assert "\u202e" not in page
    question = json.loads(parsed.json["data"])[0]
    assert question[3].startswith("</script><script>alert(1)</script>")


def test_the_page_of_a_policy_says_who_answered() -> None:
    run = synthetic.routed(per_subject=2)
    rows = [row for at, row in enumerate(ROWS) if at % 4 == (at // 4) % 4]
    page = page_of(run, rows)
    assert "Arms that answered</h3>" in page
    assert "policy over direct, think, vote-5, large" in page


def test_an_estimate_is_called_one_and_the_unmeasured_is_not_zero(drawn_figures) -> None:
    estimate = page_of(RUN, [replace(row, kind="estimate") for row in ROWS])
    assert "joules per question (estimate)" in estimate
    assert estimate.count("(estimate)") == 1
    unmeasured = page_of(RUN, synthetic.samples(RUN, kind=None))
    assert "unmeasured" in unmeasured
    assert "Accuracy and energy" not in unmeasured
    assert "<h2>Energy</h2>" not in unmeasured


def test_small_and_broken_off_runs_have_a_page(drawn_figures) -> None:
    one = synthetic.config(arms=("direct",), drawn={"my own subject": 1})
    assert "my own subject" in page_of(one, synthetic.samples(one))
    assert "unfinished" in page_of(RUN, ROWS[:37])
    assert "unfinished" in page_of(RUN, [])
    free = [replace(row, joules=0.0, seconds=0.0) for row in ROWS]
    assert page_of(RUN, free)


def test_bars_are_in_proportion() -> None:
    summary = summarise(ROWS, RUN)
    for bar in _stack_outcomes(summary):
        assert sum(part.percent for part in bar.segments) == pytest.approx(100)
    for bars in (_stack_phases(summary), _stack_tokens(summary)):
        assert len(bars) == 4
        lengths = [sum(part.percent for part in bar.segments) for bar in bars]
        assert max(lengths) == pytest.approx(100)
    prefill, decode = _stack_phases(summary)[1].segments
    cost = summary.arms["think"].energy
    assert decode.percent / prefill.percent == pytest.approx(
        cost.decode_joules / cost.prefill_joules
    )


@given(st.recursive(st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_embedded_json_reads_back(value: object) -> None:
    text = embed_json(value)
    assert "<" not in text
    assert json.loads(text) == value


@given(st.floats(0.01, 100))
def test_steps_hold_all_the_energy(shortest: float) -> None:
    mine = [row for row in ROWS if row.arm == "think"]
    mine[7] = replace(mine[7], joules=None)
    steps = compute_power_steps(mine, shortest)
    total = sum(row.joules for row in mine if row.joules is not None)
    assert sum((step.end - step.start) * step.watts for step in steps) == pytest.approx(total)
    measured = sum(row.seconds for row in mine if row.joules is not None)
    assert sum(step.end - step.start for step in steps) == pytest.approx(measured)


def invoke(*args: object):
    return CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)


def test_figures_are_written_and_equal_runs_give_equal_ones(tmp_path, drawn_figures) -> None:
    run = synthetic.write(tmp_path / "run", RUN, ROWS)
    assert invoke(run, "--figures", tmp_path / "a").exception is None
    assert invoke(run, "--figures", tmp_path / "b").exception is None
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(
        f"{name}.{form}"
        for name in ("accuracy_joules", "subjects", "phases")
        for form in ("svg", "pdf")
    )
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "vote-5" in (tmp_path / "a" / "accuracy_joules.svg").read_text()


def test_a_page_of_numbers_shows_the_right_number_and_both_readings():
    run = replace(
        synthetic.config(arms=("large",)), suite="gsm8k", format="gsm8k", chance=0.0,
        grading="gsm8k-flexible@1", drawn={"gsm8k": 6}, sizes={"gsm8k": 6},
    )  # fmt: skip
    rows = [
        replace(row, answer="1800", choice="18", correct=False, strict=True, logprobs=None,
                letter_mass=None)
        for row in synthetic.samples(run)
    ]  # fmt: skip
    texts = {("gsm8k", row): Question("gsm8k", row, "How many?", (), "1800") for row in range(6)}
    page = page_of(run, rows, texts)
    assert "A number cannot be guessed" in page
    assert "<th>strict-match</th>" in page
    assert 'class="chance"' not in page
    first = json.loads(Page(page).json["data"])[0]
    assert first[:5] == ["gsm8k", 0, "1800", "How many?", []]
    assert first[5][0][0] == "18"


def test_the_page_names_the_data_and_not_the_folder_of_this_machine() -> None:
    page = page_of(replace(RUN, data_path="/home/someone/data/mmlu"), ROWS)
    assert "someone" not in page
    assert "data_path" in page
