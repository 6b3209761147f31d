"""One speed for one answer wherever it is shown, and a recommendation that holds still."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict, replace

import pytest

from etui import units
from etui.config.config import Config
from etui.config.machine import machine_name
from etui.curves.fit import TurnPoint, compute_speed
from etui.curves.prediction import MachineFacts, ModelWork, forecast_decode
from etui.log.past_answers import read_speed
from etui.log.queries import LogReader
from etui.log.text import format_turn
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.memory_speed import MemorySpeed, save_memory_speed
from etui.models.spec import STARTER
from etui.routing.signals import HostState
from etui.runtime import measure_memory
from etui.runtime.measure_memory import find_memory_speed
from etui.server.documents import timings_document
from etui.tui.models import _cards as card_reader
from etui.tui.models._cards import CardReader, Cards
from etui.tui.models._text import model_texts
from etui.tui.models.first_run import describe_advice
from etui.tui.power.energy_text import answer_of_record
from etui.turn.text import energy_line, price_facts
from tests.fixtures.turns import ENERGY, TURN
from tests.support.command import run_here

ONE = replace(
    TURN,
    reasoning="direct",
    votes=(),
    probes=(),
    tokens=replace(TURN.tokens, output=39),
    seconds=replace(TURN.seconds, prefill=7.6, decode=1.0, total=8.6),  # mostly its prompt
    energy=replace(ENERGY, phases={"load": 0.0, "prefill": 60.0, "decode": 19.0}, flags=()),
    settings={"machine": machine_name()},
)


@pytest.mark.parametrize("measured", [True, False])
def test_every_surface_shows_the_same_speed_of_the_same_answer(
    config: Config, measured: bool
) -> None:
    one = ONE
    if not measured:
        nothing = dict.fromkeys(("load", "prefill", "decode"))
        one = replace(ONE, energy=replace(ENERGY, joules=None, phases=nothing))
    texts = [energy_line(one), " ".join(price_facts(one)), "\n".join(format_turn(one, ()))]
    shown = [float(text) for line in texts for text in re.findall(r"([\d.]+) tok/s", line)]
    assert shown == [38.0] * 3
    assert answer_of_record(one).tokens_per_second == 38.0
    timings = timings_document(one)
    assert timings["predicted_per_second"] == 38.0
    assert timings["predicted_per_token_ms"] == pytest.approx(1e3 / 38)
    point = TurnPoint(10, 30, 39, 60.0, 19.0, prefill_seconds=7.6, decode_seconds=1.0)
    assert compute_speed([point]).decode_tokens_per_second == 38.0

    with TurnWriter(config) as log:
        log.save_turn(one)
    with LogReader(config) as log:
        past = read_speed(log, one.model, one.model_sha256, machine_name())
        assert read_speed(log, one.model, one.model_sha256, "another") is None
    assert past is not None
    assert past.decode_tokens_per_second == 38.0
    forecast = forecast_decode(ModelWork(10**9), MachineFacts(), past=past)
    assert (forecast.tokens_per_second, forecast.speed_source) == (38.0, "log")
    assert forecast.joules_per_token == (0.5 if measured else None), "its prompt is left out"

    config.models_dir.mkdir(parents=True, exist_ok=True)
    (config.models_dir / f"{STARTER}.gguf").write_bytes(b"GGUF")
    digest = load_catalogue(config).get(STARTER).sha256
    with TurnWriter(config) as log:  # the same answer, by the file that is there
        log.save_turn(replace(one, turn_id="b", model_sha256=digest))
    cards = _read(config)
    card = cards.find(STARTER)
    assert card is not None
    assert model_texts(card, cards, resident=False)["speed"] == "38"


def test_several_answers_in_a_turn_have_a_first_token_each() -> None:
    votes = replace(ONE, votes=TURN.votes)
    assert votes.tokens_per_second == 37.0, "two votes"
    assert units.decode_speed(2, 1.0, answers=2) is None


def test_fifty_starts_recommend_one_model_or_say_that_nothing_was_measured_yet(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    luck = random.Random(29)
    starts = [True] * 25 + [False] * 25
    luck.shuffle(starts)
    starts[:2] = [True, True]
    said: list[str] = []
    stars: set[str | None] = set()
    for busy in starts:
        # A memory of 24 GB/s, near the limits of several models, as it was seen by other programs
        # between 5.8 and 24 GB/s; at rest it varies by some per cent. Free memory varies as well.
        speed = luck.uniform(5.8e9, 24e9) if busy else luck.gauss(24e9, 0.5e9)
        found = MemorySpeed(machine_name(), 2, speed, busy=busy)
        free = HostState(free_memory_gb=luck.uniform(7, 12) if busy else luck.uniform(8, 12))
        monkeypatch.setattr(measure_memory, "_measure", lambda _threads, found=found: found)
        monkeypatch.setattr(card_reader, "read_host", lambda _config, free=free: free)
        find_memory_speed(config, 2, lambda: False)
        cards = _read(config)
        said.append(describe_advice(cards))
        stars.add(cards.recommended)
    assert said[0].startswith("No recommendation: the speed of the memory is not measured yet (the")
    [star] = stars - {None}
    assert all(text.startswith((f"★ {star}: ", "No recommendation: ")) for text in said)
    at_rest = starts.index(False)
    assert all(text.startswith("★") for text in said[at_rest:]), "it stays known"
    first = said[at_rest].splitlines()[0]
    assert re.fullmatch(rf"★ {star}: [\d.]+ GB of [\d.]+ GB free, about \d+ tok/s.", first)


def _read(config: Config) -> Cards:
    reader = CardReader(config, lambda: None)
    try:
        return reader.read()
    finally:
        reader.close()


def test_list_and_info_predict_as_the_models_screen_does(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = HostState(free_memory_gb=22.0)
    for module in (card_reader, measure_memory):
        monkeypatch.setattr(module, "read_host", lambda _config: host)
    save_memory_speed(config, MemorySpeed(machine_name(), 2, 20e9))
    reader = CardReader(config, lambda: None)
    cards = {card.spec.name: card for card in reader.read().models}
    reader.close()
    rows = {
        row["name"]: row
        for row in json.loads(run_here("models", "list", "--json").stdout)["models"]
    }
    assert rows.keys() == cards.keys()
    for name, row in rows.items():
        assert (row["need_bytes"], row["fit"]) == (cards[name].need_bytes, cards[name].fit)
        assert row["fits"] is (row["fit"] in ("gpu", "memory"))
        for key, value in asdict(cards[name].forecast).items():
            if "joules" not in key:  # its power limit comes from the meter of the app
                assert row["expected"][key] == value
    # The active share of the experts is known before the pull.
    speed = rows["qwen3.6-35b-a3b"]["expected"]["tokens_per_second"]
    read_bytes = 22134528992 * 3 / 35 + 512 * 20480
    assert speed == pytest.approx(20e9 / (read_bytes / 0.8 + 2e8), rel=0.01)
    info = json.loads(run_here("models", "info", "qwen3.6-35b-a3b", "--json").stdout)
    assert info["expected"]["tokens_per_second"] == speed
