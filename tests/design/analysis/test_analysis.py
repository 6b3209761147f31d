"""The analysis of a whole run: its machines, curves and limits."""

from __future__ import annotations

from dataclasses import replace

from etui.bench.machines import describe_machine
from etui.design.analysis import analyse, analyse_kinds
from tests.design import synthetic
from tests.design.synthetic import Truth

CURVES = {synthetic.ROLES["small"]: synthetic.points()}
TRUTHS = {
    "small-direct": Truth(0.4, 10.0, 4),
    "small-cot-64": Truth(0.5, 60.0, 60),
    "large-direct": Truth(0.6, 30.0, 4),
}


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
    found = analyse(run, rows, CURVES, synthetic.ROLES)
    assert found.kind == "counter"
    assert len(found.paired) == 114
    assert len(found.curves) == 1
    assert "Machine: A processor, 4 CPUs." in found.limits[0]


def test_joules_of_other_machines_are_never_pooled() -> None:
    run, rows = run_of("A processor, 4 CPUs", "Another one, 8 CPUs", "A processor, 4 CPUs")
    found = analyse(run, rows, CURVES, synthetic.ROLES)
    assert found.kind is None
    assert len(found.paired) == 114
    assert all(arm.energy is None for arm in found.arms)
    assert found.curves == ()
    assert "unlike machines" in found.limits[0]


def test_each_kind_of_machine_is_a_part_with_the_questions_that_it_alone_answered() -> None:
    run, rows = run_of("A processor, 4 CPUs", "Another one, 8 CPUs", "A processor, 4 CPUs")
    rows[0] = replace(rows[0], machine="m1")
    asked = []
    read = lambda keys: asked.append(keys) or {}  # noqa: E731
    pooled, one, other = analyse_kinds(run, rows, read, synthetic.ROLES)
    assert (pooled.machine, pooled.kind, len(pooled.paired)) == ("", None, 114)
    assert (one.machine, one.kind, len(one.paired)) == ("2 x A processor, 4 CPUs", "counter", 75)
    assert (other.machine, other.kind, len(other.paired)) == ("Another one, 8 CPUs", "counter", 38)
    assert asked == [None, ["m0", "m2"], ["m1"]]


def test_without_a_complete_block_there_are_limits_and_no_figures() -> None:
    run = synthetic.config(TRUTHS)
    for rows in ([], synthetic.samples(run, TRUTHS)[:2]):
        found = analyse(run, rows, {}, synthetic.ROLES)
        assert found.arms == ()
        assert found.headline == "Thinking with small is not judged"
        (thinking,) = found.statements
        assert "no question has been answered by every arm" in thinking.text
        assert not found.is_complete
        assert any("Questions: 0 of 114" in text for text in found.limits)
        assert not any("Joules" in text for text in found.limits)


def test_the_limits_state_estimates_drops_failures_and_the_paper() -> None:
    run = synthetic.config(TRUTHS)
    rows = synthetic.samples(run, TRUTHS)[:-1]
    rows[0] = replace(rows[0], status="error", correct=False)
    text = "\n".join(analyse(run, rows, {}, synthetic.ROLES).limits)
    assert "Joules are estimates" in text
    assert "1 question of an unfinished block (2 answers) is left out" in text
    assert "1 answer failed with an error" in text
    assert "Not in the joules: package:0." in text
    assert "batch 1" in text
    assert "MT-Bench, is not included" in text
    assert "seed 0" in text
    assert "qwen2.5-coder-0.5b (398 MB, sha256 0a0a0a0a0a0a)" in text
