"""Models of remote backends in models.yaml."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.arm import Arm
from etui.config.backend_spec import BackendSpec
from etui.errors import InvalidFile, ModelUnavailable
from etui.models.catalogue import load_catalogue
from etui.models.download import pull
from etui.models.files import file_state, model_path, require, verify
from etui.runtime.model_resolution import find_draft_file, models_on_disk

DESK = {"desk": BackendSpec("desk", "http://127.0.0.1:9/v1")}


@pytest.fixture
def desk(config):
    return replace(config, backends=DESK)


def write(config, *entries):
    config.models_file.write_text("models:\n" + "".join(f"  {entry}\n" for entry in entries))


def test_a_backend_is_all_that_a_remote_model_needs(desk):
    write(desk, "big@desk: {backend: desk}")
    spec = load_catalogue(desk).get("big@desk")
    assert (spec.backend, spec.remote_name, spec.same_as) == ("desk", None, None)
    assert (spec.size, spec.sources) == ("served by desk", ())


def test_what_a_remote_model_can_say(desk):
    write(
        desk,
        "big@desk: {backend: desk, remote_name: 'org/big:q8', same_as: smollm2-135m, size: 8B, "
        "context: 9000, thinking: {open: <t>, close: </t>, switch: think}, stop: [END], "
        "sampling: {temperature: 0.6}}",
    )
    spec = load_catalogue(desk).get("big@desk")
    assert (spec.remote_name, spec.same_as, spec.context) == ("org/big:q8", "smollm2-135m", 9000)
    assert (spec.think_close, spec.thinking_switch, spec.stop) == ("</t>", "think", ("END",))
    assert spec.sampling is not None


FAULTS = {
    "an unknown backend": (
        "b: {backend: dsk}",
        "3:16: backend: unknown backend 'dsk', did you mean 'desk'?",
    ),
    "no weights": ("b: {backend: desk, same_as: smolm2-135m}", "did you mean 'smollm2-135m'?"),
    "itself": ("b: {backend: desk, same_as: b}", "cannot be a place of itself"),
    "a place": ("b: {backend: desk, same_as: a}", "same_as: a is a place of smollm2-135m itself"),
    "sources too": ("b: {backend: desk, sources: [{path: x}]}", "sources has no effect with"),
    "a setting here": ("b: {backend: desk, gpu_layers: 3}", "gpu_layers has no effect with"),
    "a draft": ("b: {backend: desk, draft: smollm2-135m}", "draft has no effect with `backend`"),
    "a name alone": ("b: {size: x, sources: [{path: x}], remote_name: y}", "without `backend`"),
    "a place alone": ("b: {size: x, sources: [{path: x}], same_as: a}", "without `backend`"),
    "neither": ("b: {context: 128}", "missing key 'size'; missing key 'sources'"),
    "no sources": ("b: {size: x}", "missing key 'sources'"),
    "a remote draft": ("b: {size: x, sources: [{path: x}], draft: a}", "runs on another machine"),
}


@pytest.mark.parametrize(("entry", "what"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_place(desk, entry, what):
    write(desk, "a: {backend: desk, same_as: smollm2-135m}", entry)
    with pytest.raises(InvalidFile, match=r"models\.yaml:3:\d+: ") as caught:
        load_catalogue(desk)
    assert what in caught.value.what


def test_without_backends_the_file_to_edit_is_named(config):
    write(config, "b: {backend: desk}")
    with pytest.raises(InvalidFile, match="yaml has no `backends`"):
        load_catalogue(config)


def test_a_fallback_that_does_not_exist_is_named_in_config_yaml(config):
    from etui.config.config import load_config

    config.config_file.write_text(
        "backends:\n  desk:\n    url: http://127.0.0.1:9/v1\n    fallbacks: [smolm2-135m]\n"
    )
    with pytest.raises(InvalidFile, match=r"config\.yaml:4:17: fallbacks.*'smollm2-135m'"):
        load_catalogue(load_config())


def test_a_remote_model_has_no_file(desk):
    write(desk, "big: {backend: desk}")
    spec = load_catalogue(desk).get("big")
    desk.models_dir.mkdir()
    (desk.models_dir / "big.gguf").write_bytes(b"GGUF")  # of another model of that name
    assert file_state(spec, desk) == "absent"
    assert model_path(spec, desk).name == "big.gguf"
    for use in (require, verify, pull):
        with pytest.raises(ModelUnavailable, match="the backend desk serves it"):
            use(spec, desk)


def test_a_remote_model_is_available_unless_its_backend_cannot_be_asked(desk):
    write(desk, "big: {backend: desk}")
    catalogue = load_catalogue(desk)
    assert models_on_disk(desk, catalogue)("big")
    assert not models_on_disk(desk, catalogue)("smollm2-135m")
    assert not models_on_disk(desk, catalogue)("nothing")
    assert not models_on_disk(desk, catalogue, lambda name: name != "desk")("big")
    assert not models_on_disk(replace(desk, backends={}), catalogue)("big")
    arm = Arm("a", "big", speculate="auto")
    assert find_draft_file(arm, catalogue.get("big"), desk, catalogue) is None
