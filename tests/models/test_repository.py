"""What the names of a repository's files say: quantisations, parts, and files beside them."""

from __future__ import annotations

import pytest

from etui.errors import ModelUnavailable, UsageError
from etui.models.repository import (
    HubReference,
    RemoteFile,
    Repository,
    find_label,
    parse_reference,
    split_roles,
)
from etui.models.spec import PathSource, UrlSource


def repository(*names, size=1000):
    files = [RemoteFile(name, size + at, "0" * 64) for at, name in enumerate(names)]
    quantisations, projectors, drafts = split_roles(files)
    return Repository("a/b", None, quantisations, projectors, drafts)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Qwen3-4B-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Llama-3.2-1B-Instruct-IQ3_XXS.gguf", "IQ3_XXS"),
        ("Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("UD-Q2_K_XL/Big-UD-Q2_K_XL-00001-of-00003.gguf", "UD-Q2_K_XL"),
        ("BF16/Big-00001-of-00002.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("gpt-oss-20b-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("phi-4-fp16.gguf", "F16"),
        ("tiny.Q8_0.gguf", "Q8_0"),
        ("model-Q4_0-F16.gguf", "F16"),
        ("bitnet-TQ1_0.gguf", "TQ1_0"),
        ("Qwen3-8B.gguf", ""),
        ("lfm2-8b-a1b.gguf", ""),
    ],
)
def test_a_label_is_read_from_a_name(name, label):
    assert find_label(name) == label


@pytest.mark.parametrize(
    ("names", "chosen", "why"),
    [
        (["x-Q2_K.gguf", "x-Q8_0.gguf", "x-Q4_K_M.gguf"], "Q4_K_M", "the default"),
        (["x-Q4_0.gguf", "x-Q8_0.gguf", "x-BF16.gguf"], "Q8_0", "there is no Q4_K_M"),
        (["x-IQ2_M.gguf", "x-Q5_K_S.gguf", "x-Q6_K.gguf"], "Q5_K_S", "at least 4 bits"),
        (["x-IQ2_XXS.gguf", "x-Q3_K_M.gguf"], "Q3_K_M", "the largest"),
        (["x-mxfp4.gguf"], "MXFP4", "the only one"),
        (["x.gguf"], "x", "the only one"),
    ],
)
def test_without_a_wish_the_usual_quantisation_is_chosen(names, chosen, why):
    found = repository(*names).choose()
    assert found.quantisation.label == chosen
    assert why in found.why


def test_a_wish_is_a_label_in_any_case_or_a_file():
    offered = repository("x-UD-Q4_K_XL.gguf", "x-Q4_K_M.gguf", "x-MTP-Q8_0.gguf")
    assert offered.choose("q4_k_m").quantisation.files[0].name == "x-Q4_K_M.gguf"
    assert offered.choose("Q4_K_XL").quantisation.label == "UD-Q4_K_XL"
    assert offered.choose("x-MTP-Q8_0.gguf").quantisation.label == "Q8_0"
    with pytest.raises(UsageError, match="has no 'Q8_0'"):
        offered.choose("Q8_0")


def test_two_models_of_one_label_have_to_be_named():
    offered = repository("big-Q4_K_M.gguf", "small-Q4_K_M.gguf", "big-Q8_0.gguf")
    with pytest.raises(UsageError, match="has 2 models of Q4_K_M") as caught:
        offered.choose()
    assert "a/b:big-Q4_K_M.gguf" in caught.value.fix


def test_parts_belong_together_and_a_model_without_one_is_not_chosen():
    names = [f"Q8_0/x-Q8_0-0000{number}-of-00003.gguf" for number in (3, 1, 2)]
    whole = repository(*names)
    (split,) = whole.quantisations
    assert [file.name for file in split.files] == sorted(names)
    assert split.size_bytes == 3003
    lacking = repository(*names[:2], "x-Q2_K.gguf")
    assert lacking.choose().quantisation.label == "Q2_K"
    with pytest.raises(ModelUnavailable, match="lacks 1 of the 3 parts of Q8_0"):
        lacking.choose("Q8_0")


def test_files_beside_a_model_are_told_apart():
    offered = repository(
        "x-Q4_K_M.gguf", "mmproj-x-F16.gguf", "x-draft-Q4_0.gguf", "imatrix.gguf", "a.safetensors"
    )
    assert [found.label for found in offered.quantisations] == ["Q4_K_M"]
    assert [file.name for file in offered.projectors] == ["mmproj-x-F16.gguf"]
    assert [file.name for file in offered.drafts] == ["x-draft-Q4_0.gguf"]
    only = repository("x-DRAFT-Q4_0.gguf", "x-DRAFT-Q8_0.gguf")
    assert only.choose().quantisation.label == "Q8_0"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hf.co/Qwen/Qwen3-4B-GGUF", HubReference("Qwen/Qwen3-4B-GGUF")),
        ("hf.co/a/b:Q8_0", HubReference("a/b", "Q8_0")),
        ("hf:a/b:Q8_0", HubReference("a/b", "Q8_0")),
        ("hf://a/b", HubReference("a/b")),
        ("a/b@v1:Q8_0", HubReference("a/b", "Q8_0", "v1")),
        ("a/b/c/x-Q8_0.gguf", HubReference("a/b", "c/x-Q8_0.gguf")),
        ("https://huggingface.co/a/b", HubReference("a/b")),
        (
            "https://huggingface.co/a/b/resolve/main/x%20y.gguf?download=true",
            HubReference("a/b", "x y.gguf"),
        ),
        ("https://hf.co/a/b/blob/v2/x.gguf", HubReference("a/b", "x.gguf", "v2")),
        ("https://hub.example/a/b", HubReference("a/b")),
        ("https://example.com/a/b.gguf?x=1", UrlSource("https://example.com/a/b.gguf?x=1")),
        ("qwen3-4b", None),
        ("qwen3-32b@desk", None),
    ],
)
def test_a_reference_is_read(text, found):
    assert parse_reference(text, "hub.example") == found


def test_a_path_is_a_file_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"")
    for text in ("./x.gguf", "x.gguf", str(tmp_path / "x.gguf")):
        assert parse_reference(text) == PathSource(tmp_path / "x.gguf")
    assert parse_reference("models/gone.gguf") == PathSource(tmp_path / "models" / "gone.gguf")
