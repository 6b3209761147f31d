"""A model's file is used only when its header and its sha256 are right."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.errors import ModelUnavailable
from etui.models.catalogue import load_catalogue
from etui.models.files import (
    FileRecord,
    model_path,
    read_record,
    read_state,
    record_path,
    recorded_sha256,
    require,
    verify,
    write_record,
)
from etui.models.spec import HubSource, ModelSpec, PathSource

Make = Callable[[int], bytes]


def spec_of(data, name="tiny"):
    digest = hashlib.sha256(data).hexdigest()
    return ModelSpec(name, "tiny", (HubSource("a/b", "c.gguf"),), digest, len(data))


@pytest.fixture
def data(make_gguf):
    return make_gguf(1)


def put(config, name, data):
    config.models_dir.mkdir(exist_ok=True)
    path = config.models_dir / f"{name}.gguf"
    path.write_bytes(data)
    return path


def test_right_file_is_used(config, data):
    path = put(config, "tiny", data)
    assert require(spec_of(data), config) == path
    assert recorded_sha256(spec_of(data), config) == hashlib.sha256(data).hexdigest()


def test_missing_file_names_the_command_that_pulls_it(config, make_gguf):
    with pytest.raises(ModelUnavailable) as caught:
        require(spec_of(make_gguf(1)), config)
    assert caught.value.fix == "run: etui models pull tiny"


def test_missing_file_that_was_renamed_is_pointed_at(config, data):
    put(config, "other-name", data)
    with pytest.raises(ModelUnavailable, match=r"other-name\.gguf has the same size"):
        require(spec_of(data), config)


@pytest.mark.parametrize(
    ("cut", "says"),
    [(slice(0, -8), "truncated"), (slice(0, 10), "truncated"), (slice(0, 0), "empty")],
)
def test_truncated_file_is_refused(config, data, cut, says):
    put(config, "tiny", data[cut])
    with pytest.raises(ModelUnavailable, match=says):
        require(spec_of(data), config)


def test_file_that_is_no_gguf_is_refused(config, make_gguf):
    put(config, "tiny", b"<html>not found</html>")
    with pytest.raises(ModelUnavailable, match="not a GGUF"):
        require(spec_of(make_gguf(1)), config)


def test_one_flipped_bit_is_refused(config, data):
    put(config, "tiny", data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelUnavailable, match="sha256"):
        require(spec_of(data), config)


def test_file_of_another_model_is_recognised(config, make_gguf):
    other = make_gguf(2)
    digest = hashlib.sha256(other).hexdigest()
    config.models_file.write_text(
        f"models:\n  second: {{size: s, sha256: {digest}, sources: [{{path: nowhere.gguf}}]}}\n"
    )
    put(config, "tiny", other)
    with pytest.raises(ModelUnavailable, match="which is second") as caught:
        require(spec_of(make_gguf(1)), config)
    assert "etui models pull tiny" in caught.value.fix


def test_unchanged_file_is_not_hashed_again(config, data, monkeypatch):
    path = put(config, "tiny", data)
    require(spec_of(data), config)

    def hashed(*_):
        raise AssertionError("read again")

    monkeypatch.setattr("etui.models.files.hash_file", hashed)
    assert require(spec_of(data), config) == path


def test_changed_file_is_hashed_again(config, make_gguf, data):
    path = put(config, "tiny", data)
    require(spec_of(data), config)
    before = path.stat()
    path.write_bytes(make_gguf(2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert recorded_sha256(spec_of(data), config) is None
    with pytest.raises(ModelUnavailable, match="sha256"):
        require(spec_of(data), config)


def test_record_is_not_trusted_for_another_expectation(config, make_gguf):
    put(config, "tiny", make_gguf(1))
    require(spec_of(make_gguf(1)), config)
    with pytest.raises(ModelUnavailable, match="sha256"):
        require(spec_of(make_gguf(2)), config)


def test_verify_reads_the_file_whatever_was_recorded(config, make_gguf, data):
    path = put(config, "tiny", data)
    require(spec_of(data), config)
    before = path.stat()
    path.write_bytes(make_gguf(2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ModelUnavailable, match="sha256"):
        verify(spec_of(data), config)


def test_found_file_may_change(config, make_gguf):
    path = put(config, "mine", make_gguf(1))
    spec = load_catalogue(config).get("mine")
    require(spec, config)
    path.write_bytes(make_gguf(2))
    assert verify(spec, config).expected is None
    assert recorded_sha256(spec, config) == hashlib.sha256(make_gguf(2)).hexdigest()


def test_hash_that_the_hub_gave_stays_expected(config, make_gguf):
    spec = ModelSpec("tiny", "tiny", (HubSource("a/b", "c.gguf"),))
    path = put(config, "tiny", make_gguf(1))
    digest = hashlib.sha256(make_gguf(1)).hexdigest()
    write_record(
        "tiny", config.models_dir, FileRecord.of(path, read_state(path), digest, pinned=True)
    )
    assert verify(spec, config).expected == digest
    path.write_bytes(make_gguf(2) + b"\0")
    with pytest.raises(ModelUnavailable, match="is expected"):
        require(spec, config)
    path.write_bytes(make_gguf(1))
    assert require(spec, config) == path


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_record_that_is_not_one_is_no_record(tmp_path_factory, raw):
    folder = tmp_path_factory.getbasetemp()
    record_path("x", folder).write_bytes(raw)
    assert read_record("x", folder) is None


def test_path_is_used_where_it_lies(config, tmp_path, make_gguf):
    path = tmp_path / "lies-here.gguf"
    path.write_bytes(make_gguf(1))
    spec = ModelSpec("mine", "tiny", (PathSource(path),))
    assert require(spec, config) == path


def test_missing_path_says_so(config, tmp_path):
    spec = ModelSpec("mine", "tiny", (PathSource(tmp_path / "gone.gguf"),))
    with pytest.raises(ModelUnavailable) as caught:
        require(spec, config)
    assert "gone.gguf" in caught.value.what
    assert "path:" in caught.value.fix


def test_pulled_file_comes_before_a_path_further_down(config, tmp_path, make_gguf):
    lying = tmp_path / "lies-here.gguf"
    lying.write_bytes(make_gguf(1))
    spec = ModelSpec("tiny", "tiny", (HubSource("a/b", "c.gguf"), PathSource(lying)))
    assert model_path(spec, config) == lying
    pulled = put(config, "tiny", make_gguf(1))
    assert model_path(spec, config) == pulled


def test_file_used_in_place_is_hashed_once_without_a_models_folder(config, make_gguf, monkeypatch):
    path = config.home / "elsewhere.gguf"
    path.write_bytes(make_gguf(1))
    spec = ModelSpec("mine", "", (PathSource(path),))
    assert not config.models_dir.exists()
    require(spec, config)
    monkeypatch.setattr("etui.models.files.hash_file", lambda *_: pytest.fail("read again"))
    assert require(spec, config) == path
