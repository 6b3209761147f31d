"""KV caches on disk: a file that is not right in every byte is deleted, and that is all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etui import atomic
from etui.engine.checkpoints import Checkpoint
from etui.engine.kv_folder import KvFolder
from etui.engine.kv_store import SavedSequence

KEY = "k" * 64
TOKENS = list(range(1000, 1300))


def saved(
    tokens: list[int] = TOKENS,
    *,
    owner: str = "",
    label: str = "turn",
    key: str = KEY,
    joules: float = 10.0,
    size_bytes: int = 20_000,
) -> SavedSequence:
    state = np.arange(size_bytes, dtype=np.uint32).astype(np.uint8)
    return SavedSequence(
        key, owner, label, array("i", tokens), (5,), False, joules, size_bytes, time.time(), state
    )


def write(folder: KvFolder, **values: object) -> Path:
    one = saved(**values)  # type: ignore[arg-type]
    assert folder.write(one)
    assert one.path is not None
    return one.path


def read_all(path: Path) -> list[bytes]:
    """What a new process reads of the folder."""
    folder = KvFolder(path, 1 << 30)
    found = [folder.read(each) for each in folder.find(KEY, "")]
    return [each[0].tobytes() for each in found if each is not None]


@pytest.fixture
def folder(tmp_path: Path) -> KvFolder:
    return KvFolder(tmp_path / "kv", 1 << 30)


def test_what_was_written_is_read(folder: KvFolder):
    write(folder)
    (found,) = KvFolder(folder.path, 0).find(KEY, "")
    read = folder.read(found)
    assert read is not None
    assert read[0].tobytes() == saved().state.tobytes()  # type: ignore[union-attr]
    assert read[1] == ()
    assert (found.tokens.tolist(), found.rest, found.label) == (TOKENS, (5,), "turn")


def test_checkpoints_are_read_with_their_state(folder: KvFolder):
    one = saved()
    one.parts = tuple(
        Checkpoint(length, np.full(size, size, np.uint8)) for length, size in ((64, 9), (200, 5))
    )
    one.size_bytes += 14
    assert folder.write(one)
    (found,) = KvFolder(folder.path, 0).find(KEY, "")
    assert found.lengths == (64, 200)
    read = folder.read(found)
    assert read is not None
    assert read[0].tobytes() == saved().state.tobytes()  # type: ignore[union-attr]
    found = [(each.length, each.data.tolist()) for each in read[1]]
    assert found == [(64, [9] * 9), (200, [5] * 5)]


def test_only_the_user_can_read_it(folder: KvFolder):
    path = write(folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_other_owners_and_contexts_are_not_listed(folder: KvFolder):
    write(folder, owner="anna")
    write(folder, key="x" * 64)
    assert folder.find(KEY, "") == []
    assert len(folder.find(KEY, "anna")) == 1


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_byte_is_never_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    path = tmp_path_factory.mktemp("kv")
    file = write(KvFolder(path, 1 << 30))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    assert read_all(path) == []
    assert not file.exists()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_of_another_length_is_never_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    path = tmp_path_factory.mktemp("kv")
    file = write(KvFolder(path, 1 << 30))
    content = file.read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    file.write_bytes(data.draw(st.sampled_from([content[:cut], content + content[: cut + 1]])))
    assert read_all(path) == []
    assert not file.exists()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_a_foreign_file_is_never_read(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    path = tmp_path_factory.mktemp("kv")
    file = write(KvFolder(path, 1 << 30))
    file.write_bytes(content)
    assert read_all(path) == []


@pytest.mark.parametrize("values", [{"owner": "anna"}, {"key": "k" * 16 + "x" * 48}])
def test_a_file_under_the_name_of_another_is_not_used(folder: KvFolder, values: dict[str, str]):
    mine, other = write(folder), write(folder, **values)
    other.replace(mine)
    assert read_all(folder.path) == []


def test_a_file_that_changes_after_it_was_listed_is_not_used(folder: KvFolder):
    write(folder)
    (found,) = folder.find(KEY, "")
    assert found.path is not None
    other = write(folder, tokens=[9] * 200)
    other.replace(found.path)
    assert folder.read(found) is None


def test_a_file_that_another_process_has_deleted_is_gone(folder: KvFolder):
    path = write(folder)
    (found,) = folder.find(KEY, "")
    path.unlink()
    assert folder.read(found) is None
    assert folder.find(KEY, "") == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.engine.test_kv_folder import KvFolder, saved
stage = sys.argv[2]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if stage == "open":
    os.urandom(1); real = os.open
    os.open = lambda *given, **named: (real(*given, **named), die())
elif stage == "rename":
    os.replace = die
else:
    import builtins
    real = builtins.open
    class File:
        def __init__(self, file): self.file, self.left = file, int(stage)
        def __enter__(self): return self
        def __exit__(self, *_): self.file.close()
        def write(self, part):
            part = bytes(part)
            self.file.write(part[:self.left]); self.file.flush()
            self.left -= len(part)
            if self.left <= 0: die()
    builtins.open = lambda *given, **named: File(real(*given, **named))
KvFolder(Path(sys.argv[1]), 1 << 30).write(saved())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("stage", ["open", "0", "20", "100", "9000", "rename"])
def test_a_process_that_is_killed_while_it_writes_leaves_nothing(tmp_path: Path, stage: str):
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), stage], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_all(tmp_path) == []
    (left,) = tmp_path.glob(".*.tmp")
    os.utime(left, (0, 0))
    folder = KvFolder(tmp_path, 1 << 30)
    folder.find(KEY, "")
    assert list(tmp_path.glob(".*.tmp")) == []
    write(folder)
    assert len(read_all(tmp_path)) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_is_noted_once(
    folder: KvFolder, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(*_given: object, **_named: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic, "write_parts", refuse)
    assert not folder.write(saved())
    assert not folder.write(saved())
    assert len(caplog.records) == 1
    assert os.strerror(code) in caplog.text


def test_a_full_disk_in_the_middle_of_a_file_leaves_nothing(
    folder: KvFolder, monkeypatch: pytest.MonkeyPatch
):
    folder.path.mkdir(parents=True)

    def refuse(*_given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    assert not folder.write(saved())
    assert list(folder.path.iterdir()) == []


def test_a_file_in_place_of_the_folder_keeps_nothing(tmp_path: Path):
    (tmp_path / "kv").write_text("mine")
    folder = KvFolder(tmp_path / "kv", 1 << 30)
    assert not folder.write(saved())
    assert folder.find(KEY, "") == []
    assert folder.clear() == folder.forget(["turn"]) == 0
    assert (tmp_path / "kv").read_text() == "mine"


def test_the_budget_gives_up_what_saves_least(tmp_path: Path):
    folder = KvFolder(tmp_path, 50_000)
    first = write(folder, tokens=[1] * 200, joules=10.0)
    second = write(folder, tokens=[2] * 200, joules=5.0)
    write(folder, tokens=[3] * 200, joules=7.0)
    assert first.exists()
    assert not second.exists()
    assert not folder.write(saved([4] * 200, joules=1.0))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.kv")) <= 50_000
    assert not folder.write(saved([5] * 200, joules=1e9, size_bytes=60_000))
    assert first.exists()


def test_a_chat_that_went_on_replaces_its_file(folder: KvFolder):
    before = write(folder, tokens=TOKENS[:200])
    write(folder)
    assert not before.exists()


@pytest.mark.parametrize("values", [{"tokens": TOKENS[:100]}, {"label": ""}])
def test_short_sequences_and_those_of_no_turn_get_no_file(
    folder: KvFolder, values: dict[str, object]
):
    assert not folder.write(saved(**values))  # type: ignore[arg-type]


def test_a_deleted_turn_is_not_written_again_by_any_process(folder: KvFolder):
    mine, other = write(folder, label="mine"), write(folder, tokens=[9] * 200, label="other")
    assert KvFolder(folder.path, 0).forget(["mine", "third"]) == 1
    assert (mine.exists(), other.exists()) == (False, True)
    assert not folder.write(saved(label="mine"))
    assert not folder.write(saved(label="third"))


def test_the_list_of_deleted_turns_stays_short(folder: KvFolder):
    write(folder)
    for number in range(40):
        folder.forget([f"{number:03}{each:09}" for each in range(1000)])
    assert (folder.path / "deleted").stat().st_size < 300_000
    assert not folder.write(saved(label="039000000999"))


def test_clearing_deletes_every_file(folder: KvFolder):
    write(folder)
    write(folder, owner="anna")
    assert KvFolder(folder.path, 0).clear() == 2
    assert read_all(folder.path) == []


def test_the_time_of_saving_that_no_answer_reported_is_left_to_the_next_process(folder: KvFolder):
    folder.add_unreported(3)
    folder.add_unreported(4)
    assert KvFolder(folder.path, 0).take_unreported() == 7
    assert KvFolder(folder.path, 0).take_unreported() == 0
    (folder.path / "unreported").write_text("x")
    assert folder.take_unreported() == 0
