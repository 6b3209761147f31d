"""The analysis of a whole run: its machines, curves and limits."""

from __future__ import annotations

from dataclasses import replace

from etui.bench.machines import describe_machine
from etui.design.analysis import analyse
from tests.design import synthetic
from tests.design.synthetic import Truth

TRUTHS = {
    "small-direct": Truth(0.4, 10.0, 4),
    "small-cot-64": Truth(0.5, 60.0, 60),
    "large-direct": Truth(0.6, 30.0, 4),
}


def none(machines):
    return {}


def run_of(*names: str, per_subject: int = 2):
    """A run whose questions were answered in turn by machines of these names."""
    run = synthetic.config(TRUTHS, per_subject)
    machines = tuple(
        describe_machine(replace(run, machine={"name": name, "memory_bytes": 8 << 30}), f"m{at}")
        for at, name in enumerate(names)
    )
    rows = [
        replace(row, machine=f"m{at // 3 % len(names)}")
        for at, row in enumerate(synthetic.samples(run, TRUTHS, kind="counter"))
    ]
    return replace(run, machines=machines), rows


def test_equal_machines_are_pooled() -> None:
    run, rows = run_of("A processor, 4 CPUs", "A processor, 4 CPUs")
    found = analyse(run, rows, none, synthetic.ROLES)
    assert len(found.parts) == 1
    assert found.main.kind == "counter"
    assert len(found.main.paired) == 114
    assert "Machine: A processor, 4 CPUs." in found.limits[0]


def test_joules_of_other_machines_are_never_pooled() -> None:
    run, rows = run_of("A processor, 4 CPUs", "Another one, 8 CPUs", "A processor, 4 CPUs")
    asked = []
    found = analyse(run, rows, lambda keys: asked.append(keys) or {}, synthetic.ROLES)
    pooled, one, other = found.parts
    assert pooled.kind is None
    assert len(pooled.paired) == 114
    assert all(arm.energy is None for arm in pooled.arms)
    assert one.machine == "2 x A processor, 4 CPUs"
    assert (len(one.paired), len(other.paired)) == (76, 38)
    assert one.kind == other.kind == "counter"
    assert asked == [("m0", "m2"), ("m1",)]
    assert "2 kinds of machines" in found.limits[0]


def test_a_question_split_between_other_machines_counts_for_accuracy_alone() -> None:
    run, rows = run_of("A processor, 4 CPUs", "Another one, 8 CPUs")
    rows[0] = replace(rows[0], machine="m1")
    found = analyse(run, rows, none, synthetic.ROLES)
    assert [len(part.paired) for part in found.parts] == [114, 56, 57]


def test_without_a_complete_block_there_are_limits_and_no_figures() -> None:
    run = synthetic.config(TRUTHS)
    for rows in ([], synthetic.samples(run, TRUTHS)[:2]):
        found = analyse(run, rows, none, synthetic.ROLES)
        assert found.main.arms == ()
        assert found.main.headline == "Thinking is not judged with small"
        (thinking,) = found.main.statements
        assert "no question has been answered by every arm" in thinking.text
        assert not found.is_complete
        assert any("Questions: 0 of 114" in text for text in found.limits)
        assert not any("Joules" in text for text in found.limits)
        assert "no question has been answered by every arm" in found.main.replay.why_not


def test_the_limits_state_estimates_drops_failures_and_the_paper() -> None:
    run = synthetic.config(TRUTHS)
    rows = synthetic.samples(run, TRUTHS)[:-1]
    rows[0] = replace(rows[0], status="error", correct=False)
    text = "\n".join(analyse(run, rows, none, synthetic.ROLES).limits)
    assert "Joules are estimates" in text
    assert "1 question of an unfinished block (2 answers) is left out" in text
    assert "1 answer failed with an error" in text
    assert "Not in the joules: package:0." in text
    assert "batch 1" in text
    assert "MT-Bench, is not included" in text
    assert "seed 0" in text
    assert "qwen2.5-coder-0.5b (398 MB, sha256 0a0a0a0a0a0a)" in text
