"""The published schema of ``results.json``, and what in given results does not obey it."""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def schema() -> dict[str, Any]:
    """The published JSON Schema (2020-12) of ``results.json``."""
    text = importlib.resources.files("jmt_jax").joinpath("results.schema.json").read_text(encoding="utf-8")
    return json.loads(text)


def problems(results: Any) -> list[str]:
    """What in the results does not obey the schema, one sentence each with its place; [] if all does.

    Knows the keywords that the schema uses; no package beyond the standard library is needed.
    """
    root = _schema()
    return list(_problems(results, root, root, "results"))


@functools.cache
def _schema() -> dict[str, Any]:
    return schema()


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, float) and name == "integer":
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _problems(value: Any, rule: Any, root: Mapping[str, Any], place: str) -> Iterable[str]:
    """The keywords of JSON Schema that results.schema.json uses."""
    if "$ref" in rule:
        yield from _problems(value, root["$defs"][rule["$ref"].rsplit("/", 1)[1]], root, place)
    if "if" in rule and not list(_problems(value, rule["if"], root, place)):
        yield from _problems(value, rule["then"], root, place)
    types = rule.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(value, name) for name in types):
        yield f"{place} is {_short(value)}, expected {' or '.join(types)}"
        return
    if "const" in rule and (
        value != rule["const"] or isinstance(value, bool) != isinstance(rule["const"], bool)
    ):
        yield f"{place} is {_short(value)}, expected {rule['const']!r}"
    if "enum" in rule and value not in rule["enum"]:
        yield f"{place} is {_short(value)}, expected one of {rule['enum']}"
    if _is(value, "number"):
        if not math.isfinite(value):
            yield f"{place} is {value}, expected a finite number or null"
        elif value < rule.get("minimum", -math.inf):
            yield f"{place} is {value}, expected at least {rule['minimum']}"
    elif isinstance(value, str) and len(value) < rule.get("minLength", 0):
        yield f"{place} is empty, expected text"
    elif isinstance(value, list):
        yield from _array_problems(value, rule, root, place)
    elif isinstance(value, dict):
        yield from _object_problems(value, rule, root, place)


def _array_problems(value: list, rule: Any, root: Mapping[str, Any], place: str) -> Iterable[str]:
    low, high = rule.get("minItems", 0), rule.get("maxItems", math.inf)
    if not low <= len(value) <= high:
        yield f"{place} has {len(value)} entries, expected {low} to {high}"
    for i, item in enumerate(value):
        yield from _problems(item, rule.get("items", {}), root, f"{place}[{i}]")


def _object_problems(value: dict, rule: Any, root: Mapping[str, Any], place: str) -> Iterable[str]:
    for name in rule.get("required", ()):
        if name not in value:
            yield f"{place} lacks {name!r}"
    pattern = rule.get("propertyNames", {}).get("pattern", "")
    known = rule.get("properties", {})
    others = rule.get("additionalProperties", {})
    for name, item in value.items():
        if not re.search(pattern, name):
            yield f"{place} has a field {name!r}, expected names like {pattern}"
        if name in known:
            yield from _problems(item, known[name], root, f"{place}.{name}")
        elif others is False:
            yield f"{place} has an unknown field {name!r}, expected {', '.join(known)}"
        else:
            yield from _problems(item, others, root, f"{place}.{name}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
