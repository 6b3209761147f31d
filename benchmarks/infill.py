"""Gaps that ``etui serve`` fills against those of llama.cpp's own server, on the same model.

Both are asked by ``/infill`` at temperature 0. How many of the texts are the same, token by token,
and where they part, is printed; with ``--rounds`` also the seconds of all gaps, one side after the
other in turn.

    python -m benchmarks.infill LLAMA_SERVER MODEL.gguf [--rounds N] [--threads N] [--tokens N]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from benchmarks.figures import in_turn, ratio_of
from benchmarks.http_sides import Server, etui_server, llama_server
from benchmarks.serve import CONTEXT_TOKENS, Setup, write_home
from etui.engine.library import default_threads

_LONG = "".join(f"def f{number}(x):\n    return x + {number}\n\n\n" for number in range(400))

GAPS: tuple[dict[str, Any], ...] = (
    {"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n\nprint(add(1, 2))\n"},
    {"input_prefix": "import os\n\n\ndef list_files(folder):\n    ", "input_suffix": "\n"},
    {
        "input_prefix": "for i in range(10):\n",
        "input_suffix": "    total += i\n",
        "input_extra": [{"filename": "sums.py", "text": "total = 0\n"}, {"text": "x = 1\n"}],
    },
    {"input_prefix": "class Stack:\n    def pop(self):\n", "input_suffix": "", "prompt": "    re"},
    {"input_prefix": "", "input_suffix": "\nprint(name)\n"},
    {"input_prefix": "# <|fim_middle|> is text here\nx = ", "input_suffix": "\ny = x + 1\n"},
    {"input_prefix": _LONG + "def add(a, b):\n    return ", "input_suffix": "\n\n\n" + _LONG},
)
"""Short and long gaps, with files, a begun text, special tokens in a text, and empty sides."""


def fill(server: Server, gap: dict[str, Any], tokens: int) -> tuple[str, int]:
    """Return the text of a gap, and the number of tokens of its prompt."""
    body = {**gap, "model": server.model, "n_predict": tokens, "temperature": 0, "top_k": 1}
    with closing(server.connect()) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/infill", json.dumps(body | {"cache_prompt": False}), headers)
        response = connection.getresponse()
        raw = response.read()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {raw[:2000]!r}")
    document = json.loads(raw)
    return document["content"], document["tokens_evaluated"]


def measure_seconds(server: Server, tokens: int) -> float:
    """Return the seconds of all gaps."""
    start = time.perf_counter()
    for gap in GAPS:
        fill(server, gap, tokens)
    return time.perf_counter() - start


def main() -> None:
    """Compare both sides, and print what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("binary", type=Path, metavar="LLAMA_SERVER")
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--tokens", type=int, default=24)
    options = parser.parse_args()
    tokens = options.tokens
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_home(folder, Setup(options.model, options.threads), CONTEXT_TOKENS)
        own = stack.enter_context(etui_server(folder, "bench"))
        binary, path, threads = options.binary, options.model, options.threads
        other = stack.enter_context(llama_server(binary, path, threads, CONTEXT_TOKENS, 1))
        same = prompts = 0
        for number, gap in enumerate(GAPS):
            mine, its = fill(own, gap, tokens), fill(other, gap, tokens)
            same, prompts = same + (mine[0] == its[0]), prompts + (mine[1] == its[1])
            if mine != its:
                print(f"gap {number}: etui {mine!r}, llama-server {its!r}")
        print(f"gaps with the same text: {same} of {len(GAPS)}")
        print(f"gaps with a prompt of the same length: {prompts} of {len(GAPS)}")
        if options.rounds:
            pairs = in_turn(
                lambda: measure_seconds(own, tokens),
                lambda: measure_seconds(other, tokens),
                options.rounds,
            )
            figure = ratio_of("seconds of all gaps, etui : llama-server", pairs)
            print(f"{figure.name}: {figure.value:.3g}  [{figure.low:.3g}, {figure.high:.3g}]")


if __name__ == "__main__":
    main()
