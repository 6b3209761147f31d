"""What is private is removed from configurations and answers, and found in what is left."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.bench.folder import Recorded
from etui.bench.merge import merge_runs
from etui.bench.publish import (
    PrivateData,
    find_leaks,
    find_private_data,
    number_gpus,
    redact_config,
    redact_serials,
)
from tests.bench import synthetic

UUIDS = ("GPU-1a2b3c4d-0000-1111-2222-333344445555", "GPU-ffffffff-0000-1111-2222-333344445556")
PRIVATE = PrivateData(("/home/anna", "/srv/models"), ("anna-desk", "annab"))


def gpus(*uuids: str):
    channels = {f"gpu:{uuid}": "counter" for uuid in uuids}
    return {"channels": {"package:0": "counter"} | channels, "unmeasured": ["dram:0"]}


def test_a_configuration_keeps_no_place_backend_or_serial_number():
    model = replace(synthetic.MODEL, backend="annas-server", remote_name="llama-at-anna")
    run = synthetic.config(
        data_path="/home/anna/mmlu", energy=gpus(*UUIDS), models=(model, synthetic.MODEL)
    )
    document = redact_config(run)
    text = json.dumps(document)
    assert "anna" not in text
    assert "GPU-" not in text
    assert document["energy"]["channels"] == {
        "package:0": "counter", "gpu:0": "counter", "gpu:1": "counter",
    }  # fmt: skip
    assert document["models"][0]["backend"] == "remote"
    assert document["arms"] == run.to_json()["arms"]


def test_gpus_are_numbered_on_each_machine():
    plan = {"machine": {"name": "a", "memory_bytes": 1, "devices": ["NVIDIA L40S"]}}
    rows = synthetic.samples(synthetic.config(per_subject=1))
    runs = [
        Recorded(
            replace(synthetic.config(**plan), run_id=f"r{at}", energy=gpus(uuid)),
            tuple(rows[at * 40 : at * 40 + 40]),
            {},
        )
        for at, uuid in enumerate(UUIDS)
    ]
    merged = merge_runs(runs, "m").config
    assert number_gpus(merged) == {f"gpu:{uuid}": "gpu:0" for uuid in UUIDS}
    assert "GPU-" not in json.dumps(redact_config(merged))


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.sampled_from(UUIDS),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(UUIDS), inner),
    )
)
def test_no_serial_number_is_left_in_a_document(document):
    numbers = {f"gpu:{UUIDS[0]}": "gpu:0"}
    text = json.dumps(redact_serials(document, numbers))
    assert not any(uuid in text for uuid in UUIDS)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("see /home/anna/notes", "/home/anna"),
        ("see /srv/models/a.gguf", "/srv/models"),
        (r'{"path": "C:\\Users\\bob\\x"}', "home folder"),
        ("~ is /Users/carol/x", "/Users/carol"),
        ("/home/dave/run", "/home/dave"),
        ("/root/x", "/root/x"),
        ("on ANNA-DESK today", "anna-desk"),
        ("model annab-7b", "annab"),
        (UUIDS[0], "serial number"),
        ("MIG-1a2b3c4d-0000-1111-2222-333344445555", "serial number"),
    ],
)
def test_what_is_left_is_found(text, named):
    (leak, *_) = find_leaks({"a.json": text}, PRIVATE)
    assert leak.startswith("a.json contains ")
    assert named in leak


@pytest.mark.parametrize(
    "text",
    [
        "/home/annabelle is not",
        "hannabel",
        "savannab",
        "gpu:0",
        "square root",
        "GPU-Z",
        "/homework",
    ],
)
def test_other_words_are_no_leaks(text):
    found = find_leaks({"a": text}, PRIVATE)
    assert found == ([] if "annabelle" not in text else found)
    assert not any("annab:" in leak or leak.endswith(": annab") for leak in found)


def test_allowed_words_may_occur():
    assert find_leaks({"a": "model annab-7b"}, PRIVATE, ("AnnaB",)) == []
    assert find_leaks({"a": "on anna-desk"}, PRIVATE, ("annab",))


def test_this_machine_is_looked_up(monkeypatch, tmp_path):
    monkeypatch.setattr("socket.gethostname", lambda: "annas-laptop.example.org")
    monkeypatch.setattr("getpass.getuser", lambda: "anna")
    monkeypatch.setenv("HOME", str(tmp_path / "anna"))
    monkeypatch.setattr("platform.node", lambda: "annas-other-name")
    private = find_private_data((tmp_path / "models",))
    assert set(private.words) == {
        "anna", "annas-laptop", "annas-laptop.example.org", "annas-other-name",
    }  # fmt: skip
    assert {str(tmp_path / "anna"), str(tmp_path / "models")} <= set(private.places)


def test_names_that_say_nothing_are_not_searched(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    monkeypatch.setattr("platform.node", lambda: "pc")
    assert find_private_data().words == ()


def test_a_user_without_an_entry_is_no_error(monkeypatch):
    def fail() -> str:
        raise KeyError("getpwuid")

    monkeypatch.setattr("getpass.getuser", fail)
    assert "" not in find_private_data().words
