"""Our own values as JSON and back: the text that was always written, and nothing else is read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm, EarlyExit, Sampling
from etui.bench.arms import parse_arm, to_json
from etui.bench.config import RunConfig, parse_run_config
from etui.bench.sample import Sample, parse_sample
from etui.calibration.grid import Grid
from etui.codec import DocumentError, from_document, to_document
from etui.curves.fit import TurnPoint
from etui.curves.operating_curve import Conditions, OperatingCurve
from etui.energy.idle import Baselines, IdleBaseline
from etui.energy.types import Channel, Kind, Reading
from etui.log.curve_lookup import build_curve_row, parse_curve
from etui.models.files import FileRecord
from etui.turn.record import HopRecord, ProbeRecord, Tokens, VoteRecord

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.dictionaries(st.text(), st.floats(), max_size=3)
COUNTS = st.dictionaries(st.text(), st.integers(), max_size=3)
IDLES = st.builds(IdleBaseline, watts=NUMBERS)
RUN_CONFIGS = st.builds(
    RunConfig,
    sizes=COUNTS,
    drawn=COUNTS,
    arms=st.dictionaries(st.text(), st.dictionaries(st.text(), JSON_VALUES, max_size=3)),
    versions=st.dictionaries(st.text(), JSON_VALUES, max_size=2),
    machine=st.dictionaries(st.text(), JSON_VALUES, max_size=2),
    energy=st.dictionaries(st.text(), JSON_VALUES, max_size=2),
    idle=st.none() | st.dictionaries(st.text(), JSON_VALUES, max_size=2),
)
VALUES: dict[type[Any], st.SearchStrategy[Any]] = {
    Sample: st.builds(Sample, logprobs=st.none() | NUMBERS),
    RunConfig: RUN_CONFIGS,
    Baselines: st.builds(
        Baselines, st.none() | IDLES, st.dictionaries(st.text(), IDLES, max_size=2)
    ),
    **{
        kind: st.from_type(kind)
        for kind in (
            *(Arm, FileRecord, Grid, Conditions, TurnPoint, Channel, Reading),
            *(HopRecord, ProbeRecord, VoteRecord, OperatingCurve),
        )
    },
}
SAMPLE = Sample(
    "direct", "anatomy", 3, "B", None, False, "no_answer", "eh\n", {"A": -1.5, "B": -0.25}, 0.75,
    None, 0.5, 5, Tokens(10, 4, 6, 0, 2), 1.5, 2.0, 0.125, "counter", 1.25, 0.75, 0.0625, "ab12",
    None, ("small",), None,
)  # fmt: skip
SAMPLE_TEXT = (
    '{"arm": "direct", "subject": "anatomy", "row": 3, "answer": "B", "choice": null, "correct": '
    'false, "status": "no_answer", "text": "eh\\n", "logprobs": {"A": -1.5, "B": -0.25}, '
    '"letter_mass": 0.75, "confidence": null, "margin": 0.5, "shots": 5, "tokens": {"prompt": 10, '
    '"cached": 4, "computed": 6, "thinking": 0, "output": 2}, "prefix_tokens": 1.5, "joules": 2.0, '
    '"uncertainty": 0.125, "kind": "counter", "prefill_joules": 1.25, "decode_joules": 0.75, '
    '"seconds": 0.0625, "prompt_sha256": "ab12", "rule": null, "hops": ["small"], "error": null}'
)
ARM = Arm("think", "small", "cot", sampling=Sampling(0.7), early_exit=EarlyExit(stable=3))
ARM_TEXT = (
    '{"name": "think", "model": "small", "reasoning": "cot", "think_tokens": 256, "max_tokens": '
    '512, "votes": 7, "batch": 8, "stop": {"rule": "flip", "eps": 0.05, "threshold": 0.95}, '
    '"weight": "none", "style": "auto", "readout": "text", "sampling": {"temperature": 0.7, '
    '"top_p": 0.95, "top_k": 40, "min_p": 0.05, "seed": 0}, "early_exit": {"every": 48, "min_p": '
    '0.9, "stable": 3}, "exchange": null, "max_joules": null, "context_overflow": '
    '"truncate_thought"}'
)


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
def test_a_value_comes_back_and_its_text_is_that_of_asdict(kind, data):
    value = data.draw(VALUES[kind])
    text = json.dumps(to_document(value))
    assert text == json.dumps(asdict(value))
    back = from_document(kind, json.loads(text))
    assert json.dumps(to_document(back)) == text
    assert repr(back) == repr(value)  # repr, since nan is not equal to itself


def test_the_texts_of_files_are_those_of_before():
    assert json.dumps(SAMPLE.to_json()) == SAMPLE_TEXT
    assert parse_sample(json.loads(SAMPLE_TEXT)) == SAMPLE
    assert json.dumps(to_json(ARM)) == ARM_TEXT
    assert parse_arm(json.loads(ARM_TEXT)) == ARM


@given(st.from_type(OperatingCurve))
def test_a_curve_comes_back_from_its_row(curve):
    row = build_curve_row(curve)
    for column in ("coefficients", "residuals", "settings"):
        row[column] = json.dumps(row[column])
    assert repr(parse_curve(row)) == repr(curve)


@given(RUN_CONFIGS)
def test_the_hash_of_a_run_survives_its_file(run):
    again = parse_run_config(json.loads(json.dumps({**run.to_json(), "config_sha256": run.sha256})))
    assert again.sha256 == run.sha256


def test_an_integer_is_taken_for_a_float_and_a_default_for_what_is_missing():
    point = from_document(TurnPoint, dict.fromkeys(TURN_POINT_NEEDS, 1))
    assert point == TurnPoint(1, 1, 1, 1.0, 1.0)
    assert repr(point.decode_joules) == "1.0"
    with pytest.raises(DocumentError, match=r"got `str` - at `\$\.decode_joules`"):
        from_document(TurnPoint, {**dict.fromkeys(TURN_POINT_NEEDS, 1), "decode_joules": "1"})


TURN_POINT_NEEDS = (
    *("computed_tokens", "cached_tokens", "output_tokens"),
    *("prefill_joules", "decode_joules"),
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"extra": 1}, "unknown field `extra` - at `\\$`"),
        ({"tokens": {**asdict(SAMPLE.tokens), "extra": 1}}, "`extra` - at `\\$.tokens`"),
        ({"row": "3"}, "Expected `int`, got `str` - at `\\$.row`"),
        ({"status": "odd"}, "Invalid enum value"),
        ({"status": "\ud800"}, "surrogates"),
        ({"tokens": None}, "Expected `object`"),
    ],
)
def test_what_is_no_sample_is_refused_with_its_place(changes, says):
    with pytest.raises(DocumentError, match=says):
        parse_sample({**SAMPLE.to_json(), **changes})


@dataclass(frozen=True, slots=True)
class Many:
    """Values in containers."""

    listed: tuple[Tokens, ...]
    named: dict[str, Tokens]


def test_unknown_keys_are_found_in_containers_and_ignored_where_asked():
    tokens = {**asdict(SAMPLE.tokens), "extra": 1}
    for changes in ({"listed": [tokens], "named": {}}, {"listed": [], "named": {"a": tokens}}):
        with pytest.raises(DocumentError, match="`extra`"):
            from_document(Many, changes)
        from_document(Many, changes, extra="ignore")


def test_numbers_of_numpy_enumerations_and_views_become_plain():
    found = to_document(
        {"a": np.float64(0.1), "b": Kind.COUNTER, "c": MappingProxyType({"d": (1, 2)})}
    )
    assert json.dumps(found) == '{"a": 0.1, "b": "counter", "c": {"d": [1, 2]}}'
    assert type(found["a"]) is float
    with pytest.raises(TypeError, match="object"):
        to_document(object())
