"""Values from JSON: types, ranges, finiteness, and errors of one line with file and key."""

import json

import pytest

from nanollava.errors import ConfigError
from nanollava.schema import check_value, optional, require, short


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (str, "你好"),
        (int, -3),
        (int, 2**63 - 1),
        (float, 1),
        (float, 1e-300),
        (bool, False),
        (dict, {}),
        (list, [1, "a"]),
        (list[str], []),
        (list[float], [1, 2.5]),
        (list[list[int]], [[1], []]),
    ],
)
def test_a_value_of_the_type_is_returned(type, value):
    assert require({"key": value}, "key", type, "file") is value


@pytest.mark.parametrize(
    ("type", "text", "message"),
    [
        (str, "7", "key = 7; expected a text"),
        (str, r'"\ud800"', r"key = .*; expected a text"),
        (str, "null", "key = None; expected a text"),
        (int, "1.0", "key = 1.0; expected a whole number"),
        (int, "true", "key = True; expected a whole number"),
        (int, str(2**63), "key = .*; expected a whole number"),
        (float, "NaN", "key = nan; expected a finite number"),
        (float, "-1e999", "key = -inf; expected a finite number"),
        (float, "1" + 400 * "0", "key = .*; expected a finite number"),
        (float, "false", "key = False; expected a finite number"),
        (float, '"1"', "key = '1'; expected a finite number"),
        (bool, "1", "key = 1; expected true or false"),
        (dict, "[]", r"key = \[\]; expected an object"),
        (list, '"abc"', "key = 'abc'; expected a list"),
        (list[str], '"abc"', "key = 'abc'; expected a list"),
        (list[str], '["a", 5]', r"key\[1\] = 5; expected a text"),
        (list[list[int]], '[[1], [2, "3"]]', r"key\[1\]\[1\] = '3'; expected a whole number"),
    ],
)
def test_a_value_of_another_type_is_refused(type, text, message):
    with pytest.raises(ConfigError, match=f"^file: {message}") as error:
        require({"key": json.loads(text)}, "key", type, "file")
    assert "\n" not in str(error.value)


def test_a_missing_key_is_refused():
    with pytest.raises(ConfigError, match="file: no 'key'; expected a list, each item a text"):
        require({}, "key", list[str], "file")


@pytest.mark.parametrize("values", [{}, {"key": None}])
def test_an_optional_value_has_a_default(values):
    assert optional(values, "key", str, "file", default="none") == "none"


def test_an_optional_value_is_checked_where_it_is_given():
    assert optional({"key": ""}, "key", str, "file", default="none") == ""
    with pytest.raises(ConfigError, match="file: key = 0; expected a text"):
        optional({"key": 0}, "key", str, "file")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, "= -1; expected at least 0"),
        (11, "= 11; expected at most 10"),
        ([0, 11], r"\[1\] = 11; expected at most 10"),
    ],
)
def test_a_value_out_of_range_is_refused(value, message):
    type = list[int] if isinstance(value, list) else int
    with pytest.raises(ConfigError, match=message):
        check_value(value, type, "file: key", minimum=0, maximum=10)


def test_a_value_that_is_not_a_choice_is_refused():
    assert check_value("a", str, "file: key", choices=("a", "b")) == "a"
    with pytest.raises(ConfigError, match="key = 'c'; expected one of 'a', 'b'"):
        check_value("c", str, "file: key", choices=("a", "b"))


def test_a_shown_value_is_one_short_line():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in ["a\nb", "x" * 10_000, deep, {"key": "y" * 1000}, 10**400]:
        assert len(short(value)) < 250 and "\n" not in short(value)
