"""Checks of command-line flags that argparse does not make: ranges, and texts that are empty."""

import argparse

from .errors import UserError

MAX_SEED = 2**32


def check_number(
    args: argparse.Namespace, name: str, minimum: float, maximum: float, unit: str = ""
) -> None:
    """Raise a UserError unless a flag's value is in a range; NaN never is."""
    value = getattr(args, name)
    if not value >= minimum:
        expected = f"at least {minimum} {unit}"
    elif value > maximum:
        expected = f"at most {maximum} {unit}"
    else:
        return
    raise UserError(f"{flag_name(name)} {value}: expected {expected.rstrip()}")


def check_positive(args: argparse.Namespace, name: str, maximum: float) -> None:
    """Raise a UserError unless a flag's value is more than 0 and at most `maximum`."""
    value = getattr(args, name)
    if not value > 0:
        raise UserError(f"{flag_name(name)} {value}: must be more than 0")
    check_number(args, name, 0, maximum)


def check_texts(args: argparse.Namespace, *names: str) -> None:
    """Raise a UserError if a flag was given as an empty text, for example --out ''."""
    for name in names:
        value = getattr(args, name)
        values = value if isinstance(value, list) else [value]
        if "" in values:
            raise UserError(f"{flag_name(name)} '': expected a value; or leave the flag out")


def flag_name(name: str) -> str:
    """The flag of an argument: `per_minute` is --per-minute."""
    return f"--{name.replace('_', '-')}"
