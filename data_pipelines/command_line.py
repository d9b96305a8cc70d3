"""Options of commands that are refused as everything is: in one sentence, with exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from data_pipelines.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Takes a command's options; its usage is shown by ``--help`` alone."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with a sentence."""
        self.exit(UsageError.exit_code, f"usage error: {message}; see {self.prog} --help\n")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that is a whole number within bounds."""
    expected = f"a whole number from {least} " + ("up" if most is None else f"to {most}")

    def parse(text: str) -> int:
        number = int(text) if text.strip().lstrip("-").isdecimal() else least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return number

    return parse


def above_zero(text: str) -> float:
    """The type of an option that is a number above 0, e.g. of seconds."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number
