"""Public folders of others: broken, hostile or forged ones are named and skipped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.publish import read as module
from etui.bench.publish.public_run import BrokenFolder
from etui.bench.publish.read import read_folder, read_folders


def seal(folder: Path) -> None:
    """Make the checksums fit the files, as a forger would."""
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in names
        if name != "SHA256SUMS"
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def change(folder: Path, name: str, edit: Callable[[Any], None]) -> None:
    document = json.loads((folder / name).read_text())
    edit(document)
    (folder / name).write_text(json.dumps(document))
    seal(folder)


def why(folder: Path) -> str:
    with pytest.raises(BrokenFolder) as caught:
        read_folder(folder, folder.name)
    return str(caught.value)


def test_a_folder_is_read_as_it_was_published(publish):
    folder = publish("one", limit=57, per_subject=None)
    run = read_folder(folder, "place")
    assert (run.suite, run.format, run.format_version, run.shots) == ("mmlu", "letters", 1, 5)
    assert run.selection == "a sample in proportion to the subjects"
    assert run.complete
    assert run.machines == ("A processor, 8 CPUs, Linux x86_64",)
    direct, think = run.arms
    assert (direct.name, direct.models, direct.questions) == ("direct", ("small",), 57)
    assert direct.kind == think.kind == "counter"
    assert direct.per_correct is not None
    summary = json.loads((folder / "summary.json").read_text())
    assert direct.per_correct.value == summary["arms"]["direct"]["energy"]["per_correct"]["value"]


def test_a_policy_run_and_an_unmeasured_run_are_read(publish):
    from etui.bench.store.run_config import BenchPolicy

    policy = BenchPolicy("balanced", "version: 1")
    (arm,) = read_folder(publish("routed", ("direct",), policy=policy, routed=True), "r").arms
    assert (arm.name, arm.models) == ("balanced", ("large", "small"))
    (arm,) = read_folder(publish("none", ("direct",), kind=None), "n").arms
    assert (arm.kind, arm.per_correct, arm.by_machine) == (None, None, False)


def test_a_changed_file_is_found(publish):
    folder = publish("one")
    path = folder / "samples.jsonl"
    path.write_text(path.read_text().replace("true", "false", 1))
    assert why(folder) == "samples.jsonl differs from its checksum in SHA256SUMS"
    for name in ("record.json", "summary.json"):
        (folder / name).write_text((folder / name).read_text() + " ")
        assert "differs from its checksum" in why(folder)
    (folder / "SHA256SUMS").write_text("nonsense")
    assert "not a line of checksums" in why(folder)
    (folder / "SHA256SUMS").unlink()
    assert why(folder) == "SHA256SUMS is missing"


def figures(arm: str, **changes):
    def edit(summary):
        energy = summary["arms"][arm]["energy"]
        for path, value in changes.items():
            inner = energy
            *steps, last = path.split("__")
            for step in steps:
                inner = inner[step]
            inner[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (figures("direct", per_correct__value=0.001), "joules per right answer is outside"),
        (
            figures("direct", per_correct__value=0.001, per_correct__low=0.0),
            "joules per right answer of direct do not follow",
        ),
        (figures("direct", per_correct__value=-1.0), "joules per right answer is -1"),
        (figures("direct", per_question__high=1e-9), "joules per question is outside"),
        (figures("direct", joules=-3), "joules of -3"),
        (figures("direct", joules="3"), "joules that are not a number"),
        (figures("direct", joules=True), "joules that are not a number"),
        (figures("direct", joules=1.0), "the joules of direct are not those of samples.jsonl"),
        (figures("direct", questions=1), "the joules of direct are not those"),
        (figures("direct", kind="perfect"), "the kind of energy 'perfect' is unknown"),
        (lambda s: s["arms"]["direct"]["accuracy"].update(correct=57), "right answers of direct"),
        (
            lambda s: s["arms"]["direct"]["accuracy"]["micro"].update(value=1.0, high=1.0),
            "accuracy",
        ),
        (lambda s: s["arms"].update(best=s["arms"]["direct"]), "the right answers of best"),
        (lambda s: s.update(arms={}), "it has no answers"),
        (lambda s: s.update(arms=[]), "it cannot be read"),
        (lambda s: s.update(run_id="other"), "of different runs"),
        (lambda s: s["arms"].update(direct=None), "it cannot be read"),
    ],
)
def test_forged_figures_are_refused(publish, edit, named):
    folder = publish("one")
    change(folder, "summary.json", edit)
    assert named in why(folder)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda r: r.update(publish_version=9), "publish_version 9 is not 1"),
        (lambda r: r.pop("config"), "config"),
        (lambda r: r["config"].update(suite=7), "'7' is not a name"),
        (lambda r: r["config"].update(shots=-1), "'-1' is not a count"),
        (lambda r: r["config"].update(shots=True), "is not a count"),
        (lambda r: r["config"].update(models=[{"name": 3}]), "not of the expected form"),
        (lambda r: r.update(questions=99), "says that it is complete, and is not"),
        (lambda r: r["config"].update(machines=[{}] * 2000), "more than 1,000 machines"),
        (lambda r: r["config"].update(drawn=None, sizes=None, limit=1, machine=None), "cannot be"),
    ],
)
def test_invalid_records_are_refused(publish, edit, named):
    folder = publish("one")
    change(folder, "record.json", edit)
    assert named in why(folder)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"arms": {"x": NaN}}', "contains NaN, which is not a number"),
        ('{"arms": {"x": -Infinity}}', "contains -Infinity"),
        ('{"arms": {"x": 1e999}}', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "is not a JSON object"),
        ("{", "cannot be read"),
        ("", "cannot be read"),
        ('{"arms": {"x": ' + "9" * 5000 + "}}", "cannot be read"),
    ],
)
def test_documents_that_are_not_results_are_refused(publish, text, named):
    folder = publish("one")
    (folder / "summary.json").write_text(text)
    seal(folder)
    assert named in why(folder)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"arm": "direct"}', "cannot be read"),
        ('{"arm": "direct", "subject": "s", "row": 1e999, "correct": true}', "cannot be read"),
        (
            '{"arm": "direct", "subject": "s", "row": 1, "correct": true, "joules": 1e999}',
            "joules of inf",
        ),
        (
            '{"arm": "direct", "subject": "s", "row": 1, "correct": true, "joules": -4}',
            "joules of -4",
        ),
        ('{"arm": "direct", "subject": "s", "row": 1, "correct": true}', "not those of samples"),
        ("x" * (1 << 20) + "x", "more than a megabyte"),
    ],
)
def test_forged_answers_are_refused(publish, line, named):
    folder = publish("one")
    with (folder / "samples.jsonl").open("a") as file:
        file.write(line + "\n")
    seal(folder)
    assert named in why(folder)


def test_an_estimate_that_is_called_measured_is_refused(publish):
    folder = publish("one", kind="estimate")
    assert read_folder(folder, "one").arms[0].kind == "estimate"
    change(folder, "summary.json", figures("direct", kind="counter"))
    assert why(folder) == "the kind of energy of direct is not that of samples.jsonl"


def test_an_answer_twice_is_refused(publish):
    folder = publish("one")
    path = folder / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:-1], lines[0]]))
    seal(folder)
    assert why(folder) == "samples.jsonl has an answer twice"


def test_links_and_special_files_are_refused(publish, tmp_path):
    folder = publish("one")
    secret = tmp_path / "secret.json"
    secret.write_text((folder / "record.json").read_text())
    (folder / "record.json").unlink()
    (folder / "record.json").symlink_to(secret)
    assert why(folder) == "record.json is a link"
    if hasattr(os, "mkfifo"):
        (folder / "record.json").unlink()
        os.mkfifo(folder / "record.json")
        assert why(folder) == "record.json is not a file"
    (folder / "record.json").unlink()
    (folder / "record.json").mkdir()
    assert why(folder) == "record.json is not a file"


def test_huge_files_are_refused_before_they_are_read(publish):
    folder = publish("one")
    with (folder / "summary.json").open("r+b") as file:
        file.truncate(1 << 40)
    assert "summary.json has 1.10 TB, more than" in why(folder)


def test_a_board_reads_all_folders_and_names_what_it_skips(publish, tmp_path):
    publish("b/deep/one")
    publish("a", run_id="same")
    publish("c", run_id="same")
    root = tmp_path / "public"
    outside = publish("gone")
    outside.rename(tmp_path / "outside")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "inside").symlink_to(root / "a")
    (root / "broken").mkdir()
    (root / "broken" / "record.json").write_text("{}")
    (root / ".git").mkdir()
    (root / ".git" / "record.json").write_text("{}")
    runs, skipped = read_folders(root)
    assert [run.place for run in runs] == ["a", "b/deep/one"]
    assert {(one.place, one.why) for one in skipped} == {
        ("broken", "SHA256SUMS is missing"),
        ("c", "it has the same run as a"),
        ("link", "it is a link to another place"),
    }


def test_there_are_not_more_folders_than_a_page_can_show(publish, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_FOLDERS", 1)
    publish("a")
    publish("b")
    runs, (skipped,) = read_folders(tmp_path / "public")
    assert len(runs) == 1
    assert skipped.why == "there are more than 1 folders"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@given(st.sampled_from(["record.json", "summary.json"]), st.integers(0, 10_000), JSON)
def test_no_document_raises_another_error(publish, tmp_path, name, at, value):
    """Any value of a document is replaced by any other."""
    folder = tmp_path / "public" / "one"
    if not folder.exists():
        publish("one")
    original = (folder / name).read_bytes()
    document = json.loads(original)
    spots: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> None:
        items = inner.items() if isinstance(inner, dict) else enumerate(inner)
        for key, item in list(items):
            spots.append((inner, key))
            if isinstance(item, dict | list):
                walk(item)

    walk(document)
    inner, key = spots[at % len(spots)]
    inner[key] = value
    try:
        (folder / name).write_text(json.dumps(document), errors="surrogatepass")
        seal(folder)
        with suppress(BrokenFolder):
            read_folder(folder, "one")
    finally:
        (folder / name).write_bytes(original)
        seal(folder)
