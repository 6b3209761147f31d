"""Names that are suggested for one that does not exist."""

from __future__ import annotations

from etui.text import did_you_mean, format_suggestion, suggest

NAMES = ["balanced", "balance-large", "smallest"]


def test_the_nearest_name_is_suggested():
    assert suggest("balancd", NAMES) == "did you mean 'balanced'?"
    assert suggest("zzz", NAMES) == ""


def test_several_names_can_be_suggested():
    assert suggest("balance", NAMES, most=3, quoted=False) == (
        "did you mean balanced or balance-large?"
    )
    assert format_suggestion([]) == ""


def test_a_sentence_goes_on_whatever_the_case():
    assert did_you_mean("SMALEST", NAMES) == ", did you mean 'smallest'?"
    assert did_you_mean("zzz", NAMES) == "; known: balance-large, balanced, smallest"
    assert did_you_mean("zzz", NAMES, listed=2) == ""
