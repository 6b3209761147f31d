"""Vectors of ``etui serve`` against those of llama.cpp's own server, for the same texts.

First how far the vectors of either side agree (the least cosine of all texts, which are of one word
to some hundred), then the seconds of a request with all of them, one side after the other in turn.
A chat model is averaged on both sides; ``--pooling`` names that of an embedding model.

    python -m benchmarks.embeddings LLAMA_SERVER [MODEL.gguf] [--texts N] [--rounds N] [--threads N]
        [--pooling mean|cls|last]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, in_turn, ratio_of
from benchmarks.http_sides import Server, etui_server, find_port, running
from benchmarks.serve import CONTEXT_TOKENS, Setup, write_home
from benchmarks.serve_clients import write_text
from etui.config.config import load_config
from etui.engine.library import default_threads
from etui.models.spec import STARTER

BATCH_TOKENS = 2048
"""llama-server pools a text in one batch."""


def write_texts(count: int) -> list[str]:
    """Write texts of one word to some hundred, the same each time."""
    lengths = (1, 3, 10, 30, 100, 300)
    return [f"{write_text(lengths[at % 6], at)}." for at in range(count)]


def ask(server: Server, texts: Sequence[str]) -> tuple[float, Any]:
    """Return the seconds of a request, and the vectors."""
    body = {"model": server.model, "input": list(texts), "encoding_format": "float"}
    with closing(server.connect()) as connection:
        start = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/embeddings", json.dumps(body), headers)
        response = connection.getresponse()
        raw = response.read()
        seconds = time.perf_counter() - start
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {raw[:2000]!r}")
    return seconds, np.array([each["embedding"] for each in json.loads(raw)["data"]])


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("binary", type=Path, metavar="LLAMA_SERVER")
    default = load_config().models_dir / f"{STARTER}.gguf"
    parser.add_argument("model", nargs="?", type=Path, default=default)
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--pooling", default="mean")
    options = parser.parse_args()
    texts = write_texts(options.texts)
    port, threads = find_port(), str(options.threads)
    command = [str(options.binary), "-m", str(options.model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--embedding", "--pooling", options.pooling, "--no-webui"]
    command += ["-c", str(BATCH_TOKENS), "-b", str(BATCH_TOKENS), "-ub", str(BATCH_TOKENS)]
    command += ["-t", threads, "-tb", threads, "-np", "1"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_home(folder, Setup(options.model, options.threads), CONTEXT_TOKENS)
        own = stack.enter_context(etui_server(folder, "bench"))
        other = stack.enter_context(running(command, port, "/health", options.model.stem))
        mine, its = ask(own, texts)[1], ask(other, texts)[1]
        mine /= np.linalg.norm(mine, axis=1, keepdims=True)
        its /= np.linalg.norm(its, axis=1, keepdims=True)
        cosines = (mine * its).sum(axis=1)
        least = float(cosines.min())
        figures = [Figure("least cosine, etui . llama-server", least, "", "absolute", len(texts))]
        if options.rounds:
            pairs = in_turn(
                lambda: ask(own, texts)[0], lambda: ask(other, texts)[0], options.rounds
            )
            name = f"seconds of {len(texts)} texts, etui : llama-server"
            figures.append(ratio_of(name, pairs))
    for figure in figures:
        low, high = figure.low, figure.high
        span = f"  [{low:.3g}, {high:.3g}]" if low is not None and high is not None else ""
        print(f"{figure.name}: {figure.value:.6g} {figure.unit}{span}  n={figure.n}")


if __name__ == "__main__":
    main()
