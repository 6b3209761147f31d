"""Citations and licences of the suites that etui knows."""

from __future__ import annotations

from dataclasses import dataclass

from etui.datasets.suites import is_named_suite


@dataclass(frozen=True, slots=True)
class SuiteSource:
    """Where the questions of a suite come from."""

    title: str
    citation: str  # How its authors ask to be cited
    licence: str  # SPDX identifier of its licence


SUITES = {
    "mmlu": SuiteSource(
        "MMLU",
        "Dan Hendrycks, Collin Burns, Steven Basart, Andy Zou, Mantas Mazeika, Dawn Song and Jacob "
        "Steinhardt: Measuring Massive Multitask Language Understanding. ICLR 2021, "
        "arXiv:2009.03300",
        "MIT",
    ),
    "arc-challenge": SuiteSource(
        "ARC-Challenge",
        "Peter Clark, Isaac Cowhey, Oren Etzioni, Tushar Khot, Ashish Sabharwal, Carissa Schoenick "
        "and Oyvind Tafjord: Think you have Solved Question Answering? Try ARC, the AI2 Reasoning "
        "Challenge. 2018, arXiv:1803.05457",
        "CC-BY-SA-4.0",
    ),
    "gsm8k": SuiteSource(
        "GSM8K",
        "Karl Cobbe, Vineet Kosaraju, Mohammad Bavarian, Mark Chen, Heewoo Jun, Lukasz Kaiser, "
        "Matthias Plappert, Jerry Tworek, Jacob Hilton, Reiichiro Nakano, Christopher Hesse and "
        "John Schulman: Training Verifiers to Solve Math Word Problems. 2021, arXiv:2110.14168",
        "MIT",
    ),
    "mmlu-pro": SuiteSource(
        "MMLU-Pro",
        "Yubo Wang, Xueguang Ma, Ge Zhang, Yuansheng Ni, Abhranil Chandra, Shiguang Guo, Weiming "
        "Ren, Aaran Arulraj, Xuan He, Ziyan Jiang, Tianle Li, Max Ku, Kai Wang, Alex Zhuang, "
        "Rongqi Fan, Xiang Yue and Wenhu Chen: MMLU-Pro: A More Robust and Challenging Multi-Task "
        "Language Understanding Benchmark. NeurIPS 2024 Datasets and Benchmarks, arXiv:2406.01574",
        "MIT",
    ),
}
"""Name of a suite -> its source; the sample of etui and own files have none."""


def is_own_file(suite: str) -> bool:
    """Test whether a suite is a file of the user."""
    return not is_named_suite(suite)
