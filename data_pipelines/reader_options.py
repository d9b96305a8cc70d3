"""Which readers there are, and their options on the command line and in configurations."""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import UsageError
from data_pipelines.recording import Reader

READERS: Mapping[str, str] = {
    "affwild2": "data_pipelines.readers.affwild2:Affwild2",
    "biovid": "data_pipelines.readers.biovid:BioVid",
    "e4": "data_pipelines.readers.e4:E4",
}
"""Name of a layout to the class of its reader, as ``module:class``; imported when asked for."""

_PREFIX = "reader_option_"


def reader_class(name: str) -> type:
    """The class that reads a layout.

    Raises:
      UsageError: There is none of this name.
    """
    if name not in READERS:
        raise UsageError(f"there is no data set {name!r}; it is one of {', '.join(READERS)}")
    module, _, attribute = READERS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def make_reader(name: str, raw: str | Path, **options: Any) -> Reader:
    """Makes the reader of a raw folder.

    Args:
      name: Key of `READERS`.
      raw: The raw folder.
      **options: Arguments of the reader's class.

    Raises:
      UsageError: There is no such reader, or it has no such option.
    """
    return reader_class(name)(str(raw), **settled(name, options))


def settled(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A reader's options as its class takes them, whoever wrote them: a command, a configuration, a program.

    In a list of texts, one with commas is several. An empty list is the reader's own choice, where the reader
    has one.

    Args:
      name: Key of `READERS`.
      options: Values by name.

    Raises:
      UsageError: There is no such reader, or it has no such option.
    """
    check_names(name, options)
    known = _parameters(reader_class(name))
    found = {}
    for option, value in options.items():
        if isinstance(value, (tuple, list)) or (
            isinstance(value, str) and "tuple" in _type_of(known[option])
        ):
            if not value and known[option].default is None:
                continue
            items = (value,) if isinstance(value, str) else value
            value = tuple(part for item in items for part in _split(item))
        found[option] = value
    return found


def _split(item: Any) -> list[Any]:
    return [part.strip() for part in item.split(",") if part.strip()] if isinstance(item, str) else [item]


def _type_of(parameter: inspect.Parameter) -> str:
    return str(parameter.annotation)


def check_names(name: str, options: Iterable[str]) -> None:
    """Raises UsageError, with the nearest one, for an option that a reader does not have."""
    known = _parameters(reader_class(name))
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise UsageError(f"the data set {name!r} has no option {option!r}; {hint}")


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(cls).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "root"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every reader's options, in a group for each reader, with the help that its docstring gives."""
    added: dict[str, argparse.Action] = {}
    for name in READERS:
        cls = reader_class(name)
        texts = _describe_parameters(cls)
        group = parser.add_argument_group(f"options of --dataset={name}")
        for option, parameter in _parameters(cls).items():
            if option in added:
                added[option].help = f"{added[option].help} (also of {name})"
                continue
            default = _to_text(parameter.default)
            default = f" (default: {default})" if default else ""
            added[option] = group.add_argument(
                *dict.fromkeys((f"--{option.removesuffix('_used')}", f"--{option}")),
                dest=_PREFIX + option,
                type=_converter(_type_of(parameter)),
                metavar="A,B" if "tuple" in _type_of(parameter) else "VALUE",
                help=(texts.get(option, "") + default).replace("%", "%%"),
            )


def chosen(namespace: argparse.Namespace) -> dict[str, Any]:
    """The reader's options that the command line gives; the others keep the reader's defaults."""
    given = {name: value for name, value in vars(namespace).items() if name.startswith(_PREFIX)}
    return {name[len(_PREFIX) :]: value for name, value in given.items() if value is not None}


def _to_text(value: Any) -> str:
    if value is None:
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _converter(annotation: str) -> Callable[[str], Any]:
    """Reads an argument's text as the type that the reader's class names."""
    if "tuple" in annotation:
        item = _converter(annotation[annotation.index("[") + 1 :]) if "[" in annotation else str
        return lambda text: tuple(item(part.strip()) for part in text.split(",") if part.strip())
    for known in (bool, int, float):
        if re.match(rf"{known.__name__}\b|<class '{known.__name__}'>", annotation):
            return _read_bool if known is bool else known
    return str


def _read_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return text.lower() == "true"


def _describe_parameters(cls: type) -> dict[str, str]:
    """The texts of the docstring's "Attributes" by name; "a, b: text" describes both."""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        start = re.match(r"  (\w+(?:, \w+)*): (.*)", line)
        if start:
            names = start[1].split(", ")
            texts |= dict.fromkeys(names, start[2])
        elif line.startswith("    "):
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
        else:
            break
    return {name: text.replace("``", "").replace("`", "") for name, text in texts.items()}
