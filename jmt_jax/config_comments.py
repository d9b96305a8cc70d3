"""The comments of a configuration's source, by the keys that they stand beside."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping


def read(source: str) -> dict[str, str]:
    """Comments by key, of options that a function of the file returns as well.

    A comment belongs to what ends on its line, or begins on the line below it where it stands alone.

    Args:
      source: Text of a configuration file.
    """
    comments = _by_line(source)
    found: dict[str, str] = {}
    helpers: dict[str, dict[str, str]] = {}
    for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
        own: dict[str, str] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and node.value is not None:
                for inner in ast.walk(node.value):
                    if isinstance(inner, ast.Dict):
                        own |= _of_dictionary(inner, "", comments, {})
        helpers[function.name] = own
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if key := _key(target):
                    for name, comment in _of_value(key, node, comments, helpers).items():
                        found.setdefault(name, comment)  # a variant's own assignment comes later
    return found


def _of_value(
    key: str,
    node: ast.Assign,
    comments: Mapping[int, tuple[str, bool]],
    helpers: Mapping[str, dict[str, str]],
) -> dict[str, str]:
    """Comments of an assignment to a key, and of the options in its value."""
    value, found = node.value, {}
    if isinstance(value, ast.Dict):
        found |= _of_dictionary(value, f"{key}.", comments, helpers)
    found |= _of_call(value, f"{key}.", helpers)
    if comment := _beside(node.lineno, node.end_lineno, comments):
        found[key] = comment
    return found


def _of_call(value: ast.expr, prefix: str, helpers: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """Comments of the options that a call of a function of the file returns; {} of anything else."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return {prefix + name: comment for name, comment in helpers.get(value.func.id, {}).items()}
    return {}


def _of_dictionary(
    node: ast.Dict,
    prefix: str,
    comments: Mapping[int, tuple[str, bool]],
    helpers: Mapping[str, dict[str, str]],
) -> dict[str, str]:
    found = {}
    is_line = node.lineno == node.end_lineno  # what stands beside it is about all of it
    for key, value in zip(node.keys, node.values, strict=True):
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            continue
        found |= _of_call(value, f"{prefix}{key.value}.", helpers)
        if isinstance(value, ast.Dict):
            found |= _of_dictionary(value, f"{prefix}{key.value}.", comments, helpers)
        if not is_line and (comment := _beside(key.lineno, value.end_lineno, comments)):
            found[prefix + key.value] = comment
    return found


def _beside(first: int, last: int, comments: Mapping[int, tuple[str, bool]]) -> str:
    """The comment at the end of the last line, else the ones alone on the lines before the first."""
    if last in comments and not comments[last][1]:
        return comments[last][0]
    above = []
    while (line := first - 1 - len(above)) in comments and comments[line][1]:
        above.insert(0, comments[line][0])
    return " ".join(above)


def _key(target: ast.expr) -> str:
    """``a.b`` of the assignment to ``config.a.b``; "" of others."""
    parts: list[str] = []
    while isinstance(target, ast.Attribute):
        parts.insert(0, target.attr)
        target = target.value
    return ".".join(parts) if isinstance(target, ast.Name) and target.id == "config" else ""


def _by_line(source: str) -> dict[int, tuple[str, bool]]:
    """Line number to a comment and whether it stands there alone."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = (token.string.lstrip("# ").strip(), alone)
    return found
