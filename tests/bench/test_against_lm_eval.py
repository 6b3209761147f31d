"""Prompts and grading against lm-eval's own tasks: 100 questions of each, 200 answers of each."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from etui.bench._tokens import PromptEnding, TokenizedPrompt
from etui.bench.formats import (
    FORMATS,
    RULES,
    PromptText,
    build_query,
    completion_text,
    ending_weight,
    grade,
    prompt_text,
    sha16,
)
from etui.bench.scoring import Scored
from etui.datasets.question_files import read_questions
from etui.datasets.questions import ALL_LETTERS, Question
from tests.bench import lm_eval_tasks as theirs
from tests.fixtures.questions import gsm8k, mmlu

__all__ = ["gsm8k", "mmlu"]

COUNT = 100
SUBJECTS = ("abstract_algebra", "high_school_physics", "us_foreign_policy", "professional_law")
ANSWERS = Path(__file__).parents[1] / "fixtures" / "lm_eval_answers.jsonl"
WORDS = ("iron", "the Sun", "cell walls", "9.8 m/s", "a colder", "None", "éther", "both 1 and 2")


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory) -> Iterator[None]:
    """Let the data sets' library fail instead of using the network or the user's folder."""
    # Before the patch: the hub's library reads it once, for all tests of this process.
    import_module("huggingface_hub.constants")
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_DATASETS_OFFLINE", "1")
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
    pytest.importorskip("lm_eval", reason=theirs.REASON)
    yield
    patch.undo()


def read_mmlu(folder: Path, split: str, subject: str) -> list[Question]:
    file = folder / split / f"{subject}_{split}.csv"
    return read_questions(file.read_bytes(), file.name, subject)


def made_up(subject: str, count: int, most: int, solution: str = "") -> list[Question]:
    """Make up questions with 2 to ``most`` options, some with spaces at their ends."""
    draw = random.Random(count)
    found = []
    for row in range(count):
        options = draw.randint(2, most)
        choices = tuple(f"{draw.choice(WORDS)} {at}{' ' * (row % 3)}" for at in range(options))
        asked = f"Which of these {row}, {draw.choice(WORDS)}?"
        text = f"{' ' * (row % 2)}{asked}" + "\n" * (row % 4 == 3)
        answer = ALL_LETTERS[draw.randrange(options)]
        worked = solution.format(answer) if solution else ""
        found.append(Question(subject, row, text, choices, answer, worked))
    return found


def read_back(docs: Sequence[Mapping[str, object]], subject: str) -> list[Question]:
    """Read documents as etui reads a file of them."""
    raw = "".join(f"{json.dumps(doc)}\n" for doc in docs).encode()
    return read_questions(raw, "made.jsonl", subject)


def hashes(texts: Sequence[str]) -> list[str]:
    return [sha16(text) for text in texts]


def check_scored(task, docs, ours: Sequence[PromptText], contexts: Sequence[str]) -> None:
    """Check that lm-eval asks for the same log-probabilities of the same endings."""
    for doc, prompt, context in zip(docs, ours, contexts, strict=True):
        pairs = [instance.args[:2] for instance in theirs.requests(task, doc, context)]
        assert pairs == [(prompt.text, ending) for ending in prompt.endings.values()]


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("shots", [0, 5])
def test_letters_are_lm_evals_mmlu(mmlu, subject, shots):
    asked = read_mmlu(mmlu, "test", subject)[: COUNT // 2]
    shown = read_mmlu(mmlu, "dev", subject)
    docs = [theirs.mmlu_doc(each) for each in asked]
    task = theirs.build_task(
        f"mmlu/default/mmlu_{subject}.yaml", docs, [theirs.mmlu_doc(each) for each in shown]
    )
    ours = [prompt_text(FORMATS["letters"], each, shown[:shots]) for each in asked]
    contexts = theirs.prompts(task, shots)
    assert hashes([prompt.text for prompt in ours]) == hashes(contexts)
    check_scored(task, docs, ours, contexts)
    for doc, question in zip(docs, asked, strict=True):
        assert task.doc_to_choice(doc)[task.doc_to_target(doc)] == question.answer


@pytest.mark.parametrize("shots", [0, 5])
def test_arc_is_lm_evals_arc_challenge(shots):
    asked, shown = made_up("arc", COUNT, 5), made_up("arc", 5, 4)
    docs = [theirs.arc_doc(each) for each in asked]
    asked = read_back(docs, "arc")
    task = theirs.build_task("arc/arc_challenge.yaml", docs, [theirs.arc_doc(e) for e in shown])
    order = [doc["question"] for doc in theirs.draw_shown(task, shots)]
    examples = sorted(shown, key=lambda each: order.index(each.text)) if shots else []
    ours = [prompt_text(FORMATS["arc"], each, examples) for each in asked]
    contexts = theirs.prompts(task, shots)
    assert hashes([prompt.text for prompt in ours]) == hashes(contexts)
    check_scored(task, docs, ours, contexts)


def test_the_choice_of_arc_is_lm_evals_acc_norm_and_the_likeliest_text_its_acc():
    asked = made_up("arc", 200, 5)
    docs = [theirs.arc_doc(each) for each in asked]
    task = theirs.build_task("arc/arc_challenge.yaml", docs, docs[:5])
    draw = random.Random(3)
    both = set()
    for question, doc in zip(asked, docs, strict=True):
        odds = {letter: math.log(draw.random()) * 9 for letter in question.letters}
        prompt = prompt_text(FORMATS["arc"], question, [])
        endings = tuple(
            PromptEnding(letter, (0,), ending_weight(FORMATS["arc"], ending))
            for letter, ending in prompt.endings.items()
        )
        tokenized = TokenizedPrompt(question, (0,), 0, endings, 0, prompt.sha)
        made = Scored(tokenized, odds, 0, 1)
        graded = task.process_results(doc, [(value, False) for value in odds.values()])
        likeliest = max(odds, key=lambda letter: odds[letter])
        assert bool(graded["acc_norm"]) == (made.choice == question.answer)
        assert bool(graded["acc"]) == (likeliest == question.answer)
        both.add((graded["acc"], graded["acc_norm"]))
    assert len(both) == 4


@pytest.mark.parametrize("shots", [0, 5])
def test_gsm8k_is_lm_evals(gsm8k, shots):
    raw = (gsm8k / "test.jsonl").read_bytes()
    docs = [json.loads(line) for line in raw.splitlines()[: COUNT + 5]]
    questions = read_questions(raw, "test.jsonl", "gsm8k")[: COUNT + 5]
    shown, asked = questions[:5], questions[5:]
    format_ = FORMATS["gsm8k"]
    task = theirs.build_task("gsm8k/gsm8k.yaml", docs[5:], docs[:5])
    order = [doc["question"] for doc in theirs.draw_shown(task, shots)]
    examples = sorted(shown, key=lambda each: order.index(each.text)) if shots else []
    contexts = theirs.prompts(task, shots)
    assert len(contexts) == COUNT
    assert hashes([completion_text(format_, each, examples) for each in asked]) == hashes(contexts)
    (request,) = theirs.requests(task, docs[5], contexts[0])
    assert request.args[1]["until"] == list(format_.stop)
    assert not request.args[1]["do_sample"]
    assert build_query(format_, asked[0], ()).options.stop == format_.stop


@pytest.mark.parametrize("shots", [0, 5])
def test_mmlu_pro_is_lm_evals(shots):
    worked = "A: Let's think step by step. It follows. The answer is ({})."
    asked, shown = (
        made_up("computer_science", COUNT, 10),
        made_up("computer_science", 5, 10, worked),
    )
    format_ = FORMATS["mmlu-pro"]
    docs = [theirs.mmlu_pro_doc(each) for each in asked]
    shown_docs = [theirs.mmlu_pro_doc(each) for each in shown]
    task = theirs.build_task("mmlu_pro/mmlu_pro_computer_science.yaml", docs, shown_docs)
    asked, shown = (read_back(each, "computer_science") for each in (docs, shown_docs))
    ours = [completion_text(format_, each, shown[:shots]) for each in asked]
    contexts = theirs.prompts(task, shots)
    assert hashes(ours) == hashes(contexts)
    (request,) = theirs.requests(task, docs[0], contexts[0])
    assert request.args[1]["until"] == list(format_.stop)
    assert request.args[1]["max_gen_toks"] == format_.answer_tokens
    assert [task.doc_to_target(doc) for doc in docs] == [each.answer for each in asked]


def stored(task: str) -> list[dict[str, str]]:
    lines = ANSWERS.read_text(encoding="utf-8").splitlines()
    return [row for line in lines if (row := json.loads(line))["task"] == task]


def test_two_hundred_answers_of_gsm8k_are_graded_as_lm_eval_grades_them():
    rows = stored("gsm8k")
    docs = [{"question": "How many?", "answer": row["target"]} for row in rows]
    task = theirs.build_task("gsm8k/gsm8k.yaml", docs, docs[:5])
    graded = theirs.grade_texts(task, docs, [row["text"] for row in rows])
    ours = []
    for row in rows:
        right = row["target"].split("#### ")[1]
        made = grade(RULES["gsm8k-flexible@1"], row["text"], Question("s", 0, "?", (), right))
        ours.append({"strict-match": made.strict, "flexible-extract": made.correct})
    assert ours == graded
    assert len(rows) == 200
    assert {tuple(each.values()) for each in ours} == {
        (strict, flexible) for strict in (True, False) for flexible in (True, False)
    }


def test_two_hundred_answers_of_mmlu_pro_are_graded_as_lm_eval_grades_them():
    rows = stored("mmlu_pro")
    docs = [
        theirs.mmlu_pro_doc(Question("biology", 0, "?", tuple("abcdefghij"), row["target"]))
        for row in rows
    ]
    task = theirs.build_task("mmlu_pro/mmlu_pro_biology.yaml", docs, docs[:5])
    graded = theirs.grade_texts(task, docs, [row["text"] for row in rows])
    ours = [
        {"custom-extract": grade(RULES["mmlu-pro@1"], row["text"], question).correct}
        for row in rows
        for question in [Question("biology", 0, "?", tuple("abcdefghij"), row["target"])]
    ]
    assert ours == graded
    assert len(rows) == 200
    assert 40 < sum(each["custom-extract"] for each in ours) < 160
