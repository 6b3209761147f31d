"""Where a model comes from, in words."""

from __future__ import annotations

from pathlib import Path

from etui.models.spec import (
    HubSource,
    ModelSpec,
    PathSource,
    WheelPart,
    WheelsSource,
    describe_sources,
)

WHEELS = WheelsSource((WheelPart("odd-part1==1.0", "*"), WheelPart("odd-part2==1.0", "*")))
HUB = HubSource("Qwen/Q-GGUF", "q.gguf")


def test_wheels_are_a_mirror_of_the_hub_and_what_is_checked_is_said() -> None:
    assert list(describe_sources(ModelSpec("q", "1B", (WHEELS, HUB), sha256="ab"))) == [
        "mirror of hf Qwen/Q-GGUF/q.gguf: 2 wheels from PyPI, sha256 checked",
        "hf Qwen/Q-GGUF/q.gguf, sha256 checked",
    ]


def test_without_a_hash_or_a_pull_nothing_is_said_to_be_checked() -> None:
    path = PathSource(Path("/a.gguf"))
    one = WheelsSource((WheelPart("tiny==1.0", "*"),))
    assert list(describe_sources(ModelSpec("q", "1B", (one, path)))) == [
        "wheel tiny==1.0 from PyPI",
        "path /a.gguf",
    ]
    assert list(describe_sources(ModelSpec("q", "1B", (path,), sha256="ab"))) == ["path /a.gguf"]
