"""Axes: what a user writes, what a machine can have, and the grid of both."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.errors import UsageError
from etui.sweep._axes import (
    MOST_SETTINGS,
    _find_obstacle,
    build_grid,
    check_axes,
    choose_default_axes,
    parse_axes,
    resolve_values,
)
from etui.sweep._machine import MachineFacts, PowerRange
from etui.sweep.config import AXES, Axis, AxisName, Setting, Value, WorkShape
from tests.sweep.machines import GPU_POWER, NO_DRAFTS, make_facts, make_mixture, make_model

VALUES: dict[AxisName, st.SearchStrategy[Value]] = {
    "model": st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True),
    "threads": st.integers(1, 1024),
    "decode_threads": st.integers(1, 1024),
    "prefill_threads": st.integers(1, 1024),
    "batch_tokens": st.integers(16, 4096),
    "kv_type": st.sampled_from(["f16", "q8_0", "q4_0"]),
    "flash_attention": st.sampled_from(["auto", "on", "off"]),
    "gpu_layers": st.integers(0, 100_000) | st.just("all"),
    "cpu_moe": st.integers(0, 100_000) | st.just("all"),
    "split": st.sampled_from(["none", "layer", "row"]),
    "speculate": st.sampled_from(["off", "lookup", "draft", "mtp", "auto"]),
    "draft_tokens": st.integers(1, 15) | st.just("auto"),
    "power_limit": st.integers(1, 999_999) | st.integers(1, 99_999).map(lambda n: n / 8),
}


def axes(*texts: str) -> tuple[Axis, ...]:
    return parse_axes(texts)


def settings(facts: MachineFacts, *texts: str) -> list[str]:
    """The keys of the grid of checked axes."""
    return [each.key for each in build_grid(check_axes(axes(*texts), facts), facts).settings]


# What is written


def test_every_axis_has_values_to_test() -> None:
    assert tuple(VALUES) == AXES


@given(st.data())
def test_what_is_written_is_read(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(AXES), unique=True, max_size=5))
    given_axes = tuple(
        Axis(name, tuple(data.draw(st.lists(VALUES[name], unique=True, min_size=1, max_size=5))))
        for name in names
    )
    texts = [f"{axis.name}={','.join(map(str, axis.values))}" for axis in given_axes]
    assert parse_axes(texts) == given_axes
    spaced = [f" {axis.name} = {' , '.join(map(str, axis.values))} " for axis in given_axes]
    assert parse_axes(spaced) == given_axes


def read_or_refuse(text: str) -> Axis | UsageError:
    try:
        return axes(text)[0]
    except UsageError as error:
        return error


@given(st.text(max_size=60) | st.builds("{}={}".format, st.sampled_from(AXES), st.text()))
def test_any_text_is_an_axis_or_wrong_usage(text: str) -> None:
    found = read_or_refuse(text)
    if isinstance(found, Axis):
        assert found.name in AXES
        assert len(set(found.values)) == len(found.values) >= 1
        assert all(type(value) in (int, float, str) for value in found.values)
    else:
        assert found.what
        assert found.fix
        assert (found.what + found.fix).isprintable()


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("thread=1,2", "no such axis, did you mean 'threads'?", "the axes are model, threads"),
        ("kv-typ=f16", "did you mean 'kv_type'?", "the axes are"),
        ("temperature=1", "there is no such axis", "the axes are"),
        ("threads", "threads has no values", "whole numbers from 1 to 1,024"),
        ("threads=", "threads has no values", "whole numbers"),
        ("threads=1,,2", "threads has an empty value", "--axis threads=1,2,4"),
        ("=1", "names no axis", "--axis threads=1,2,4"),
        ("threads=two", "two is not a value", "whole numbers from 1 to 1,024"),
        ("threads=0", "0 is not a value", "whole numbers from 1 to 1,024"),
        ("threads=1.5", "1.5 is not a value", "whole numbers"),
        ("threads=-1", "-1 is not a value", "whole numbers"),
        ("threads=\u0662", "is not a value", "whole numbers"),
        ("threads=1,2,1", "1 is given twice", "each value once"),
        ("power_limit=150,150.0", "150 is given twice", "each value once"),
        ("kv_type=q8", "did you mean 'q8_0'?", "f16, q8_0 or q4_0"),
        ("flash_attention=yes", "yes is not a value", "auto, on or off"),
        ("speculate=lookups", "did you mean 'lookup'?", "off, lookup, draft, mtp or auto"),
        ("batch_tokens=8", "8 is not a value", "16 to 4,096"),
        ("draft_tokens=16", "16 is not a value", "auto or whole numbers from 1 to 15"),
        ("gpu_layers=some", "some is not a value", "all or whole numbers from 0"),
        ("power_limit=0", "0 is not a value", "watts above 0"),
        ("power_limit=nan", "nan is not a value", "watts above 0"),
        ("power_limit=1e9", "1e9 is not a value", "watts above 0"),
        ("power_limit=70%", "70% is not a value", "watts above 0"),
    ],
)
def test_a_wrong_axis_says_what_is_allowed(text: str, what: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        axes(text)
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_an_axis_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="--axis threads is given twice"):
        axes("threads=1", "kv_type=f16", "THREADS=2")


def test_values_are_numbers_where_they_are_numbers() -> None:
    found = axes("Power-Limit=150 W,75.5w", "gpu_layers=all,12", "kv_type=Q8_0")
    assert [axis.values for axis in found] == [(150, 75.5), ("all", 12), ("q8_0",)]


# What the machine can have

ON_GPU = make_facts(gpus=1, power=GPU_POWER)
OTHER_VOCABULARY = "tiny cannot draft for small: its vocabulary has another kind of tokenizer"


def limited(**changes: Any) -> MachineFacts:
    return make_facts(gpus=1, power=replace(GPU_POWER, **changes))


@pytest.mark.parametrize(
    ("facts", "text", "what", "fix"),
    [
        (make_facts(), "threads=1,4", "threads=4: etui may run on 2 CPUs", "at most 2"),
        (make_facts(), "decode_threads=3", "etui may run on 2 CPUs", "at most 2"),
        (make_facts(), "prefill_threads=3", "etui may run on 2 CPUs", "at most 2"),
        (make_facts(), "gpu_layers=0,4", "llama.cpp sees no GPU", "etui doctor"),
        (make_facts(), "split=layer,row", "several GPUs", "leave out this axis"),
        (make_facts(), "speculate=off,draft", "small has no `draft`", "use off or lookup"),
        (make_facts(), "speculate=off,mtp", "no heads for multi-token", "use off or lookup"),
        (make_facts(), "power_limit=100,200", "no swept device has a power limit", "etui doctor"),
        (make_facts(), "model=small,absent-4b", "not on this machine", "models pull absent-4b"),
        (make_facts(), "model=small,smal", "no model is called 'smal'", "did you mean small?"),
        (make_facts(), "model=small,zzzz", "no model is called 'zzzz'", "`etui models list`"),
        (make_facts(), "threads=2", "only one combination, threads=2, which", "another value of"),
        (make_facts(), "draft_tokens=2,4", "no effect with speculate=off", "=off,lookup"),
        (make_facts(gpus=1), "gpu_layers=10,26", "small has 25 layers", "at most that number"),
        (make_facts(gpus=1), "cpu_moe=0,4", "small is no mixture of experts", "leave out"),
        (make_facts(make_mixture(), gpus=1), "cpu_moe=4,11", "mixture has 10 blocks", "at most"),
        (make_facts(make_mixture()), "cpu_moe=4,all", "the experts are in RAM", "leave out"),
        (ON_GPU, "power_limit=150,99", "GPU 0 takes 100 to 400 W", "within that range"),
        (ON_GPU, "power_limit=150,401", "GPU 0 takes 100 to 400 W", "within that range"),
        (limited(min_watts=None), "power_limit=150,401", "at most 400 W", "at most 400"),
        (limited(max_watts=None), "power_limit=150,99", "at least 100 W", "at least 100"),
        (
            limited(labels=("A", "B"), watts=None, current=(250.0, 300.0)),
            "power_limit=150,200",
            "the power limits of A, B differ now: 250 W, 300 W",
            "set them to one value first",
        ),
        (
            limited(watts=None, current=(None,)), "power_limit=150,200", "cannot be read",
            "leave out this axis",
        ),
        (
            make_facts(shape=WorkShape(sequences=5)), "speculate=off,lookup",
            "votes are never speculated", "leave out this axis",
        ),
        (
            make_facts(shape=WorkShape(reads_letters=True)), "speculate=off,lookup",
            "decodes nothing", "leave out this axis",
        ),
        (
            make_facts(shape=WorkShape(reads_letters=True)), "decode_threads=1,2",
            "decodes nothing", "prefill_threads",
        ),
        (
            make_facts(make_model(obstacles={**NO_DRAFTS, "draft": OTHER_VOCABULARY})),
            "speculate=off,draft", "another kind of tokenizer", "use off or lookup",
        ),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_had_here_is_refused(
    facts: MachineFacts, text: str, what: str, fix: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check_axes(axes(text), facts)
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_values_within_the_limits_are_taken() -> None:
    facts = make_facts(gpus=1)
    assert settings(facts, "gpu_layers=10,25,all") == ["gpu_layers=all", "gpu_layers=10"]
    limits = ["power_limit=300", "power_limit=100", "power_limit=400"]
    assert settings(ON_GPU, "power_limit=100,400") == limits


def test_threads_of_two_phases_are_not_set_by_one_number() -> None:
    facts = make_facts(make_model(threads=1, decode_threads=1, prefill_threads=2), cores=2)
    with pytest.raises(UsageError, match="1 threads for decode and 2 for prefill"):
        check_axes(axes("threads=1,2"), facts)
    assert settings(facts, "decode_threads=1,2") == ["decode_threads=1", "decode_threads=2"]
    with pytest.raises(UsageError, match="and so does --axis decode_threads"):
        check_axes(axes("threads=1,2", "decode_threads=1"), make_facts())


# The grid


def test_the_baseline_comes_first_and_is_added() -> None:
    facts = make_facts(cores=4)
    assert settings(facts, "threads=1,4") == ["threads=4", "threads=1"]
    assert settings(facts, "threads=1,2") == ["threads=4", "threads=1", "threads=2"]
    assert settings(facts, "kv_type=q8_0", "threads=2") == [
        "threads=4 kv_type=f16",
        "threads=2 kv_type=q8_0",
    ]


def test_a_quantised_cache_without_flash_attention_is_left_out_and_noted() -> None:
    grid = build_grid(axes("kv_type=f16,q8_0", "flash_attention=off,on,auto"), make_facts())
    assert [each.key for each in grid.settings] == [
        "kv_type=f16 flash_attention=off",
        "kv_type=f16 flash_attention=on",
        "kv_type=q8_0 flash_attention=on",
    ]
    assert grid.notes == (
        "left out 1 combination: kv_type=q8_0 needs flash attention",
        "left out 2 combinations: the same as another one",
    )


def test_a_quantised_cache_alone_is_noted_to_switch_the_attention() -> None:
    (note,) = build_grid(axes("kv_type=f16,q8_0"), make_facts()).notes
    assert "--axis flash_attention=off,on separates the two effects" in note
    facts = make_facts(make_model(flash_attention="on"))
    assert build_grid(axes("kv_type=f16,q8_0"), facts).notes == ()


def test_depths_without_speculation_are_one_combination() -> None:
    assert settings(make_facts(), "draft_tokens=2,4", "speculate=off,lookup") == [
        "speculate=off draft_tokens=auto",
        "speculate=lookup draft_tokens=2",
        "speculate=lookup draft_tokens=4",
    ]


def test_models_are_compared_with_the_values_of_the_baseline() -> None:
    other = make_model("other", 17, kv_type="q8_0", flash_attention="on")
    facts = make_facts(make_model(fitting=25), other, gpus=1)
    assert settings(facts, "model=other", "gpu_layers=16") == [
        "model=small gpu_layers=all",
        "model=other gpu_layers=16",
    ]
    grid = build_grid(axes("model=small,other", "gpu_layers=16,20"), facts)
    assert [each.key for each in grid.settings] == [
        "model=small gpu_layers=all",
        "model=small gpu_layers=16",
        "model=small gpu_layers=20",
        "model=other gpu_layers=16",
    ]
    assert grid.notes == ("left out 1 combination: gpu_layers=20: other has 17 layers",)


def test_a_grid_that_is_too_large_is_refused() -> None:
    facts = make_facts(cores=64)
    with pytest.raises(UsageError, match="257 combinations, more than 200"):
        check_axes(
            axes(
                f"decode_threads={','.join(map(str, range(1, 33)))}",
                f"prefill_threads={','.join(map(str, range(1, 9)))}",
            ),
            facts,
        )
    huge = [f"{name}_threads={','.join(map(str, range(1, 65)))}" for name in ("decode", "prefill")]
    with pytest.raises(UsageError, match="262,144 combinations"):
        check_axes(axes(*huge, f"batch_tokens={','.join(map(str, range(16, 80)))}"), facts)


GRIDS = st.fixed_dictionaries(
    {},
    optional={
        "threads": st.lists(st.integers(1, 8), unique=True, min_size=1, max_size=3),
        "prefill_threads": st.lists(st.integers(1, 8), unique=True, min_size=1, max_size=3),
        "kv_type": st.lists(VALUES["kv_type"], unique=True, min_size=1),
        "flash_attention": st.lists(VALUES["flash_attention"], unique=True, min_size=1),
        "gpu_layers": st.lists(
            st.integers(0, 25) | st.just("all"), unique=True, min_size=1, max_size=3
        ),
        "speculate": st.lists(st.sampled_from(["off", "lookup", "auto"]), unique=True, min_size=1),
        "draft_tokens": st.lists(VALUES["draft_tokens"], unique=True, min_size=1, max_size=2),
    },
)


@pytest.mark.parametrize(
    ("given_axes", "expected", "left_out"),
    [
        (("cpu_moe=4,7,10,all",), ["cpu_moe=4", "cpu_moe=7", "cpu_moe=10"], "the same as another"),
        (("cpu_moe=0,7",), ["cpu_moe=4", "cpu_moe=7"], "they need 23.0 GB of 20.0 GB free"),
        (
            ("gpu_layers=0,8,all", "cpu_moe=0,2,6"),
            [
                "gpu_layers=all cpu_moe=4",
                "gpu_layers=0 cpu_moe=0",  # whichever experts
                "gpu_layers=8 cpu_moe=0",  # those of the first two blocks are in RAM anyway
                "gpu_layers=8 cpu_moe=6",
                "gpu_layers=all cpu_moe=6",
            ],
            "they need 21.5 GB of 20.0 GB free on the GPUs",
        ),
    ],
)
def test_combinations_of_layers_and_experts(given_axes, expected, left_out) -> None:
    facts = make_facts(make_mixture(), gpus=1)
    grid = build_grid(check_axes(axes(*given_axes), facts), facts)
    assert [setting.key for setting in grid.settings] == expected
    assert left_out in " ".join(grid.notes)


def test_a_mixture_that_does_not_fit_is_swept_by_its_experts() -> None:
    facts = make_facts(make_mixture(), gpus=1)
    found = {axis.name: axis.values for axis in choose_default_axes(facts)}
    assert (found["gpu_layers"], found["cpu_moe"]) == ((0, 8, "all"), (0, 4))
    whole = make_facts(make_mixture(30 * 10**9), gpus=1)
    assert not {"gpu_layers", "cpu_moe"} & {axis.name for axis in choose_default_axes(whole)}


@given(GRIDS)
def test_a_grid_has_every_possible_combination_once(grid: dict[AxisName, list[Value]]) -> None:
    facts = make_facts(cores=8, gpus=1)
    given_axes = [Axis(name, tuple(values)) for name, values in grid.items()]
    try:
        found = build_grid(given_axes, facts).settings
    except UsageError:
        return  # too many
    assert len(found) <= MOST_SETTINGS
    names = tuple(axis for axis in AXES if axis in grid)
    assert all(tuple(name for name, _ in each.values) == names for each in found)
    baseline = found[0]
    assert baseline == Setting(tuple((name, facts.current[name]) for name in names))
    for each in found:
        assert _find_obstacle(dict(each.values), facts) == ""
        if each != baseline:
            assert all(value in grid[name] for name, value in each.values)
    computed = [resolve_values(dict(each.values), facts) for each in found]
    assert all(one != other for one, other in combinations(computed, 2))
    possible = set()
    for values in product(*(grid[name] for name in names)):
        setting = dict(zip(names, values, strict=True))
        if not _find_obstacle(setting, facts):
            possible.add(frozenset(resolve_values(setting, facts).items()))
    assert possible <= {frozenset(each.items()) for each in computed}


# Defaults


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 8, 16, 32, 64])
@pytest.mark.parametrize("drafts", [NO_DRAFTS, {"mtp": "none"}, {}])
def test_the_default_grid_on_a_cpu_is_small_and_possible(
    cores: int, drafts: dict[str, str]
) -> None:
    values = dict.fromkeys(("threads", "decode_threads", "prefill_threads"), cores)
    facts = make_facts(make_model(obstacles=drafts, **values), cores=cores)
    chosen = choose_default_axes(facts)
    assert check_axes(chosen, facts) == chosen
    found = build_grid(chosen, facts).settings
    assert 4 <= len(found) <= 16
    assert found[0].get("kv_type") == "f16"
    threads = next((axis.values for axis in chosen if axis.name == "threads"), ())
    assert set(threads) <= {1, cores // 2, cores}
    assert (cores in threads) == (cores > 1)
    methods = next(axis.values for axis in chosen if axis.name == "speculate")
    assert methods == ("off", *(m for m in ("lookup", "draft", "mtp") if m not in drafts))


def test_the_default_axes_of_two_cores() -> None:
    facts = make_facts()
    assert choose_default_axes(facts) == (
        Axis("threads", (1, 2)),
        Axis("kv_type", ("f16", "q8_0")),
        Axis("flash_attention", ("off", "on")),
        Axis("speculate", ("off", "lookup")),
    )
    grid = build_grid(choose_default_axes(facts), facts)
    assert len(grid.settings) == 12
    assert grid.notes == ("left out 4 combinations: kv_type=q8_0 needs flash attention",)


def test_default_axes_contain_what_is_in_use() -> None:
    own = make_model(
        threads=3, decode_threads=3, prefill_threads=3, kv_type="q4_0", flash_attention="on"
    )
    chosen = {axis.name: axis.values for axis in choose_default_axes(make_facts(own, cores=4))}
    assert chosen["threads"][-2:] == (3, 4)
    assert "q4_0" in chosen["kv_type"]
    two = make_model(threads=1, decode_threads=1, prefill_threads=2)
    names = [axis.name for axis in choose_default_axes(make_facts(two, cores=2))]
    assert "decode_threads" in names
    assert "threads" not in names


@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize("power", [None, GPU_POWER, replace(GPU_POWER, can_set=False)])
@pytest.mark.parametrize("fitting", [25, 12])
@pytest.mark.parametrize("drafts", [NO_DRAFTS, {}])
def test_the_default_grid_on_a_gpu(
    gpus: int, power: PowerRange | None, fitting: int, drafts: dict[str, str]
) -> None:
    facts = make_facts(
        make_model(fitting=fitting, obstacles=drafts), gpus=gpus, power=power, cores=16
    )
    chosen = choose_default_axes(facts)
    assert check_axes(chosen, facts) == chosen
    assert 4 <= len(build_grid(chosen, facts).settings) <= 40
    found = {axis.name: axis.values for axis in chosen}
    assert ("power_limit" in found) == (power is not None and power.can_set)
    assert ("gpu_layers" in found) == (fitting < 25)
    assert "threads" not in found
    if gpus == 1:
        assert "split" not in found


def test_default_power_limits_are_shares_of_the_default_within_the_range() -> None:
    def limits(power: PowerRange) -> tuple[Value, ...]:
        facts = make_facts(gpus=1, power=power)
        found = {axis.name: axis.values for axis in choose_default_axes(facts)}
        return found["power_limit"]

    assert limits(GPU_POWER) == (150, 210, 255, 300)
    assert limits(replace(GPU_POWER, min_watts=200.0)) == (200, 210, 255, 300)
    assert limits(replace(GPU_POWER, watts=250.0)) == (150, 210, 250, 255, 300)
    assert limits(replace(GPU_POWER, default_watts=None)) == (200, 280, 300, 340, 400)


def test_work_that_cannot_speculate_has_no_such_default_axis() -> None:
    for shape in (WorkShape(sequences=7), WorkShape(reads_letters=True)):
        names = [axis.name for axis in choose_default_axes(make_facts(shape=shape))]
        assert "speculate" not in names
        assert "threads" in names


def test_one_core_with_nothing_to_draft_still_has_a_grid() -> None:
    facts = make_facts(shape=WorkShape(sequences=3), cores=1)
    assert len(build_grid(choose_default_axes(facts), facts).settings) == 3
