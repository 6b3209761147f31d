"""lm-eval over ``etui serve`` against ``etui bench``: the same questions, letter by letter.

    python -m benchmarks.lm_eval_sides MODEL [--questions 500] [--shots 5] [--seed 0]
                                       [--suite mmlu|FILE] [--folder DIR] [--json]

``etui bench`` draws and answers the questions. lm-eval then asks the same ones: its own MMLU tasks
(prompt, order of the examples, metric), with the documents of ``ETUI_MMLU`` in place of a download,
by its own client for completions (``echo`` with log-probabilities), which sends each letter's whole
prompt to ``etui serve``. Its tokens are those of ``/tokenize``, since it has no vocabulary of a
GGUF.

The share of equal letters has Wilson's interval. Each other question is of the first kind that
fits (``KINDS``). With ``--folder`` both sides keep their answers, and the same command goes on
where it was stopped. Exit code 1: less than 98 % are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.http_sides import Server, etui_server
from etui.bench.folder import read_run
from etui.bench.formats import sha16
from etui.bench.sample import Sample
from etui.config.config import load_config
from etui.datasets.questions import Suite
from etui.datasets.suites import MMLU, load_suite
from etui.measure.folder import CONFIG
from etui.stats.tests import Interval, wilson

AIM = 0.98
TIE_NATS = 0.1
"""Letters that are this close can change places: attention and quantised activations are summed in
another order when a prompt is computed whole, or behind examples that are in memory already."""

KINDS: Mapping[str, str] = {
    "prompt": "the texts of the prompts differ",
    "cut": "lm-eval cut off the beginning of the prompt, or etui left out examples",
    "tokens": "the prompts have another number of tokens (a begin token), or a letter several",
    "tie": f"the two best letters are within {TIE_NATS} nats of each other on one side",
    "other": "none of these explains it",
}
"""Kinds of a difference, in the order in which they are tried."""

Key = tuple[str, int]
"""A question: its subject and its row."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What lm-eval has of one question."""

    logprobs: Mapping[str, float]  # Letter -> log-probability, nats
    prompt_sha: str  # First 16 hex digits of the SHA-256 of its prompt
    prompt_tokens: int
    letter_tokens: int  # Most tokens of a letter after the prompt
    is_cut: bool = False  # Whether its prompt lost its beginning

    @property
    def letter(self) -> str:
        """The likeliest letter; the first of equal ones, as both sides choose."""
        return max(self.logprobs, key=self.logprobs.__getitem__)


@dataclass(frozen=True, slots=True)
class Unequal:
    """A question with another letter on each side."""

    subject: str
    row: int
    bench: str | None
    lm_eval: str
    gap_nats: float  # The smaller of both sides' gaps between their two best letters
    kind: str  # A key of `KINDS`


@dataclass(frozen=True, slots=True)
class Compared:
    """Both sides on the same questions."""

    questions: int
    equal: int
    share: Interval
    bench_right: Interval
    lm_eval_right: Interval
    prompts_equal: int
    median_nats: float  # Of the differences of a letter's log-probability, without signs
    largest_nats: float
    near: int  # Questions of which no letter is more than `TIE_NATS` apart
    unequal: tuple[Unequal, ...]

    @property
    def kinds(self) -> Mapping[str, int]:
        """Kind -> number of questions, in the order of ``KINDS``."""
        found = Counter(one.kind for one in self.unequal)
        return {kind: found[kind] for kind in KINDS if found[kind]}


def compare(samples: Sequence[Sample], asked: Mapping[Key, Asked], shots: int) -> Compared:
    """Compare the answers of a run of ``etui bench`` with those of lm-eval.

    Args:
        shots: Worked examples that were wanted of every prompt.
    """
    pairs = [(sample, asked[sample.subject, sample.row]) for sample in samples]
    apart = [
        [abs(value - other.logprobs[letter]) for letter, value in (sample.logprobs or {}).items()]
        for sample, other in pairs
    ]
    every = [one for inside in apart for one in inside]
    unequal = [
        Unequal(
            sample.subject,
            sample.row,
            sample.choice,
            other.letter,
            _find_gap(sample, other),
            find_kind(sample, other, shots),
        )
        for sample, other in pairs
        if sample.choice != other.letter
    ]
    equal = len(pairs) - len(unequal)
    return Compared(
        questions=len(pairs),
        equal=equal,
        share=wilson(equal, len(pairs)),
        bench_right=wilson(sum(sample.correct for sample, _ in pairs), len(pairs)),
        lm_eval_right=wilson(sum(s.answer == other.letter for s, other in pairs), len(pairs)),
        prompts_equal=sum(s.prompt_sha256 == other.prompt_sha for s, other in pairs),
        median_nats=median(every),
        largest_nats=max(every),
        near=sum(max(inside, default=0.0) <= TIE_NATS for inside in apart),
        unequal=tuple(unequal),
    )


def find_kind(sample: Sample, other: Asked, shots: int) -> str:
    """Find why a question may have two letters: the first kind that fits."""
    if other.is_cut or sample.shots < shots:
        return "cut"
    if sample.prompt_sha256 != other.prompt_sha:
        return "prompt"
    if sample.tokens.prompt != other.prompt_tokens or other.letter_tokens != 1:
        return "tokens"
    return "tie" if _find_gap(sample, other) <= TIE_NATS else "other"


def _find_gap(sample: Sample, other: Asked) -> float:
    gaps = []
    for logprobs in (sample.logprobs or {}, other.logprobs):
        second, first = sorted(logprobs.values())[-2:]
        gaps.append(first - second)
    return min(gaps)


def run_bench(
    model: str, suite: str, data: Path | None, questions: int, shots: int, seed: int, folder: Path
) -> list[Sample]:
    """Answer the questions by ``etui bench``, or take and complete the answers of a folder."""
    run = folder / "bench"
    command = [sys.executable, "-m", "etui", "bench", "--quiet"]
    if (run / CONFIG).is_file():
        found = read_run(run).samples
        if len(found) >= questions:
            return list(found)
        command += ["--resume", str(run)]
    else:
        command += ["--suite", suite, *(["--data", str(data)] if data else [])]
        command += ["--format", "letters", "--model", model, "--limit", str(questions)]
        command += ["--shots", str(shots), "--seed", str(seed), "--out", str(run)]
    env = {**os.environ, "ETUI_HOME": str(folder / "home")}
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return list(read_run(run).samples)


class Vocabulary:
    """The tokens of a served model, with the face of lm-eval's remote tokenizer.

    Args:
        server: A running ``etui serve``.
    """

    eos_token = ""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Tokenise a whole text, with the begin token if the model uses one."""
        if text not in self._known:
            body = {"content": text, "add_special": True, "parse_special": False}
            self._known[text] = self._send("POST", "/tokenize", body)["tokens"]
        return list(self._known[text])

    def find_context_tokens(self) -> int:
        """Return the size of the context of the model."""
        found = self._send("GET", f"/props?model={self._server.model}")
        return int(found["default_generation_settings"]["n_ctx"])

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        raw = None if body is None else json.dumps({"model": self._server.model, **body})
        # One for each request: the server closes what is silent while lm-eval asks.
        with closing(self._server.connect()) as connection:
            connection.request(method, path, raw, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: status {response.status}: {text[:2000]!r}")
        return json.loads(text)


def run_lm_eval(
    server: Server, suite: Suite, keys: Iterable[Key], shots: int, cache: Path
) -> dict[Key, Asked]:
    """Ask lm-eval's own MMLU tasks the questions, over a running ``etui serve``.

    Args:
        cache: Database that lm-eval keeps its answers in.
    """
    from lm_eval.api.model import CachingLM
    from lm_eval.evaluator import evaluate
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from tests.bench.lm_eval_tasks import build_task, mmlu_doc

    rows: dict[str, list[int]] = {}
    for subject, row in sorted(keys):
        rows.setdefault(subject, []).append(row)
    tasks = {}
    for subject, wanted in rows.items():
        questions = {question.row: question for question in suite.questions[subject]}
        docs = [mmlu_doc(questions[row]) for row in wanted]
        shown = [mmlu_doc(example) for example in suite.examples[subject]]
        task = build_task(f"mmlu/default/mmlu_{subject}.yaml", docs, shown)
        task.set_config("num_fewshot", shots)
        tasks[subject] = task
    vocabulary = Vocabulary(server)
    most = vocabulary.find_context_tokens()
    api = LocalCompletionsAPI(
        base_url=f"http://127.0.0.1:{server.port}/v1/completions",
        model=server.model,
        tokenizer_backend="None",
        max_length=most,
        max_retries=1,
    )
    # With a name of a backend it would load a tokenizer from the hub.
    api.tokenizer, api.tokenizer_backend = vocabulary, "remote"
    api.tokenized_requests = True
    cached = CachingLM(api, str(cache))
    with closing(cached.dbdict):
        found = evaluate(
            lm=cached,
            task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
            bootstrap_iters=0,
            log_samples=True,
        )
    assert found is not None
    return {
        (subject, rows[subject][logged["doc_id"]]): _read_logged(logged, vocabulary, most)
        for subject, all_logged in found["samples"].items()
        for logged in all_logged
    }


def _read_logged(logged: Mapping[str, Any], vocabulary: Vocabulary, most: int) -> Asked:
    prompts = [arguments[0] for arguments in logged["arguments"]]
    endings = [arguments[1] for arguments in logged["arguments"]]
    values = [float(response[0]) for response in logged["filtered_resps"]]
    tokens = len(vocabulary.encode(prompts[0]))
    longest = max(len(vocabulary.encode(prompts[0] + ending)) for ending in endings)
    return Asked(
        logprobs={e.strip(): value for e, value in zip(endings, values, strict=True)},
        prompt_sha=sha16(prompts[0]),
        prompt_tokens=tokens,
        letter_tokens=longest - tokens,
        is_cut=longest > most - 1,  # lm-eval keeps a token for an answer
    )


def format_compared(model: str, found: Compared, shots: int) -> Iterator[str]:
    """Format the result."""

    def percent(share: Interval) -> str:
        ends = (100 * (share.low or 0.0), 100 * (share.high or 0.0))
        return f"{100 * share.value:.1f} % [{ends[0]:.1f}, {ends[1]:.1f}]"

    reached = "reached" if found.share.value >= AIM else "missed"
    yield f"{model}, {found.questions} questions, {shots} worked examples; intervals at 95 %"
    yield (
        f"the same letter: {found.equal}, {percent(found.share)} "
        f"(at least {100 * AIM:.0f} % wanted: {reached})"
    )
    yield f"right: etui bench {percent(found.bench_right)}, lm-eval {percent(found.lm_eval_right)}"
    yield (
        f"log-probability of a letter: {found.median_nats:.4f} nats apart in the median, "
        f"{found.largest_nats:.3f} at most, within {TIE_NATS} in {found.near} questions; "
        f"equal prompts: {found.prompts_equal}"
    )
    for kind, count in found.kinds.items():
        yield f"{count} x {kind}: {KINDS[kind]}"
    for one in found.unequal:
        yield (
            f"  {one.subject} {one.row}: bench {one.bench}, lm-eval {one.lm_eval}, "
            f"{one.gap_nats:.3f} nats between the two best, {one.kind}"
        )


def run_sides(
    model: str, suite: str, data: Path | None, questions: int, shots: int, seed: int, folder: Path
) -> Compared:
    """Answer the questions on both sides, and compare them.

    Args:
        suite: ``mmlu``, or a file whose subjects have names of MMLU's.
        data: The folder of MMLU's files; None for a file.
        folder: What both sides have answered already is in it, and will be.
    """
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    # No prompt comes a second time, so that caches of them would only be written.
    (home / "config.yaml").write_text("cache: off\n", encoding="utf-8")
    samples = run_bench(model, suite, data, questions, shots, seed, folder)
    loaded = load_suite(suite, "test", data, load_config())
    # One answer at a time: other sequences in a batch change the last digits of a letter.
    with etui_server(home, model, "--parallel", "1") as server:
        keys = [(sample.subject, sample.row) for sample in samples]
        asked = run_lm_eval(server, loaded, keys, shots, folder / "lm_eval.db")
    return compare(samples, asked, shots)


def main(argv: Sequence[str] | None = None) -> int:
    """Run both sides and print what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="name of a model on this machine")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--shots", type=int, default=5, choices=range(6))
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn questions")
    parser.add_argument("--suite", default=MMLU, help="mmlu (from ETUI_MMLU), or a CSV file")
    parser.add_argument("--folder", type=Path, help="keeps the answers of both sides")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(argv)
    if find_spec("lm_eval") is None or find_spec("tenacity") is None:
        sys.exit("lm_eval is not installed: pip install -c constraints.txt -e '.[dev]'")
    data = os.environ.get("ETUI_MMLU") if chosen.suite == MMLU else None
    if chosen.suite == MMLU and not data:
        sys.exit("ETUI_MMLU names no folder of MMLU's files")
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")  # read by lm-eval's imports
    os.environ["ETUI_MODELS"] = str(load_config().models_dir)  # both sides have a home of their own
    with tempfile.TemporaryDirectory() as own:
        settings = f"{chosen.model}-{chosen.questions}-{chosen.shots}-{chosen.seed}"
        found = run_sides(
            chosen.model,
            chosen.suite,
            Path(data) if data else None,
            chosen.questions,
            chosen.shots,
            chosen.seed,
            (chosen.folder or Path(own)).absolute() / settings,
        )
    if chosen.json:
        more = {"model": chosen.model, "shots": chosen.shots, "kinds": found.kinds}
        print(json.dumps({**more, **asdict(found)}, indent=1))
    else:
        print("\n".join(format_compared(chosen.model, found, chosen.shots)))
    return 0 if found.share.value >= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
