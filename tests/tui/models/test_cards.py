"""What the cards predict, and how the list and the details say it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from etui.config.machine import machine_name
from etui.curves.operating_curve import Conditions, Speed
from etui.curves.prediction import MachineFacts, MeasuredModel, ModelWork, Prediction
from etui.log.model_usage import ModelUsage, Spent
from etui.models.spec import HubSource, ModelSpec, PathSource, WheelPart, WheelsSource
from etui.tui.models._cards import (
    Cards,
    ModelCard,
    add_forecast,
    list_measured,
)
from etui.tui.models._text import expected_lines, fact_lines, model_texts, wrap_facts
from etui.tui.models.first_run import describe_advice, describe_memory, suggest_other_source
from tests.log.test_curve_rows import CURVE

GB = 10**9
MACHINE = MachineFacts(20e9, 18.0, ram_bytes=16 * GB)
HERE = Conditions(machine_name(), "build", 2)
CURVE_HERE = replace(
    CURVE,
    conditions=HERE,
    speed=Speed(decode_tokens_per_second=40.0, decode_watts=16.0),
    gpu_layers=0,
)


def card_of(name: str = "m", size: int = 2 * GB, **changes: object) -> ModelCard:
    spec = ModelSpec(name, "2B parameters", (), file_bytes=size, good_for="short code")
    card = ModelCard(spec, Path(f"{name}.gguf"), "absent", size)
    return replace(card, **changes)  # type: ignore[arg-type]


def cells(card: ModelCard) -> tuple[str, str]:
    """The tokens per second and joules per token of its row."""
    texts = model_texts(card, Cards((card,)), resident=False)
    return texts["speed"], texts["joules"]


def test_an_entry_without_a_file_is_predicted_from_the_memory() -> None:
    card = add_forecast(card_of(), MACHINE)
    assert card.fit == "memory"
    assert cells(card) == ("≈7.4", "≈2.4")
    assert list(expected_lines(card.prediction, MACHINE)) == [
        "expected  ≈7.4 tok/s ± 50 %: estimated from memory bandwidth (20.0 GB/s)",
        "          ≈2.4 J per decoded token ± 64 %: at the power limit (18 W)",
    ]
    for busy, why in ((True, " (the machine was busy)"), (False, "")):
        machine = MachineFacts(None, 18.0, memory_busy=busy, ram_bytes=16 * GB)
        unknown = add_forecast(card_of(), machine)
        assert next(expected_lines(unknown.prediction, machine)) == (
            f"expected  unknown tok/s: the speed of the memory is not measured yet{why}"
        )


def test_a_gpu_without_a_reading_is_unknown_and_says_why() -> None:
    card = add_forecast(card_of(), replace(MACHINE, gpu_bytes=24 * GB))
    assert card.fit == "gpu"
    assert cells(card) == ("–", "–")
    assert list(expected_lines(card.prediction, MACHINE)) == [
        "expected  unknown tok/s: no model was measured on this GPU yet",
        "          unknown J per decoded token: no power meter to predict it from",
    ]


def test_a_curve_of_this_machine_predicts_other_models_and_that_of_another_does_not() -> None:
    measured = card_of("a", GB, curve=CURVE_HERE)
    elsewhere = card_of("b", GB, curve=replace(CURVE_HERE, conditions=replace(HERE, machine="x")))
    found = list_measured((measured, elsewhere, card_of("c")), machine_name())
    assert found == (MeasuredModel("a", ModelWork(GB, 2 * GB), 40.0, 16.0, on_gpu=False),)
    machine = replace(MACHINE, measured=found)
    own = add_forecast(measured, machine)
    assert cells(own)[0] == "40", "measured, so not ≈"
    other = add_forecast(card_of("c"), machine)
    assert cells(other) == ("≈21", "≈0.74")
    assert [line.split(": ")[1] for line in expected_lines(other.prediction, machine)] == [
        "scaled by size from a",
        "with the watts of a",
    ]
    foreign = add_forecast(elsewhere, MACHINE)
    assert foreign.forecast.speed_source == "memory"


def test_a_remote_model_is_not_predicted() -> None:
    spec = ModelSpec("far", "served by desk", (), backend="desk")
    card = ModelCard(spec, Path("far.gguf"), "absent", None)
    assert add_forecast(card, MACHINE) == card
    assert "expected" not in "\n".join(fact_lines(card, Cards((card,)), resident=False))
    assert model_texts(card, Cards((card,)), resident=False)["fits"] == "remote"


def test_control_characters_of_an_entry_do_not_reach_the_list() -> None:
    spec = ModelSpec("m", "s", (), file_bytes=GB, good_for="\x1b[31mred [b]bold[/b]")
    card = ModelCard(spec, Path("m.gguf"), "absent", GB)
    texts = model_texts(card, Cards((card,)), resident=False)
    shown = " ".join(texts.values())
    assert "\x1b" not in shown
    assert "[b]bold[/b]" in shown
    assert "good for  " in "\n".join(fact_lines(card, Cards((card,)), resident=False))


def test_the_advice_names_what_suits_or_says_that_nothing_does() -> None:
    card = add_forecast(card_of("good"), MACHINE)
    assert describe_advice(
        Cards((card,), recommended="good", machine=replace(MACHINE, ram_bytes=12 * GB))
    ) == (
        "★ good: 2.63 GB of 12.0 GB free, about 7.4 tok/s, about 2.4 J per decoded token here.\n"
        "Basis: the fastest of the chat models that fit; speed: estimated from memory bandwidth "
        "(20.0 GB/s); not how well they answer."
    )
    on_gpu = add_forecast(card_of("good"), replace(MACHINE, gpu_bytes=24 * GB))
    both = MachineFacts(ram_bytes=16 * GB, gpu_bytes=24 * GB)
    assert describe_advice(Cards((on_gpu,), recommended="good", machine=both)) == (
        "★ good: 2.63 GB of 24.0 GB free on the GPU.\n"
        "Basis: about the largest with 10 tok/s or more of the chat models that fit; speed: "
        "no model was measured on this GPU yet; not how well they answer."
    )
    unmeasured = Cards((card,), machine=MachineFacts(memory_busy=True))
    assert describe_advice(unmeasured) == (
        "No recommendation: the speed of the memory is not measured yet (the machine was busy); "
        "r checks again."
    )
    assert describe_advice(Cards((card,), recommended="good", prebuilt=True)).splitlines()[2:] == [
        "`etui engine build` may make answers faster."
    ]
    assert describe_advice(Cards((card,), machine=MACHINE)) == (
        "No model that answers well fits here; smollm2-135m is a tiny demo."
    )
    assert (
        describe_memory(Cards((), machine=replace(both, gpu_bytes=None)))
        == "16.0 GB of memory free · no usable GPU"
    )
    assert describe_memory(Cards((), machine=both)).endswith("24.0 GB free on the GPU")


def test_another_source_is_suggested_only_for_models_of_the_hub() -> None:
    hub = (HubSource("a/b", "c.gguf"),)
    wheels = (WheelsSource((WheelPart("a==1", "*"),)),)
    far, near, local = (
        replace(card, spec=replace(card.spec, sources=sources), prediction=Prediction(fit="memory"))
        for card, sources in (
            (card_of("far"), hub),
            (card_of("near"), wheels),
            (card_of("local"), (PathSource(Path("x")),)),
        )
    )
    cards = Cards((far, near, local))
    assert "near comes from the package index" in suggest_other_source("far", cards)
    assert suggest_other_source("near", cards) == ""
    assert suggest_other_source("local", cards) == ""
    large = replace(near, prediction=Prediction(fit="too large"))
    assert suggest_other_source("far", Cards((far, large))) == ""


def test_a_path_is_divided_between_two_folders() -> None:
    first, second = wrap_facts(["          /home/me/etui/models/smollm2-135m.gguf"], 40)
    assert (first.strip(), second.strip()) == ("/home/me/etui/models/", "smollm2-135m.gguf")


def test_failures_are_apart_from_the_answers() -> None:
    usage = ModelUsage("2026-11-24T10:00:00.000+00:00", {"answers": Spent(2, 9.0, failed=3)})
    card = card_of(usage=usage)
    lines = list(fact_lines(card, Cards((card,)), resident=False))
    assert any(line.startswith("answers   2, 3 failed") for line in lines)
