"""Grammars of JSON schemas: what they allow, and schemas that are refused."""

from __future__ import annotations

import json
import os
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker

from benchmarks.schemas import compare
from etui.engine.grammar import build_schema_grammar
from etui.engine.model import Model
from etui.engine.sampler import Constraints
from etui.engine.session import OutputGrammar
from etui.errors import InvalidRequest

Accepts = Callable[[OutputGrammar, str], bool]


def matches(value: Any, schema: Any) -> bool:
    old = isinstance(schema, dict) and isinstance(schema.get("items"), list)
    kind = Draft7Validator if old else Draft202012Validator
    return kind(schema, format_checker=FormatChecker()).is_valid(value)


@pytest.fixture(scope="module")
def constraints(model: Model) -> Constraints:
    return Constraints(model._api, model)


@pytest.fixture(scope="module")
def accepts(model: Model, constraints: Constraints) -> Accepts:
    """Whether a text is taken as a whole answer, token by token."""
    end = next(token for token in range(model.vocabulary) if model.piece(token)[1])

    def check(grammar: OutputGrammar, text: str) -> bool:
        constraint = constraints.make(grammar, 0)
        tokens = model.tokenize(text, special=False)
        return all(map(constraint.accept, tokens)) and constraint.allows(end)

    return check


def grammar_of(schema: Any, **options: Any) -> OutputGrammar:
    return build_schema_grammar(json.dumps(schema), **options)


PERSON = {
    "$defs": {"pet": {"type": "object", "properties": {"name": {"type": "string"}}}},
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "The whole name", "minLength": 1},
        "age": {"type": "integer", "minimum": 0},
        "pets": {"type": "array", "items": {"$ref": "#/$defs/pet"}, "maxItems": 2},
        "note": {"type": ["string", "null"]},
    },
    "required": ["age"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/a/node",
    "$defs": {
        "a": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "number"},
                    "left": {"anyOf": [{"$ref": "#/$defs/a/node"}, {"type": "null"}]},
                },
                "required": ["value", "left"],
            }
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            PERSON,
            [
                {"age": 3},
                {"name": "Ada", "age": 36},
                {"age": 1, "pets": [{"name": "x"}, {}], "note": None},
                {"name": 'é\n"\\', "age": 0, "note": "a"},
            ],
            [{}, {"age": -1}, {"age": 1.5}, {"age": 1, "x": 1}, {"name": "", "age": 1}],
        ),
        (
            TREE,
            [{"value": 1.5, "left": None}, {"value": -2e3, "left": {"value": 0, "left": None}}],
            [{"value": 1}, {"value": 1, "left": 2}],
        ),
        (True, [None, 1, "a", [1, {"b": []}], {}], []),
        ({}, [None, 1, "a", [1, {"b": []}], {}], []),
        ({"description": "anything"}, [1, "a"], []),
        ({"type": "object"}, [{}, {"a": {"b": [1, None]}}], [1, [], "a"]),
        ({"type": ["integer", "null"], "enum": [1, 2, None]}, [1, 2, None], [3, "1"]),
        ({"enum": ["a", "ab", "abc", "b", 1, 10]}, ["a", "abc", 10, 1], ["ac", "", 11]),
        ({"const": {"a": [1, "x"]}}, [], [{"a": [1, "y"]}, {}]),
        ({"type": "integer", "minimum": 5, "exclusiveMaximum": 12}, [5, 11], [4, 12, 50]),
        ({"type": "integer", "minimum": -3, "maximum": 3}, [-3, 0, 3], [-4, 4]),
        ({"type": "number", "minimum": 0}, [0, 1.5, 1e3], [-1]),
        ({"type": "array", "minItems": 2, "maxItems": 3}, [[1, "a"], [1, 2, 3]], [[1], [1] * 4]),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 1}, [[True]], [[], [1]]),
        ({"type": "array", "items": False, "prefixItems": [{"type": "null"}]}, [[None]], [[1]]),
        ({"type": "string", "maxLength": 2}, ["", "ab", "é\n"], ["abc", 1]),
        ({"type": "string", "format": "date"}, ["2024-02-29"], ["2024-13-01", "x"]),
        ({"type": "string", "format": "date-time"}, ["2024-02-29T23:59:59.5Z"], [1]),
        ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["1"]),
        ({"type": "string", "format": "email"}, ["a@b.org"], [1, "any text"]),
        ({"type": "string", "format": "password"}, ["any text"], [1]),
        ({"anyOf": [{"type": "string"}, {"type": "boolean"}]}, ["a", True], [1, None]),
        ({"type": "object", "properties": {}, "additionalProperties": False}, [{}], [{"a": 1}]),
        ({"additionalProperties": {"type": "integer"}}, [{}, {"a": 1, "b": 2}], [{"a": "x"}]),
        (
            {"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
            [{}, {"a": None}, {"a": None, "b": 2}, {"b": 2}],
            [{"b": "x"}],
        ),
        ({"required": ["a"]}, [{"a": 1}, {"a": 1, "b": 2}], [{}]),
        (
            {
                "allOf": [
                    {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                    {"properties": {"b": {"type": "string"}}, "required": ["b"]},
                ]
            },
            [{"a": 1, "b": "x"}],
            [{"a": 1}, {"b": "x"}],
        ),
        ({"allOf": [True, {}, {"type": "null"}, True]}, [None], [1]),
        ({"type": "string", "allOf": [{"minLength": 1}, {"minLength": 2}]}, ["ab"], ["a", 1]),
        ({"type": "number", "maximum": 2, "exclusiveMinimum": -1.5}, [-1, 0.25, 2], [2.5, -1.5]),
        ({"type": "number", "multipleOf": 0.5}, [1, 2.5], [0.3]),
        (
            {"type": "object", "patternProperties": {"^a": {"type": "null"}}},
            [{"ab": None}],
            [{"a": 1}],
        ),
        ({"type": "string", "minimum": 1}, ["a"], [1]),
        ({"type": "string", "pattern": "^a+$", "maxLength": 2}, ["aa"], ["aaa", "b"]),
        ({"type": "array", "maxItems": 10**9, "items": {"type": "null"}}, [[], [None]], [[1]]),
        ({"enum": list(range(2000))}, [0, 1999], [2000]),
        ({"items": [{"type": "null"}, {"type": "integer"}], "minItems": 2}, [[None, 1]], [[1]]),
        (
            {"discriminator": {"propertyName": "a"}, "oneOf": [{"const": 1}, {"const": 2}]},
            [1, 2],
            [3],
        ),
        (
            {"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a", "maxLength": 2},
            ["ab"],
            ["abc", 1],
        ),
        (
            {"properties": {f"p{i}": {"type": "null"} for i in range(201)}},
            [{}, {"p3": None, "p200": None}],
            [{"p3": 1}],
        ),
        (
            {
                "$defs": {"base": {"properties": {"a": {"type": "null"}}, "required": ["a"]}},
                "allOf": [{"$ref": "#/$defs/base"}],
                "properties": {"b": {"type": "integer"}},
            },
            [{"a": None}, {"a": None, "b": 1}],
            [{"b": 1}, {"a": 1}, {"a": None, "b": "x"}],
        ),
        (
            {"anyOf": [{"properties": {"a": {"$ref": "#"}, "b": {"type": "null"}}}] * 2},
            [{}, {"a": {"a": {"b": None}}}, {"a": {}, "b": None}],
            [{"b": 1}, {"a": {"b": 1}}],
        ),
        (
            {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            [{"a": 1}, {"b": 1}],
            [{}, 1],
        ),
    ],
)
def test_the_grammar_takes_what_matches_and_nothing_else(accepts, schema, good, bad):
    grammar = grammar_of(schema)
    for value in good:
        assert matches(value, schema), value
        assert accepts(grammar, json.dumps(value, ensure_ascii=False)), value
        assert accepts(grammar, json.dumps(value, ensure_ascii=False, indent=2)), value
        assert not accepts(grammar, json.dumps(value) + "x"), value
    for value in bad:
        assert not matches(value, schema), value
        assert not accepts(grammar, json.dumps(value)), value
    assert not accepts(grammar, "")
    assert not accepts(grammar, "{")


def test_an_answer_after_thinking_may_begin_with_line_breaks(accepts):
    assert accepts(grammar_of({"type": "null"}, lead=True), "\n\nnull")
    assert not accepts(grammar_of({"type": "null"}), "\n\nnull")


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^[a-z]{2,3}$", ["ab", "abc"], ["a", "abcd", "aB"]),
        ("^(red|green)?-?[0-9]+$", ["red-1", "22", "-7"], ["blue1", "red"]),
        (r"^\d{3}\.\d$", ["123.4"], ["123x4"]),
        ("b+", ["b", "abc", "bbb"], ["", "ac"]),
        ("^a", ["a", "abc"], ["ba"]),
        (r"^[^0-9]\w*$", ["_a1", "x"], ["1a"]),
        (r'^a"\\$', ['a"\\'], ["a"]),
        (r"^[-\]^]+$", ["-]^"], ["a"]),
        ("^.{2}$", ["ab", "é€"], ["a", "abc"]),
        (r"^\u00e9[\U0001F600-\U0001F64F]$", ["é😀"], ["é"]),
        ("^$", [""], ["a"]),
        ("^(a*)*b$", ["b", "aab"], ["a"]),
        ("^(?i)ab$", ["AB", "ab"], ["a"]),
        ("^a{500}$", ["a" * 500], ["a" * 499]),
        (r"^\D$", ["a"], ["1"]),
        ("^a|b$", ["ax", "xb"], ["x"]),
    ],
)
def test_patterns(accepts, pattern, good, bad):
    grammar = grammar_of({"type": "string", "pattern": pattern})
    for text in good:
        assert re.search(pattern.replace("^(?i)", "(?i)^"), text), text
        assert accepts(grammar, json.dumps(text, ensure_ascii=False)), text
    for text in bad:
        assert not re.search(pattern.replace("^(?i)", "(?i)^"), text), text
        assert not accepts(grammar, json.dumps(text, ensure_ascii=False)), text


def nested(levels: int) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


UNITS = {
    "$ref": "#/$defs/d0",
    "$defs": {
        **{f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(20)},
        "d20": {"type": "null"},
    },
}


ENTANGLED = {
    "allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(8)]} for i in range(12)]
}


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ("{", "is not JSON"),
        ("NaN", "not a JSON number"),
        ('{"const": 1e999}', "too large"),
        ("[" * 60_000, "is not JSON"),
        (json.dumps({"description": "x" * 70_000}), "characters"),
        (3, "where a schema belongs"),
        ("null", "where a schema belongs"),
        ([], "where a schema belongs"),
        (False, "nothing matches"),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": []}, "Unsatisfiable"),
        ({"type": {"a": 1}}, "type must be"),
        ({"not": {}}, "is false"),
        ({"not": {"pattern": "a"}}, "'not', which etui cannot keep"),
        ({"dependentRequired": 3}, "of another type"),
        ({"contains": {}, "minContains": "a"}, "of another type"),
        ({"type": "integer", "minimum": 10**400, "maximum": 10**401}, "range"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "minimum (5) is greater"),
        ({"type": "integer", "minimum": True}, "got true"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, "minItems (2) is greater"),
        ({"type": "array", "minItems": -1}, "minItems"),
        ({"type": "string", "minLength": 1.5}, "minLength"),
        ({"type": "string", "maxLength": "3"}, "maxLength"),
        ({"enum": []}, "Unsatisfiable"),
        ({"enum": ["a"], "type": "integer"}, "incompatible types"),
        ({"enum": 3}, "enum must be an array"),
        ({"const": 1, "enum": [2]}, "Unsatisfiable"),
        ({"anyOf": []}, "anyOf is empty"),
        ({"anyOf": {}}, "not a list"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "incompatible types"),
        ({"allOf": [True, 3]}, "where a schema belongs"),
        ({"allOf": [False, {"type": "string"}]}, "schema is false"),
        ({"properties": []}, "properties"),
        ({"required": "a"}, "required"),
        ({"properties": {}, "required": ["a"], "additionalProperties": False}, "required"),
        ({"$ref": "http://example.org/a.json"}, "outside of itself"),
        ({"$ref": "file:///etc/passwd"}, "outside of itself"),
        ({"$ref": "#/$defs/none"}, "does not have"),
        ({"$ref": 3}, "outside of itself"),
        ({"$ref": "#"}, "no finite"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "no finite"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "no finite"),
        (nested(65), "levels deep"),
        (nested(300), "levels deep"),
        ({"anyOf": [nested(10)] * 200}, "parts"),
        (ENTANGLED, "too large"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "pattern": 3}, "pattern"),
        ({"type": "string", "pattern": "(?=a)b"}, "cannot express"),
        ({"type": "string", "pattern": r"(a)\1"}, "cannot express"),
        ({"type": "string", "pattern": r"^a\b$"}, "cannot express"),
        ({"type": "integer", "multipleOf": 1_000_003}, "more than 0.5 s"),
        ({"patternProperties": {"(": {}}}, "unclosed group"),
    ],
)
def test_schemas_that_are_refused(schema, what):
    text = schema if isinstance(schema, str) else json.dumps(schema)
    with pytest.raises(InvalidRequest, match=re.escape(what)) as found:
        build_schema_grammar(text, param="response_format")
    assert found.value.param == "response_format"


HEAVY = {
    "repetitions": {"type": "string", "pattern": "((((a){1,9}){1,9}){1,9}){1,9}"},
    "optional": {"type": "string", "pattern": "a?" * 99},
    "wide": {"type": "string", "pattern": ".{0,9}" * 20},
    "long": {"type": "string", "pattern": "((a{1000}){1000}){1000}"},
    "states": {"type": "string", "pattern": ".*a.{60}$"},
    "items": {"type": "array", "minItems": 10**9},
    "chain": UNITS,
    "properties": {"properties": {f"p{i}": {} for i in range(1900)}},
    "distinct": {"uniqueItems": True, "prefixItems": [{"type": "boolean"}] * 40, "items": False},
    "contained": {"type": "array", "contains": {"const": 1}, "minContains": 10**9},
    "apart": {"oneOf": [{"minimum": at} for at in range(5000)]},
    "named apart": {
        "allOf": [{"oneOf": [{"properties": {f"p{at}": {}}} for at in range(4000)]}, {}]
    },
    "references": {
        "allOf": [{"$ref": "#/$defs/0"}, {"type": "object"}],
        "$defs": {f"{at}": {"$ref": f"#/$defs/{at + 1}"} for at in range(3000)},
    },
    "recursive": {
        "anyOf": [
            {"properties": {"a": {"$ref": "#"}, name: {"type": "null"}}} for name in "bcdefghijk"
        ]
    },
}


@pytest.mark.parametrize("schema", HEAVY.values(), ids=HEAVY)
def test_a_heavy_schema_takes_little_time_and_memory(constraints, schema):
    import numpy as np

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    try:
        constraint = constraints.make(grammar_of(schema), 0)
    except InvalidRequest:
        return
    random = np.random.default_rng(1)
    for _ in range(60):
        allowed = constraint.find_allowed()
        if not allowed.size or not constraint.accept(int(random.choice(allowed))):
            break
    assert time.process_time() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_a_part_that_may_be_itself_is_read(accepts):
    assert accepts(grammar_of({"anyOf": [{"$ref": "#"}, {"type": "null"}]}), "null")


def test_a_grammar_that_is_too_large_is_refused(constraints):
    large = OutputGrammar("start: (", "tools")
    with pytest.raises(InvalidRequest, match="too large") as found:
        constraints.make(large, 0)
    assert found.value.param == "tools"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def schema_of(value: Any, data: st.DataObject) -> Any:
    """A schema that this value matches, drawn at random."""
    if data.draw(st.integers(0, 9)) == 0:
        return data.draw(st.sampled_from([{}, True]))
    if data.draw(st.integers(0, 5)) == 0:
        return {"enum": [value, *data.draw(st.lists(JSON_VALUES, max_size=3))]}
    if isinstance(value, bool):
        own: Any = {"type": "boolean"}
    elif value is None:
        own = {"type": ["null", "string"]}
    elif isinstance(value, int):
        own = {"type": data.draw(st.sampled_from(["integer", "number"]))}
    elif isinstance(value, str):
        own = {"type": "string", "minLength": data.draw(st.integers(0, len(value)))}
    elif isinstance(value, list):
        own = {"type": "array", "prefixItems": [schema_of(each, data) for each in value]}
    else:
        own = {
            "type": "object",
            "properties": {name: schema_of(each, data) for name, each in value.items()},
            "required": [name for name in value if data.draw(st.booleans())],
        }
    other = data.draw(st.sampled_from([None, {"type": "null"}, {"type": "array", "items": {}}]))
    return own if other is None else {"anyOf": [other, own]}


@given(value=JSON_VALUES, data=st.data())
def test_a_value_is_taken_by_the_grammars_of_its_schemas(accepts, model, value, data):
    schema = schema_of(value, data)
    assert matches(value, schema)
    grammar = grammar_of(schema)
    text = json.dumps(value, ensure_ascii=False)
    pieces = b"".join(model.piece(token)[0] for token in model.tokenize(text, special=False))
    assume(pieces == text.encode())  # the vocabulary lacks some bytes
    assert accepts(grammar, text)
    other = data.draw(JSON_VALUES)
    if accepts(grammar, json.dumps(other)):
        assert matches(other, schema)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.sampled_from(["object", "array", "string", "#", "#/properties/a", "^a$", "a"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "properties", "items", "anyOf", "allOf", "$ref", "enum", "required", "a",
             "pattern", "minItems", "additionalProperties", "prefixItems", "const", "minimum"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(schema=ANYTHING)
def test_any_document_is_a_grammar_or_refused(constraints, schema):
    try:
        grammar = build_schema_grammar(json.dumps(schema))
    except InvalidRequest:
        return
    constraints.make(grammar, 0)


def test_a_token_that_is_not_allowed_ends_the_constraint(model, constraints):
    constraint = constraints.make(grammar_of({"type": "null"}), 2)
    copy = constraint.clone()
    null = model.tokenize("null", special=False)
    constraint.follow([7, 7, *model.tokenize("no", special=False)])
    assert not constraint.active
    constraint.follow([7, 7])  # harmless
    copy.follow([7, 7, *null])
    assert copy.active
    assert not copy.allows(null[0])
    copy.follow([7, 7])  # a rollback
    assert copy.allows(null[0])
    assert not constraint.clone().active


WALKS = (
    {},
    PERSON,
    TREE,
    {"type": "string", "pattern": r"^[^a-z]{1,9}\u00e9?[\U0001F600-\U0001F64F]*$"},
    {"enum": ["é€😀", "é€😁", "éa", "\n\t"]},
    {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 4},
)


@given(seed=st.integers(0, 2**32 - 1), schema=st.sampled_from(WALKS))
@settings(max_examples=12)
def test_whatever_is_allowed_can_be_drawn(model, constraints, seed, schema):
    """Random tokens with parts of characters in them."""
    import numpy as np

    random = np.random.default_rng(seed)
    constraint = constraints.make(grammar_of(schema), 0)
    pieces: list[bytes] = []
    while len(pieces) < 60:
        allowed = constraint.find_allowed()
        if not allowed.size:
            break
        token = int(random.choice(allowed))
        assert constraint.allows(token)
        if model.piece(token)[1]:
            assert matches(json.loads(b"".join(pieces)), schema)
            break
        assert constraint.accept(token)
        pieces.append(model.piece(token)[0])


REWRITTEN: list[tuple[Any, list[str], list[str]]] = [
    ({"properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
     ["{}", '{"b":1}', '{"a":1,"b":2}'], ['{"a":1}']),
    ({"properties": {"a": {}, "b": {"type": "integer"}},
      "dependentSchemas": {"a": {"required": ["b"]}}}, ['{"b":1}'], ['{"a":1}']),
    ({"properties": {"kind": {"enum": ["x", "y"]}, "size": {"type": "integer"}},
      "required": ["kind"], "if": {"properties": {"kind": {"const": "x"}}},
      "then": {"required": ["size"]}},
     ['{"kind":"x","size":1}', '{"kind":"y"}'], ['{"kind":"x"}']),
    ({"type": "string", "not": {"maxLength": 2}}, ['"abc"'], ['"ab"']),
    ({"type": ["string", "null"], "not": {"type": "null"}}, ['"a"'], ["null"]),
    ({"type": "object", "not": {"required": ["a"]}}, ['{"b":1}'], ['{"a":1}']),
    ({"enum": [1, 2, 3], "not": {"enum": [2]}}, ["1", "3"], ["2"]),
    ({"type": "object", "propertyNames": {"pattern": "^[a-c]$"}}, ['{"a":1}'], ['{"d":1}']),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, ['{"a":1}'], ['{"c":1}']),
    ({"type": "array", "contains": {"const": 5}}, ["[5]", "[5,1]"], ["[]", "[1]"]),
    ({"type": "array", "items": {"type": "integer"}, "contains": {"const": 5}, "maxContains": 2},
     ["[5]", "[5,5]"], ["[]", "[5,5,5]", '[5,"a"]']),
    ({"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
     ["[]", '["b","a"]'], ['["a","a"]']),
    ({"type": "array", "uniqueItems": False}, ["[1,1]"], []),
    ({"properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
     ['{"a":1}', '{"b":1}'], ["{}", '{"a":1,"b":1}']),
    ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, ["1"], ["3"]),
    ({"oneOf": [{"const": "a"}, {"const": "b"}]}, ['"a"', '"b"'], ['"c"']),
    ({"properties": {"a": {}}, "unevaluatedProperties": False}, ['{"a":1}'], ['{"b":1}']),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "unevaluatedItems": False},
     ["[1]"], ["[1,2]"]),
    ({"type": "array", "maxItems": 2.0}, ["[1,2]"], ["[1,2,3]"]),
    ({"type": "number", "maximum": 1.8e19, "minimum": 3}, ["3", "44"], ["2"]),
    ({"$defs": {"a": {"$anchor": "whole", "type": "integer"}}, "$ref": "#whole"}, ["3"], ['"a"']),
    ({"type": "object", "patternProperties": {"a*": {"type": "integer"}, "aaa*": {"maximum": 20}},
      "additionalProperties": False}, ['{"aaa":5}'], ['{"aaa":"x"}', '{"aaa":25}']),
    ({"type": "string", "x-guidance": {"lenient": True}, "maxLenght": 3, "nullable": True},
     ['"abcd"'], ["null"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "kept", "refused"), REWRITTEN)
def test_keywords_that_others_can_say(
    accepts: Accepts, schema: Any, kept: list[str], refused: list[str]
) -> None:
    grammar = grammar_of(schema)
    assert [text for text in (*kept, *refused) if accepts(grammar, text)] == kept
    assert all(matches(json.loads(text), schema) for text in kept)


def test_a_pattern_may_name_control_characters(accepts: Accepts) -> None:
    grammar = grammar_of({"type": "string", "pattern": r"^\cI$"})  # Python has no such escape
    assert accepts(grammar, r'"\t"')
    assert not accepts(grammar, '"I"')


@pytest.mark.skipif("ETUI_JSON_SCHEMAS" not in os.environ, reason="no folder of schemas is named")
def test_the_schemas_of_a_public_collection() -> None:
    tally = compare(Path(os.environ["ETUI_JSON_SCHEMAS"]))
    assert tally.theirs > 100
    assert tally.share >= 0.95
    assert not tally.invalid
    assert tally.unfinished < 0.05 * tally.texts
    assert tally.slowest_seconds < 5
