"""A public folder: what is in it, what is not, and what it never overwrites."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace

import pytest

from etui.bench import publish as module
from etui.bench.arms import to_json
from etui.bench.config import BenchPart, BenchPrecision, NamedText
from etui.bench.difficulty import parse_difficulty
from etui.bench.folder import Recorded
from etui.bench.plan import make_plan
from etui.bench.precision import RunPrecision, SystemPrecision
from etui.bench.publish import PrivateData, build_command, publish_run, read_sums
from etui.bench.sample import parse_sample
from etui.bench.summary import summarise
from etui.cli.bench import _build_request, bench
from etui.errors import EtuiError, InvalidFile, UsageError
from etui.models.catalogue import load_catalogue
from tests.bench import synthetic

MACHINE = {"name": "A processor, 8 CPUs, Linux x86_64", "memory_bytes": 8 << 30}

NO_OWNER = PrivateData((), ())


SUITE = ("--suite", "sample")

LETTERS = (*SUITE, "-m", "smollm2-135m", "-m", "gemma-3-270m")

CHAT = (*SUITE, "-m", "smollm2-135m", "-r", "direct", "-r", "cot")


def plan_of(words, config):
    context = bench.make_context("bench", list(words))
    return make_plan(_build_request(context, context.params), config, load_catalogue(config))


def config_of(plan):
    return replace(plan.config, arms={name: to_json(arm) for name, arm in plan.arms.items()})


@pytest.mark.parametrize(
    "words",
    [
        LETTERS,
        (*LETTERS, "--format", "cloze", "--shots", "0", "--seed", "7", "--no-prefix-reuse"),
        (*LETTERS, "--limit", "24", "--part", "2/3"),
        (*LETTERS, "--per-subject", "2", "--subjects", "logic,algebra"),
        CHAT,
        (*CHAT, "--think-tokens", "64", "--max-tokens", "9", "--temperature", "0.3"),
        (*CHAT, "-r", "vote", "--votes", "3", "--stop", "all", "--loop-guard"),
        (*CHAT, "--speculate", "off", "--speculate", "lookup"),
        (*SUITE, "-m", "smollm2-135m", "-f", "cot"),
    ],
)
def test_the_command_makes_the_same_plan(words, config):
    plan = plan_of(words, config)
    command = build_command(config_of(plan))
    assert command.exact
    assert command.words[:2] == ("etui", "bench")
    again = plan_of(command.words[2:], config)
    assert again.arms == plan.arms
    assert again.asked == plan.asked
    assert again.config == plan.config


def test_the_fewest_options_are_named(config):
    words = build_command(config_of(plan_of(CHAT, config))).words
    assert "--think-tokens" not in words
    assert "--temperature" not in words


def test_settings_that_no_option_gives_are_said_to_be_missing(config):
    made = config_of(plan_of(CHAT, config))
    name, settings = next(iter(made.arms.items()))
    other = replace(made, arms={**made.arms, name: {**settings, "max_joules": 3.0}})
    assert not build_command(other).exact
    assert not build_command(replace(made, arms={"odd": {"model": "small"}})).exact


def test_files_of_the_folder_are_named_and_no_place_of_this_machine():
    run = synthetic.config(data_path="/home/anna/my questions.csv", suite="questions")
    assert "questions.csv" in build_command(run).words
    lines = replace(run, data_path="/home/anna/my questions.jsonl")
    assert "questions.jsonl" in build_command(lines).words
    routed = synthetic.config(policy=NamedText("mine", "version: 1"), routed=True)
    assert build_command(routed).words[-2:] == ("--policy", "policy.yaml")
    arms = build_command(replace(routed, routed=False))
    assert arms.words[-2:] == ("--arms", "direct,think,vote-5,large")
    assert not arms.exact
    design = build_command(synthetic.config(design=NamedText("seed", "x"), part=BenchPart(0, 4)))
    assert design.words[:4] == ("etui", "bench", "--design", "design.yaml")
    assert design.words[-2:] == ("--part", "1/4")
    precise = build_command(synthetic.config(precision=BenchPrecision(3.0, "difference")))
    assert precise.words[-4:] == ("--precision", "3", "--precision-of", "difference")
    helped = build_command(synthetic.config(precision=BenchPrecision(3.0, "accuracy", "ab" * 32)))
    assert helped.words[-2:] == ("--difficulty", "difficulty.csv")
    for command in (routed, run):
        assert "anna" not in " ".join(build_command(command).words)


UUID = "GPU-1a2b3c4d-0000-1111-2222-333344445555"
PRIVATE = PrivateData(("/home/anna",), ("annas-desk", "anna"))


def read_record(folder) -> dict:
    """The record of a folder of which every file has its checksum."""
    for name, digest in read_sums((folder / "SHA256SUMS").read_text()).items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    return json.loads((folder / "record.json").read_text())


def recorded(**changes) -> Recorded:
    settings = {"machine": MACHINE, "per_subject": 1, "data_path": "/home/anna/mmlu"} | changes
    config = synthetic.config(("direct", "think"), **settings)
    samples = [
        replace(s, text="SECRET text of anna", error="in /home/anna/m.gguf")
        for s in synthetic.samples(config)
    ]
    return Recorded(config, tuple(samples), {})


def write(run: Recorded, to, precision=None, **changes):
    summary = summarise(run.samples, run.config, None, precision)
    options = {"summary": summary, "licence": "CC-BY-4.0", "private": PRIVATE} | changes
    return publish_run(run, to, **options)


def read_all(to) -> dict[str, bytes]:
    return {
        path.relative_to(to).as_posix(): path.read_bytes()
        for path in sorted(to.rglob("*"))
        if path.is_file()
    }


def test_the_figures_of_a_run_are_drawn_as_svg(drawn_figures, tmp_path):
    names = write(recorded(), tmp_path / "public")
    figures = [name for name in names if name.startswith("figures/")]
    assert figures == [
        "figures/accuracy_joules.svg", "figures/subjects.svg", "figures/phases.svg",
    ]  # fmt: skip
    before = read_all(tmp_path / "public")
    assert all(before[name].lstrip().startswith(b"<?xml") for name in figures)
    write(recorded(), tmp_path / "public")
    assert read_all(tmp_path / "public") == before


def test_the_folder_has_everything_but_texts_and_private_data(tmp_path):
    energy = {"channels": {f"gpu:{UUID}": "counter"}, "unmeasured": ["package:0"]}
    run = recorded(energy=energy)
    to = tmp_path / "public"
    names = write(run, to)
    files = read_all(to)
    assert set(files) == set(names) == {
        "README.md", "record.json", "summary.json", "samples.jsonl", "per_subject.csv",
        "energy_record.json", "figures/subjects.svg", "SHA256SUMS",
    }  # fmt: skip
    for name, content in files.items():
        for private in (b"SECRET", b"/home", b"anna", b"GPU-1a2b", b"m.gguf"):
            assert private not in content, (name, private)
    record = json.loads(files["record.json"])
    assert record["config"]["energy"]["channels"] == {"gpu:0": "counter"}
    assert record["config"]["data_path"] is None
    assert record["plan_sha256"] == run.config.plan_sha256
    assert record["license"] == "CC-BY-4.0"
    lines = [parse_sample(json.loads(line)) for line in files["samples.jsonl"].splitlines()]
    assert [s.key for s in lines] == [s.key for s in run.samples]
    assert [s.joules for s in lines] == [s.joules for s in run.samples]
    sums = read_sums(files["SHA256SUMS"].decode())
    for name, digest in sums.items():
        assert hashlib.sha256(files[name]).hexdigest() == digest
    assert set(sums) == set(files) - {"SHA256SUMS"}
    readme = files["README.md"].decode()
    assert "SPDX-License-Identifier: CC-BY-4.0" in readme
    assert "Measuring Massive Multitask Language Understanding" in readme
    assert "etui bench --suite mmlu" in readme
    assert "![subjects](figures/subjects.svg)" in readme


def test_a_run_that_was_precise_is_published_as_complete(tmp_path):
    table = parse_difficulty("subject,row,difficulty\nlaw,0,0.5\n", "d.csv")
    asked = recorded()
    config = replace(
        asked.config,
        drawn=asked.config.sizes,
        per_subject=None,
        precision=BenchPrecision(3.0, "accuracy", table.sha256),
    )
    run = replace(asked, config=config)
    count = len(run.samples) // 2
    known = {
        name: SystemPrecision(0.4, 0.37, 0.43, 0.03, True, count, 50)
        for name in ("direct", "think")
    }
    precision = RunPrecision(3.0, "accuracy", "m", True, count, 5700, (count,), known)
    names = write(run, tmp_path / "public", precision=precision, difficulty=table)
    assert "difficulty.csv" in names
    assert read_record(tmp_path / "public")["complete"]
    readme = (tmp_path / "public" / "README.md").read_text()
    assert f"±3 points reached after {count} questions of 5,700" in readme
    assert "unfinished" not in readme


def test_publishing_again_changes_nothing_and_keeps_other_files(tmp_path):
    to = tmp_path / "public"
    write(recorded(), to)
    (to / "LICENSE").write_text("my own file")
    before = read_all(to)
    write(recorded(), to)
    assert read_all(to) == before


def test_a_run_that_went_on_replaces_its_files(tmp_path):
    to = tmp_path / "public"
    run = recorded()
    half = replace(run, samples=run.samples[:60])
    write(half, to)
    assert "unfinished" in (to / "README.md").read_text()
    (to / "figures" / "old.svg").write_text("<svg/>")
    digest = hashlib.sha256(b"<svg/>").hexdigest()
    with (to / "SHA256SUMS").open("a") as sums:
        sums.write(f"{digest}  figures/old.svg\n")
    write(run, to)
    assert "unfinished" not in (to / "README.md").read_text()
    assert not (to / "figures" / "old.svg").exists()


def test_a_foreign_folder_is_refused(tmp_path):
    to = tmp_path / "foreign"
    to.mkdir()
    (to / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not empty, and not a publication of this run"):
        write(recorded(), to)
    other = tmp_path / "other"
    write(recorded(run_id="other"), other)
    before = read_all(other)
    with pytest.raises(UsageError, match="not a publication of this run"):
        write(recorded(), other)
    assert read_all(other) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        write(recorded(), tmp_path / "file")
    (to / "record.json").write_text('{"run_id": ')
    with pytest.raises(UsageError, match="not empty"):
        write(recorded(), to)


def test_a_file_that_was_edited_is_not_overwritten(tmp_path):
    to = tmp_path / "public"
    write(recorded(), to)
    (to / "README.md").write_text("my words")
    with pytest.raises(UsageError, match=r"README\.md was edited since it was published"):
        write(recorded(), to)
    assert (to / "README.md").read_text() == "my words"


def test_checksums_that_leave_the_folder_are_refused(tmp_path):
    to = tmp_path / "public"
    write(recorded(), to)
    victim = tmp_path / "victim"
    victim.write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    for name in ("../victim", str(victim)):
        (to / "SHA256SUMS").write_text(f"{digest}  {name}\n")
        with pytest.raises(UsageError):
            write(recorded(), to)
    assert victim.exists()


def test_an_edited_and_an_empty_run_are_refused(tmp_path):
    run = recorded()
    with pytest.raises(InvalidFile, match=r"changed outside etui: samples\.jsonl"):
        write(replace(run, edited=("samples.jsonl differs",)), tmp_path / "a")
    with pytest.raises(UsageError, match="no answers yet"):
        write(replace(run, samples=()), tmp_path / "b")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_private_data_in_a_policy_is_refused_by_name(tmp_path):
    text = "version: 1\n# written by anna on annas-desk\n"
    run = recorded(policy=NamedText("mine", text))
    with pytest.raises(EtuiError) as caught:
        write(run, tmp_path / "public")
    assert "policy.yaml contains the name of this user or this machine: anna" in caught.value.what
    assert not (tmp_path / "public").exists()
    write(run, tmp_path / "public", allowed=("anna", "annas-desk"))
    assert (tmp_path / "public/policy.yaml").read_text() == text


def test_a_design_and_an_own_file_are_part_of_the_folder(tmp_path):
    write(recorded(design=NamedText("seed", "name: seed\n")), tmp_path / "a")
    assert (tmp_path / "a/design.yaml").read_text() == "name: seed\n"
    write(recorded(suite="sums"), tmp_path / "b")
    assert "The questions are not public" in (tmp_path / "b/README.md").read_text()


def test_a_folder_that_cannot_be_written_has_a_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EtuiError, match="cannot write"):
        write(recorded(), tmp_path / "file" / "below", private=NO_OWNER)


@pytest.mark.parametrize("written", [1, 3, 6])
@pytest.mark.parametrize("before", [False, True])
def test_a_publication_that_was_interrupted_is_finished(tmp_path, monkeypatch, written, before):
    to = tmp_path / "public"
    if before:
        write(recorded(), to, licence="CC0-1.0")
    write_text, count = module.write_text, []

    def die(path, text, **options):
        if len(count) == written:
            raise KeyboardInterrupt
        count.append(path)
        write_text(path, text, **options)

    monkeypatch.setattr(module, "write_text", die)
    with pytest.raises(KeyboardInterrupt):
        write(recorded(), to)
    seen = None
    with suppress(OSError, ValueError, AssertionError):
        seen = read_record(to)["license"]
    assert seen in (None, "CC0-1.0" if before else None)  # the earlier publication, or none
    (to / ".record.json.0a1b2c3d.tmp").write_text("{")
    monkeypatch.setattr(module, "write_text", write_text)
    write(recorded(), to)
    assert read_record(to)["license"] == "CC-BY-4.0"


def test_no_file_has_the_name_of_a_remote_backend(tmp_path):
    model = replace(synthetic.MODEL, backend="llama-at-annas", remote_name="big-at-annas")
    write(recorded(models=(model,)), tmp_path / "public")
    texts = read_all(tmp_path / "public")
    assert [name for name, text in texts.items() if b"at-annas" in text] == []
    assert b'"backend": "remote"' in texts["energy_record.json"]
