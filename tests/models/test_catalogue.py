"""models.yaml: what is shipped, what a user's own file may say, and what is refused where."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.errors import InvalidFile, UsageError
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path
from etui.models.schema import WheelEntry
from etui.models.spec import STARTER, HubSource, PathSource, WheelPart, WheelsSource

FROM_THE_INDEX = {
    "smollm2-135m": (1, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    "gemma-3-270m": (4, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
    "qwen2.5-coder-0.5b": (6, "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"),
    "qwen2.5-coder-1.5b": (22, "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"),
}


def entry(config, text):
    config.models_file.write_text(text)


@pytest.mark.parametrize("name", FROM_THE_INDEX)
def test_four_models_come_from_the_package_index(config, name):
    wheels, sha256 = FROM_THE_INDEX[name]
    spec = load_catalogue(config).get(name)
    assert spec.sha256 == sha256
    first = spec.sources[0]
    assert isinstance(first, WheelsSource)
    assert len(first.parts) == wheels


def test_starter_is_shipped(config):
    assert STARTER in load_catalogue(config)


@pytest.mark.parametrize(
    "name",
    [
        *("qwen3-0.6b", "qwen3-4b", "qwen3-8b", "llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"),
        *("gemma-3-1b", "gemma-3-4b"),
    ],
)
def test_what_people_run_comes_from_the_hub(config, name):
    spec = load_catalogue(config).get(name)
    assert all(isinstance(source, HubSource) for source in spec.sources)
    assert spec.file_bytes


def test_entries_without_a_hash_say_their_facts_and_where_they_are_from(config):
    """A new entry comes with its licence, its purpose, and a page for what it says."""
    older = {"qwen3-0.6b", "qwen3-4b", "qwen3-8b", "llama-3.2-1b", "llama-3.2-3b"}
    older |= {"llama-3.1-8b", "gemma-3-1b", "gemma-3-4b"}
    unpinned = [spec for spec in load_catalogue(config) if spec.sha256 is None]
    assert len(unpinned) == 27
    for spec in unpinned:
        pages = dict(spec.fact_sources)
        hosts = {urlsplit(page).hostname for page in pages.values()}
        assert hosts <= {"huggingface.co", "github.com"}, spec.name
        assert spec.licence, spec.name
        assert "licence" in pages, spec.name
        assert spec.good_for, spec.name
        if spec.name in older:
            continue
        said = {
            "size": spec.file_bytes,
            "sampling": spec.sampling,
            "kv_bytes_per_token": spec.kv_bytes_per_token,
        }
        missing = {fact for fact, value in said.items() if value is not None} - pages.keys()
        assert not missing, spec.name
        if spec.think_open and spec.think_open != "<think>":
            assert "thinking" in pages, spec.name


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("fact_sources: {size: http://example.com}", "is no https address"),
        ("fact_sources: {colour: https://example.com}", "'colour' is not one of size, licence"),
        ("licence: ''", "licence"),
    ],
)
def test_a_fact_needs_a_name_that_is_known_and_a_page_that_is_secure(config, page, says):
    entry(config, f"models:\n  mine: {{size: s, {page}, sources: [{{path: a.gguf}}]}}\n")
    with pytest.raises(InvalidFile) as caught:
        load_catalogue(config)
    assert says in str(caught.value.problems[0])


def test_numbered_wheels_are_joined_in_numeric_order(config):
    source = load_catalogue(config).get("qwen2.5-coder-1.5b").sources[0]
    assert isinstance(source, WheelsSource)
    numbers = [part.requirement.partition("==")[0].rpartition("part")[2] for part in source.parts]
    assert numbers == [str(number) for number in range(1, 23)]


def test_models_with_think_tags_can_be_switched(config):
    spec = load_catalogue(config).get("qwen3-4b")
    assert (spec.think_open, spec.think_close) == ("<think>", "</think>")
    assert spec.thinking_switch == "enable_thinking"
    assert spec.sources == (HubSource("Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf"),)


@given(first=st.integers(0, 500), count=st.integers(1, 400))
def test_a_row_of_wheels_is_every_number_once(first, count):
    last = first + count - 1
    wheel = WheelEntry(package=f"a-part{{{first}..{last}}}.x==1.0", file="*")
    assert list(wheel.parts()) == [
        WheelPart(f"a-part{number}.x==1.0", "*") for number in range(first, last + 1)
    ]


def test_users_entry_takes_the_place_of_a_shipped_one(config):
    entry(
        config,
        "models:\n  smollm2-135m: {size: mine, context: 512, gpu_layers: 3,"
        " sources: [{path: own.gguf}]}\n",
    )
    spec = load_catalogue(config).get("smollm2-135m")
    assert (spec.size, spec.context, spec.gpu_layers, spec.origin) == ("mine", 512, 3, "user")
    # A relative path is meant from the folder of the file that says it.
    assert model_path(spec, config) == config.home / "own.gguf"
    assert "qwen3-4b" in load_catalogue(config)


def test_an_entry_says_how_the_model_lies_on_gpus(config):
    entry(
        config,
        "models:\n  a: {size: s, flash_attention: on, split: row, main_gpu: 1,"
        " tensor_split: [3, 1.5], sources: [{path: x}]}\n  b: {size: s, sources: [{path: x}]}",
    )
    catalogue = load_catalogue(config)
    spec = catalogue.get("a")
    assert (spec.flash_attention, spec.split, spec.main_gpu) == ("on", "row", 1)
    assert spec.tensor_split == (3.0, 1.5)
    spec = catalogue.get("b")
    assert (spec.flash_attention, spec.split, spec.main_gpu) == ("auto", "layer", 0)
    assert spec.tensor_split == ()


def test_an_entry_names_its_draft_model_and_its_speculation(config):
    entry(
        config,
        "models:\n  a: {size: s, draft: smollm2-135m, speculate: auto, sources: [{path: x}]}\n"
        "  b: {size: s, speculate: off, sources: [{path: x}]}\n"
        "  c: {size: s, draft: found, sources: [{path: x}]}",
    )
    config.models_dir.mkdir()
    (config.models_dir / "found.gguf").touch()
    catalogue = load_catalogue(config)
    spec = catalogue.get("a")
    assert (spec.draft, spec.speculate) == ("smollm2-135m", "auto")
    assert (catalogue.get("b").draft, catalogue.get("b").speculate) == (None, "off")
    assert catalogue.get("c").draft == "found"
    assert catalogue.get("qwen3-4b").speculate is None


def test_an_entry_sets_threads_batch_and_depth_of_its_drafts(config):
    entry(
        config,
        "models:\n  a: {size: s, threads: 2, prefill_threads: 4, batch_tokens: 64,"
        " draft_tokens: 3, sources: [{path: x}]}\n"
        "  b: {size: s, threads: null, sources: [{path: x}]}",
    )
    catalogue = load_catalogue(config)
    spec = catalogue.get("a")
    assert (spec.threads, spec.prefill_threads) == (2, 4)
    assert (spec.batch_tokens, spec.draft_tokens) == (64, 3)
    spec = catalogue.get("b")
    assert (spec.threads, spec.prefill_threads) == (None, None)
    assert (spec.batch_tokens, spec.draft_tokens) == (None, None)


def test_a_replaced_entry_is_not_judged_by_the_draft_it_had(config: Config) -> None:
    # The user's smollm2-135m has a draft of its own; only who drafts with it is refused.
    entry(
        config,
        "models:\n  smollm2-135m: {size: s, draft: gemma-3-270m, sources: [{path: x}]}\n"
        "  a: {size: s, draft: smollm2-135m, sources: [{path: x}]}",
    )
    with pytest.raises(InvalidFile) as caught:
        load_catalogue(config)
    assert [(p.line, p.column) for p in caught.value.problems] == [(3, 23)]


def test_unknown_name_offers_the_nearest(config):
    with pytest.raises(UsageError) as caught:
        load_catalogue(config).get("Smollm-135m")
    assert "'Smollm-135m'" in caught.value.what
    assert "smollm2-135m" in caught.value.fix


FAULTS = [
    ("^contxt: 1", "'context'"),
    ("sources: ^[]", "at least 1"),
    ("sources: [^{path: x, hf: {repo: a/b, file: c.gguf}}]", "one"),
    ("sources: [^{}]", "wheels, hf, url and path"),
    ("sha256: ^12ab", "64 hexadecimal"),
    ("context: ^4k", "whole number"),
    ("kv_type: ^q8", "q8_0"),
    ("kv_type: q8_0, flash_attention: ^off", "q8_0 needs flash attention"),
    ("split: ^rows", "row"),
    ("threads: ^0", "at least 1"),
    ("threads: ^two", "whole number"),
    ("prefill_threads: ^1025", "1024"),
    ("batch_tokens: ^8", "at least 16"),
    ("batch_tokens: ^8192", "4096"),
    ("draft_tokens: ^16", "15"),
    ("main_gpu: ^-1", "at least 0"),
    ("tensor_split: ^[0, 0]", "share"),
    ("split: none, tensor_split: ^[1]", "has no effect with `split: none`"),
    ("gpu_layers: ^some", "auto"),
    ("sources: [{wheels: [{package: ^a>=1, file: x}]}]", "name==version"),
    ("sources: [{wheels: [{package: ^'a{4..1}==1', file: x}]}]", "not a range"),
    ("sources: [{hf: {repo: ^a, file: c.gguf}}]", "repo"),
    ("speculate: ^fast", "off, lookup, draft, mtp, auto"),
    ("speculate: ^draft", "speculate: draft needs a draft model"),
    ("draft: ^a", "a cannot draft for itself"),
    ("draft: ^smollm-135m", "unknown model 'smollm-135m', did you mean 'smollm2-135m'?"),
    ("sampling: {temperature: ^9}", "at most 5"),
    ("sampling: {temperature: ^warm}", "number"),
    ("sampling: {temperature: ^.nan}", "finite"),
    ("sampling: {top_p: ^0}", "greater"),
    ("sampling: {top_k: ^-1}", "least 0"),
    ("sampling: {top_k: ^2.5}", "whole"),
    ("sampling: {min_p: ^2}", "at most 1"),
    ("sampling: {repeat_penalty: ^0}", "greater than 0"),
    ("sampling: {repeat_last_n: ^-2}", "at least -1"),
    ("sampling: {^temp: 1}", "'temp'"),
    ("sampling: {temperature: ^}", "remove the key"),
    ("sampling: {thinking: {top_p: ^3}}", "at most 1"),
    ("sampling: {thinking: {^thinking: {}}}", "'thinking'"),
]
"""What follows ``size: s, `` in an entry, with the place of the fault, and what is said of it."""


@pytest.mark.parametrize(("keys", "says"), FAULTS)
def test_faults_of_an_entry_are_refused_at_their_place(config, keys, says):
    more = "" if "sources" in keys else ", sources: [{path: x}]"
    line = f"  a: {{size: s, {keys}{more}}}"
    entry(config, f"models:\n{line.replace('^', '', 1)}")
    with pytest.raises(InvalidFile) as caught:
        load_catalogue(config)
    where = f"{config.models_file}:2:{line.index('^') + 1}"
    assert caught.value.what.startswith(where), caught.value.what
    assert says in caught.value.what


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("models:\n  a: {size: s}", "2:6", "sources"),
        ("models:\n  ../a: {size: s, sources: [{path: x}]}", "2:", "cannot name a model"),
        ("models:\n  a.gguf: {size: s, sources: [{path: x}]}", "2:", "cannot name a model"),
        (
            "models:\n  a: {size: s, draft: b, sources: [{path: x}]}\n"
            "  b: {size: s, draft: smollm2-135m, sources: [{path: x}]}",
            "2:23",
            "b has a draft model itself (smollm2-135m)",
        ),
        ("models: [", "2:1", "not closed"),
        ("models:\n  a: 1", "2:6", "mapping"),
    ],
)
def test_faults_are_refused_at_their_place(config, text, where, says):
    entry(config, text)
    with pytest.raises(InvalidFile) as caught:
        load_catalogue(config)
    assert caught.value.what.startswith(f"{config.models_file}:{where}"), caught.value.what
    assert says in caught.value.what


def test_gguf_files_in_the_folder_are_models_of_their_own(config, make_gguf):
    config.models_dir.mkdir()
    for name in ("mine", "big-00001-of-00002", "big-00002-of-00002", "smollm2-135m"):
        (config.models_dir / f"{name}.gguf").write_bytes(make_gguf(1))
    found = {spec.name for spec in load_catalogue(config) if spec.origin == "found"}
    assert found == {"mine", "big-00001-of-00002"}
    spec = load_catalogue(config).get("mine")
    assert model_path(spec, config) == config.models_dir / "mine.gguf"
    assert spec.sources == (PathSource(config.models_dir / "mine.gguf"),)


def test_path_of_a_gguf_is_a_model(config, tmp_path, make_gguf):
    path = tmp_path / "elsewhere.gguf"
    path.write_bytes(make_gguf(1))
    spec = load_catalogue(config).get(str(path))
    assert (spec.name, model_path(spec, config)) == ("elsewhere", path)


def test_path_of_a_gguf_with_the_name_of_another_model_is_refused(config, tmp_path, make_gguf):
    path = tmp_path / "smollm2-135m.gguf"
    path.write_bytes(make_gguf(1))
    with pytest.raises(UsageError, match="name of another model"):
        load_catalogue(config).get(str(path))


def test_naming_models_is_light():
    heavy = {"pydantic", "yaml", "huggingface_hub", "llama_cpp", "textual", "rich", "filelock"}
    code = (
        "import sys, etui.models.catalogue, etui.models.download, etui.cli.models;"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_thinking_can_be_switched_off_for_a_model(config):
    config.models_file.write_text(
        "models:\n  own:\n    size: 1 B\n    thinking: false\n    sources: [{path: own.gguf}]\n"
    )
    spec = load_catalogue(config).get("own")
    assert (spec.think_open, spec.think_close, spec.thinking_switch) == ("", "", None)
