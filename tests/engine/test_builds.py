"""Which llama.cpp is loaded, and why another one is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from etui.engine import builds
from etui.engine.builds import Build, Builds, Pair, check_prebuilt, explain_probe, read_pairs
from etui.errors import EngineFailed

COMMIT = "552f18f9"
HERE = "linux-x86_64"


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """A folder like the package's: two libraries and a manifest."""
    folder = tmp_path / "prebuilt"
    folder.mkdir()
    for name in ("libllama.so", "libggml.so.0"):
        (folder / name).write_text(name)
    (folder / "native_manifest.json").write_text(json.dumps({"llama_cpp_commit": COMMIT}))
    return folder


def allow(folder: Path, bindings: str = "0.3.36", commit: str = COMMIT) -> list[Pair]:
    files = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if ".so" in file.name
    }
    return [Pair(bindings, "0.11327", commit, {HERE: files})]


def test_an_allowed_pair_with_the_published_files_is_accepted(libraries: Path) -> None:
    found = check_prebuilt(libraries, "0.3.36", HERE, allow(libraries))
    assert (found.refused, found.commit) == ("", COMMIT)


@pytest.mark.parametrize("bindings", ["0.3.35", "0.3.37", "0.4.0", ""])
def test_bindings_that_were_not_compared_are_refused(libraries: Path, bindings: str) -> None:
    found = check_prebuilt(libraries, bindings, HERE, allow(libraries))
    assert "was not checked with" in found.refused
    assert "llama-cpp-python==0.3.36 llama-cpp-py-sync==0.11327" in found.fix


def test_a_newer_llama_cpp_is_refused(libraries: Path) -> None:
    pairs = allow(libraries)
    (libraries / "native_manifest.json").write_text('{"llama_cpp_commit": "aaaa"}')
    assert (
        "llama.cpp aaaa was not checked" in check_prebuilt(libraries, "0.3.36", HERE, pairs).refused
    )


@pytest.mark.parametrize("manifest", ["", "{}", "[]", "null", '"x"', "{", "\udcff", None])
def test_a_damaged_manifest_is_refused(libraries: Path, manifest: str | None) -> None:
    pairs = allow(libraries)
    path = libraries / "native_manifest.json"
    path.unlink()
    if manifest is not None:
        path.write_bytes(manifest.encode("utf-8", "surrogateescape"))
    found = check_prebuilt(libraries, "0.3.36", HERE, pairs)
    assert "manifest" in found.refused
    assert "llama-cpp-py-sync==0.11327" in found.fix


@pytest.mark.parametrize("place", ["linux-arm64", "linux-ppc64le", "freebsd14-x86_64", ""])
def test_a_platform_without_checked_files_is_refused(libraries: Path, place: str) -> None:
    found = check_prebuilt(libraries, "0.3.36", place, allow(libraries))
    assert place in found.refused
    assert found.fix == builds.COMPILE


@pytest.mark.parametrize("name", ["libllama.so", "libggml.so.0"])
@pytest.mark.parametrize("damage", ["changed", "longer", "empty", "missing", "folder"])
def test_a_damaged_file_is_refused(libraries: Path, name: str, damage: str) -> None:
    pairs = allow(libraries)
    file = libraries / name
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        changed = {"changed": content[:-1] + b"?", "longer": content + b"\0", "empty": b""}
        file.write_bytes(changed[damage])
    found = check_prebuilt(libraries, "0.3.36", HERE, pairs)
    assert name in found.refused
    assert "--force-reinstall" in found.fix


def test_what_etui_ships_names_every_file_by_its_sha256() -> None:
    for pair in read_pairs():
        assert {"linux-x86_64", "darwin-arm64", "darwin-x86_64", "win32-x86_64"} == set(pair.files)
        for files in pair.files.values():
            assert any("llama" in name for name in files)
            assert all(len(sha256) == 64 and int(sha256, 16) for sha256 in files.values())


@pytest.mark.parametrize(
    ("problem", "says", "fix"),
    [
        (
            "OSError: /lib/libm.so.6: version `GLIBC_2.38' not found (required by x)",
            "glibc 2.38",
            "pip",
        ),
        ("version `GLIBCXX_3.4.32' not found", "libstdc++ 3.4.32", "pip"),
        ("libgomp.so.1: cannot open shared object file", "libgomp.so.1 is missing", "libgomp1"),
        ("signal 4", "AVX2", "pip"),
        ("signal 11", "crashed while loading (signal 11)", "pip"),
        ("no answer", "cannot be loaded: no answer", "pip"),
        ("OSError: file too short", "file too short", "pip"),
    ],
)
def test_a_failed_trial_is_explained(problem: str, says: str, fix: str) -> None:
    refused, command = explain_probe(problem)
    assert says in refused
    assert fix in command


class FakeBuilds(Builds):
    """Builds whose list and trials are given."""

    def __init__(self, engines: Path | None, found: list[Build], trials: dict[str, str]) -> None:
        super().__init__(engines)
        self._found, self._trials = found, trials

    def list(self) -> list[Build]:
        return self._found

    def probe(self, build: Build) -> Build:
        problem = self._trials.get(build.name, "")
        return Build(build.kind, build.name, build.folder, refused=problem, fix="pip install x")


COMPILED = Build("compiled", "compiled", Path("c"))
PREBUILT = Build("prebuilt", "prebuilt", Path("p"))
NATIVE = Build("built", "native", Path("n"))


def choose(
    tmp_path: Path, *found: Build, wanted: str = "", trials: dict[str, str] | None = None
) -> str:
    builds = FakeBuilds(tmp_path / "engines", list(found), trials or {})
    if wanted:
        builds.choose_for_now_on(wanted)
    return builds.choose().name


def test_the_compiled_one_comes_before_the_ready_made_one(tmp_path: Path) -> None:
    assert choose(tmp_path, COMPILED, PREBUILT, NATIVE) == "compiled"
    assert choose(tmp_path, PREBUILT, NATIVE) == "prebuilt"


def test_the_chosen_one_comes_first_and_a_refused_one_last(tmp_path: Path) -> None:
    assert choose(tmp_path, COMPILED, PREBUILT, NATIVE, wanted="native") == "native"
    assert choose(tmp_path, COMPILED, PREBUILT, wanted="prebuilt") == "prebuilt"
    refused = {"native": "it crashed"}
    assert choose(tmp_path, COMPILED, NATIVE, wanted="native", trials=refused) == "compiled"
    assert choose(tmp_path, COMPILED, wanted="gone") == "compiled"


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
def test_a_choice_as_the_first_file_of_the_home_leaves_it_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        choose(tmp_path / "new", COMPILED, wanted="native")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_build_that_was_not_chosen_is_never_loaded(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="installed without"):
        choose(tmp_path, NATIVE)


def test_without_any_that_works_the_error_has_all_reasons_and_a_fix(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed) as caught:
        choose(tmp_path, PREBUILT, NATIVE, wanted="native",
               trials={"native": "it crashed", "prebuilt": "it needs glibc 2.38"})  # fmt: skip
    assert "native: it crashed; prebuilt: it needs glibc 2.38" in caught.value.what
    assert caught.value.fix == "pip install x"


def test_a_trial_runs_once_until_the_files_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "libllama.so").write_text("one")
    calls: list[Path] = []

    def load(folder: Path) -> dict[str, str]:
        calls.append(folder)
        return {"features": "CPU : AVX2 = 1", "commit": "abc"}

    monkeypatch.setattr(builds, "_load_elsewhere", load)
    found = Builds(tmp_path / "engines")
    build = Build("prebuilt", "prebuilt", folder)
    assert [found.probe(build).features for _ in range(3)] == ["CPU : AVX2 = 1"] * 3
    assert len(calls) == 1
    (folder / "libllama.so").write_text("other")
    found.probe(build)
    assert len(calls) == 2
    (tmp_path / "engines" / "probed.json").write_text("damaged")
    found.probe(build)
    assert len(calls) == 3


def test_a_library_that_is_no_library_fails_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "libllama.so").write_text("not a library")
    found = Builds(tmp_path / "engines").probe(Build("prebuilt", "prebuilt", tmp_path))
    assert "cannot be loaded" in found.refused
    assert found.fix == builds.COMPILE


def test_a_build_for_other_bindings_is_listed_and_refused(tmp_path: Path) -> None:
    for name, version in (("native", metadata.version("llama-cpp-python")), ("cuda", "0.2.1")):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "build.json").write_text(json.dumps({"bindings": version}))
    built = {one.name: one.refused for one in Builds(tmp_path).list() if one.kind == "built"}
    assert built["native"] == ""
    assert "built for llama-cpp-python 0.2.1" in built["cuda"]


def test_a_process_keeps_the_build_of_its_parent_whatever_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a comparison of two builds would run the chosen one twice."""
    (tmp_path / "native" / "lib").mkdir(parents=True)
    facts = {"bindings": metadata.version("llama-cpp-python")}
    (tmp_path / "native" / "build.json").write_text(json.dumps(facts))
    monkeypatch.setattr(builds, "_load_elsewhere", lambda _: {"features": "CPU"})
    Builds(tmp_path).choose_for_now_on("native")
    for name, value in PREBUILT.variables.items():
        monkeypatch.setenv(name, value)
    found = Builds(tmp_path).select()
    assert (found.kind, found.name, found.folder) == ("prebuilt", "prebuilt", PREBUILT.folder)
    assert (builds.describe_engine(tmp_path) or "").endswith(" (prebuilt)")


def test_a_folder_of_the_user_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    monkeypatch.delenv("ETUI_ENGINE", raising=False)
    assert Builds(None).select().folder == tmp_path
    assert "ETUI_ENGINE" not in os.environ


def test_a_copy_of_the_compiled_libraries_answers_as_a_build(tmp_path: Path) -> None:
    """The whole way: probe, choose, set for the bindings, and load in a new process."""
    source = builds.bindings_folder() / "lib"
    if not source.is_dir():
        pytest.skip("llama.cpp was not compiled here")
    engines = tmp_path / "engines"
    shutil.copytree(source, engines / "native" / "lib", symlinks=True)
    facts = {"bindings": metadata.version("llama-cpp-python")}
    (engines / "native" / "build.json").write_text(json.dumps(facts))
    Builds(engines).choose_for_now_on("native")
    program = (
        "from pathlib import Path; import sys; from etui.engine.library import Library\n"
        "library = Library(Path(sys.argv[1]), Path(sys.argv[1]))\n"
        "print(library.build.name, library.api._lib._name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(engines)], capture_output=True, text=True, check=True
    )
    name, path = done.stdout.split()
    assert name == "native"
    assert Path(path).is_relative_to(engines / "native")


@pytest.mark.skipif(
    find_spec("llama_cpp_py_sync") is None, reason="etui[prebuilt] is not installed"
)
def test_the_ready_made_libraries_are_the_published_ones() -> None:
    found = next(one for one in Builds(None).list() if one.kind == "prebuilt")
    assert found.refused == ""
