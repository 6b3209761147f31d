from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.energy.tariff import Rate
from etui.errors import EtuiError, InvalidFile, UsageError
from etui.sweep.blocks import SettingAnswer, VisitPower
from etui.sweep.document import sum_cost
from etui.sweep.folder import ANSWERS as ANSWERS_FILE
from etui.sweep.folder import POWER as POWER_FILE
from etui.sweep.folder import (
    SweepFolder,
    find_sweep,
    hash_config,
    list_sweeps,
    read_config,
    read_sweep,
    sweeps_dir,
)
from etui.sweep.race import follow
from tests.sweep.values import CONFIG, ONE, make_block

ANSWERS = [
    SettingAnswer(ONE.key, 0, "logic", 3, "A", correct=True),
    SettingAnswer(ONE.key, 1, "logic", 4, "B", correct=False),
]
POWER = VisitPower(0, ONE.key, 0, 0, 4, (1.0, None, 2.5))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of two blocks that nothing writes to."""
    place = tmp_path / "sweep"
    with SweepFolder.start(place, CONFIG) as sweep:
        sweep.add_block(make_block(0))
        sweep.add(POWER_FILE, [POWER])
        sweep.add_block(make_block(1))
        sweep.add(ANSWERS_FILE, ANSWERS)
    return place


def test_what_is_written_is_read(folder: Path) -> None:
    read = read_sweep(folder)
    assert read.config == CONFIG
    assert read.blocks == (make_block(0), make_block(1))
    assert read.answers == tuple(ANSWERS)
    assert read.power == (POWER,)
    assert not read.is_finished


def test_the_cost_of_blocks_is_kept_and_summed(tmp_path: Path) -> None:
    costs = (None, Rate(0.3, None, "EUR").of(3.6e6), Rate(-0.1, 50.0, "EUR").of(3.6e6))
    blocks = [replace(make_block(n), cost=cost) for n, cost in enumerate(costs)]
    with SweepFolder.start(tmp_path / "sweep", CONFIG) as sweep:
        for block in blocks:
            sweep.add_block(block)
    lines = (tmp_path / "sweep" / "blocks.jsonl").read_text().splitlines()
    assert ['"cost"' in line for line in lines] == [False, True, True]
    read = read_sweep(tmp_path / "sweep")
    assert list(read.blocks) == blocks
    cost = sum_cost(read.blocks)
    assert cost is not None
    assert cost.price == pytest.approx(0.2)
    assert sum_cost(read.blocks[:1]) is None


def test_a_sweep_goes_on_where_it_was_left(folder: Path) -> None:
    sweep, read = SweepFolder.resume(folder)
    with sweep:
        assert len(read.blocks) == 2
        sweep.add_block(make_block(2))
    assert [block.number for block in read_sweep(folder).blocks] == [0, 1, 2]


@pytest.mark.parametrize("name", ["blocks.jsonl", "answers.jsonl", "power.jsonl"])
def test_a_line_that_was_cut_off_is_dropped(folder: Path, name: str) -> None:
    before = (folder / name).read_bytes()
    with (folder / name).open("ab") as file:
        file.write(before.splitlines(keepends=True)[-1][:-7])
    assert len(read_sweep(folder).blocks) == 2
    assert len(read_sweep(folder).answers) == 2
    sweep, _ = SweepFolder.resume(folder)
    sweep.close()
    assert (folder / name).read_bytes() == before


@given(cut=st.integers(0, 10_000))
def test_a_crash_at_any_byte_of_a_block_loses_that_block_alone(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    place = tmp_path_factory.mktemp("crash") / "sweep"
    with SweepFolder.start(place, CONFIG) as sweep:
        sweep.add_block(make_block(0))
        seal = (place / "blocks.seal").read_bytes()
        whole = (place / "blocks.jsonl").stat().st_size
        sweep.add_block(make_block(1))
    # As a kill leaves it: a part of the second line, and the seal of the first.
    (place / "blocks.seal").write_bytes(seal)
    size = (place / "blocks.jsonl").stat().st_size
    kept = min(size, whole + cut)
    with (place / "blocks.jsonl").open("r+b") as file:
        file.truncate(kept)
    expected = 2 if kept == size else 1
    assert len(read_sweep(place).blocks) == expected


def test_a_block_that_was_edited_is_refused(folder: Path) -> None:
    path = folder / "blocks.jsonl"
    path.write_text(path.read_text().replace('"joules": 2.5', '"joules": 2.4', 1))
    with pytest.raises(InvalidFile, match="differs from what etui wrote"):
        read_sweep(folder)
    with pytest.raises(InvalidFile, match="start a new sweep"):
        SweepFolder.resume(folder)


def test_blocks_without_their_seal_are_refused(folder: Path) -> None:
    (folder / "blocks.seal").unlink()
    with pytest.raises(InvalidFile, match=r"blocks\.seal is missing"):
        read_sweep(folder)


def test_a_line_of_another_version_is_refused_with_its_place(folder: Path) -> None:
    with (folder / "blocks.jsonl").open("a") as file:
        file.write(json.dumps({"number": 2, "of": "tomorrow"}) + "\n")
    with pytest.raises(InvalidFile, match=r"blocks\.jsonl:3: not a line of this etui"):
        read_sweep(folder)


def test_a_block_of_another_sweep_is_refused(folder: Path) -> None:
    sweep, _ = SweepFolder.resume(folder)
    with sweep:
        sweep.add_block(make_block(5))
    recorded = read_sweep(folder)
    with pytest.raises(EtuiError, match="does not belong to this sweep"):
        follow(recorded.config.design, recorded.blocks)


def test_a_configuration_that_was_edited_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"output_tokens": 32', '"output_tokens": 33'))
    with pytest.raises(InvalidFile, match="does not match its hash"):
        read_config(folder)


def test_a_configuration_of_another_version_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(InvalidFile, match="version 2, but this etui reads version 1"):
        read_config(folder)


def test_an_unknown_field_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    document = json.loads(path.read_text())
    document["config"]["colour"] = "red"
    document["sha256"] = hash_config(document["config"])
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidFile, match="colour"):
        read_config(folder)


@pytest.mark.parametrize("content", ["", "{}", "[]", "nonsense", '"config"'])
def test_a_configuration_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(InvalidFile, match="is not a sweep configuration"):
        read_config(folder)


def test_sweeps_are_found_by_id_prefix_path_and_age(config: Config, tmp_path: Path) -> None:
    assert list_sweeps(config) == ()
    with pytest.raises(UsageError, match="there is no sweep 'last'"):
        find_sweep("last", config)
    for name in ("2098-a", "2099-a", "2099-b"):
        SweepFolder.start(sweeps_dir(config) / name, CONFIG).close()
    elsewhere = tmp_path / "elsewhere"
    SweepFolder.start(elsewhere, CONFIG).close()
    assert [path.name for path in list_sweeps(config)] == ["2098-a", "2099-a", "2099-b"]
    assert find_sweep("2098", config).name == "2098-a"
    assert find_sweep("last", config).name == "2099-b"
    assert find_sweep(str(elsewhere), config) == elsewhere
    with pytest.raises(UsageError, match="2 sweeps start with '2099'"):
        find_sweep("2099", config)
    with pytest.raises(UsageError, match="the newest is 2099-b") as error:
        find_sweep("2000", config)
    assert str(sweeps_dir(config)) in error.value.fix
    with pytest.raises(UsageError, match="there is no sweep ''"):
        find_sweep("", config)
