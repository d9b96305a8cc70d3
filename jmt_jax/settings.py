"""Finding a setting: all keys of a configuration with what they are, and the key that a wrong one meant.

``training.all.<option>`` stands for the option of every stage; a stage's own key wins. Light: no JAX.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import config_comments, config_keys

ALL_STAGES = "training.all"
_CONFIG = re.compile(r"--?config(?:=.*)?", re.DOTALL)
_OVERRIDE = re.compile(r"--?config\.([^=]+)(?:=(.*))?", re.DOTALL)


def load(config_flag: str) -> Any:
    """The configuration that ``--config=FILE[:VARIANT]`` names, before any key is set.

    Raises:
      UsageError: There is no such file or variant, the file is no configuration, or it lacks a key.
      BadDataError: It is that of a run, and damaged.
    """
    path, _, argument = config_flag.partition(":")
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "is not there"
        raise UsageError(
            f"the configuration {path or repr(path)} {what}; the shipped ones are in configs/, e.g. "
            "configs/biovid.py"
        )
    try:
        spec = importlib.util.spec_from_file_location("jmt_config", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        get_config = module.get_config
    except Exception as error:  # whatever a file of somebody's Python raises
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UsageError(
            f"{path}{line} is no configuration: {type(error).__name__}: {error}; expected Python with a "
            "function get_config, as in configs/"
        ) from error
    try:
        config = get_config(argument) if argument else get_config()
        tree = config.to_dict()
    except (UsageError, BadDataError):
        raise
    except ValueError as error:  # what the shipped files say of a variant that they do not know
        raise UsageError(f"{config_flag}: {error}") from error
    except Exception as error:
        raise UsageError(
            f"get_config of {config_flag} fails: {type(error).__name__}: {error}; expected a ConfigDict, as "
            "from those in configs/"
        ) from error
    config_keys.check(tree, argument if path.endswith("run_config.py") else path)
    return config


def spread(argv: Sequence[str], config: Any) -> list[str]:
    """The command line with every ``training.all`` as the stages' own keys, and all keys known.

    Of a key that is given more than once only the last is left, since ml_collections adds lists up.

    Args:
      argv: As given.
      config: From `load`.

    Raises:
      UsageError: A key is none; the message names the one that was probably meant.
    """
    tree = config.to_dict()
    known = set(keys(tree))
    stages = [name for name, value in tree.get("training", {}).items() if isinstance(value, Mapping)]
    argv = _in_one_word(argv, tree)
    given = {match[1] for text in argv[1:] if (match := _OVERRIDE.match(text))}
    result = []
    for text in argv:
        match = _OVERRIDE.match(text)
        if match is None or text is argv[0]:
            result.append(text)
            continue
        key = match[1]
        own = [f"training.{stage}.{key[len(ALL_STAGES) + 1 :]}" for stage in stages]
        if key.startswith(ALL_STAGES + ".") and all(one in known for one in own):
            if match[2] is None:
                raise UsageError(f"--config.{key} has no value; write --config.{key}=VALUE")
            result += [f"--config.{one}={match[2]}" for one in own if one not in given]
        elif key in known:
            result.append(text)
        else:
            raise UsageError(
                f"the configuration has no key {key!r}; the nearest that it has is {nearest(key, tree)!r} "
                "(--config=FILE --help lists all)"
            )
    return _last_of_each(result)


def _in_one_word(argv: Sequence[str], tree: Mapping[str, Any]) -> list[str]:
    """``--config.KEY VALUE`` as ``--config.KEY=VALUE``, where the key is one that takes a value."""
    words, result = list(argv), []
    while words:
        text = words.pop(0)
        match = _OVERRIDE.match(text)
        takes_value = _CONFIG.fullmatch(text) or (match and _takes_value(tree, match[1]))
        # Another option is no value: this one has none.
        follows = takes_value and "=" not in text and words and not words[0].startswith("--")
        result.append(f"{text}={words.pop(0)}" if follows else text)
    return result


def _takes_value(tree: Mapping[str, Any], key: str) -> bool:
    if key.startswith(ALL_STAGES + "."):
        return True
    return key in set(keys(tree)) and not isinstance(_value(tree, key), bool | None)


def _last_of_each(argv: Sequence[str]) -> list[str]:
    """The command line without what a later word for the same key overrules."""
    kept: dict[str, str] = {}
    for number, text in enumerate(argv):
        match = _OVERRIDE.match(text) if number else None
        name = match[1] if match else "--config" if number and _CONFIG.fullmatch(text) else f"{number}"
        kept.pop(name, None)  # the later one has the later place
        kept[name] = text
    return list(kept.values())


def keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of all values and groups."""
    for name, value in tree.items():
        yield prefix + name
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{name}.")


def nearest(wrong: str, tree: Mapping[str, Any]) -> str:
    """The key that was probably meant: its last part counts most, and one key for all stages is preferred.

    Args:
      wrong: A key that is none, without ``config.``.
      tree: The configuration as plain dictionaries.
    """
    candidates = []
    for key in keys(tree):
        if _is_group(tree, key):
            continue
        parts = key.split(".")
        is_of_stage = parts[0] == "training" and len(parts) == 3
        candidates.append(f"{ALL_STAGES}.{parts[2]}" if is_of_stage and parts[1] not in wrong else key)
    return max(dict.fromkeys(candidates), key=lambda key: _likeness(wrong, key))


def _is_group(tree: Mapping[str, Any], key: str) -> bool:
    return isinstance(_value(tree, key), Mapping)


def _likeness(wrong: str, key: str) -> tuple[float, bool, float]:
    """How well a key fits: by its last part and group, then as one of training or the streams, then whole."""
    asked, has = wrong.split(".")[-1].lower(), key.split(".")[-1].lower()
    words, others = set(asked.split("_")), set(has.split("_"))
    initials = "".join(word[0] for word in has.split("_") if word)
    last = difflib.SequenceMatcher(None, asked, has).ratio()
    if asked == has:
        last = 3.0
    elif words <= others or others <= words:
        last = 1.0 + len(words & others) / len(words | others)
    elif asked == initials and len(asked) > 1:
        last = 1.0
    whole = difflib.SequenceMatcher(None, wrong, key).ratio()
    group = wrong.rpartition(".")[0]
    if group and key.startswith(group.split(".")[0] + "."):
        last += 0.5
    return last, key.startswith(("training.", "model.streams")), whole


def listing(config_flag: str) -> str:
    """All keys of a configuration, one a line: value and, where the file has one, its comment."""
    config = load(config_flag)
    tree = config.to_dict()
    found = config_comments.read(Path(config_flag.partition(":")[0]).read_text(encoding="utf-8"))
    lines = [f"Keys of {config_flag}, with their values; --config.KEY=VALUE sets one.", ""]
    stages = [name for name, value in tree.get("training", {}).items() if isinstance(value, Mapping)]
    if stages:
        options = ", ".join(tree["training"][stages[0]])
        lines += [
            f"  {ALL_STAGES}.OPTION=VALUE  # the same for every stage ({', '.join(stages)}); a stage's own",
            f"      key wins. Options: {options}",
            "",
        ]
    for key in keys(tree):
        comment = found.get(key)
        if _is_group(tree, key):
            lines += [f"  {key}:  # {found[key]}"] if key in found else []
            continue
        value = _value(tree, key)
        said = comment or _expected(key, value)
        lines.append(f"  {key}={value!r}" + (f"  # {said}" if said else ""))
    return "\n".join(lines)


def _expected(key: str, value: Any) -> str:
    """What the checks expect of a key that has no comment."""
    from jmt_jax import config_rules  # it knows the names of networks, and with them JAX

    return config_rules.find_rule(key, value).expected


def _value(tree: Mapping[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value
