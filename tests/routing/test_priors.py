"""The accuracies of arms that a policy states."""

from __future__ import annotations

from etui.routing.library import compile_text
from etui.routing.policy import list_priors

POLICY = """
version: 1
arms: {quick: {model: m}, large: {model: n}}
signals: {asked: {keywords: [river]}}
rules:
  - name: late
    objective: {maximize: accuracy, prior: {quick: 0.1, large: 0.9}}
    arms: [quick, large]
  - name: early
    priority: 5
    when: asked
    objective: {maximize: accuracy, prior: {large: 0.4}}
    arms: [quick, large]
"""


def test_the_first_rule_that_is_tried_states_the_prior_of_an_arm() -> None:
    assert list_priors(compile_text(POLICY, "p", ["m", "n"])) == {"quick": 0.1, "large": 0.4}
