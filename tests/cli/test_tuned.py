"""Settings that a sweep chose, as `etui models` and `etui doctor` show them."""

from __future__ import annotations

import hashlib

import pytest

from etui.cli.main import run
from etui.config.machine import machine_name
from etui.errors import ExitCode
from etui.models.catalogue import load_catalogue
from etui.models.files import require
from etui.models.spec import PowerAdvice, TunedSettings
from etui.models.tuned import save_tuned
from tests.contract.tiny_model import write_tiny_model

VERDICT = "threads=1 kv_type=q8_0 saves 18 % [16, 20] of the joules"


@pytest.fixture
def tiny(config):
    """A model on this machine, tuned by a sweep."""
    config.models_dir.mkdir(parents=True)
    path = write_tiny_model(config.models_dir / "tiny.gguf")
    require(load_catalogue(config).get("tiny"), config)
    settings = TunedSettings(
        "tiny", hashlib.sha256(path.read_bytes()).hexdigest(), machine_name(),
        {"threads": 1, "kv_type": "q8_0"}, {"threads": "auto", "kv_type": "f16"},
        "20261125-190000", "2026-11-25T19:30:00+00:00", "joules", VERDICT,
        PowerAdvice(200.0, "sudo nvidia-smi -pl 200"),
    )  # fmt: skip
    save_tuned(config, settings)
    return settings


def test_info_shows_what_is_used_and_where_it_comes_from(tiny, cli):
    shown = cli.run("models", "info", "tiny")
    lines = [line.split(maxsplit=1) for line in shown.out.splitlines()]
    assert ["tuned", "threads=1 kv_type=q8_0"] in lines
    assert f"{VERDICT} (joules, sweep 20261125-190000, 2026-11-25)" in shown.out
    assert "which etui does not keep: sudo nvidia-smi -pl 200" in shown.out
    assert "etui sweep --revert tiny" in shown.err


def test_info_as_json(tiny, cli):
    document = cli.json("models", "info", "tiny", "--json")
    assert document["kv_type"] == "q8_0"
    assert document["tuned_by"] == "20261125-190000"
    assert document["tuned"]["used"] == {"threads": 1, "kv_type": "q8_0"}
    assert document["tuned"]["settings"]["verdict"] == VERDICT
    assert cli.json("models", "info", "smollm2-135m", "--json")["tuned"] is None


def test_list_marks_a_tuned_model(tiny, cli):
    lines = cli.out("models", "list").splitlines()
    (at,) = [at for at, line in enumerate(lines) if line.startswith("tiny ")]
    assert lines[at + 1] == "  tuned: threads=1 kv_type=q8_0"
    assert sum("tuned: " in line for line in lines) == 1


def test_doctor_says_what_is_used_and_what_to_set(tiny, cli):
    out = cli.out("doctor")
    section = out[out.index("settings chosen by sweeps") : out.index("folders")]
    assert "✓ tiny " in section
    assert "sudo nvidia-smi -pl 200" in section


def test_doctor_says_why_tuned_settings_are_not_used(tiny, config, cli):
    write_tiny_model(config.models_dir / "tiny.gguf", "C")
    (found,) = cli.json("doctor", "--json")["tuned"]
    assert (found["name"], found["used"]) == ("tiny", False)
    assert "run: etui models verify tiny" in found["lines"][0]
    cli.run("models", "verify", "tiny")
    assert "the model's file is another one now" in cli.out("doctor")


@pytest.mark.parametrize(
    "arguments", [["models", "list"], ["models", "info", "tiny"], ["policy", "list"], ["doctor"]]
)
def test_a_damaged_file_is_said_and_stops_no_command(tiny, config, capsys, arguments):
    config.tuned_file.write_text('{"tuned": 1}')
    assert run(arguments) == ExitCode.DONE
    shown = capsys.readouterr()
    assert f"{config.tuned_file}:1:11" in shown.out + shown.err
    assert "not used" in shown.out + shown.err


def test_an_answer_says_that_a_damaged_file_is_not_used(config, tiny):
    from etui.chat import Query
    from etui.runtime.decide import choose
    from etui.runtime.overrides import Overrides
    from etui.runtime.runtime import open_runtime

    (config.models_dir / "smollm2-135m.gguf").write_bytes(b"GGUF")  # a policy looks for files only
    config.tuned_file.write_text("{")
    with open_runtime(config) as runtime:
        for overrides in (Overrides(model="tiny"), Overrides(policy="balanced")):
            notices = choose(Query("Hello"), overrides, runtime).decision.notices
            assert "tuned.json" in notices[-1]
            assert "fix or remove that file" in notices[-1]


def test_the_home_may_hold_settings_of_another_machine(tiny, config, cli):
    text = config.tuned_file.read_text()
    config.tuned_file.write_text(text.replace(machine_name(), "Other CPU, 64 CPUs, Linux"))
    assert "another machine (Other CPU, 64 CPUs, Linux)" in cli.out("models", "info", "tiny")
