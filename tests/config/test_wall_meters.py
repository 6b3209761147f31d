"""`wall_meters` in config.yaml: every value is checked, and the message says how to fix it."""

from __future__ import annotations

from pathlib import Path

import pytest

from etui.config.backend_spec import WallMeterSpec
from etui.config.config import load_config
from etui.errors import InvalidFile


def write(home: Path, text: str) -> None:
    (home / "config.yaml").write_text(text)


def test_an_entry_becomes_a_meter(etui_home: Path) -> None:
    write(etui_home, "wall_meters:\n  desk: {type: shelly, url: 'http://10.0.0.5/', output: 2}\n")
    expected = WallMeterSpec("desk", "shelly", "http://10.0.0.5", output=2)
    assert load_config().wall_meters == {"desk": expected}


FAULTS = {
    "an unknown type": ("a: {type: plug, url: 'http://x'}", "type"),
    "no URL": ("a: {type: shelly, url: x}", "must begin with http://"),
    "a password in it": ("a: {type: shelly, url: 'http://me:s@x'}", "must not contain a name"),
    "a query": ("a: {type: shelly, url: 'http://x/?a=1'}", "must not contain '?'"),
    "a URL without a path": ("a: {type: url, url: 'http://x', unit: W}", "needs both"),
    "a path without a URL": ("a: {type: shelly, url: 'http://x', path: a, unit: W}", "needs both"),
    "a sensor without entity": ("a: {type: home-assistant, url: 'https://x', key_env: K}",
                                "needs it"),
    "a switch as sensor": (
        "a: {type: home-assistant, url: 'https://x', key_env: K, entity: switch.x}", "sensor.desk"),
    "a sensor without token": (
        "a: {type: home-assistant, url: 'https://x', entity: sensor.x}", "needs a token"),
    "a token in the clear": (
        "a: {type: home-assistant, url: 'http://ha', entity: sensor.x, key_env: K}", "plain_key"),
    "a password in the clear": ("a: {type: tasmota, url: 'http://x', key_file: f}", "plain_key"),
    "the key itself": ("a: {type: shelly, url: 'http://x', key_env: 'a-b'}", "not the key"),
    "two keys": ("a: {type: shelly, url: 'http://x', key_env: K, key_file: f}", "only one"),
    "the same output twice": (
        "{a: {type: shelly, url: 'http://x'}, b: {type: shelly, url: 'http://X/'}}",
        "reads the same output as a"),
    "a bad name": ("'a b': {type: shelly, url: 'http://x'}", "cannot name a meter"),
    "a negative output": ("a: {type: shelly, url: 'http://x', output: -1}", "at least 0"),
    "an unknown key": ("a: {type: shelly, url: 'http://x', password: s}", "password"),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "what"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_place(etui_home: Path, entry: str, what: str) -> None:
    write(etui_home, f"wall_meters:\n  {entry}\n")
    with pytest.raises(InvalidFile, match=r"config\.yaml:\d+:\d+: ") as caught:
        load_config()
    assert what in str(caught.value)


def test_a_digest_needs_no_encryption(etui_home: Path) -> None:
    write(etui_home, "wall_meters: {a: {type: shelly, url: 'http://x', key_env: K}}\n")
    assert load_config().wall_meters["a"].key_env == "K"
