"""One day of audits on real questions: what they cost, what they found, what a fit makes of them.

Run ``python -m benchmarks.audit_day --data MMLU --home DIR``. Questions of MMLU's test are asked as
a chat asks them, by a policy whose small arm answers and whose large arm audits a drawn share. The
right letters are used only at the end, to say how good the labels were. Then the log is fitted
(``etui policy fit --log``), and ``etui stats --audit`` says what the fit changed. Everything is
kept in ``--home``, which has to be a new folder, or one of this benchmark: a second run asks the
questions that follow. An audit begins at once after an answer, without the ten seconds of an app.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.datasets.questions import Question
    from etui.log.labels import LabelledTurn
    from etui.log.records import AuditRecord

NAME = "audit-day"
KEY = "letters.json"
"""File in the home with the right letter of each question that was asked."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An audited question with the truth.

    Attributes:
        agrees: Whether both answers are the same.
        small, large: Whether each answer is right.
        small_label, large_label: Probability of that, by the label of the audit.
    """

    agrees: bool
    small: bool
    large: bool
    small_label: float
    large_label: float


def format_policy(options: argparse.Namespace) -> str:
    """Write the policy of the day."""
    return f"""version: 1
arms:
  small: {{model: {options.small}, max_tokens: {options.max_tokens}}}
  large: {{model: {options.large}, max_tokens: {options.max_tokens + 1}}}
rules:
  - name: learned
    objective: {{maximize: accuracy, exchange: {options.exchange:g}}}
    arms: [small, large]
    otherwise: small
audit: {{share: {options.share:g}, arm: large, joules: {{day: {options.joules:g}}}}}
"""


def format_question(question: Question) -> str:
    """Write a question as a user types it, with a line for each option."""
    options = zip(ascii_uppercase, question.choices, strict=False)
    lines = [question.text, *(f"{letter}) {text}" for letter, text in options)]
    return "\n".join([*lines, "Answer with the letter only."])


def draw_questions(data: Path | None, config: Config, count: int, seed: int) -> list[Question]:
    """Draw questions over all subjects; a larger count begins with those of a smaller one."""
    from etui.datasets.questions import order_balanced
    from etui.datasets.suites import load_suite

    suite = load_suite("mmlu", "test", data, config)
    order = order_balanced(suite.sizes, seed)
    return [suite.questions[name][at] for name, at in order[:count]]


def ask_all(config: Config, texts: Sequence[str], say: Callable[[str], None]) -> None:
    """Ask the questions one after the other; each drawn one is audited before the next."""
    from etui.chat import Query
    from etui.energy.idle import IdleTracker
    from etui.runtime.routes import Route
    from etui.runtime.runtime import open_process_runtime
    from etui.runtime.service import TurnService
    from etui.turn.events import TurnFinished
    from etui.units import energy_text

    pauses: list[Callable[[], None]] = []
    runtime = open_process_runtime(config)
    runtime.writer.ready()
    runtime.recorder.start()
    tracker = IdleTracker(runtime.recorder, config)
    service = TurnService(runtime, tracker, lambda _seconds, work: pauses.append(work))
    with closing(service):
        for number, text in enumerate(texts, 1):
            for event in service.run(Query(text), Route(NAME)):
                if isinstance(event, TurnFinished):
                    turn = event.record
                    cost = energy_text(turn.energy.joules, kind=turn.energy.kind)
                    say(f"{number}/{len(texts)} {turn.arm}: {turn.status}, {cost}")
            while pauses:
                pauses.pop(0)()


def judge(config: Config, letters: dict[str, str]) -> tuple[list[Judged], list[bool]]:
    """Compare audits with the truth; also returns whether each answer of the small arm is right."""
    from etui.learning.labels import collect_labels
    from etui.log.labels import read_audits, read_labelled
    from etui.log.queries import LogReader

    with LogReader(config) as log:
        turns = read_labelled(log)
        answers = {turn.turn_id: turn for turn in log.turns()}
        audits = {audit.turn_id: audit for audit in read_audits(log) if audit.agrees is not None}
    labelled: list[LabelledTurn] = [turn for turn in turns if turn.turn_id in audits]
    labels = collect_labels(labelled, NAME)
    found = []
    for turn, each in zip(labelled, labels.questions, strict=True):
        audit: AuditRecord = audits[turn.turn_id]
        right = letters[turn.query]
        found.append(
            Judged(
                bool(audit.agrees),
                is_right(turn.query, answers[turn.turn_id].answer, right),
                is_right(turn.query, audit.answer, right),
                each.labels["small"].p,
                each.labels["large"].p,
            )
        )
    small = [
        is_right(turn.query, turn.answer, letters[turn.query])
        for turn in answers.values()
        if turn.arm == "small" and turn.query in letters
    ]
    return found, small


def is_right(query: str, answer: str, letter: str) -> bool:
    """Return whether an answer has the right letter, by the rules that compare two answers."""
    from etui.chat import Query
    from etui.runtime.auditor import compare_answers

    agrees, _ = compare_answers(Query(query), answer, letter)
    return agrees is True


def summarise(judged: Sequence[Judged], small: Sequence[bool]) -> dict[str, Any]:
    """Sum up how good the labels were; shares in 0..1, None without any."""

    def mean(values: Iterator[float]) -> float | None:
        found = list(values)
        return statistics.fmean(found) if found else None

    return {
        "labels": len(judged),
        "agree": mean(float(each.agrees) for each in judged),
        "small_right": mean(float(each.small) for each in judged),
        "small_by_labels": mean(each.small_label for each in judged),
        "large_right": mean(float(each.large) for each in judged),
        "large_by_labels": mean(each.large_label for each in judged),
        "small_right_if_agree": mean(float(each.small) for each in judged if each.agrees),
        "same_mistake": mean(
            float(each.agrees) for each in judged if not each.small and not each.large
        ),
        "small_right_of_all": mean(float(right) for right in small),
        "asked": len(small),
    }


def main() -> None:
    """Ask, audit, judge, fit, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder of the log and the fit")
    parser.add_argument("--data", type=Path, help="folder of MMLU's files")
    parser.add_argument("--small", default="qwen2.5-coder-0.5b", help="model of the small arm")
    parser.add_argument("--large", default="qwen2.5-coder-1.5b", help="model of the audit arm")
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--share", type=float, default=0.2, help="share that is audited")
    parser.add_argument("--joules", type=float, default=20_000, help="joules of a day's audits")
    parser.add_argument("--exchange", type=float, default=3.0, help="joules for a point")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    os.environ["ETUI_HOME"] = str(options.home.resolve())
    from etui.cli.main import run
    from etui.cli.stats_audits import summarise_audits
    from etui.config.config import load_config

    config = load_config()
    if options.threads is not None:
        config = replace(config, threads=options.threads)
    key = options.home / KEY
    policy = config.policies_dir / f"{NAME}.yaml"
    if options.home.exists() and any(options.home.iterdir()) and not key.exists():
        raise SystemExit(f"{options.home} is not empty, and not a folder of this benchmark")
    policy.parent.mkdir(parents=True, exist_ok=True)
    policy.write_text(format_policy(options), encoding="utf-8")
    letters = json.loads(key.read_text()) if key.exists() else {}
    drawn = draw_questions(options.data, config, len(letters) + options.questions, options.seed)
    new = {format_question(each): each.answer for each in drawn}
    asked = [text for text in new if text not in letters]
    letters |= new
    key.write_text(json.dumps(letters))
    ask_all(config, asked, lambda line: None if options.json else print(line, flush=True))
    found = summarise(*judge(config, letters))
    spent = summarise_audits(config, 1)
    found |= {
        name: getattr(spent, name) for name in ("audits", "unfinished", "joules", "load_joules")
    }
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:22} {value if value is None or isinstance(value, int) else f'{value:.3f}'}")
    for command in (
        ["policy", "fit", NAME, "--log"],
        ["stats", "--audit"],
        ["policy", "check", NAME],
        ["policy", "replay", NAME],
    ):
        print(f"\n$ etui {' '.join(command)}", flush=True)
        run(command)


if __name__ == "__main__":
    main()
