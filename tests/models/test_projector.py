"""What the header of a projector says of a picture's tokens, and what is no projector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Picture, Query
from etui.config.config import Config
from etui.errors import InvalidFile, ModelUnavailable
from etui.models.adapters import Projector, read_projector, size_adapters
from etui.models.catalogue import load_catalogue
from etui.models.spec import ModelSpec
from etui.routing.text_measures import PICTURE_TOKENS, TextFacts
from etui.runtime.forecast import estimate_pictures
from tests.support.tiny_projector import TOKENS, write_projector

PICTURE = Picture("", "ab" * 32, 640, 480)


@pytest.mark.parametrize(
    ("projector", "tokens"),
    [
        (Projector("gemma3", 896, 14, 4, 0), 256),
        (Projector("mlp", 336, 14, 1, 0), 576),
        (Projector("idefics3", 512, 16, 4, 2048), 13 * 70),  # SmolVLM: 4 x 3 parts and the whole
    ],
)
def test_the_tokens_of_known_projectors(projector: Projector, tokens: int) -> None:
    assert projector.estimate_tokens(640, 480) == tokens


@given(*[st.integers(0, 40_000)] * 6)
def test_any_numbers_give_some_tokens(
    image: int, patch: int, merge: int, edge: int, width: int, height: int
) -> None:
    projector = Projector("x", image, patch, merge, edge)
    assert projector.estimate_tokens(width, height) > 0


def test_a_forecast_counts_the_pictures_by_the_projector(tmp_path: Path) -> None:
    path = write_projector(tmp_path / "mmproj.gguf", 64, "gemma3")
    spec = ModelSpec("m", "", (), mmproj=path)
    asked = Query("What?", pictures=(PICTURE, PICTURE))
    assert read_projector(path, "m").kind == "gemma3"
    assert estimate_pictures(asked, spec) == 2 * TOKENS
    assert estimate_pictures(asked, replace(spec, mmproj=None)) == 0
    assert estimate_pictures(asked, replace(spec, mmproj=tmp_path / "none")) == 0
    assert estimate_pictures(Query("What?"), spec) == 0
    assert size_adapters(spec) == path.stat().st_size
    assert TextFacts(asked).tokens == TextFacts(Query("What?")).tokens + 2 * PICTURE_TOKENS


def test_an_entry_names_a_projector_beside_it_and_a_remote_model_has_none(config: Config) -> None:
    entry = "size: b, sources: [{path: a.gguf}], mmproj: mmproj.gguf"
    config.models_file.write_text(f"models:\n  mine: {{{entry}}}\n")
    assert load_catalogue(config).get("mine").mmproj == config.home / "mmproj.gguf"
    config.models_file.write_text("models:\n  far: {backend: desk, mmproj: a.gguf}\n")
    with pytest.raises(InvalidFile, match="mmproj has no effect with `backend`"):
        load_catalogue(config)


def test_a_projector_that_reads_sound_alone_is_refused(tmp_path: Path) -> None:
    path = write_projector(tmp_path / "mmproj.gguf", 64)
    name = b"clip.has_vision_encoder"
    data = path.read_bytes()
    at = data.index(name) + len(name) + 4  # behind the type
    path.write_bytes(data[:at] + b"\0" + data[at + 1 :])
    with pytest.raises(ModelUnavailable, match="is no projector that reads pictures"):
        read_projector(path, "m")
