"""Values for Hypothesis drawn from JSON schemas: mostly what a schema asks for, now and then something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]
Values = st.SearchStrategy[Any]

TEXT = st.text(max_size=40) | st.sampled_from(
    ["", "\x00", "a\x00b", "é", "👩‍👩‍👧", "'; --", "%00", "../..", "x" * 5000]
)
NUMBERS = st.integers(-3, 3) | st.sampled_from([2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**40, -(2**63) - 1])
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ODD = 8
"""One value in about so many is not what the schema asks for."""


class SchemaValues:
    """``known``: text by the name of a field or parameter (ids, usernames), for values that lead somewhere."""

    def __init__(self, document: Json, known: Mapping[str, Sequence[Any]]) -> None:
        self._document = document
        self._known = known

    def of(self, schema: Json, name: str = "") -> Values:
        """Values of a schema, with odd ones among them."""
        return st.integers(0, ODD).flatmap(lambda n: JUNK if n == ODD else self._good(schema, name))

    def _good(self, schema: Json, name: str) -> Values:
        if "$ref" in schema:
            return self._good(self._follow(schema["$ref"]), name)
        if name in self._known:
            return st.sampled_from(self._known[name])
        if "const" in schema:
            return st.just(schema["const"])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        if "anyOf" in schema:
            return st.one_of(*(self.of(each, name) for each in schema["anyOf"]))
        kinds: dict[str, Values] = {
            "null": st.none(),
            "boolean": st.booleans(),
            "number": NUMBERS,
        }
        kind = schema.get("type")
        if kind == "string":
            return self._text(schema)
        if kind == "integer":
            return self._number(schema)
        if kind == "array":
            return st.lists(self.of(schema.get("items", {}), name), max_size=4)
        if kind == "object":
            return self._object(schema)
        return kinds.get(str(kind), JUNK)

    def _text(self, schema: Json) -> Values:
        if schema.get("format") == "uuid":
            return st.uuids().map(str)
        low, high = schema.get("minLength", 0), schema.get("maxLength", 100)
        fitting = st.text(min_size=low, max_size=max(low, min(high, 60)))
        edges = [n for n in (low - 1, low, high, high + 1) if 0 <= n <= 5000]
        return fitting | st.sampled_from(edges).map(lambda n: "a" * n)

    @staticmethod
    def _number(schema: Json) -> Values:
        low, high = schema.get("minimum", -5), schema.get("maximum", 200)
        return st.integers(low, min(high, low + 30)) | st.sampled_from([low - 1, low, high, high + 1])

    def _object(self, schema: Json) -> Values:
        required = set(schema.get("required", ()))
        needed = {n: self.of(s, n) for n, s in schema.get("properties", {}).items() if n in required}
        optional = {n: self.of(s, n) for n, s in schema.get("properties", {}).items() if n not in required}
        whole = st.fixed_dictionaries(needed, optional=optional)

        def spoil(value: Json) -> Values:
            dropped = st.sampled_from(sorted(value)).map(lambda n: {k: v for k, v in value.items() if k != n})
            added = st.tuples(TEXT, JUNK).map(lambda pair: {**value, pair[0]: pair[1]})
            return st.one_of(st.just(value), *([dropped] if value else []), added)

        return st.integers(0, ODD).flatmap(lambda n: whole.flatmap(spoil) if n == ODD else whole)

    def _follow(self, reference: str) -> Json:
        found: Any = self._document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        result: Json = found
        return result
