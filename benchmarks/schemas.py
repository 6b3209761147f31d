"""Compare which JSON schemas etui keeps with which llama-server's converter takes.

``ETUI_JSON_SCHEMAS`` names a folder of schemas: files of the JSON Schema Test Suite (lists of
groups with a ``schema``), or files with one schema each. From each grammar random texts are
written, byte by byte, and validated. With ``--llama-server URL`` a running server is asked for its
own converter (``/apply-template`` builds the grammar and computes nothing); by default the Python
port of it in llama-cpp-python is.

    ETUI_JSON_SCHEMAS=.../tests/draft2020-12 python -m benchmarks.schemas
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etui.engine.grammar import build_schema_grammar
from etui.engine.grammar_trial import make_limits
from etui.errors import InvalidRequest

TEXTS = 4
"""Random texts that are written for each schema."""

MOST_BYTES = 600
"""A text that is longer is given up: nothing is said of it."""


@dataclass
class Tally:
    """What became of the schemas of a folder."""

    schemas: int = 0
    theirs: int = 0  # Those that llama-server's converter takes
    both: int = 0  # Those of them that etui keeps
    ours: int = 0
    texts: int = 0
    unfinished: int = 0
    slowest_seconds: float = 0.0
    invalid: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)  # Reasons, of those that they take

    @property
    def share(self) -> float:
        """Share of the schemas taken there that are kept here; 1.0 if none is."""
        return self.both / self.theirs if self.theirs else 1.0


def read_schemas(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the schemas of a folder that are objects, with their places."""
    for path in sorted(folder.rglob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        groups = document if isinstance(document, list) else [{"schema": document}]
        for group in groups:
            if isinstance(group, dict) and isinstance(group.get("schema"), dict):
                yield f"{path.stem}: {group.get('description', '')}", group["schema"]


def take_in_python(schema: Any) -> bool:
    """Return whether the Python port of llama-server's converter takes a schema."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        json_schema_to_gbnf(json.dumps(schema))
    except Exception:  # noqa: BLE001  it fails in many ways
        return False
    return True


def take_in_server(url: str) -> Callable[[Any], bool]:
    """Return what asks a running llama-server whether it takes a schema."""
    import httpx2

    client = httpx2.Client(base_url=url, timeout=30)

    def take(schema: Any) -> bool:
        form = {"type": "json_schema", "json_schema": {"schema": schema}}
        body = {"messages": [{"role": "user", "content": "x"}], "response_format": form}
        return client.post("/apply-template", json=body).status_code == 200

    return take


class Writer:
    """Writes random texts of a grammar, byte by byte, without a model."""

    tokens = (*(bytes([byte]) for byte in range(256)), b"")
    special_token_ids = (256,)
    eos_token_id = 256
    bos_token_id = None

    def __init__(self) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        self._vocabulary = LLTokenizer(TokenizerWrapper(self), slices=[])

    def __call__(self, text: bytes) -> list[int]:
        return list(text)

    def write(self, grammar: str, seed: int) -> str | None:
        """Write a text; None if it was given up."""
        from llguidance import LLMatcher

        chance = random.Random(seed)
        lark = LLMatcher.grammar_from_lark(grammar)
        matcher = LLMatcher(self._vocabulary, lark, log_level=0, limits=make_limits())
        written = bytearray()
        while len(written) < MOST_BYTES and not matcher.is_error():
            mask = matcher.compute_bitmask()
            allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
            if matcher.is_accepting() and (not allowed or chance.random() < 0.5):
                return written.decode("utf-8", "replace")
            if not allowed:
                return None
            ends = [byte for byte in allowed if byte in b'"}],:']
            plain = [byte for byte in allowed if 33 < byte < 127] or allowed
            pool = ends if ends and chance.random() < 0.4 + len(written) / MOST_BYTES else plain
            byte = chance.choice(pool)
            matcher.consume_token(byte)
            written.append(byte)
        return None


def find_fault(validator: Any, text: str) -> str:
    """Return what is wrong with a text; empty if nothing is, or if the validator cannot say."""
    import jsonschema.exceptions
    from referencing.exceptions import Unresolvable

    try:
        fault = next(iter(validator.iter_errors(json.loads(text))), None)
    except (re.error, Unresolvable, jsonschema.exceptions.SchemaError):
        return ""  # Python has no `\\p{Letter}`, and nothing is fetched
    return "" if fault is None else str(fault.message)


def compare(
    folder: Path, take: Callable[[Any], bool] = take_in_python, texts: int = TEXTS
) -> Tally:
    """Convert every schema of a folder in both ways, and validate what ours lets through."""
    from jsonschema.validators import Draft7Validator, Draft202012Validator, validator_for

    tally, writer = Tally(), Writer()
    for place, schema in read_schemas(folder):
        tally.schemas += 1
        theirs = take(schema)
        tally.theirs += theirs
        began = time.monotonic()
        try:
            grammar = build_schema_grammar(json.dumps(schema))
        except InvalidRequest as error:
            if theirs:
                tally.refused[error.what] += 1
            continue
        finally:
            tally.slowest_seconds = max(tally.slowest_seconds, time.monotonic() - began)
        tally.ours += 1
        tally.both += theirs
        old = "draft7" in folder.parts
        validator = validator_for(schema, Draft7Validator if old else Draft202012Validator)(schema)
        for seed in range(texts):
            text = writer.write(grammar.text, seed)
            tally.texts += 1
            if text is None:
                tally.unfinished += 1
                continue
            if fault := find_fault(validator, text):
                tally.invalid.append(f"{place}: {text} ({fault})")
    return tally


def main() -> None:
    """Print the figures of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-server", metavar="URL")
    parser.add_argument("--texts", type=int, default=TEXTS)
    options = parser.parse_args()
    take = take_in_server(options.llama_server) if options.llama_server else take_in_python
    tally = compare(Path(os.environ["ETUI_JSON_SCHEMAS"]), take, options.texts)
    print(f"schemas                 {tally.schemas}")
    print(f"taken by llama-server   {tally.theirs}")
    print(f"of these kept by etui   {tally.both} ({tally.share:.1%})")
    print(f"kept by etui in all     {tally.ours}")
    print(f"texts written           {tally.texts}, {tally.unfinished} of them given up")
    print(f"invalid                 {len(tally.invalid)}")
    print(f"slowest conversion      {tally.slowest_seconds:.3f} s")
    for what, count in tally.refused.most_common():
        print(f"  {count:4}  {what}")
    for each in tally.invalid:
        print(f"  invalid: {each}")


if __name__ == "__main__":
    main()
