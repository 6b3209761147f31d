"""Make ``data/seed`` from a run of the seed design: its answers without texts, and its report.

    python -m benchmarks.seed RUN [--to data/seed] [--note TEXT]

The folder is a run folder, so that one command makes every table, figure and sentence of it again:
``etui bench report data/seed``. A note says how the run was made. What was in it before is removed.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from etui import units
from etui.bench.config import parse_run_config
from etui.bench.folder import CURVES, RunFolder, read_run
from etui.bench.publish import ENERGY_RECORD, redact_config, redact_sample
from etui.bench.results import result_files
from etui.bench.sample import parse_sample
from etui.bench.summary import summarise
from etui.design.analysis import DesignAnalysis, analyse
from etui.design.load import design_of_run
from etui.design.report import write_design_report

_LARGE = ("inter_token_bins", "inter_token_seconds")
"""Fields that no figure of a design needs."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, default=Path("data/seed"))
    parser.add_argument("--note", default="", help="a sentence on how the run was made")
    options = parser.parse_args(argv)
    write(options.run, options.to, options.note)
    return 0


def write(run: Path, to: Path, note: str = "") -> None:
    """Write the folder of a run; a folder of something else is never removed."""
    recorded = read_run(run)
    if to.exists() and not (to / "README.md").is_file():
        raise SystemExit(f"{to} is no folder of a seed run")
    config = parse_run_config(redact_config(recorded.config))
    samples = [
        parse_sample(redact_sample(sample) | dict.fromkeys(_LARGE)) for sample in recorded.samples
    ]
    shutil.rmtree(to, ignore_errors=True)
    with RunFolder.start(to, config) as folder:
        folder.add_samples(samples)
    (to / ".lock").unlink(missing_ok=True)
    if (run / CURVES).is_file():
        shutil.copyfile(run / CURVES, to / CURVES)
    summary = summarise(samples, config)
    record = result_files(config, samples, summary)[ENERGY_RECORD]
    (to / ENERGY_RECORD).write_text(record, encoding="utf-8")
    write_design_report(to, to)
    found = analyse(config, samples, {}, design_of_run(config).models)
    seconds = sum(sample.seconds for sample in samples)
    (to / "README.md").write_text(describe(found, seconds, note), encoding="utf-8")


def describe(found: DesignAnalysis, seconds: float, note: str) -> str:
    """Write the folder's README."""
    layout = found.layout
    arms = len(layout.strategies)
    lost = [one.lost / one.questions for one in found.arms]
    silent = " to ".join(units.percent_text(end) for end in dict.fromkeys((min(lost), max(lost))))
    added = note and f" {note}"
    said = "\n".join(f"- {one.text}" for one in found.statements)
    models = ", ".join(f"{role}: {model}" for role, model in layout.roles.items())
    choice = " ".join(f"--model {role}={shlex.quote(name)}" for role, name in layout.roles.items())
    return f"""\
# The seed design on a small machine

*What do thinking and voting buy per joule, and when does the larger model win?*

**{found.headline}.**

{len(found.paired):,} questions of MMLU, answered by all {arms} arms by one readout, so that
{silent} of the questions have no answer; {models};
{units.seconds_text(seconds)} of answers on {found.config.started_at[:10]}
({found.config.machine.get("name", units.UNKNOWN)}); joules: {found.kind or "unmeasured"}.{added}

{said}

[report.md](report.md) has the tables, the figures and the limits.

The run; the report, from the data here; and this folder, from a run:

```
etui bench --design seed {choice} --data mmlu --max-hours H --out seed
etui bench report data/seed
python -m benchmarks.seed seed
```

| file | what it is |
| --- | --- |
| [report.md](report.md), `report.html` | the report, as text and as a page that loads nothing |
| `config.json`, `samples.jsonl`, `curves.jsonl` | the run; its answers are without their texts |
| `table.csv`, `curves.csv` | the figures of the tables |
| `energy_record.json` | how the joules were obtained ([docs](../../docs/files.md#energy-record)) |
| `figures/` | the charts as SVG and PDF |
"""


if __name__ == "__main__":
    sys.exit(main())
