"""Checks of values that were read from JSON: type, range, finiteness.

Most values from a file are used only after one of these functions has returned them. Every failure
is a ConfigError of one line that names the file, the key, the value and what was expected.
"""

import reprlib
import sys
from collections.abc import Collection
from typing import Any, get_args, get_origin

from .errors import ConfigError

# What a type is called in error messages. `float` also takes whole numbers: JSON writes 1.0 as 1.
NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
LARGEST_INT = 2**63 - 1  # what torch, NumPy and file formats can hold

SHORT = reprlib.Repr()  # unlike repr, it survives deeply nested values
SHORT.maxstring = SHORT.maxother = 100


def require(
    values: dict,
    key: str,
    type: Any,
    where: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Collection | None = None,
) -> Any:
    """Return `values[key]`, which must be of `type`. A missing key is an error.

    `type` is one of `NAMES`, or a list of one of them, such as `list[str]`. A value, or every item
    of a list, must be in the given range, or one of `choices`. `where` names the file, and the row
    if there are several.
    """
    if key not in values:
        raise ConfigError(f"{where}: no {key!r}; expected {describe(type)}")
    return check_value(values[key], type, f"{where}: {key}", minimum, maximum, choices)


def optional(
    values: dict,
    key: str,
    type: Any,
    where: str,
    default: Any = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Collection | None = None,
) -> Any:
    """Like `require`, but a key that is missing or null has the value `default`."""
    if values.get(key) is None:
        return default
    return check_value(values[key], type, f"{where}: {key}", minimum, maximum, choices)


def check_value(
    value: Any,
    type: Any,
    where: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Collection | None = None,
) -> Any:
    """Return `value` if it is of `type` and in its range. `where` names file and key."""
    if get_origin(type) is list:
        check_value(value, list, where)
        (item_type,) = get_args(type)
        for i, item in enumerate(value):
            check_value(item, item_type, f"{where}[{i}]", minimum, maximum, choices)
        return value
    if not has_type(value, type):
        raise ConfigError(f"{where} = {short(value)}; expected {describe(type)}")
    if minimum is not None and value < minimum:
        raise ConfigError(f"{where} = {short(value)}; expected at least {minimum}")
    if maximum is not None and value > maximum:
        raise ConfigError(f"{where} = {short(value)}; expected at most {maximum}")
    if choices is not None and value not in choices:
        names = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{where} = {short(value)}; expected one of {names}")
    return value


def has_type(value: Any, type: type) -> bool:
    """Whether a JSON value is of one of the types in `NAMES`."""
    if isinstance(value, bool):  # Python counts True as an int, JSON does not
        return type is bool
    if type is float:
        # False for NaN and the infinities, and for whole numbers that no float can hold.
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    if type is int:
        return isinstance(value, int) and abs(value) <= LARGEST_INT
    if type is str:
        return isinstance(value, str) and is_unicode(value)
    return isinstance(value, type)


def is_unicode(text: str) -> bool:
    r"""Whether a text can be written to a file. JSON's "\ud800", half a character, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def describe(type: Any) -> str:
    """What a type is called in error messages."""
    if get_origin(type) is list:
        (item_type,) = get_args(type)
        return f"a list, each item {describe(item_type)}"
    return NAMES[type]


def short(value: Any) -> str:
    """A value on one short line, for error messages."""
    text = SHORT.repr(value)
    if len(text) > 200:
        text = text[:200] + "..."
    return text
