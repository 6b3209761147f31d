"""A run folder: it grows, survives a crash, and knows when somebody else changed it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from etui.bench.config import differences, parse_run_config
from etui.bench.folder import RunFolder, find_run, new_run_id, read_run
from etui.bench.sample import Sample
from etui.errors import EtuiError, ExitCode, InvalidFile, Stopped, UsageError
from etui.turn.record import Tokens
from tests.bench import synthetic

CONFIG = synthetic.config(arms=("direct",), per_subject=3)


def sample(row: int, subject: str = "anatomy", arm: str = "direct") -> Sample:
    return Sample(
        arm=arm, subject=subject, row=row, answer="A", choice="B", correct=False,
        status="answered", text="Grüße\nB", logprobs={"A": -1.5, "B": -0.5}, letter_mass=0.8,
        confidence=0.7, margin=0.4, shots=5, tokens=Tokens(20, 5, 15, 0, 0), prefix_tokens=1.5,
        joules=None, uncertainty=None, kind=None, prefill_joules=None, decode_joules=None,
        seconds=0.5, prompt_sha256="ab" * 8,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run with two answers, as a process left it that was killed."""
    place = tmp_path / "run"
    run = RunFolder.start(place, CONFIG)
    run.add_samples([sample(0)])
    run.add_samples([sample(1)])
    run.close()
    return place


def test_a_run_of_an_older_etui_keeps_its_hash():
    # Its config.json has no threads of a model.
    document = CONFIG.to_json()
    assert not {"threads", "prefill_threads", "draft_tokens"} & document["models"][0].keys()
    assert parse_run_config(document) == CONFIG
    own = replace(CONFIG, models=(replace(CONFIG.models[0], threads=2),))
    assert own.to_json()["models"][0]["threads"] == 2
    assert own.sha256 != CONFIG.sha256
    assert parse_run_config(own.to_json()) == own


@pytest.mark.parametrize("torn", [b'{"arm": "dir', b"{}", b""])
def test_a_line_that_was_cut_off_is_dropped_and_the_run_goes_on(folder, torn):
    with (folder / "samples.jsonl").open("ab") as file:
        file.write(torn)
    run, recorded = RunFolder.resume(folder)
    assert recorded.samples == (sample(0), sample(1))
    with run:
        run.add_samples([sample(2)])
    assert read_run(folder).samples == (sample(0), sample(1), sample(2))


def test_a_line_behind_the_seal_is_kept(folder):
    """The process died between the answer and its seal."""
    add(sample(2))(folder)
    run, recorded = RunFolder.resume(folder)
    run.close()
    assert [s.row for s in recorded.samples] == [0, 1, 2]


@pytest.mark.parametrize("torn", [b"", b'{"arm": "dir'])
def test_a_kill_between_the_first_answers_and_their_seal_is_resumed(tmp_path, monkeypatch, torn):
    place = tmp_path / "run"
    run = RunFolder.start(place, CONFIG)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.add_samples([sample(0), sample(1)])
    run.close()
    with (place / "samples.jsonl").open("ab") as file:
        file.write(torn)
    again, recorded = RunFolder.resume(place)
    with again:
        assert recorded.samples == (sample(0), sample(1))
        again.add_samples([sample(2)])
    assert read_run(place).samples == (sample(0), sample(1), sample(2))
    assert read_run(place).edited == ()


def test_a_resumed_run_seals_what_it_found(tmp_path):
    """The seal covers it before the next answer: it can no longer be changed unnoticed."""
    place = tmp_path / "run"
    RunFolder.start(place, CONFIG).close()
    line = json.dumps(sample(0).to_json()).encode() + b"\n"
    (place / "samples.jsonl").write_bytes(line)
    RunFolder.resume(place)[0].close()
    edit_sample(place)
    assert read_run(place).edited


def edit(name: str, change) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / name
        path.write_text(change(path.read_text()))

    return do


def add(row: Sample) -> Callable[[Path], None]:
    return edit("samples.jsonl", lambda text: text + json.dumps(row.to_json()) + "\n")


edit_sample = edit(
    "samples.jsonl", lambda text: text.replace('"correct": false', '"correct": true ', 1)
)


@pytest.mark.parametrize(
    "change",
    [
        edit_sample,
        edit("samples.jsonl", lambda text: text.partition("\n")[2]),
        edit("config.json", lambda text: text.replace('"seed": 0', '"seed": 1')),
        edit("samples.seal", lambda text: "{"),
        lambda folder: (folder / "samples.seal").unlink(),
        add(sample(0, arm="other")),
        add(sample(1)),
    ],
)
def test_a_folder_changed_by_hand_is_told_and_not_continued(folder, change):
    change(folder)
    assert read_run(folder).edited
    with pytest.raises(InvalidFile, match="changed outside etui"):
        RunFolder.resume(folder)


@pytest.mark.parametrize("line", ["no json", '{"arm": "direct"}', "[]"])
def test_a_line_that_is_no_answer_is_told_with_its_number(folder, line):
    path = folder / "samples.jsonl"
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(InvalidFile, match=r"samples.jsonl:1: not a valid answer"):
        read_run(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config_version": 99}'])
def test_a_configuration_that_is_none_is_told(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(InvalidFile, match="is not a valid run configuration"):
        read_run(folder)


def test_a_folder_that_holds_something_is_not_taken(folder, tmp_path):
    with pytest.raises(UsageError, match="already contains a run"):
        RunFolder.start(folder, CONFIG)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not empty"):
        RunFolder.start(tmp_path, CONFIG)
    with pytest.raises(UsageError, match="is a file"):
        RunFolder.start(tmp_path / "file", CONFIG)
    with pytest.raises(UsageError, match="not a run folder"):
        RunFolder.resume(tmp_path)


def _reopen(place: str, answers) -> None:
    try:
        RunFolder.resume(Path(place))
    except EtuiError as error:
        answers.put(error.what)
    else:
        answers.put("opened")


def test_two_processes_cannot_write_to_one_folder(folder):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    run, _ = RunFolder.resume(folder)
    other = context.Process(target=_reopen, args=(str(folder), answers))
    other.start()
    assert "another etui is writing" in answers.get(timeout=30)
    other.join()
    run.close()
    run, _ = RunFolder.resume(folder)
    run.close()


class FullDisk:
    """Takes half of a line, and then nothing."""

    def __init__(self, file) -> None:
        self._file = file
        self._full = False

    def write(self, data) -> int:
        if self._full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._full = True
        return self._file.write(bytes(data)[: len(data) // 2])

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_full_disk_keeps_what_was_written_and_can_be_resumed(folder):
    run, _ = RunFolder.resume(folder)
    run._files["samples.jsonl"] = FullDisk(run._files["samples.jsonl"])
    with pytest.raises(Stopped) as caught:
        run.add_samples([sample(2)])
    run.close()
    assert "the disk" in caught.value.what
    assert f"--resume {folder}" in caught.value.fix
    assert caught.value.exit_code == ExitCode.PARTIAL
    run, recorded = RunFolder.resume(folder)
    run.close()
    assert recorded.samples == (sample(0), sample(1))


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EtuiError, match="cannot write"):
        RunFolder.start(tmp_path / "file" / "run", CONFIG)


def test_the_hash_leaves_names_out_and_nothing_else():
    again = parse_run_config(json.loads(json.dumps(CONFIG.to_json())))
    assert again == CONFIG
    named = replace(CONFIG, run_id="x", started_at="y", data_path="z", idle={"watts": 3})
    assert named.sha256 == CONFIG.sha256
    assert differences(CONFIG, named) == {}
    model = replace(CONFIG.models[0], sha256="cd" * 32)
    changed = replace(CONFIG, seed=1, models=(model,), drawn={**CONFIG.drawn, "anatomy": 1})
    assert changed.sha256 != CONFIG.sha256
    assert differences(CONFIG, changed)["seed"] == (0, 1)
    assert differences(CONFIG, changed)["drawn.anatomy"] == (3, 1)


def test_the_order_of_the_subjects_is_part_of_a_run():
    turned = replace(CONFIG, drawn=dict(reversed(CONFIG.drawn.items())))
    assert turned.sha256 != CONFIG.sha256
    assert "drawn (order)" in differences(CONFIG, turned)


def test_runs_are_found_by_path_id_beginning_and_last(config):
    from datetime import datetime

    ids = [new_run_id("mmlu", "letters", [f"m/{n}"], datetime(2026, 1, n)) for n in (1, 2)]
    assert all("/" not in run_id for run_id in ids)
    for run_id in ids:
        RunFolder.start(config.home / "runs" / run_id, CONFIG).close()
    first, last = (config.home / "runs" / run_id for run_id in ids)
    assert find_run(str(first), config) == first
    assert find_run(ids[0], config) == first
    assert find_run("20260102", config) == last
    assert find_run("last", config) == last
    with pytest.raises(UsageError, match="2 runs start"):
        find_run("2026", config)
    with pytest.raises(UsageError, match="there is no run"):
        find_run("2027", config)
    with pytest.raises(UsageError, match="there is no run"):
        find_run("", config)


def test_descriptions_of_devices_and_weights_do_not_affect_a_run() -> None:
    run = synthetic.config()
    described = replace(
        run,
        energy={**run.energy, "devices": {"package:0": {"label": "A CPU"}}, "pue": 1.2},
        models=tuple(replace(model, quantisation="Q4_1") for model in run.models),
    )
    assert described.sha256 == run.sha256
    assert described.plan_sha256 == run.plan_sha256
    assert differences(run, described) == {}
    assert parse_run_config(json.loads(json.dumps(described.to_json()))) == described
    assert replace(run, energy={**run.energy, "sample_hz": 5.0}).sha256 != run.sha256
