"""config.yaml: every key is checked, and what is not set keeps its default."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from etui.config.config import load_config
from etui.config.schema import Settings
from etui.errors import InvalidFile


def write(home: Path, text: str) -> Path:
    path = home / "config.yaml"
    path.write_text(text)
    return path


def test_no_file_and_empty_file_change_nothing(etui_home: Path) -> None:
    default = load_config()
    write(etui_home, "# nothing set yet\n")
    assert load_config() == default


def test_threads_auto_is_the_default(etui_home: Path) -> None:
    write(etui_home, "threads: auto\n")
    assert load_config().threads is None
    write(etui_home, "threads: null\n")
    assert load_config().threads is None
    write(etui_home, "threads: 3\n")
    assert load_config().threads == 3


@pytest.mark.parametrize("threads", ["0", "-1", "1025", "many", "1.5", "true", "[2]", "AUTO"])
def test_other_threads_are_refused(etui_home: Path, threads: str) -> None:
    write(etui_home, f"threads: {threads}\n")
    with pytest.raises(InvalidFile, match=r"config\.yaml:1:") as caught:
        load_config()
    assert "threads" in caught.value.what


def test_every_key_reaches_the_config(etui_home: Path) -> None:
    values = {
        "policy": "frugal",
        "model": "smollm2-135m",
        "threads": 2,
        "context_tokens": 2048,
        "keep_warm": 600.0,
        "loop_guard": False,
        "cache": "off",
        "cache_disk_gb": 0.5,
        "sample_hz": 10.0,
        "cpu_idle_watts": 5.0,
        "cpu_limit_watts": 65.0,
        "estimate": "never",
        "carbon_g_per_kwh": 380.0,
        "price_per_kwh": 0.25,
        "currency": "EUR",
        "pue": 1.3,
        "theme": "nord",
        "panel_columns": 60,
        "name_chats": True,
        "quiet": True,
        "ascii": "always",
        "keymap": {"stop": "ctrl+x"},
        "aliases": {"gpt-4o": "balanced", "claude-*": "best"},
        "tool_permissions": {"calculate": "allow", "web__*": "deny"},
    }
    assert {*values, "keep_warm_seconds", "backends", "tools", "tariff", "wall_meters"} == set(
        Settings.model_fields
    )
    write(
        etui_home,
        "policy: frugal\nmodel: smollm2-135m\nthreads: 2\ncontext_tokens: 2048\n"
        "keep_warm: 600\nloop_guard: false\ncache: off\ncache_disk_gb: 0.5\nsample_hz: 10\n"
        "cpu_idle_watts: 5\ncpu_limit_watts: 65\nestimate: never\ntheme: nord\n"
        "panel_columns: 60\nname_chats: true\n"
        "quiet: true\nascii: always\n"
        "carbon_g_per_kwh: 380\nprice_per_kwh: 0.25\ncurrency: EUR\npue: 1.3\n"
        "keymap: {stop: ctrl+x}\naliases: {gpt-4o: balanced, claude-*: best}\n"
        "tool_permissions: {calculate: allow, web__*: deny}\n",
    )
    config = load_config()
    assert {name: getattr(config, name) for name in values} == values
    assert config.home == etui_home


def test_schema_and_config_share_their_defaults(etui_home: Path) -> None:
    config, settings = load_config(), Settings()
    earlier = {"keep_warm_seconds"}
    for name, info in Settings.model_fields.items():
        if name not in earlier:
            assert getattr(config, name) == getattr(settings, name)
        assert info.description
        assert info.description.endswith(".")
    folders = {"home", "models_dir", "sysfs_dir", "parallel"}
    assert {f.name for f in fields(config)} == (set(Settings.model_fields) - earlier) | folders


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", "always"),
        ("keep_warm: auto\n", "auto"),
        ("keep_warm: always\n", "always"),
        ("keep_warm: 90\n", 90.0),
        ("keep_warm_seconds: 600\n", 600.0),
        ("keep_warm_seconds: null\n", "always"),
    ],
)
def test_an_earlier_file_keeps_its_keep_warm_time(
    etui_home: Path, text: str, kept: float | str
) -> None:
    write(etui_home, text)
    assert load_config().keep_warm == kept


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("polcy: best\n", ":1:1: unknown key 'polcy', did you mean 'policy'?"),
        (
            "keep_warm: 0\n",
            ":1:12: keep_warm: must be at least 1.0, found 0; also allowed: auto, always",
        ),
        (
            "keep_warm: -5\n",
            ":1:12: keep_warm: must be at least 1.0, found -5; also allowed: auto, always",
        ),
        (
            "keep_warm: .inf\n",
            ":1:12: keep_warm: expected a finite number, found inf; also allowed: auto, always",
        ),
        (
            "keep_warm: true\n",
            ":1:12: keep_warm: expected a number, found true; also allowed: auto, always",
        ),
        (
            "keep_warm: null\n",
            ":1:12: keep_warm: expected a number, found nothing; also allowed: auto, always",
        ),
        (
            "keep_warm: never\n",
            ":1:12: keep_warm: expected a number, found 'never'; also allowed: auto, always",
        ),
        (
            "keep_warm: auto\nkeep_warm_seconds: 60\n",
            ":2:20: keep_warm_seconds is the earlier name of keep_warm: pass only one of them",
        ),
        ("threads: 0\n", ":1:10: threads: must be at least 1, found 0; also allowed: auto"),
        (
            "threads: two\n",
            ":1:10: threads: expected a whole number, found 'two'; also allowed: auto",
        ),
        (
            "threads: automatic\n",
            ":1:10: threads: expected a whole number, found 'automatic'; "
            "also allowed: auto, did you mean 'auto'?",
        ),
        ("sample_hz: .inf\n", ":1:12: sample_hz: expected a finite number, found inf"),
        ("sample_hz: 0\n", ":1:12: sample_hz: must be greater than 0.0, found 0"),
        ("sample_hz: 1e-300\n", ":1:12: sample_hz must be at least 0.001, found 1e-300"),
        ("sample_hz: .nan\n", ":1:12: sample_hz: expected a finite number, found nan"),
        (
            f"price_per_kwh: {'9' * 250}\n",
            f":1:16: the number {'9' * 27}... is too large; quote it if it is text",
        ),
        (
            f"price_per_kwh: {'9' * 400}\n",
            f":1:16: price_per_kwh: expected a number, found '{'9' * 56}...",
        ),
        (
            "price_per_kwh: 1e17\n",
            ":1:16: price_per_kwh: must be at most 1000000000.0, found 1e+17",
        ),
        ("pue: 0.9\n", ":1:6: pue: must be at least 1.0, found 0.9"),
        ("pue: -1\n", ":1:6: pue: must be at least 1.0, found -1"),
        ("pue: 101\n", ":1:6: pue: must be at most 100.0, found 101"),
        ("pue: .nan\n", ":1:6: pue: expected a finite number, found nan"),
        ("pue: high\n", ":1:6: pue: expected a number, found 'high'"),
        (
            "estimate: alway\n",
            ":1:11: estimate: 'alway' is not one of auto, always, never, did you mean 'always'?",
        ),
        (
            "cpu_idle_watts: 9\ncpu_limit_watts: 5\n",
            ":2:18: cpu_limit_watts must be greater than cpu_idle_watts (9), found 5",
        ),
        ("keymap: {a: 5}\n", ":1:13: a: expected text, found 5"),
    ],
)
def test_faults(etui_home: Path, text: str, fault: str) -> None:
    path = write(etui_home, text)
    with pytest.raises(InvalidFile) as caught:
        load_config()
    assert caught.value.what == f"{path}{fault}"
