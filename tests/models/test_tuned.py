"""Tuned settings of models: kept, used where they belong, and overruled by later edits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.backends.wire import decode, encode
from etui.config.machine import machine_name
from etui.errors import EtuiError, InvalidFile
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER, PowerAdvice, TunedBy, TunedKey, TunedSettings, TunedValue
from etui.models.tuned import (
    describe_use,
    describe_values,
    load_tuned,
    read_entry_values,
    remove_tuned,
    save_tuned,
)

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def tuned(config, **changes):
    """What a sweep chose for the starter here: another KV type and one thread."""
    entry = read_entry_values(load_catalogue(config).get(STARTER), config)
    settings = TunedSettings(
        model=STARTER,
        sha256=SHA256,
        machine=machine_name(),
        values={"threads": 1, "kv_type": "q8_0"},
        entry={"threads": entry["threads"], "kv_type": entry["kv_type"]},
        sweep="20261125-190000",
        created="2026-11-25T19:30:00+00:00",
        goal="joules",
        verdict="threads=1 kv_type=q8_0 saves 18 % [16, 20] of the joules",
    )
    return replace(settings, **changes)


def write_models(config, **keys):
    """An entry of the user in place of the shipped one."""
    entry = {"size": "tiny", "sha256": SHA256, "sources": [{"path": "m.gguf"}], **keys}
    config.models_file.write_text(json.dumps({"models": {STARTER: entry}}))


def test_the_catalogue_has_the_tuned_values(config):
    before = load_catalogue(config).get(STARTER)
    save_tuned(config, tuned(config))
    catalogue = load_catalogue(config)
    spec = catalogue.get(STARTER)
    assert (spec.threads, spec.kv_type) == (1, "q8_0")
    assert spec.tuned == TunedBy("20261125-190000", (("threads", 1), ("kv_type", "q8_0")))
    assert replace(spec, threads=None, kv_type="f16", tuned=None) == before
    use = catalogue.tuned[STARTER]
    assert (use.why_not, use.edited) == ("", {})
    assert describe_values(use.values) == "threads=1 kv_type=q8_0"
    others = [other for other in catalogue if other.name != STARTER]
    assert all(other.tuned is None for other in others)


def test_revert_brings_the_entry_back(config):
    before = load_catalogue(config)
    settings = tuned(config)
    save_tuned(config, settings)
    assert remove_tuned(config, STARTER) == settings
    assert load_catalogue(config) == before
    assert not config.tuned_file.exists(), "the next start reads nothing"
    assert remove_tuned(config, STARTER) is None


def test_a_second_sweep_replaces_the_first_and_leaves_other_machines_alone(config):
    elsewhere = tuned(config, machine="another, 8 CPUs, Linux x86_64")
    save_tuned(config, elsewhere)
    save_tuned(config, tuned(config))
    second = tuned(config, sweep="second", values={"threads": 2}, entry={"threads": "auto"})
    save_tuned(config, second)
    assert load_tuned(config) == (elsewhere, second)
    spec = load_catalogue(config).get(STARTER)
    assert (spec.threads, spec.kv_type) == (2, "f16")
    remove_tuned(config, STARTER)
    assert load_tuned(config) == (elsewhere,)


def test_a_power_limit_and_notes_are_described_too(config):
    limit = PowerAdvice(200.0, "sudo nvidia-smi -pl 200")
    save_tuned(config, tuned(config, values={}, entry={}, power_limit=limit, notes=("a note",)))
    first, _verdict, power, note = describe_use(load_catalogue(config).tuned[STARTER])
    assert first == "nothing differs from models.yaml"
    assert power.endswith("power limit of 200 W, which etui does not keep: sudo nvidia-smi -pl 200")
    assert note == "a note"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"machine": "another, 8 CPUs, Linux x86_64"},
            "they are of another machine (another, 8 CPUs, Linux x86_64)",
        ),
        ({"sha256": "0" * 64}, "the model's file is another one now"),
        (
            {"model": "found"},
            "the hash of the file is not known; run: etui models verify found",
        ),
    ],
)
def test_settings_of_another_machine_or_file_are_not_used(config, changes, why):
    config.models_dir.mkdir(parents=True, exist_ok=True)
    (config.models_dir / "found.gguf").write_bytes(b"GGUF")
    save_tuned(config, tuned(config, **changes))
    catalogue, name = load_catalogue(config), changes.get("model", STARTER)
    assert catalogue.get(name).tuned is None
    assert catalogue.tuned[name].why_not == why


def test_a_model_that_is_gone_is_ignored(config):
    save_tuned(config, tuned(config, model="gone"))
    assert load_catalogue(config).tuned == {}


def test_a_value_edited_in_models_yaml_later_wins(config):
    write_models(config, kv_type="f16")
    save_tuned(config, tuned(config))
    write_models(config, kv_type="q4_0")
    catalogue = load_catalogue(config)
    spec, use = catalogue.get(STARTER), catalogue.tuned[STARTER]
    assert (spec.kv_type, spec.threads) == ("q4_0", 1)
    assert spec.tuned is not None
    assert spec.tuned.values == (("threads", 1),)
    assert describe_use(use) == (
        "threads=1",
        "threads=1 kv_type=q8_0 saves 18 % [16, 20] of the joules "
        "(joules, sweep 20261125-190000, 2026-11-25)",
        "kv_type=q4_0 is used, not q8_0: models.yaml was changed after the sweep",
    )


def test_threads_edited_in_config_yaml_later_win(config):
    save_tuned(config, tuned(config))
    catalogue = load_catalogue(replace(config, threads=2))
    spec = catalogue.get(STARTER)
    assert (spec.threads, spec.kv_type) == (None, "q8_0")
    *_, line = describe_use(catalogue.tuned[STARTER])
    assert line.startswith("threads=2 is used, not 1: models.yaml or config.yaml")


@pytest.mark.parametrize(
    ("values", "entry", "edit", "says"),
    [
        ({"kv_type": "q8_0"}, {"kv_type": "f16"}, {"flash_attention": "off"}, "flash attention"),
        ({"speculate": "draft"}, {"speculate": "off"}, {}, "needs a draft model"),
    ],
)
def test_values_that_no_longer_fit_the_entry_are_not_used(config, values, entry, edit, says):
    save_tuned(config, tuned(config, values=values, entry=entry))
    write_models(config, **edit)
    catalogue = load_catalogue(config)
    assert says in catalogue.tuned[STARTER].why_not
    assert catalogue.get(STARTER).tuned is None


def test_one_gpu_needs_no_shares(config):
    write_models(config, tensor_split=[1, 2])
    save_tuned(config, tuned(config, values={"split": "none"}, entry={"split": "layer"}))
    spec = load_catalogue(config).get(STARTER)
    assert (spec.split, spec.tensor_split) == ("none", ())


BROKEN = {
    "no JSON": ('{"tuned": [\n  {"model": ]\n}', "tuned.json:2:13"),
    "not UTF-8": (b'{"tuned": "\xff"}', "tuned.json:1:12"),
    "another document": ('{"models": []}', "tuned.json:1:1: missing key 'tuned'"),
    "a value of another kind": (None, "kv_type: 'q9' is not one of f16, q8_0, q4_0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_reported_with_its_line_and_stops_nothing(config, name):
    content, says = BROKEN[name]
    if content is None:
        save_tuned(config, tuned(config))
        content = config.tuned_file.read_text().replace("q8_0", "q9", 1)
        line = content[: content.index("q9")].count("\n") + 1
        assert isinstance(says, str)
        says = f"tuned.json:{line}:20: {says}"
    raw = content if isinstance(content, bytes) else content.encode()
    config.tuned_file.write_bytes(raw)
    with pytest.raises(InvalidFile, match="remove it"):
        raise_both(config)
    catalogue = load_catalogue(config)
    assert says in catalogue.problem
    assert catalogue.get(STARTER).tuned is None
    with pytest.raises(InvalidFile):
        save_tuned(config, tuned(config))
    with pytest.raises(InvalidFile):
        remove_tuned(config, STARTER)
    assert config.tuned_file.read_bytes() == raw, "a file that cannot be read is not overwritten"


def raise_both(config):
    """Raise the error of reading with its fix in the message."""
    try:
        load_tuned(config)
    except InvalidFile as error:
        raise InvalidFile(str(error)) from error


def test_a_home_that_cannot_be_written_is_an_error(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EtuiError, match="set ETUI_HOME"):
        save_tuned(replace(config, home=tmp_path / "file" / "home"), tuned(config))


TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=40
)
VALUES: st.SearchStrategy[dict[TunedKey, TunedValue]] = st.fixed_dictionaries(
    {},
    optional={
        "threads": st.integers(1, 64),
        "batch_tokens": st.integers(16, 4096),
        "kv_type": st.sampled_from(["f16", "q8_0", "q4_0"]),
        "gpu_layers": st.one_of(st.sampled_from(["auto", "all"]), st.integers(0, 200)),
        "speculate": st.sampled_from(["off", "lookup", "mtp"]),
    },
)


@given(values=VALUES, texts=st.tuples(TEXT, TEXT, TEXT), watts=st.none() | st.floats(1, 999))
def test_what_is_saved_is_read_back(config, values, texts, watts):
    verdict, note, machine = texts
    limit = None if watts is None else PowerAdvice(watts, verdict)
    settings = tuned(
        config, values=values, entry=values, verdict=verdict, notes=(note,), machine=machine,
        power_limit=limit,
    )  # fmt: skip
    config.tuned_file.unlink(missing_ok=True)
    save_tuned(config, settings)
    assert load_tuned(config) == (settings,)


def test_a_tuned_model_crosses_the_pipe_to_the_engine(config):
    save_tuned(config, tuned(config))
    spec = load_catalogue(config).get(STARTER)
    assert decode(encode(spec)) == spec
