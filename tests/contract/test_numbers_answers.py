"""How answers are read, votes counted and loops found, and how quantities are written."""

from __future__ import annotations

import random
import re
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.loops import end_loop, end_reasoned, read_real, read_reasoned, split_words
from etui import units
from etui.arm import EarlyExit, TokenCost, VoteStop
from etui.bench.formats import FORMATS, RULES, grade
from etui.datasets.questions import Question
from etui.multiple_choice import parse_options
from etui.reasoning.cot import JoulesSpent, ProbedAnswer, check_confidence, check_gain, check_joules
from etui.reasoning.extraction import extract, normal_text
from etui.reasoning.loop_guard import LoopGuard, asked_rounds
from etui.reasoning.quantity import compute, last_number_value, normal_number, plain_math
from etui.reasoning.vote_count import (
    flip_probability,
    majority_probability,
    tally,
    verdict,
)
from etui.text import (
    count_cells,
    fit_cells,
    format_markdown_table,
    format_table,
    title_from_answer,
    title_from_question,
)
from etui.units import plain, significant, with_uncertainty
from tests.contract.numbers import check_numbers

AGREEMENT = Path(__file__).parents[1] / "reasoning" / "agreement.tsv"
PLANETS = "Which planet is red?\nA) Venus\nB) Mars\nC) The Sun\nD) A comet"
LETTERS = (
    "B", "B.", "(b) Mars", "b)", "B. Mars is red.", "The answer is B.", "**Answer: B**",
    "The correct answer is (B) Mars, not (A) Venus.", "Answer: \\boxed{B}",
    "$\\boxed{\\text{B}}$", "I would choose option B because iron rusts.", "Die Antwort ist B.",
    "First I thought the answer is A, but the answer is B.", "Iron oxide makes it red.\n\nB",
    "Looking at the options, (A) is hot, so it must be (B)", "Mars", "the sun", "A comet",
    "A good question. Nobody knows.", "Mars or Venus", "E", "", "It is not B but C.",
    "A) is too hot.\nThe answer is B", "I think a planet.", "D is wrong, C is right",
)  # fmt: skip
NUMBERS = (
    "391", "17 * 23 = 391.", "The answer is 391, since 17 * 23 is 17 * 20 + 17 * 3.",
    "It costs $1,234.50 in all", "1.234.567,5", "12 000 km", "3,5", "0.50", "-7", "−7", "x = +7",
    "3 / 4", "about 50 %", "1.5e3", "Answer: **42**", "I do not know", "#### 18", "#### 18.00",
    "18 or so...", "first #### 3, then #### 4", "\\frac{3}{4}", "\\boxed{\\sqrt{16}}", "2^10",
    "$\\frac{1}{2} \\cdot 8$", "between 3 and 5", "not 40 km/h but 60 km/h", "half past three",
    "twelve", "minus two", "5 apples and 3 pears make 8 pieces", "about 1.2 million", "1/3", "0",
    "1,000,000.00", "9:40", "25/12/2020", "3 May 1999", "in 1776", "2.5 × 10^3", "12 %", "7 + 5",
)  # fmt: skip
QUESTIONS = (
    "How many are there?", "What is the price?", "How fast is it in km/h?", "What year was it?",
    "What share is it?", "When does it start?",
)  # fmt: skip


def test_answers_are_read() -> None:
    options = parse_options(PLANETS)
    found: dict[str, Any] = {
        "letters": {text: extract(text, PLANETS, options) for text in LETTERS},
        "cut": {text: extract(text, PLANETS, options, truncated=True) for text in LETTERS[:9]},
        "open": {
            f"{text} | {question}": extract(text, question)
            for text in NUMBERS
            for question in QUESTIONS
        },
        "numbers": {text: extract(text, "Compute it.", number=True) for text in NUMBERS},
        "cut numbers": {
            text: extract(text, "How many?", truncated=True, number=True) for text in NUMBERS
        },
        "normal": {text: (normal_number(text), last_number_value(text)) for text in NUMBERS},
        "computed": {text: (plain_math(text), compute_text(text)) for text in NUMBERS},
        "words": {text: normal_text(text) for text in LETTERS},
        "options": [parse_options(text) for text in (PLANETS, "1. a\n2. b", "(A) x (B) y", "no")],
    }
    check_numbers("answers", found)


def compute_text(text: str) -> str | None:
    value = compute(plain_math(text))
    return None if value is None else str(value)


def test_pairs_of_answers_have_their_keys() -> None:
    lines = AGREEMENT.read_text(encoding="utf-8").splitlines()[1:]
    found = []
    for line in lines:
        _, _, _, question, *answers = line.split("\t")
        question = question.replace("\\n", "\n")
        found.append(
            [extract(text.replace("\\n", "\n"), question, parse_options(question)).key
             for text in answers]
        )  # fmt: skip
    check_numbers("answers-keys", found)


def test_texts_are_graded() -> None:
    question = Question("s", 0, "?", (), "18")
    letters = Question("s", 0, "?", ("a", "b", "c", "d"), "B")
    found = {
        name: [grade(rule, text, question if rule.numbers else letters)
               for text in (*NUMBERS, *LETTERS, "the answer is (B)", "answer is B.")]
        for name, rule in RULES.items()
    }  # fmt: skip
    check_numbers("answers-graded", {"rules": found, "formats": sorted(FORMATS)})


def test_votes_are_counted_and_stopped() -> None:
    found: dict[str, Any] = {
        "flip": [
            flip_probability(a, b, left)
            for a, b, left in product((1.0, 2.5, 4.0), (0.0, 1.0, 2.25), (0, 1, 3, 8))
        ],
        "majority": [majority_probability(a, b) for a in range(8) for b in range(a + 1)],
    }
    rng = random.Random(2)
    stops = (
        VoteStop("all"), VoteStop("lead"), VoteStop("flip"), VoteStop("adaptive"),
    )  # fmt: skip
    cases = []
    for _ in range(40):
        votes = [
            (rng.choice(["A", "B", "B", "C", None]), rng.choice([1.0, rng.random()]))
            for _ in range(rng.randrange(0, 9))
        ]
        state = tally(votes)
        left = rng.randrange(0, 8)
        cases.append([state, state.agreement, [verdict(state, left, stop) for stop in stops]])
    found["cases"] = cases
    check_numbers("votes", found)


def test_thinking_is_ended() -> None:
    price, rng = TokenCost(0.5, 0.001, 0.05), random.Random(3)
    found: list[Any] = []
    for _ in range(40):
        looks = [
            ProbedAnswer(
                rng.choice(["A", "A", "B", None]), rng.choice([0.5, 0.91, 0.97, rng.random()])
            )
            for _ in range(rng.randrange(0, 5))
        ]
        spent = JoulesSpent(price, rng.uniform(20, 120), 100, 10)
        found.append(
            [
                check_confidence(looks, EarlyExit(48, 0.9, 2)),
                check_joules(spent, 148, 48, 48),
                check_gain(looks, price, rng.choice([100.0, 900.0, 5000.0]), 148, 48),
            ]
        )
    costs = [(price.decode_joules(at, 48), price.decode_joules(0, at)) for at in (0, 7, 900)]
    check_numbers("thinking-ends", {"cases": found, "costs": costs})


def test_loops_are_found() -> None:
    texts = {
        "same sentence": "It is so. " * 30,
        "list": "".join(f"{at}. Take the next step and check it.\n" for at in range(40)),
        "no loop": " ".join(f"word{at} and {at * at}" for at in range(200)),
        "code": "```\nx = 1\ny = 2\n```\n" * 20,
        "long round": "The quick brown fox jumps over the lazy dog near the river bank. " * 12,
        "short": "ha " * 200,
        "table": "| a | b |\n" * 60,
    }
    found: dict[str, Any] = {}
    for name, text in texts.items():
        for question in ("Why?", "Repeat it 20 times.", "Say it again and again."):
            guard, ids = LoopGuard(asked_rounds(question)), dict[str, int]()
            ended = None
            for count, piece in enumerate(re.findall(r"\s?\w+|\W", text), start=1):
                if guard.take(ids.setdefault(piece, len(ids)), piece.encode()) is not None:
                    ended = count
                    break
            found[f"{name} | {question}"] = (ended, guard.found)
    for folder in ("real", "real_held_out"):
        found[folder] = [end_loop(loop) for loop in read_real(folder)]
    for folder in ("reasoned", "reasoned_held_out"):
        found[folder] = [end_reasoned(text, split_words) for text in read_reasoned(folder)]
    check_numbers("loops", found)


VALUES = (
    None, float("nan"), 0.0, 1e-9, 3.21e-4, 0.00999, 0.0346, 0.4996, 0.995, 1.0, 3.14159, 9.995,
    12.304, 99.96, 123.456, 999.5, 1234.5, 9999.4, 12345.6, 98765.0, 1.5e6, 7.2e9, -0.001, -3.21,
    -4567.0,
)  # fmt: skip
WIDTHS = (None, 0.0, 0.004, 0.38, 4.0, 123.0, float("inf"))
KINDS = (None, "counter", "estimate")


def test_quantities_are_written() -> None:
    numbers = [value for value in VALUES if value is not None and value == value]
    found: dict[str, Any] = {
        "energy": [[units.energy_text(v, w, k) for w in WIDTHS for k in KINDS] for v in VALUES],
        "spread": [units.energy_text(v, 0.5, "estimate", spread=True) for v in VALUES],
        "net": [[units.net_text(v, w, "counter") for w in WIDTHS] for v in VALUES],
        "total": [[units.total_text(v, 1.5, k) for k in KINDS] for v in VALUES],
        "per token": [[units.per_token_text(v, k, 0.01) for k in KINDS] for v in VALUES],
        "watts": [[units.watts_text(v, k, 1.5) for k in KINDS] for v in VALUES],
        "watt hours": [units.watt_hours_text(v, "counter") for v in VALUES],
        "short": [(units.short_energy_text(v), units.short_watts_text(v, "estimate"))
                  for v in VALUES],
        "seconds": [units.seconds_text(v) for v in VALUES],
        "ages": [(units.age_text(v), units.span_text(v)) for v in numbers if v >= 0],
        "bytes": [units.bytes_text(v) for v in VALUES],
        "percent": [(units.percent_text(v), units.percent_text(v, 0.02)) for v in VALUES],
        "accuracy": [units.accuracy_text(v) for v in VALUES],
        "change": [
            (units.change_text(v), units.change_text(v, v - 2, v + 2), units.p_value_text(abs(v)),
             units.points_change_text(v, v - 0.3, v + 0.4), units.difference_text(v))
            for v in numbers
        ],
        "multiple": [(units.multiple_text(v, v / 2, 2 * v), units.times_text(v))
                     for v in numbers if v > 0],
        "rates": [(units.speed_text(v), units.short_rate_text(v)) for v in numbers],
        "counts": [(units.tokens_text(n), units.tok_text(n), units.place_text(n),
                    units.short_count_text(n), units.short_tokens_text(n))
                   for n in (0, 1, 2, 3, 11, 21, 112, 999, 1000, 9949, 12345, 1234567)],
        "axis": [units.axis_text(v) for v in numbers],
        "limits": [(units.limit_text(v), units.watts_of_text(v, 350.0), units.of_limit_text(v, 65))
                   for v in numbers],
        "cost": [(units.price_text(v, "€"), units.cost_text(v, v, "€")) for v in numbers],
        "range": [units.energy_range_text(v, v / 2, 3 * v, "estimate") for v in numbers if v > 0],
        "several": [units.several_text(numbers[4:9], "J", k) for k in KINDS],
        "rounded": [[significant(v, d) for d in (1, 2, 3)] + [plain(v, 2)] for v in numbers],
        "widths": [[with_uncertainty(v, w) for w in (0.004, 0.38, 4.0, 123.0)] for v in numbers],
    }  # fmt: skip
    check_numbers("units", found)


def test_texts_are_laid_out() -> None:
    rows = [("name", "1.5 J", "x"), ("日本語", "123 kJ", ""), ("e\u0301t\u00e9", "-", "y" * 9)]
    found = {
        "table": format_table(rows, header=("what", "joules", "note"), align="<>"),
        "plain": format_table(rows, measure=count_cells),
        "markdown": format_markdown_table(rows, header=("a", "b", "c"), align="<>"),
        "cells": [
            [fit_cells(cell, room) for room in (1, 3, 5, 20)] for row in rows for cell in row
        ],
        "titles": [
            title_from_question("# Write a *very* long question about many things? " * 3),
            title_from_question("```\ncode\n```\nwhat does it do"),
            title_from_answer('Title: "Joules and tokens"\nmore'),
        ],
    }
    check_numbers("texts", found)
