"""Measuring into a folder: what is kept, shown and logged, however it ends."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etui.atomic import write_text
from etui.errors import EtuiError, Stopped
from etui.sweep._accuracy import analyse_measured, group_answers
from etui.sweep.blocks import SettingAnswer, Visit
from etui.sweep.config import Setting, SweepDesign
from etui.sweep.folder import SweepFolder, read_sweep
from etui.sweep.run import SweepOutcome, SweepRun
from tests.fixtures.records import check_document
from tests.sweep.fakes import Audience, FakeRig, Log, make_answer, raise_at
from tests.sweep.values import CONFIG

SETTINGS = tuple(Setting((("threads", n),)) for n in (1, 2, 3, 4, 5, 6))
JOULES = {setting.key: 10.0 + 2 * at for at, setting in enumerate(reversed(SETTINGS))}
"""The baseline, ``threads=1``, costs 20 J and ``threads=6`` 10 J."""
BEST = SETTINGS[-1].key
BATCHES = tuple(Setting((("batch_tokens", 32 * n),)) for n in (1, 2, 3, 4, 5, 6))
BATCH_JOULES = {
    batch.key: JOULES[threads.key] for batch, threads in zip(BATCHES, SETTINGS, strict=True)
}
"""The same joules by settings that compute other numbers."""
DESIGN = SweepDesign(SETTINGS, floor_blocks=2, race_rounds=2, confirm_blocks=4)
SWEEP = replace(CONFIG, design=DESIGN)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "sweep"


def run(
    place: Path,
    rig: FakeRig | None = None,
    audience: Audience | None = None,
    log: Log | None = None,
    questions: int = 0,
    settings: tuple[Setting, ...] = SETTINGS,
    measure_answers: Any = None,
    **options: Any,
) -> SweepOutcome:
    """Start a sweep, or go on with it."""
    rig = rig or FakeRig(JOULES)
    if measure_answers is not None:
        rig.measure_answers = measure_answers
    if place.exists():
        folder, recorded = SweepFolder.resume(place)
    else:
        folder = SweepFolder.start(
            place,
            replace(SWEEP, questions=questions, design=replace(DESIGN, settings=settings)),
        )
        recorded = read_sweep(place)
    with folder:
        return SweepRun(
            folder, recorded, rig, audience or Audience(), log or Log(), **options
        ).measure()


def test_a_sweep_ends_with_its_best_setting_in_every_place(place: Path) -> None:
    audience, log = Audience(), Log()
    outcome = run(place, audience=audience, log=log)
    assert outcome.why_stopped == ""
    assert outcome.result.is_complete
    assert outcome.result.best == BEST
    read = read_sweep(place)
    assert read.is_finished
    assert analyse_measured(read.config, read.blocks, read.answers) == outcome.result
    assert json.loads((place / "result.json").read_text())["is_complete"] is True
    assert "<svg" in (place / "report.html").read_text()
    record = check_document(json.loads((place / "energy_record.json").read_text()))
    assert len(record["measurements"]) == len(outcome.result.settings)
    assert log.sweep is not None
    assert (log.sweep.best, log.sweep.complete) == (BEST, True)
    assert log.sweep.verdict
    assert [row.setting for row in log.settings] == [one.setting for one in outcome.result.settings]
    best = next(row for row in log.settings if row.setting == BEST)
    assert best.joules_claimed
    assert best.joules_percent == pytest.approx(-50, abs=2)
    measured = [(v.block, v.setting, v.copy) for v in read.power]
    assert measured == [(b.number, v.setting, v.copy) for b in read.blocks for v in b.visits]


def test_progress_is_shown_block_by_block(place: Path) -> None:
    audience = Audience()
    run(place, audience=audience)
    first, *_ = audience.seen
    assert first.text.startswith("m: 6 settings, about ")
    assert first.text.endswith(f"in {place}; Ctrl-C stops")
    kinds = [one.event for one in audience.seen if one.fields]
    assert kinds[:4] == ["begun", "block", "note", "block"]
    assert audience.of("note")[0].startswith("differences below ")
    blocks = audience.of("block")
    assert [one["stage"] for one in blocks[:3]] == ["floor", "floor", "race"]
    left = [one["blocks_left"] for one in blocks]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    assert [one["block"] for one in blocks] == list(range(1, len(blocks) + 1))
    (last,) = [one.text for one in audience.seen if one.event == "block"][-1:]
    assert last == f"done · {len(blocks)} blocks measured · 2 settings left · best {BEST}"
    drops = [one["setting"] for one in audience.of("dropped")]
    assert SETTINGS[1].key in drops
    assert BEST not in drops


def test_a_visit_moves_the_bar_within_its_block(place: Path) -> None:
    audience = Audience()
    run(place, audience=audience)
    visits = [one for one in audience.seen if one.total is not None and not one.fields]
    assert [one.done for one in visits[:4]] == [0.5, 1.0, 1.5, 2.0]
    assert visits[0].text.startswith("floor · block 1 of at most 10, visit 1 of 2 · about ")
    assert visits[0].text.endswith("6 settings left")
    assert "race · block 3" in visits[4].text
    assert any("confirming · " in one.text for one in visits)
    assert "best" not in visits[4].text


@pytest.mark.parametrize("cut", [4, 11, 30])
def test_ctrl_c_keeps_the_blocks_and_a_resumed_sweep_ends_alike(place: Path, cut: int) -> None:
    whole = run(place.with_name("whole"))

    audience, log = Audience(), Log()
    first = run(place, FakeRig(JOULES, raise_at(cut, KeyboardInterrupt)), audience, log)
    assert first.why_stopped == "stopped"
    assert not first.result.is_complete
    assert log.sweep is not None
    assert not log.sweep.complete
    kept = len(read_sweep(place).blocks)
    assert 0 < kept < whole.result.blocks
    assert (place / "report.html").exists()
    again = Audience()
    second = run(place, audience=again)
    (begun,) = again.of("begun")
    assert begun["blocks"] == kept
    assert f"({kept} block" in again.seen[0].text
    assert "already measured), about" in again.seen[0].text
    assert sum(text.startswith("differences below") for text in again.of("note")) == 1
    assert second.result.best == BEST
    orders = [
        [[(v.setting, v.copy) for v in block.visits] for block in read_sweep(folder).blocks[:kept]]
        for folder in (place, place.with_name("whole"))
    ]
    assert orders[0] == orders[1]


def test_ctrl_c_before_the_first_block_says_how_to_go_on(place: Path) -> None:
    with pytest.raises(Stopped, match="before the first block") as stopped:
        run(place, FakeRig(JOULES, raise_at(1, KeyboardInterrupt)))
    assert stopped.value.fix == f"resume with: etui sweep --resume {place}"
    assert run(place).result.is_complete


def test_a_rig_that_cannot_go_on_now_keeps_the_blocks(place: Path) -> None:
    discharge = raise_at(9, Stopped("the battery discharges", "plug it in"))
    outcome = run(place, FakeRig(JOULES, discharge))
    assert outcome.why_stopped == "the battery discharges"
    assert run(place).result.is_complete


def test_an_engine_that_fails_leaves_its_blocks_in_folder_and_log(place: Path) -> None:
    fail = raise_at(9, EtuiError("llama.cpp failed"))
    log = Log()
    with pytest.raises(EtuiError, match=r"llama\.cpp failed"):
        run(place, FakeRig(JOULES, fail), log=log)
    assert log.sweep is not None
    assert log.sweep.blocks == len(read_sweep(place).blocks) > 0
    assert run(place).result.is_complete


def test_a_full_disk_at_the_report_stops_the_sweep(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(path: Path, *args: Any, **options: Any) -> None:
        if path.name == "report.html":
            raise OSError(errno.ENOSPC, "No space left on device")  # of a write: it names no file
        write_text(path, *args, **options)

    monkeypatch.setattr("etui.measure.folder.write_text", fill)
    with pytest.raises(Stopped, match="the disk of") as full:
        run(place)
    assert f"etui sweep --resume {place}" in full.value.fix
    monkeypatch.undo()
    assert run(place).result.is_complete
    assert (place / "report.html").is_file()


def test_a_busy_machine_repeats_the_block_and_says_so(place: Path) -> None:
    def disturb(number: int, visit: Visit) -> Visit:
        return replace(visit, disturbed="the CPUs are busy (70 %)") if number == 6 else visit

    audience = Audience()
    waits: list[float] = []
    rig = FakeRig(JOULES, change=disturb)
    outcome = run(place, rig, audience, sleep=waits.append)
    assert outcome.result.is_complete
    assert len(waits) == 1
    notes = [str(text) for text in audience.of("note")]
    assert any("block 3 is measured again" in text and "busy (70 %)" in text for text in notes)
    assert any("busy (70 %)" in text for text in outcome.result.repeated)
    read = read_sweep(place)
    measured = [(v.block, v.setting, v.copy, v.start_ns) for v in read.power]
    assert measured == [
        (b.number, v.setting, v.copy, v.start_ns) for b in read.blocks for v in b.visits
    ]


def test_a_note_of_many_visits_is_shown_once(place: Path) -> None:
    def note(number: int, visit: Visit) -> Visit:
        return replace(visit, notes=("the cap was rounded to 200 W",))

    audience = Audience()
    run(place, FakeRig(JOULES, change=note), audience)
    assert audience.of("note").count("the cap was rounded to 200 W") == 1


def answer_some(
    right: Callable[[Setting, int], bool], count: int, stop_at: int | None = None
) -> Callable[[Sequence[Setting], Sequence[SettingAnswer]], Iterator[SettingAnswer]]:
    def measure(
        settings: Sequence[Setting], done: Sequence[SettingAnswer]
    ) -> Iterator[SettingAnswer]:
        there = {(line.setting, line.number) for line in done}
        asked = [(s, n) for s in settings for n in range(count) if (s.key, n) not in there]
        for at, (setting, number) in enumerate(asked):
            if at == stop_at:
                raise KeyboardInterrupt
            yield make_answer(setting, number, correct=right(setting, number))

    return measure


def test_accuracy_is_measured_for_each_kind_and_resumed_by_question(place: Path) -> None:
    def right(setting: Setting, number: int) -> bool:
        return number % 2 == 0

    answer = answer_some(right, 10, stop_at=13)
    rig = FakeRig(BATCH_JOULES)
    first = run(place, rig, questions=10, settings=BATCHES, measure_answers=answer)
    assert first.why_stopped == "stopped"
    assert not first.result.is_complete
    assert not read_sweep(place).is_finished
    assert len(read_sweep(place).answers) == 13
    rig, audience = FakeRig(BATCH_JOULES), Audience()
    second = run(place, rig, audience, measure_answers=answer_some(right, 10), questions=10)
    assert second.why_stopped == ""
    assert second.result.is_complete
    assert rig.visits == 0
    assert audience.of("answered")[-1] == {"done": 10 * len(BATCHES), "answers": 10 * len(BATCHES)}
    by_key = {one.setting: one for one in second.result.settings}
    accuracy = by_key[BATCHES[-1].key].accuracy
    assert accuracy is not None
    assert (accuracy.correct, accuracy.questions) == (5, 10)
    dropped = by_key[BATCHES[1].key]
    assert dropped.dropped_after is not None
    assert dropped.accuracy is not None


def test_settings_that_compute_the_same_numbers_are_asked_once(place: Path) -> None:
    asked: list[str] = []

    def right(setting: Setting, number: int) -> bool:
        asked.append(setting.key)
        return True

    outcome = run(place, questions=5, measure_answers=answer_some(right, 5))
    assert asked == [SETTINGS[0].key] * 5  # threads do not change an answer
    best = next(one for one in outcome.result.settings if one.setting == BEST)
    assert best.accuracy is not None
    assert best.accuracy.measured_as == SETTINGS[0].key


def test_a_setting_that_gives_no_answers_is_an_error(place: Path) -> None:
    with pytest.raises(EtuiError, match="could not be measured") as failed:
        run(place, questions=5, measure_answers=lambda settings, done: iter(()))
    assert "--resume" in failed.value.fix
    assert not read_sweep(place).is_finished


def test_answers_of_a_setting_that_is_not_done_are_left_out() -> None:
    one, two = SETTINGS[:2]
    lines = [make_answer(one, 1, correct=False), make_answer(one, 0, correct=True)]
    lines.append(make_answer(two, 0, correct=True))
    assert group_answers(lines, 2) == {one.key: [True, False]}
    assert group_answers([], 0) == {}
