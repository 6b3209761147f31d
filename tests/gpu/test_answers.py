"""What is computed on the device: letters and answers as on the CPU, votes, rollback, prefixes."""

from __future__ import annotations

import pytest

from etui.arm import Sampling
from etui.config.config import load_config
from etui.engine.llama_session import LlamaSession
from etui.models.catalogue import load_catalogue
from etui.runtime.doctor import check_offload
from etui.runtime.gpu_run import QUESTIONS, Order, answer_greedily, score_letters
from etui.runtime.try_gpu import TOLERANCE_NATS, TrialTimes, choose_model, try_gpu
from tests.contract.tiny_model import write_tiny_model
from tests.runtime.test_try_gpu import Meter, no_report

pytestmark = pytest.mark.gpu

GREEDY = Sampling()
PROMPT = "The first letters are A, B,"


def draw(session: LlamaSession, count: int, text: str = PROMPT) -> list[int]:
    """Greedy tokens after a text."""
    sequence = session.open(session.tokenize(text, bos=True), GREEDY)
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += [each.token for each in session.step([sequence]).sampled]
    session.close(sequence, keep=False)
    return drawn


def test_letters_are_those_of_the_cpu(on_gpu, on_cpu):
    ours, theirs = (score_letters(session, QUESTIONS[2]) for session in (on_gpu, on_cpu))
    assert ours == pytest.approx(theirs, abs=TOLERANCE_NATS)
    assert max(range(4), key=ours.__getitem__) == max(range(4), key=theirs.__getitem__)


def test_a_greedy_answer_is_that_of_the_cpu(on_gpu, on_cpu):
    order = Order("starter", "all", part_seconds=0)
    prompt = "Count to ten."
    reference = answer_greedily(on_cpu, prompt, (), order)
    ours = answer_greedily(on_gpu, prompt, reference.tokens, order)
    scored = ours.reference_logprobs
    assert len(scored) >= 4
    assert scored == pytest.approx(reference.logprobs[: len(scored)], abs=TOLERANCE_NATS)


def test_an_answer_is_repeated_to_the_bit(on_gpu):
    on_gpu.forget()
    first = draw(on_gpu, 3)
    on_gpu.forget()
    assert draw(on_gpu, 3) == first


def test_votes_of_one_batch_continue_alike(on_gpu):
    alone = draw(on_gpu, 3)
    trunk = on_gpu.open(on_gpu.tokenize(PROMPT, bos=True), GREEDY)
    on_gpu.step([trunk], draw=False)
    votes = [on_gpu.fork(trunk, GREEDY) for _ in range(3)]
    drawn: dict[int, list[int]] = {vote.id: [] for vote in votes}
    for _ in range(3):
        for each in on_gpu.step(votes).sampled:
            drawn[each.sequence_id].append(each.token)
    assert all(tokens == drawn[votes[0].id] for tokens in drawn.values())
    assert drawn[votes[0].id][0] == alone[0]
    for sequence in (*votes, trunk):
        on_gpu.close(sequence, keep=False)


def test_sampled_votes_have_seeds_of_their_own(on_gpu):
    def vote() -> list[list[int]]:
        trunk = on_gpu.open(on_gpu.tokenize("Once upon", bos=True), GREEDY)
        on_gpu.step([trunk], draw=False)
        votes = [on_gpu.fork(trunk, Sampling(temperature=1.5, seed=s)) for s in (1, 2, 3)]
        drawn: dict[int, list[int]] = {each.id: [] for each in votes}
        for _ in range(3):
            for each in on_gpu.step(votes).sampled:
                drawn[each.sequence_id].append(each.token)
        for sequence in (*votes, trunk):
            on_gpu.close(sequence, keep=False)
        return list(drawn.values())

    first = vote()
    assert len({tuple(tokens) for tokens in first}) > 1
    assert vote() == first


def test_a_probe_is_rolled_back(on_gpu):
    sequence = on_gpu.open(on_gpu.tokenize(PROMPT, bos=True), GREEDY)
    on_gpu.step([sequence], draw=False)
    probe = on_gpu.tokenize(" The answer is", special=False)
    letter = on_gpu.tokenize(" C", special=False)[-1:]
    before = on_gpu.logprobs(sequence, letter)
    on_gpu.extend(sequence, probe)
    on_gpu.step([sequence], draw=False)
    assert on_gpu.logprobs(sequence, letter) != before
    assert on_gpu.rollback(sequence, len(probe))
    on_gpu.step([sequence], draw=False)
    assert on_gpu.logprobs(sequence, letter) == pytest.approx(before, abs=0.05)
    on_gpu.close(sequence, keep=False)


def test_a_prefix_on_the_device_is_used_again(on_gpu):
    tokens = on_gpu.tokenize(PROMPT, bos=True)
    first = on_gpu.open(tokens, GREEDY)
    on_gpu.step([first], draw=False)
    letter = on_gpu.tokenize(" C", special=False)[-1:]
    before = on_gpu.logprobs(first, letter)
    on_gpu.close(first)
    again = on_gpu.open(tokens, GREEDY)
    assert again.cached == len(tokens) - 1
    on_gpu.step([again], draw=False)
    assert on_gpu.logprobs(again, letter) == pytest.approx(before, abs=0.05)
    on_gpu.close(again, keep=False)
    on_gpu.forget()


def test_drafted_tokens_are_verified_on_the_device(on_gpu):
    """Lookup drafts the rest of a list that repeats itself; the answer is that without drafts."""
    text = "One two three four five six. One two three four five six. One two three"
    plain = draw(on_gpu, 8, text)
    on_gpu.forget()
    sequence = on_gpu.open(on_gpu.tokenize(text, bos=True), GREEDY)
    while sequence.pending > 1:
        on_gpu.step([sequence], draw=False)
    assert on_gpu.speculate(sequence, "lookup") == ""
    drawn, verified = [], []
    for _ in range(8):
        step = on_gpu.step([sequence])
        drawn += [each.token for each in step.sampled]
        verified += step.verified
    verified += on_gpu.settle(sequence)
    on_gpu.close(sequence, keep=False)
    assert drawn == plain
    assert sum(each.accepted for each in verified) > 0
    on_gpu.forget()


def test_try_gpu_finds_the_device_right(config):
    """The three runs of the command, with a model so small that it takes seconds."""
    config.models_dir.mkdir(parents=True)
    write_tiny_model(config.models_dir / "tiny.gguf")
    (config.home / "config.yaml").write_text("threads: 1\n")
    config = load_config()
    spec = choose_model("", config, load_catalogue(config))
    offload = check_offload(config)
    trial = try_gpu(
        spec, offload, Meter(), no_report, times=TrialTimes(part_seconds=2.0, busy_seconds=0.1)
    )
    assert [attempt.failure for attempt in trial.attempts] == ["", "", ""]
    none, whole, auto = (attempt.result for attempt in trial.attempts)
    assert (none.placed, whole.placed, auto.placed) == (0, whole.layers, whole.layers)
    # A software device is slower than the CPU that it runs on; nothing else may be wrong.
    assert trial.verdict.code in ("fine", "slower")
    assert [answer.tokens for answer in whole.answers] == [a.tokens for a in none.answers]
