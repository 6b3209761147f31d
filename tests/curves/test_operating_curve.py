"""Whether a curve still holds here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.curves.operating_curve import Conditions, list_differences

THEN = Conditions(
    "CPU A",
    "llama 1",
    4,
    ("gpu:1",),
    300.0,
    kv_type="f16",
    flash_attention="auto",
    batch_tokens="auto",
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machine": "CPU B"}, "another machine (CPU A)"),
        ({"build": "llama 2"}, "another build (llama 1)"),
        ({"threads": 8}, "4 threads, now 8"),
        ({"channels": ("gpu:1", "package:0")}, "other power channels (gpu:1)"),
        ({"power_limit_watts": 200.0}, "power limit 300 W, now 200 W"),
        ({"prefill_threads": 8}, "4 prefill threads, now 8"),
        ({"kv_type": "q8_0"}, "KV cache of type f16, now q8_0"),
        ({"flash_attention": "on"}, "flash attention auto, now on"),
        ({"batch_tokens": "64"}, "tokens of a batch auto, now 64"),
    ],
)
def test_each_change_is_named(change, words):
    assert list_differences(THEN, replace(THEN, **change)) == (words,)


def test_threads_of_both_phases_are_named_once_or_each():
    other = replace(THEN, threads=2)
    assert list_differences(THEN, other) == ("4 threads, now 2",)
    other = replace(THEN, threads=2, prefill_threads=4)
    assert list_differences(THEN, other) == ("4 threads, now 2",)
    other = replace(THEN, threads=2, prefill_threads=8)
    assert list_differences(THEN, other) == ("4 threads, now 2", "4 prefill threads, now 8")
    assert list_differences(THEN, replace(THEN, prefill_threads=4)) == ()


def test_settings_that_an_older_etui_did_not_record_are_no_change():
    old = replace(THEN, kv_type=None, flash_attention=None, batch_tokens=None)
    assert list_differences(old, THEN) == ()
    assert list_differences(THEN, old) == ()


def test_what_is_the_same_or_unknown_is_no_change():
    assert list_differences(THEN, THEN) == ()
    assert list_differences(THEN, replace(THEN, power_limit_watts=301.0)) == ()
    assert list_differences(THEN, replace(THEN, channels=(), power_limit_watts=None)) == ()


def test_a_setting_that_a_sweep_chose_differs_from_an_unrecorded_one():
    old = replace(THEN, kv_type=None, flash_attention=None)
    now = replace(THEN, kv_type="q8_0", tuned=(("kv_type", "q8_0"),))
    assert list_differences(old, now) == ("KV cache of type unknown, now q8_0",)
    assert list_differences(THEN, replace(THEN, tuned=(("kv_type", "f16"),))) == ()


def test_where_a_sweep_put_the_layers_is_compared():
    now = replace(THEN, tuned=(("gpu_layers", "20"), ("split", "row")))
    assert list_differences(THEN, now) == (
        "layers on the GPU as in models.yaml, now 20",
        "split over GPUs as in models.yaml, now row",
    )
    assert list_differences(now, THEN)[0] == "layers on the GPU 20, now as in models.yaml"
    assert list_differences(now, now) == ()
