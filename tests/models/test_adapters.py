"""LoRA adapters of an entry: what it may say, which files are refused, and what is hashed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from etui.arm import Arm
from etui.config.config import Config
from etui.curves.operating_curve import OperatingCurve
from etui.errors import InvalidFile, ModelUnavailable
from etui.log.curve_lookup import find_curve
from etui.log.queries import LogReader
from etui.log.writer import TurnWriter
from etui.models.adapters import check_adapters
from etui.models.catalogue import load_catalogue
from etui.models.files import content_sha256, find_file_problem, verify
from etui.models.gguf import check_gguf, check_usable
from etui.models.spec import Adapter, ModelSpec
from etui.runtime.measure_memory import find_curve_here
from etui.runtime.model_resolution import ModelFiles, find_model_file, models_on_disk
from etui.runtime.provenance import conditions, model_settings
from tests.contract.tiny_model import WIDTH, write_tiny_model
from tests.runtime.test_model_settings import curve_for
from tests.support.tiny_adapters import TOKENS, write_adapter, write_letter_adapter

OUTPUT = "output.weight"


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.float32)


def pair(rank: int = 1, width: int = WIDTH, height: int = TOKENS):
    return ones(rank, width), ones(height, rank)


@pytest.fixture
def folder(config: Config) -> Path:
    """The models folder with a model, and an adapter of it in ETUI_HOME."""
    config.models_dir.mkdir()
    write_tiny_model(config.models_dir / "tiny.gguf")
    write_letter_adapter(config.home / "letter.gguf")
    return config.models_dir


def write_entry(config: Config, adapter: str, name: str = "mine", more: str = "") -> None:
    path = config.models_dir / "tiny.gguf"
    config.models_file.write_text(
        f"models:\n  {name}:\n    size: tiny\n    sources: [{{path: {path}}}]\n"
        f"    adapter: {adapter}\n{more}"
    )


def find(config: Config, name: str = "mine") -> ModelSpec:
    return find_model_file(Arm("direct", name), config, load_catalogue(config))[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{path: letter.gguf}", [("letter.gguf", 1.0)]),
        ("{path: letter.gguf, scale: -0.5}", [("letter.gguf", -0.5)]),
        ("[{path: letter.gguf, scale: 0}, {path: b.gguf}]", [("letter.gguf", 0), ("b.gguf", 1)]),
    ],
)
def test_an_entry_names_one_adapter_or_several(config, folder, text, expected):
    write_entry(config, text)
    found = load_catalogue(config).get("mine").adapters
    assert [(each.path, each.scale) for each in found] == [
        (config.home / name, scale) for name, scale in expected
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{path: a.gguf, scale: .nan}", "scale: expected a finite number, found nan"),
        ("{path: a.gguf, scale: .inf}", "scale: expected a finite number, found inf"),
        ("[{path: a.gguf, scale: 101}]", "scale: must be at most 100"),
        ("{path: a.gguf, scale: much}", "scale: expected a number, found 'much'"),
        ("{scale: 1}", "missing key 'path'"),
        ("[]", "adapter: must have at least 1 item"),
        ("a.gguf", "adapter: expected a mapping"),
        ("{path: a.gguf, weight: 1}", "unknown key 'weight'"),
    ],
)
def test_an_entry_that_says_something_else_is_refused_in_its_line(config, folder, text, message):
    write_entry(config, text)
    with pytest.raises(InvalidFile) as caught:
        load_catalogue(config)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.line == 5


def test_neither_a_remote_model_nor_a_draft_model_has_an_adapter(config, folder):
    config.models_file.write_text("models:\n  far: {backend: desk, adapter: {path: a.gguf}}\n")
    with pytest.raises(InvalidFile, match="adapter has no effect with `backend`"):
        load_catalogue(config)
    more = "  big: {size: b, sources: [{path: big.gguf}], draft: mine}\n"
    write_entry(config, "{path: letter.gguf}", more=more)
    with pytest.raises(InvalidFile, match="mine has a LoRA adapter; name a model without one"):
        load_catalogue(config)


def test_an_adapter_in_the_models_folder_is_no_model(config, folder):
    write_letter_adapter(folder / "letter.gguf")
    assert "letter" in load_catalogue(config)  # until an entry says whose it is
    with pytest.raises(ModelUnavailable, match="is a LoRA adapter") as caught:
        check_usable(folder / "letter.gguf")
    assert "--adapter" in caught.value.fix
    write_entry(config, f"{{path: {folder / 'letter.gguf'}}}")
    assert "letter" not in load_catalogue(config)


@pytest.mark.parametrize(
    ("factors", "changes", "message"),
    [
        ({OUTPUT: pair()}, {"architecture": "qwen2"}, "of the kind 'qwen2', not llama"),
        ({OUTPUT: pair()}, {"type": "control_vector"}, "is no LoRA adapter"),
        ({OUTPUT: pair()}, {"general_type": gguf.GGUFType.MODEL}, "is no LoRA adapter"),
        ({OUTPUT: pair()}, {"alpha": float("nan")}, "adapter.lora.alpha is no usable number"),
        ({OUTPUT: pair()}, {"invocation": [1, 2]}, "only after certain tokens"),
        ({OUTPUT: pair(width=64)}, {}, "as 64 x 261, and it is 288 x 261: it is of another base"),
        ({OUTPUT: (ones(2, WIDTH), ones(TOKENS, 3))}, {}, "factors of the ranks 2 and 3"),
        ({"blk.7.attn_q.weight": pair()}, {}, "the model does not have"),
        ({}, {"tensors": {f"{OUTPUT}.lora_a": ones(1, WIDTH)}}, "only one of the two factors"),
        ({}, {"tensors": {"output_norm.weight": ones(WIDTH)}}, "has no tensors"),
        ({OUTPUT: pair()}, {"tensors": {"other": ones(4)}}, "'other', which is no part"),
        ({"token_embd.weight": pair()}, {}, "has factors of the ranks"),
    ],
)
def test_an_adapter_of_another_model_is_refused_by_its_header(
    config, folder, factors, changes, message
):
    path = write_adapter(config.home / "letter.gguf", factors, **changes)
    write_entry(config, "{path: letter.gguf}")
    spec = load_catalogue(config).get("mine")
    with pytest.raises(ModelUnavailable) as caught:
        check_adapters(spec, check_gguf(folder / "tiny.gguf"))
    assert message in caught.value.what
    assert path.name in caught.value.what
    assert find_file_problem(spec, config) == caught.value.what
    with pytest.raises(ModelUnavailable):
        verify(spec, config)


def test_the_factors_of_the_embeddings_are_the_other_way_round(config, folder):
    path = config.home / "letter.gguf"
    write_adapter(path, {"token_embd.weight": (ones(TOKENS, 2), ones(WIDTH, 2))})
    spec = ModelSpec("mine", "tiny", (), adapters=(Adapter(path),))
    check_adapters(spec, check_gguf(folder / "tiny.gguf"))


@pytest.mark.parametrize("damage", ["missing", "cut", "text"])
def test_a_file_that_is_none_is_refused(config, folder, damage):
    path = config.home / "letter.gguf"
    match damage:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-64])
        case _:
            path.write_text("<html>not found</html>")
    write_entry(config, "{path: letter.gguf}")
    with pytest.raises(ModelUnavailable, match=r"the adapter .*(missing|truncated|text)") as caught:
        find(config)
    assert "`adapter` of mine" in caught.value.fix
    catalogue = load_catalogue(config)
    assert models_on_disk(config, catalogue)("mine") == (damage != "missing")


def test_the_hash_is_that_of_the_file_and_of_its_adapters(config, folder):
    bare = find(config, "tiny")
    write_letter_adapter(config.home / "other.gguf", "D")
    hashes = {bare.sha256}
    for text in ("{path: letter.gguf}", "{path: letter.gguf, scale: 0.5}", "{path: other.gguf}",
                 "[{path: letter.gguf}, {path: other.gguf}]"):  # fmt: skip
        write_entry(config, text)
        spec = find(config)
        assert spec.file_sha256 is None
        hashes.add(spec.sha256)
        entry = load_catalogue(config).get("mine")
        assert content_sha256(entry, config) == spec.sha256  # by the records alone
        assert content_sha256(spec, config) == spec.sha256
        # It is found again as it is, as a sweep does.
        catalogue = replace(load_catalogue(config), models={"mine": spec})
        assert find_model_file(Arm("direct", "mine"), config, catalogue)[0] == spec
    assert len(hashes) == 5
    assert None not in hashes


def test_a_changed_adapter_is_another_model(config, folder):
    write_entry(config, "{path: letter.gguf}")
    files, catalogue = ModelFiles(config), load_catalogue(config)
    before = files.find(Arm("direct", "mine"), catalogue)[0]
    write_letter_adapter(config.home / "letter.gguf", "D")
    assert content_sha256(catalogue.get("mine"), config) is None  # nobody has read it yet
    after = files.find(Arm("direct", "mine"), catalogue)[0]
    assert before.sha256 != after.sha256


def test_the_hash_of_an_entry_is_that_of_its_file(config, folder):
    sha256 = find(config, "tiny").sha256
    write_entry(config, "{path: letter.gguf}", more=f"    sha256: {sha256}\n")
    assert find(config).sha256 not in (None, sha256)
    write_entry(config, "{path: letter.gguf}", more=f"    sha256: {'ab' * 32}\n")
    with pytest.raises(ModelUnavailable, match="its sha256 is"):
        find(config)


def test_a_curve_of_the_bare_model_is_never_that_of_the_adapted_one(config, folder):
    """Even if the entry of the same name gets an adapter later."""

    def look_up(spec: ModelSpec) -> OperatingCurve | None:
        with LogReader(config) as log:
            return find_curve(log, spec.name, spec.sha256, conditions(config, spec=spec))

    bare = find(config, "tiny")
    with TurnWriter(config) as writer:
        writer.save_curve(curve_for(config, bare))
    assert look_up(bare) is not None
    write_entry(config, "{path: letter.gguf}", name="tiny")
    adapted = find(config, "tiny")
    assert adapted.adapters
    assert look_up(adapted) is None
    with LogReader(config) as log:
        assert find_curve_here(log, bare, config) is not None
        for record in config.models_dir.glob("*.adapter.gguf.json"):
            record.unlink()  # its hash is not known any more
        assert find_curve_here(log, load_catalogue(config).get("tiny"), config) is None


def test_a_turn_records_what_changed_the_model(config, folder):
    write_entry(config, "{path: letter.gguf, scale: 0.5}")
    spec = find(config)
    assert model_settings(spec, config)["adapters"] == [
        {"file": "letter.gguf", "scale": 0.5, "sha256": spec.adapters[0].sha256}
    ]
    assert "adapters" not in model_settings(find(config, "tiny"), config)
