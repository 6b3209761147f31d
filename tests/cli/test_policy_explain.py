"""`etui policy explain` says what a question needs, where that was fitted."""

from __future__ import annotations

import numpy as np
import pytest

from etui.learning.fit import fit_accuracy
from etui.learning.fitted_file import Provenance, format_fitted
from etui.learning.graded import ArmFacts, Graded
from etui.learning.predictor import FITTED_ENDING
from tests.learning import made

POLICY = """
version: 1
arms: {weak: {model: smollm2-135m}, strong: {model: qwen2.5-coder-1.5b}}
rules: [{name: all, use: weak}]
"""


def test_needs_stand_in_the_document_and_in_words(tmp_path, cli):
    path = tmp_path / "mine.yaml"
    path.write_text(POLICY)
    assert cli.json("policy", "explain", "hello", "--policy", str(path), "--json")["needs"] == []
    origin = Provenance(
        fitted_at="2026", source=("made",), data_sha256="", n=1, excluded=0, etui="0"
    )
    fitted = fit_accuracy(made.graded(300), origin)
    (tmp_path / f"mine{FITTED_ENDING}").write_text(format_fitted(fitted))
    (need,) = cli.json("policy", "explain", "hello", "--policy", str(path), "--json")["needs"]
    assert (need["need"], need["base"], need["other"]) == ("larger_model", "weak", "strong")
    assert need["gain"] == pytest.approx(need["gained"] - need["lost"])
    said = cli.out("policy", "explain", "--all", "hello", "--policy", str(path))
    assert f"a larger model: strong instead of weak {need['gain']:+.2f}" in said
    path.write_text(POLICY.replace("strong", "other"))  # an arm that was fitted is gone
    assert cli.json("policy", "explain", "hello", "--policy", str(path), "--json")["needs"] == []


def test_speculation_and_the_loop_guard_of_the_arm_are_shown(tmp_path, cli):
    path = tmp_path / "mine.yaml"
    for keys, speculate, guard, words in (
        ("", "off", True, "weak: direct, 512 answer tokens\n"),
        (
            ", speculate: lookup, loop_guard: false",
            "lookup",
            False,
            "weak: direct, 512 answer tokens, speculation lookup, no loop guard\n",
        ),
    ):
        path.write_text(POLICY.replace("{model: smollm2-135m", f"{{model: smollm2-135m{keys}"))
        document = cli.json("policy", "explain", "hello", "--policy", str(path), "--json")
        assert (document["speculate"], document["loop_guard"]) == (speculate, guard)
        assert words in cli.out("policy", "explain", "--all", "hello", "--policy", str(path))


def test_an_arm_that_compares_its_answer_says_so(tmp_path, cli):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "version: 1\n"
        "arms: {a: {model: smollm2-135m}, b: {model: gemma-3-270m}, c: {model: qwen2.5-coder-1.5b}}"
        "\nrules: [{name: all, cascade: {arms: [{agree: [a, b]}, c], accept_at: 0.7}}]\n"
    )
    rows = {
        line.split()[0]: line
        for line in cli.out(
            "policy", "explain", "--all", "hello", "--policy", str(path)
        ).splitlines()
        if line.strip()
    }
    assert rows["a"].endswith("first")
    assert rows["b"].endswith("to compare its answer with that of a")
    assert rows["c"].endswith("if the arms before it are not confident enough")


AGREE = """
version: 1
arms:
  weak: {model: smollm2-135m}
  other: {model: smollm2-135m, reasoning: cot}
  strong: {model: smollm2-135m, reasoning: vote, votes: 3}
rules:
  - name: all
    cascade: {arms: [{agree: [weak, other], accept: ACCEPT}, strong], accept_at: 0.75}
"""


@pytest.mark.parametrize("accept", ["0.9", "0.4"])
def test_a_step_that_the_fit_never_accepts_is_left_out(tmp_path, accept, cli):
    path = tmp_path / "mine.yaml"
    path.write_text(AGREE.replace("ACCEPT", accept))
    answers = np.array([[0, 0, 0]] * 90 + [[1, 1, 0]] * 60 + [[0, 2, 0]] * 50)
    facts = {name: ArmFacts("smollm2-135m") for name in ("weak", "other", "strong")}
    table = Graded(
        tuple(facts), ("",) * 200, tuple(range(200)), (), answers == 0, answers=answers, facts=facts
    )
    origin = Provenance(fitted_at="2026", source=("made",), data_sha256="", n=200, etui="0")
    model = fit_accuracy(table, origin, agreements=[("weak", "other")])
    (tmp_path / f"mine{FITTED_ENDING}").write_text(format_fitted(model))
    never = accept == "0.9"
    out, err = cli.run("policy", "check", str(path))
    told = "weak and other agree: right 59.9 % of the time; "
    assert f"{told}90 % required, so never accepted\n" in out if never else f"{told}40 %" in out
    assert ("mine.yaml:9:30: warning: an answer that weak and other agree on" in err) is never
    document = cli.json("policy", "explain", "hello", "--policy", str(path), "--json")
    asked = "weak and other are not asked: where they agree at most 59.9 % are right, 90 % required"
    assert document["arm"] == ("strong" if never else "weak")
    assert (asked in document["why"]) is never
    assert (document["cascade"] is None) is never
    if not never:
        (step,) = document["cascade"]["agreements"]
        assert step["odds"]["at_most"] == pytest.approx(91 / 152)
    assert told in cli.out("policy", "explain", "--all", "hello", "--policy", str(path))
