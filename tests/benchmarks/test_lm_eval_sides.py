"""lm-eval over ``etui serve`` against ``etui bench``: the comparison, and both sides for real."""

from __future__ import annotations

import json
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread

import pytest

from benchmarks.http_sides import Server
from benchmarks.lm_eval_sides import (
    KINDS,
    Asked,
    Vocabulary,
    compare,
    find_kind,
    format_compared,
    run_sides,
)
from etui.bench.sample import Sample
from etui.turn.record import Tokens

SHA = "0123456789abcdef"
CLEAR = {"A": -3.0, "B": -1.0, "C": -4.0, "D": -5.0}
CLOSE = {"A": -1.05, "B": -1.0, "C": -4.0, "D": -5.0}
ASKED = Asked(CLEAR, SHA, 40, 1)


def sample(row: int = 0, logprobs: dict[str, float] = CLEAR, shots: int = 5) -> Sample:
    choice = max(logprobs, key=logprobs.__getitem__)
    return Sample(
        arm="a",
        subject="anatomy",
        row=row,
        answer="B",
        choice=choice,
        correct=choice == "B",
        status="answered",
        text="",
        logprobs=logprobs,
        letter_mass=None,
        confidence=None,
        margin=None,
        shots=shots,
        tokens=Tokens(40, 0, 40, 0, 0),
        prefix_tokens=0.0,
        joules=None,
        uncertainty=None,
        kind=None,
        prefill_joules=None,
        decode_joules=None,
        seconds=0.0,
        prompt_sha256=SHA,
    )


def test_equal_letters_are_counted_and_others_listed():
    other = Asked({"A": -1.0, "B": -1.02, "C": -4.0, "D": -5.0}, SHA, 40, 1)
    answers = {("anatomy", row): ASKED for row in range(3)} | {("anatomy", 3): other}
    found = compare([sample(row) for row in range(4)], answers, 5)
    assert (found.questions, found.equal, found.prompts_equal) == (4, 3, 4)
    assert found.share.value == 0.75
    assert (found.bench_right.value, found.lm_eval_right.value) == (1.0, 0.75)
    assert (found.largest_nats, found.near) == (2.0, 3)
    (one,) = found.unequal
    assert (one.row, one.bench, one.lm_eval, one.kind) == (3, "B", "A", "tie")
    assert one.gap_nats == pytest.approx(0.02)
    assert found.kinds == {"tie": 1}
    text = "\n".join(format_compared("m", found, 5))
    assert "the same letter: 3, 75.0 % [30.1, 95.4] (at least 98 % wanted: missed)" in text
    assert f"1 x tie: {KINDS['tie']}" in text


@pytest.mark.parametrize(
    ("own", "other", "kind"),
    [
        (sample(shots=4), ASKED, "cut"),
        (sample(), replace(ASKED, is_cut=True, prompt_sha="another"), "cut"),
        (sample(), replace(ASKED, prompt_sha="another", prompt_tokens=41), "prompt"),
        (sample(), replace(ASKED, prompt_tokens=41), "tokens"),
        (sample(), replace(ASKED, letter_tokens=2), "tokens"),
        (sample(logprobs=CLOSE), ASKED, "tie"),
        (sample(), replace(ASKED, logprobs=CLOSE), "tie"),
        (sample(), ASKED, "other"),
    ],
)
def test_a_difference_is_of_the_first_kind_that_fits(own, other, kind):
    assert find_kind(own, other, 5) == kind


def test_equal_letters_are_chosen_alike():
    assert Asked({"A": -1.0, "B": -1.0}, SHA, 1, 1).letter == "A"


class Closing(BaseHTTPRequestHandler):
    """Answers one request of a connection, and ends it without a word, as after a long pause."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        text = json.loads(self.rfile.read(size))["content"]
        answer = json.dumps({"tokens": [len(text)]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Write nothing."""


def test_a_connection_that_the_server_has_ended_is_opened_again():
    with HTTPServer(("127.0.0.1", 0), Closing) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            vocabulary = Vocabulary(Server(server.server_port, "m", 0))
            assert [vocabulary.encode(text) for text in ("a", "bc", "a")] == [[1], [2], [1]]
        finally:
            server.shutdown()
            thread.join()


QUESTIONS = """\
Which organ pumps blood?,The liver,The heart,The lung,The skin,B,anatomy
Which of these is a bone?,The femur,The spleen,The iris,The tongue,A,anatomy
"Where is the retina?
Choose one.",In the ear,In the nose,In the eye,In the hand,C,anatomy
Which planet is the largest?,Mars,Venus,Earth,Jupiter,D,astronomy
Which star is nearest to Earth?,Sirius,The Sun,Vega,Rigel,B,astronomy
"""
EXAMPLES = """\
What carries oxygen?,Red blood cells,Hair,Nails,Enamel,A,anatomy
Which tooth is at the front?,A molar,A premolar,An incisor,A wisdom tooth,C,anatomy
What orbits Earth?,The Moon,The Sun,Mars,Jupiter,A,astronomy
What is a nebula?,A planet,A cloud of gas,A moon,A rock,B,astronomy
"""


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A file of questions that no suite has, with the names of two subjects of MMLU."""
    path = tmp_path / "own.csv"
    path.write_text(QUESTIONS, encoding="utf-8")
    (tmp_path / "own_dev.csv").write_text(EXAMPLES, encoding="utf-8")
    return path


@pytest.mark.slow  # it starts two servers, a bench and lm-eval
def test_lm_eval_chooses_the_letters_of_the_bench(
    questions: Path, starter_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tenacity")
    import_module("huggingface_hub.constants")  # before the patch: it is read once a process
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("ETUI_MODELS", str(starter_model.parent))
    pytest.importorskip("lm_eval.evaluator")
    folder = tmp_path / "sides"
    found = run_sides(starter_model.stem, str(questions), None, 5, 2, 0, folder)
    assert found.questions == found.prompts_equal == 5
    assert found.largest_nats < 0.2
    assert {one.kind for one in found.unequal} <= {"tie"}
    # Both sides keep their answers, so nothing is asked a second time.
    kept = (folder / "bench" / "samples.jsonl").read_bytes()
    assert run_sides(starter_model.stem, str(questions), None, 5, 2, 0, folder) == found
    assert (folder / "bench" / "samples.jsonl").read_bytes() == kept
