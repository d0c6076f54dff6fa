from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("5s", 5), ("0.5s", 0.5), ("5m", 300), ("1h", 3600), ("7d", 604800), (" 5 s ", 5), ("0s", 0)],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "5x", "-5s", "5s5s", "s", "٥s", "1e3s", "nan s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration \(try '5s'"):
        parse_duration(text)


def test_a_duration_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        parse_duration("9" * 20 + "d")


@given(st.integers(0, 10**12))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value
