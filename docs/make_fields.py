"""Make ``etui/routing/accuracy/mmlu_fields.bin``, the classifier of a question's field.

Run ``python docs/make_fields.py --data DIR [--check] [--test]`` with the folder of the MMLU files.
It is a ridge regression on the dev and val questions, one target for each of the 57 subjects, on
tf-idf of hashed words and word beginnings. The sharpness of its softmax minimises the log loss of
leave-one-out predictions. ``--check`` compares with the file that ships, byte for byte; ``--test``
prints the share of test questions whose subject it tells.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy import sparse

from etui.replay.outcomes import question_text
from etui.replay.question_texts import read_texts
from etui.routing.accuracy.fields import (
    FIELD_BUCKETS,
    FILE,
    count_field_terms,
    parse_classifier,
)

ALPHA = 1.0
SHARPNESS = np.arange(4.0, 24.5, 0.5)
TARGET = Path(__file__).parents[1] / "etui" / "routing" / "accuracy" / FILE


def make(data: Path) -> bytes:
    """Train on dev and val, and return the bytes of the file."""
    texts = {
        (s, split, row): q
        for split in ("dev", "val")
        for (s, row), q in read_texts(data, split).items()
    }
    keys = sorted(texts)
    names = sorted({subject for subject, *_ in keys})
    own = np.asarray([names.index(subject) for subject, *_ in keys])
    counts = [count_field_terms(question_text(texts[key])) for key in keys]
    matrix = sparse.csr_matrix(
        (
            [1 + np.log(n) for row in counts for n in row.values()],
            [bucket for row in counts for bucket in row],
            np.concatenate([[0], np.cumsum([len(row) for row in counts])]),
        ),
        shape=(len(keys), FIELD_BUCKETS),
    )
    with_bucket = np.asarray((matrix > 0).sum(axis=0)).ravel()
    exact = np.log((1 + len(keys)) / (1 + with_bucket))
    idf_step = float(f"{exact.max() / 255:.6g}")
    idf_bytes = np.round(exact / idf_step).astype(np.uint8)
    words = (matrix @ sparse.diags(1 + idf_step * idf_bytes)).tocsr()
    length = np.sqrt(np.asarray(words.multiply(words).sum(axis=1)).ravel())
    words = (sparse.diags(1 / np.maximum(length, 1e-12)) @ words).tocsr()
    target = np.where(np.arange(len(names)) == own[:, None], 1.0, -1.0)
    bias = target.mean(axis=0)
    inverse = np.linalg.inv((words @ words.T).toarray() + ALPHA * np.eye(len(keys)))
    weights = words.T @ (inverse @ (target - bias))
    hat = np.eye(len(keys)) - ALPHA * inverse
    own_part = np.diag(hat)[:, None]
    left_out = (hat @ (target - bias) - own_part * (target - bias)) / (1 - own_part) + bias
    losses = [log_loss(k * left_out, own) for k in SHARPNESS]
    step = float(f"{np.abs(weights).max() / 127:.6g}")
    head = {
        "version": 1,
        "names": names,
        "bias": [round(float(value), 5) for value in bias],
        "step": step,
        "sharpness": float(SHARPNESS[int(np.argmin(losses))]),
        "idf_step": idf_step,
        "questions": len(keys),
    }
    steps = np.clip(np.round(weights / step), -127, 127).astype(np.int64) + 128
    line = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    return line + idf_bytes.tobytes() + steps.astype(np.uint8).tobytes()


def log_loss(scores: np.ndarray, own: np.ndarray) -> float:
    """Mean of -ln p of the own field, for scores of shape (questions, fields)."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return float(-np.log(raised[np.arange(len(own)), own] / raised.sum(axis=1)).mean())


def print_test(raw: bytes, data: Path) -> None:
    """Print how often the classifier tells the subject of a test question."""
    classifier = parse_classifier(raw)
    texts = read_texts(data, "test")
    right, loss = 0, 0.0
    for (subject, _), question in texts.items():
        p = classifier.predict(question_text(question))
        right += classifier.names[p.index(max(p))] == subject
        loss -= float(np.log(p[classifier.names.index(subject)] + 1e-12))
    right_text = f"{right / len(texts):.1%} of {len(texts):,} test questions"
    print(f"{right_text}; log loss {loss / len(texts):.3f}")


def main() -> None:
    """Make the file, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the MMLU files")
    parser.add_argument(
        "--check", action="store_true", help="compare only; exit code 1 if it differs"
    )
    parser.add_argument(
        "--test", action="store_true", help="print the share of test questions that are recognised"
    )
    options = parser.parse_args()
    raw = make(options.data)
    if options.test:
        print_test(raw, options.data)
    if options.check:
        same = TARGET.read_bytes() == raw
        print("the same" if same else f"{TARGET} differs")
        sys.exit(not same)
    TARGET.write_bytes(raw)
    print(f"{TARGET}: {len(raw):,} bytes")


if __name__ == "__main__":
    main()
