"""What the user sets for a model beside its entry: written, read, and used by its next answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.arm import OPEN_SAMPLING, Arm
from etui.config.config import Config
from etui.errors import InvalidFile
from etui.models.catalogue import load_catalogue
from etui.models.spec import ModelSampling, OwnSettings
from etui.runtime.model_resolution import sample_as_asked
from etui.runtime.models_file import set_own_settings

MODEL = "smollm2-135m"


def test_what_is_set_is_beside_the_shipped_entry_and_can_be_taken_back(config: Config) -> None:
    shipped = load_catalogue(config).get(MODEL)
    system = 'Answer "briefly": yes\nor no. # é'
    set_own_settings(config, MODEL, system, {"temperature": 0.25, "top_k": 1_000_000})
    spec = load_catalogue(config).get(MODEL)
    assert spec.own == OwnSettings(system, ModelSampling(temperature=0.25, top_k=1_000_000))
    assert replace(spec, own=None) == shipped, "its entry stays that of the catalogue"
    set_own_settings(config, MODEL, "", {"min_p": 0.1})
    assert load_catalogue(config).get(MODEL).own == OwnSettings(None, ModelSampling(min_p=0.1))
    set_own_settings(config, MODEL, "", {})
    assert load_catalogue(config).get(MODEL) == shipped


def test_the_rest_of_the_file_stays_and_a_value_out_of_range_is_refused(config: Config) -> None:
    mine = "# mine\nmodels:\n  own: {size: 1B, sources: [{path: /a.gguf}]} # here\n"
    config.models_file.parent.mkdir(parents=True, exist_ok=True)
    config.models_file.write_text(mine)
    set_own_settings(config, "own", "Hi", {})
    assert config.models_file.read_text().startswith(mine)
    before = config.models_file.read_text()
    with pytest.raises(InvalidFile, match="temperature"):
        set_own_settings(config, "own", "Hi", {"temperature": 99})
    assert config.models_file.read_text() == before


def test_settings_of_a_model_that_is_gone_are_ignored(config: Config) -> None:
    set_own_settings(config, "gone", "Hi", {})
    assert "gone" not in load_catalogue(config)


def test_own_values_come_before_those_of_the_entry_and_after_those_of_an_arm(
    config: Config,
) -> None:
    spec = replace(
        load_catalogue(config).get(MODEL),
        sampling=ModelSampling(temperature=0.7, top_p=0.8),
        own=OwnSettings(sampling=ModelSampling(temperature=0.1)),
    )
    is_open = Arm("a", MODEL, sampling_from=OPEN_SAMPLING)
    asked = sample_as_asked(is_open, spec, lambda: None).sampling
    assert (asked.temperature, asked.top_p) == (0.1, 0.8)
    without = replace(spec, sampling=None)
    by_file = sample_as_asked(is_open, without, lambda: ModelSampling(temperature=1, min_p=0.05))
    assert (by_file.sampling.temperature, by_file.sampling.min_p) == (0.1, 0.05)
    fixed = replace(is_open, sampling_from=replace(OPEN_SAMPLING, temperature="arm"))
    own = sample_as_asked(fixed, spec, lambda: None).sampling
    assert own.temperature == fixed.sampling.temperature
