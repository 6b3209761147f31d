"""The files of a design report: complete, self-contained, equal for equal runs, safe."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from etui.bench.config import NamedText
from etui.bench.folder import read_run
from etui.cli.bench_runs import report as command
from etui.design._tables import _mean_text
from etui.design.analysis import analyse
from etui.design.report import write_design_report
from etui.errors import EtuiError, InvalidFile
from etui.stats.tests import Interval
from tests.design import synthetic
from tests.design.synthetic import Truth
from tests.support.page import Page, check_loads_nothing

SMALL, LARGE = synthetic.ROLES.values()
CURVES = {SMALL: synthetic.points(), LARGE: synthetic.points(size=2.9, seed=1)}
FEW = {
    "small-direct": Truth(0.4, 10.0, 4),
    "small-cot-64": Truth(0.5, 60.0, 60),
    "large-direct": Truth(0.6, 30.0, 4),
}
TEXTS = ["report.html", "report.md", "table.csv", "curves.csv"]
FIGURES = ["accuracy_joules", "operating_curves"]
EVIL = "</script><script>alert(1)</script>|<img src=x onerror=alert(2)> \x1b[31mred\x07 [x](y)"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    run = synthetic.config(FEW, 2)
    folder = tmp_path_factory.mktemp("design") / "run"
    return synthetic.write(folder, run, synthetic.samples(run, FEW, stated=0.8), CURVES)


@pytest.fixture(scope="module")
def written(run_folder: Path) -> Path:
    to = run_folder.parent / "report"
    write_design_report(run_folder, to)
    return to


def read(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def test_every_file_is_there(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted([*TEXTS, "figures"])
    assert sorted(path.name for path in (written / "figures").iterdir()) == sorted(
        f"{name}.{form}" for name in FIGURES for form in ("svg", "pdf")
    )


def test_equal_runs_give_equal_files(run_folder: Path, written: Path, tmp_path: Path) -> None:
    for path in write_design_report(run_folder, tmp_path):
        assert path.read_bytes() == (written / path.relative_to(tmp_path)).read_bytes(), path.name


def test_the_page_loads_nothing_and_runs_one_script(written: Path) -> None:
    page = check_loads_nothing(read(written, "report.html"))
    assert sum(tag == "script" for tag, _ in page.tags) == 1


def test_every_section_is_there(written: Path) -> None:
    rest = ["Arms", "Multiples", "What the readout is worth", "Operating curves", "Limits"]
    page = re.findall(r"<h2>(.*?)</h2>", read(written, "report.html"))
    assert page == [
        "What do thinking and voting buy per joule, and when does the larger model win?",
        *rest, "Method",
    ]  # fmt: skip
    headings = re.findall(r"^## (.*)$", read(written, "report.md"), re.M)
    assert headings == [*rest, "Method"]


def test_the_sentences_are_on_the_page_and_in_the_markdown(run_folder: Path, written: Path) -> None:
    run = read_run(run_folder)
    main = analyse(run.config, run.samples, {}, synthetic.ROLES)
    page, text = (read(written, name) for name in ("report.html", "report.md"))
    for said in (main.headline, *(one.text for one in main.statements)):
        assert said in page
        assert said in text.replace("\\", "")


def test_charts_have_finite_numbers_inside_their_frame(written: Path) -> None:
    page = read(written, "report.html")
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S).lower().split()
    for tag, attributes in Page(page).tags:
        for name in ("x", "y", "cx", "cy", "x1", "x2", "y1", "y2"):
            if attributes.get(name) is not None:
                assert -5 <= float(attributes[name] or 0) <= 2600, (tag, attributes)


def test_the_markdown_links_every_figure_and_its_tables_are_whole(written: Path) -> None:
    text = read(written, "report.md")
    linked = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert {Path(name).stem for name in linked} == set(FIGURES)
    assert all((written / name).is_file() for name in linked)
    widths: set[int] = set()
    for line in text.splitlines():
        if not line.startswith("|"):
            widths = set()
            continue
        widths.add(len(re.findall(r"(?<!\\)\|", line)))
        assert len(widths) == 1, line


def test_tables_have_a_number_in_every_cell_that_is_known(written: Path) -> None:
    for name, rows in (("table.csv", 3), ("curves.csv", 18)):
        found = list(csv.DictReader(io.StringIO(read(written, name))))
        assert len(found) == rows, name
        assert all(None not in row for row in found)
    first = next(csv.DictReader(io.StringIO(read(written, "table.csv"))))
    assert first["arm"] == "small-direct"
    assert float(first["accuracy_low"]) < float(first["accuracy"]) < float(first["accuracy_high"])
    assert first["energy_kind"] == "estimate"


def test_a_hostile_title_and_model_are_escaped(tmp_path: Path) -> None:
    run = synthetic.config(FEW, 1)
    arms = {name: {**arm, "model": arm["model"] + EVIL} for name, arm in run.arms.items()}
    models = tuple(replace(model, name=model.name + EVIL) for model in run.models)
    text = synthetic.DESIGN.replace("title: Reasoning", f"title: {json.dumps(EVIL)} # Reasoning")
    run = replace(run, arms=arms, models=models, design=NamedText(EVIL, text))
    folder = synthetic.write(tmp_path / "run", run, synthetic.samples(run, FEW))
    write_design_report(folder, folder, figures=False)
    page, markdown = read(folder, "report.html"), read(folder, "report.md")
    assert "<img" not in page
    assert page.count("<script") == 1
    assert "\x1b" not in page + markdown
    assert "<img" not in markdown


def build(
    tmp_path: Path, truths, rows=None, curves=None, kind="counter", figures=False, **changes
) -> Path:
    """The folder of a run of few questions, with its report."""
    used = [role for role in synthetic.ROLES if any(name.startswith(role) for name in truths)]
    run = synthetic.config(truths, 1, {role: synthetic.ROLES[role] for role in used})
    run = replace(run, drawn=dict.fromkeys(("anatomy", "marketing", "prehistory"), 14))
    run = replace(run, **changes)
    made = synthetic.samples(run, truths, kind=kind) if rows is None else rows(run)
    folder = synthetic.write(tmp_path / "run", run, made, curves)
    for path in write_design_report(folder, folder, figures=figures):
        assert path.stat().st_size > 0
    return folder


def test_no_complete_block_says_so(tmp_path: Path) -> None:
    folder = build(tmp_path, FEW, lambda run: synthetic.samples(run, FEW)[:2], figures=True)
    for name in ("report.html", "report.md"):
        assert "No question has been answered by every arm yet" in read(folder, name)
    assert not list((folder / "figures").iterdir())


def test_one_model_alone(tmp_path: Path) -> None:
    truths = {name: truth for name, truth in FEW.items() if name.startswith("small")}
    folder = build(tmp_path, truths, figures=True)
    text = read(folder, "report.md")
    assert "large" not in text.split("## Arms")[1].split("## Limits")[0]


def test_unmeasured_joules_leave_accuracy(tmp_path: Path) -> None:
    folder = build(tmp_path, FEW, kind=None, figures=True)
    text, page = read(folder, "report.md"), read(folder, "report.html")
    assert "Joules are unmeasured, so there is no result about cost." in text
    assert "J/question" not in text.split("## Limits")[0].split("| arm |")[1].split("\n")[0]
    assert "unmeasured" in page
    assert not list((folder / "figures").iterdir())


def test_a_direct_answer_without_tokens_has_no_joules_per_token(tmp_path: Path) -> None:
    def rows(run):
        made = synthetic.samples(run, FEW, kind="counter")
        return [
            replace(row, tokens=replace(row.tokens, output=0, thinking=0))
            if "direct" in row.arm
            else row
            for row in made
        ]

    found = csv.DictReader(io.StringIO(read(build(tmp_path, FEW, rows), "table.csv")))
    assert [bool(row["joules_per_output_token"]) for row in found] == [False, True, False]


def test_curves_of_too_few_points_say_so(tmp_path: Path) -> None:
    folder = build(tmp_path, FEW, curves={SMALL: synthetic.points()[:2]}, figures=True)
    text = read(folder, "report.md")
    assert f"There is no curve of {SMALL}: cannot fit a curve" in text.replace("\\", "")
    assert not (folder / "figures" / "operating_curves.svg").exists()


def test_a_design_that_this_etui_cannot_read_still_has_a_report(tmp_path: Path) -> None:
    folder = build(tmp_path, FEW, design=NamedText("future", "version: 9\n"))
    text = read(folder, "report.md")
    assert text.startswith("# future")
    assert f"{SMALL} direct" in text


def test_the_rounding_of_equal_values_is_no_interval() -> None:
    text = _mean_text(Interval(8.0, 8.0 - 1.8e-15, 8.0 + 1.8e-15, "bootstrap"))
    assert text == "8.00"
    assert _mean_text(Interval(8.0, 7.9, 8.1, "bootstrap")) == "8.0 ± 0.1"


def test_damaged_points_are_named_with_their_line(tmp_path: Path) -> None:
    run = synthetic.config(FEW, 1)
    folder = synthetic.write(tmp_path / "run", run, synthetic.samples(run, FEW), CURVES)
    with (folder / "curves.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")
    with pytest.raises(InvalidFile, match=r"curves\.jsonl:55"):
        write_design_report(folder, folder, figures=False)


def test_a_report_that_cannot_be_written_says_where(run_folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(EtuiError, match="cannot write the report"):
        write_design_report(run_folder, blocked, figures=False)


def test_the_command_writes_the_report_of_a_design(tmp_path: Path) -> None:
    run = synthetic.config(FEW, 1, drawn={"anatomy": 20, "marketing": 20})
    folder = synthetic.write(tmp_path / "run", run, synthetic.samples(run, FEW), CURVES)
    paper = tmp_path / "paper"
    result = CliRunner().invoke(command, [str(folder), "--figures", str(paper)])
    assert result.exit_code == 0, result.output
    assert "operating_curves.pdf" in result.stdout
    assert result.stderr == ""
    assert {path.suffix for path in paper.iterdir()} == {".svg", ".pdf"}
    assert (folder / "summary.json").is_file()
    assert "<h2>Multiples</h2>" in read(folder, "report.html")
    printed = CliRunner().invoke(command, [str(folder), "--markdown"])
    assert printed.stdout == read(folder, "report.md")
