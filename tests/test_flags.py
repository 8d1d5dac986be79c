"""Ranges and empty texts of flags: one line that names the flag. Defaults in help texts."""

import math
from argparse import ArgumentParser, Namespace

import pytest

from nanollava.errors import UserError
from nanollava.flags import HelpFormatter, check_number, check_texts


@pytest.mark.parametrize("value", [1, 5, 10, 9.99])
def test_a_number_in_its_range(value):
    check_number(Namespace(count=value), "count", 1, 10)
    check_number(Namespace(count=value), "count", above=0, maximum=10)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "--max-count 0: expected at least 1 images"),
        (11, "--max-count 11: expected at most 10 images"),
        (2**64, "--max-count 18446744073709551616: expected at most 10 images"),
        (math.inf, "--max-count inf: expected at most 10 images"),
        (-math.inf, "--max-count -inf: expected at least 1 images"),
        (math.nan, "--max-count nan: expected at least 1 images"),
    ],
)
def test_a_number_out_of_its_range(value, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        check_number(Namespace(max_count=value), "max_count", 1, 10, "images")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "expected more than 0"),
        (-1, "expected more than 0"),
        (math.nan, "expected more than 0"),
        (11, "expected at most 10"),
        (math.inf, "expected at most 10"),
    ],
)
def test_a_number_that_is_not_positive_or_too_large(value, message):
    with pytest.raises(UserError, match=f"^--wait {value}: {message}$"):
        check_number(Namespace(wait=value), "wait", above=0, maximum=10)


def test_every_number_of_a_list_is_checked():
    check_number(Namespace(price=[0.0, 2.5]), "price", 0, 10)
    with pytest.raises(UserError, match="^--price -1.0: expected at least 0$"):
        check_number(Namespace(price=[2.5, -1.0]), "price", 0, 10)


def test_a_range_without_a_maximum():
    check_number(Namespace(wait=math.inf), "wait", above=0)
    with pytest.raises(UserError, match="^--wait nan: expected at most 10$"):
        check_number(Namespace(wait=math.nan), "wait", maximum=10)


def test_empty_texts():
    check_texts(Namespace(out="a", model=None, pictures=["a", "b"]), "out", "model", "pictures")
    with pytest.raises(UserError, match="^--out '': expected a value"):
        check_texts(Namespace(out=""), "out")
    with pytest.raises(UserError, match="^--pictures '': expected a value"):
        check_texts(Namespace(pictures=["a", ""]), "pictures")


def test_help_shows_defaults_that_say_something(capsys):
    parser = ArgumentParser(formatter_class=HelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="a seed")
    parser.add_argument("--steps", nargs=2, default=[200, 250], help="two numbers")
    parser.add_argument("--judge", help="a model")
    parser.add_argument("--json", action="store_true", help="JSON")
    parser.print_help()
    text = capsys.readouterr().out
    assert text.count("(default:") == 2
    assert "a seed (default: 0)" in text
    assert "two numbers (default: 200 250)" in text
