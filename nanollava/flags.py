"""What argparse lacks: help texts with defaults, and checks of ranges and empty texts."""

import argparse
from typing import Any

from .errors import UserError

MAX_SEED = 2**32  # torch takes 64 bits, and an epoch's seed is 1,000,003 times as large


class HelpFormatter(argparse.HelpFormatter):
    """Adds the default to the help of a flag, unless the flag is off or unset by default."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        if default is None or default is False or default is argparse.SUPPRESS:
            return action.help
        if isinstance(default, list | tuple):
            default = " ".join(str(value) for value in default)
        return f"{action.help} (default: {default})"


def check_number(
    args: Any,
    name: str,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = "",
    above: float | None = None,
) -> None:
    """Raise a UserError unless minimum <= value <= maximum, and above < value. NaN never passes.

    `args` has the values of the flags as attributes; of a list, every value is checked.
    """
    value = getattr(args, name)
    values = value if isinstance(value, list) else [value]
    for value in values:
        if minimum is not None and not value >= minimum:
            expected = f"at least {minimum} {unit}"
        elif above is not None and not value > above:
            expected = f"more than {above} {unit}"
        elif maximum is not None and not value <= maximum:
            expected = f"at most {maximum} {unit}"
        else:
            continue
        raise UserError(f"{flag_name(name)} {value}: expected {expected.rstrip()}")


def check_texts(args: Any, *names: str) -> None:
    """Raise a UserError if a flag was given as an empty text, for example --out ''."""
    for name in names:
        value = getattr(args, name)
        values = value if isinstance(value, list) else [value]
        if "" in values:
            raise UserError(f"{flag_name(name)} '': expected a value; or leave the flag out")


def flag_name(name: str) -> str:
    """The flag of an argument: `per_minute` is --per-minute."""
    return f"--{name.replace('_', '-')}"
