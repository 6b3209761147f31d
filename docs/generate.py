"""Write the files that are made from the code: ``python docs/generate.py``.

``docs/cli.md`` comes from ``--help``, the JSON Schemas of energy records, policies and designs from
their types. ``tests/test_docs.py`` fails if one is out of date.

``python docs/generate.py fields --data DIR [--check] [--test]`` makes the classifier of a
question's field, ``etui/learning/mmlu_fields.bin``, from the folder of the MMLU files: a
ridge regression on the dev and val questions, one target for each of the 57 subjects, on tf-idf of
hashed words and word beginnings. The sharpness of its softmax minimises the log loss of
leave-one-out predictions.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from etui.cli.main import cli
from etui.design.load import json_schema as build_design_schema
from etui.energy.energy_record import RECORD_VERSION, EnergyRecord
from etui.routing.schema.policy_file import json_schema as build_policy_schema

if TYPE_CHECKING:
    import numpy as np

ROOT = Path(__file__).parents[1]
WIDTH = 100
HEAD = """# The command line

Made from `--help` by `python docs/generate.py`, not edited by hand. `etui COMMAND --help` prints
the same in the terminal.
"""
ALPHA = 1.0  # of the ridge regression


def render_cli() -> str:
    """Return the help of every command as Markdown."""
    return HEAD + "".join(_sections(cli, "etui", 2))


def render_energy_schema() -> str:
    """Return the JSON Schema of energy_record.json, with the descriptions of its types."""
    schema = msgspec.json.schema(EnergyRecord)
    types = {cls.__name__: cls for cls in _find_dataclasses(EnergyRecord)}
    for name, definition in schema["$defs"].items():
        _describe(definition, types[name])
        definition["required"] = list(definition["properties"])  # written also where it is null
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "etui energy record",
        "$comment": "Written by docs/generate.py. Unknown values are null, and `missing` "
        "of a measurement says why. Later versions of etui may add fields.",
        **schema,
    }
    properties = document["$defs"]["EnergyRecord"]["properties"]
    properties["schema_version"] = {"const": RECORD_VERSION}
    document["$defs"]["Measurement"]["properties"]["pue"]["minimum"] = 1
    return json.dumps(document, indent=2) + "\n"


def _render_schema(build: Callable[[], dict[str, Any]]) -> Callable[[], str]:
    return lambda: json.dumps(build(), indent=2, ensure_ascii=False) + "\n"


FILES: dict[str, Callable[[], str]] = {
    "docs/cli.md": render_cli,
    "docs/energy-record.schema.json": render_energy_schema,
    "policies/policy.schema.json": _render_schema(build_policy_schema),
    "designs/design.schema.json": _render_schema(build_design_schema),
}
"""A generated file -> what renders it."""


def _sections(command: click.Command, path: str, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=path, max_content_width=WIDTH, terminal_width=WIDTH)
    heading = "#" * min(level, 4)
    yield f"\n{heading} `{path}`\n\n```\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _sections(inner, f"{path} {name}", level + 1)


def _find_dataclasses(cls: type) -> Iterator[type]:
    """Yield a dataclass and all that its fields hold."""
    yield cls
    for hint in typing.get_type_hints(cls).values():
        for inner in _parts(hint):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                yield from _find_dataclasses(inner)


def _parts(hint: object) -> Iterator[object]:
    yield hint
    for argument in typing.get_args(hint):
        yield from _parts(argument)


def _describe(definition: dict[str, Any], cls: type) -> None:
    """Move what the code says about each attribute to its property."""
    head, _, attributes = inspect.cleandoc(definition.get("description", "")).partition(
        "Attributes:\n"
    )
    definition["description"] = _unfold(head)
    texts = _attribute_texts(cls) | _listed_texts(attributes)
    for name, value in definition.get("properties", {}).items():
        if texts.get(name):
            value["description"] = _unfold(texts[name])


def _listed_texts(attributes: str) -> dict[str, str]:
    """Read ``name, name: text`` of the section Attributes of a docstring."""
    names: list[str] = []
    texts: dict[str, str] = {}
    for line in attributes.splitlines():
        if line.startswith("    ") and not line.startswith("        "):
            listed, _, rest = line.strip().partition(":")
            names = [name.strip() for name in listed.split(",")]
            texts.update(dict.fromkeys(names, rest))
        else:
            texts.update({name: f"{texts[name]} {line}" for name in names})
    return texts


def _attribute_texts(cls: type) -> dict[str, str]:
    """Read the comment at the end of a field's line, and the string below a field."""
    source = inspect.getsource(cls)
    lines = source.splitlines()
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    texts: dict[str, str] = {}
    name = ""
    for entry in node.body:
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            name = entry.target.id
            comment = re.search(r"\s#\s(.*)$", lines[(entry.end_lineno or entry.lineno) - 1])
            texts[name] = comment[1] if comment else ""
        elif name and isinstance(entry, ast.Expr) and isinstance(entry.value, ast.Constant):
            texts[name] = str(entry.value.value)
    return texts


def _unfold(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def make_fields(data: Path) -> bytes:
    """Train the classifier on dev and val, and return the bytes of its file."""
    import numpy as np
    from scipy import sparse

    from etui.learning.features import FIELD_BUCKETS, count_field_terms
    from etui.learning.outcomes import question_text, read_texts

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
    sharpness = np.arange(4.0, 24.5, 0.5)
    losses = [_log_loss(k * left_out, own) for k in sharpness]
    step = float(f"{np.abs(weights).max() / 127:.6g}")
    head = {
        "version": 1,
        "names": names,
        "bias": [round(float(value), 5) for value in bias],
        "step": step,
        "sharpness": float(sharpness[int(np.argmin(losses))]),
        "idf_step": idf_step,
        "questions": len(keys),
    }
    steps = np.clip(np.round(weights / step), -127, 127).astype(np.int64) + 128
    line = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    return line + idf_bytes.tobytes() + steps.astype(np.uint8).tobytes()


def _log_loss(scores: np.ndarray, own: np.ndarray) -> float:
    """Mean of -ln p of the own field, for scores of shape (questions, fields)."""
    import numpy as np

    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return float(-np.log(raised[np.arange(len(own)), own] / raised.sum(axis=1)).mean())


def _print_test(raw: bytes, data: Path) -> None:
    """Print how often the classifier recognises the subject of a test question."""
    import numpy as np

    from etui.learning.features import parse_classifier
    from etui.learning.outcomes import question_text, read_texts

    classifier = parse_classifier(raw)
    texts = read_texts(data, "test")
    right, loss = 0, 0.0
    for (subject, _), question in texts.items():
        p = classifier.predict(question_text(question))
        right += classifier.names[p.index(max(p))] == subject
        loss -= float(np.log(p[classifier.names.index(subject)] + 1e-12))
    right_text = f"{right / len(texts):.1%} of {len(texts):,} test questions"
    print(f"{right_text}; log loss {loss / len(texts):.3f}")


def _write_fields(options: argparse.Namespace) -> None:
    import etui.learning.features as fields

    target = Path(fields.__file__).with_name(fields.FILE)
    raw = make_fields(options.data)
    if options.test:
        _print_test(raw, options.data)
    if options.check:
        same = target.read_bytes() == raw
        print("the same" if same else f"{target} differs")
        sys.exit(not same)
    target.write_bytes(raw)
    print(f"{target}: {len(raw):,} bytes")


def main() -> None:
    """Write the generated files, or the classifier of fields."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    fields = parser.add_subparsers(dest="what").add_parser("fields", help="make the classifier")
    fields.add_argument("--data", type=Path, required=True, help="folder of the MMLU files")
    fields.add_argument(
        "--check", action="store_true", help="compare only; exit code 1 if it differs"
    )
    fields.add_argument(
        "--test", action="store_true", help="print how many test questions it knows"
    )
    options = parser.parse_args()
    if options.what == "fields":
        _write_fields(options)
        return
    for name, render in FILES.items():
        (ROOT / name).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
