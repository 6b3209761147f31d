"""`etui models status`: the cost of keeping warm, and whether the machine went cold."""

from __future__ import annotations

import pytest

from tests.log.idle_log import MODEL, write_baselines, write_residence, write_turns

NOON = 1_795_000_000.0


def status(cli):
    return cli.json("models", "status", "--json")


def text(cli):
    shown = cli.run("models", "status")
    return shown.out, shown.err


def test_nothing_is_known_at_first(config, cli):
    assert status(cli) == {"keep_warm": "always", "device": None, "models": []}
    assert text(cli) == ("", "no model was loaded or measured yet\n")


def test_all_numbers_and_the_time_that_follows(config, cli):
    config.config_file.write_text("keep_warm: auto\n")
    write_residence(config, NOON)
    write_baselines(config)
    write_turns(config, [NOON + 60 * i for i in range(4)])
    document = status(cli)
    (model,) = document["models"]
    assert model["name"] == MODEL
    assert model["load_joules"] == {"value": 300.0, "uncertainty": pytest.approx(25.5, abs=0.1)}
    assert (model["load_seconds"], model["loads"], model["load_kind"]) == (2.0, 3, "counter")
    assert model["loaded_idle_watts"] == {"value": 45.0, "uncertainty": 0.4}
    assert model["cold_idle_watts"] == {"value": 10.0, "uncertainty": 0.2}
    assert model["extra_watts"]["value"] == 35
    assert model["channels"] == [{"id": "gpu:FAKE", "loaded_watts": 45.0, "cold_watts": 10.0}]
    assert model["break_even_seconds"] == pytest.approx(8.57, abs=0.01)
    assert 7 < model["break_even_low"] < 8.57 < model["break_even_high"] < 10
    assert model["keep_seconds"] == model["auto_seconds"] == model["break_even_seconds"]
    assert (model["gaps"], model["auto_basis"]) == (3, "break_even")
    last = model["last_unload"]
    assert (last["state"], last["text"]) == ("cold", "as without a model")
    assert last["before_watts"] == {"value": 45.2, "uncertainty": 0.3}
    assert last["above_cold_watts"]["value"] == pytest.approx(0.1)
    assert document["device"] == {"last_unload": last, "loaded_since": False}
    out, err = text(cli)
    assert "300 ± 26 J (counter), 2.00 s" in out
    assert "45.0 ± 0.4 W" in out
    assert "auto: 8.57 s" in out
    assert "45.2 W idle before, 10.1 W after: as without a model" in out
    assert "after the last unload: as without a model" in err


def test_a_machine_that_stays_warm_is_named(config, cli):
    write_residence(config, NOON, cold=False)
    document = status(cli)
    assert document["device"]["last_unload"]["state"] == "above"
    assert (
        document["device"]["last_unload"]["text"] == "still 9.00 ± 0.28 W more than without a model"
    )
    (model,) = document["models"]
    assert (model["keep_warm"], model["keep_seconds"]) == ("always", None)
    assert (model["break_even_seconds"], model["auto_basis"]) == (None, "unknown")
    _, err = text(cli)
    assert "etui power idle" in err
    assert f"etui power idle --model {MODEL}" in err


def test_a_load_after_the_last_unload_is_told(config, cli):
    write_residence(config, NOON)
    write_residence(config, NOON + 40, "other")  # its loads come before its unload
    assert status(cli)["device"]["loaded_since"] is False
    config.config_file.write_text("keep_warm: 600\n")
    found = status(cli)["models"]
    assert {model["keep_seconds"] for model in found} == {600.0}


def test_idling_that_costs_nothing_says_never(config, cli):
    config.config_file.write_text("keep_warm: auto\n")
    write_residence(config, NOON)
    write_baselines(config, loaded=10.1)
    (model,) = status(cli)["models"]
    assert (model["keep_seconds"], model["auto_basis"]) == (None, "no_extra")
    assert model["break_even_high"] is None
    out, err = text(cli)
    assert "auto: until memory is needed" in out
    assert "at least" in out
    assert "idling costs nothing that can be measured" in err


def test_an_idle_power_that_is_only_estimated_is_labelled(config, cli):
    write_residence(config, NOON)
    write_baselines(config, channel="estimate:cpu")
    (model,) = status(cli)["models"]
    assert (model["loaded_idle_kind"], model["cold_idle_kind"]) == ("estimate", "estimate")
    out, _ = text(cli)
    assert "≈45 W (estimate)" in out
    assert "≈10 W (estimate)" in out
    write_baselines(config)
    (model,) = status(cli)["models"]
    assert (model["loaded_idle_kind"], model["cold_idle_kind"]) == (None, None)
    assert "45.0 ± 0.4 W" in text(cli)[0]
