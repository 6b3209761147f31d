"""The energy words of the screens, each with one sentence: the help shows them."""

from __future__ import annotations

WORDS: tuple[tuple[str, str], ...] = (
    ("J", "joules: watts × seconds; 3.6 kJ are 1 Wh"),
    ("J/tok", "gross joules per token written, thinking included"),
    ("tok/s", "tokens written per second"),
    ("TTFT", "time to first token: from sending the question to the first word"),
    ("load", "reading the model into memory, before its first answer"),
    ("prefill", "reading the question and the chat so far"),
    ("decode", "writing the thinking and the answer, token by token"),
    ("gross", "everything the hardware drew, idle power included"),
    ("net", "gross less the idle power, which is measured while etui rests"),
    ("≈", "computed without a hardware reading, or predicted"),
    ("±", "half the width of the range that holds the true value"),
    ("counter", "read from an energy counter of the hardware"),
    ("integrated", "hardware power readings, added up over time"),
    ("unmeasured", "nothing could be read: never counted as 0"),
)
"""Word -> meaning, in the order in which a reader meets them."""
