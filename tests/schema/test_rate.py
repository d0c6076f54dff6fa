"""Rates: what is read, and what is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schema.rate import Rate, parse_rate


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [("100/1s", 100, 1), ("10/s", 10, 1), ("6000/1m", 6000, 60), ("1 / 500ms", 1, 0.5), ("2/h", 2, 3600)],
)
def test_a_rate_is_a_count_in_a_time(text: str, count: int, seconds: float) -> None:
    rate = parse_rate(text)
    assert rate == Rate(count, timedelta(seconds=seconds))
    assert parse_rate(str(rate)) == rate
    assert rate.interval == timedelta(seconds=seconds) / count


@pytest.mark.parametrize(
    "text",
    ["", "10", "0/s", "-1/s", "x/s", "10/", "10/0s", "10/fortnight", "2/d", "2/61m", "²/s", "10/s/s", "2000000/s"],
)
def test_what_is_no_rate_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate \\(try '10/s'"):
        parse_rate(text)
