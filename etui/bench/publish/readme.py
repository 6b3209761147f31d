"""README.md of a public folder."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator

from etui import __version__
from etui.bench.analysis.summary import Summary
from etui.bench.analysis.summary_text import markdown, suite_name
from etui.bench.publish.command import DESIGN_FILE, POLICY_FILE, RepeatCommand
from etui.bench.publish.suites import SUITES, is_own_file
from etui.bench.store.difficulty_table import DIFFICULTY
from etui.bench.store.run_config import RunConfig

_ABOUT = {
    "record.json": "the configuration of the run: questions, arms, models, programs, machines",
    "energy_record.json": "the energy record: conditions, method and uncertainty of the joules",
    "summary.json": "the results with their intervals",
    "samples.jsonl": "one line per question and arm: subject, row, letters, log-probabilities, "
    "tokens, joules, seconds; no texts",
    "per_subject.csv": "right answers of each subject",
    POLICY_FILE: "the policy of the run",
    DESIGN_FILE: "the design of the run",
    DIFFICULTY: "difficulties of the questions, the covariate of the intervals",
    "SHA256SUMS": "hashes of all these files: `sha256sum -c SHA256SUMS`",
}


def format_readme(
    config: RunConfig,
    summary: Summary,
    command: RepeatCommand,
    files: Collection[str],
    licence: str,
) -> str:
    """Format README.md.

    Args:
        files: Names of the other files of the folder.
        licence: SPDX identifier of the licence of the results.
    """
    return "\n".join(
        [
            f"# {suite_name(summary)}: accuracy and energy of {', '.join(config.contenders)}",
            "",
            markdown(summary, config).rstrip(),
            "",
            *_list_figures(files),
            *_describe_repeat(config, command),
            "",
            *_list_files(files),
            "",
            *_describe_limits(config, summary),
            "",
            "## Licence and citation",
            "",
            f"SPDX-License-Identifier: {licence}",
            "",
            f"The results in this folder are licensed under {licence}.{_name_suite(config)}",
            "",
            "Accuracy per joule as a measure of reasoning strategies: Wilhelm, Wittkopp and Kao, "
            "Beyond Test-Time Compute Strategies: Advocating Energy-per-Token in LLM Inference. "
            "EuroMLSys 2025, arXiv:2603.20224.",
            "",
        ]
    )


def _list_figures(files: Collection[str]) -> Iterator[str]:
    for name in files:
        if name.endswith(".svg"):
            title = name.rpartition("/")[2].removesuffix(".svg").replace("_", " ")
            yield f"![{title}]({name})"
            yield ""


def _describe_repeat(config: RunConfig, command: RepeatCommand) -> Iterator[str]:
    yield "## Repeat"
    yield ""
    yield "```"
    yield shlex.join(command.words)
    yield "```"
    yield ""
    if config.merged is not None:
        yield (
            f"This run was merged from {len(config.merged):,} runs, which answered parts of it "
            "(`--part`); the command answers all of it on one machine."
        )
        yield ""
    if not command.exact:
        yield "Some settings of the arms are not in this command: `arms` of record.json has all."
        yield ""
    yield (
        f"with etui {config.versions.get('etui', __version__)} and these model files, by the names "
        "of models.yaml:"
    )
    yield ""
    for model in config.models:
        yield f"- `{model.name}`: sha256 `{model.sha256 or 'unknown, a remote model'}`"
    yield ""
    yield (
        f"The data have the sha256 `{config.data_sha256}`. A run of the same plan has the "
        f"`plan_sha256` `{config.plan_sha256}`; `etui bench merge` joins such runs."
    )


def _list_files(files: Collection[str]) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield "| file | content |"
    yield "| --- | --- |"
    for name in files:
        about = _ABOUT.get(name, "a figure" if name.endswith(".svg") else "")
        yield f"| `{name}` | {about} |"


def _describe_limits(config: RunConfig, summary: Summary) -> Iterator[str]:
    yield "## What is not here"
    yield ""
    yield (
        "No questions, no prompts and no generated texts. `subject` and `row` (from 0, in the "
        "order of the original file) name a question, and `answer` is its right letter"
        + (
            ". The questions are not public; only their owner can repeat the run."
            if is_own_file(config.suite)
            else ", as in the public data."
        )
    )
    yield (
        "Places, names of hosts and users, and serial numbers of GPUs were removed: GPUs are "
        "`gpu:0`, `gpu:1`, ..."
    )
    if not summary.complete:
        yield ""
        yield "The run is unfinished: the figures cover the questions answered so far."


def _name_suite(config: RunConfig) -> str:
    source = SUITES.get(config.suite)
    if source is None:
        return ""
    return f" The questions are from {source.title} ({source.licence}): {source.citation}."
