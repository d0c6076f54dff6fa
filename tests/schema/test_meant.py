"""Which name was probably meant."""

from __future__ import annotations

import pytest

from schema.meant import meant


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("consum", "did you mean 'consume'?"),
        ("CONSUME", "did you mean 'consume'?"),
        ("europe/berln", "did you mean 'Europe/Berlin'?"),
        ("nonsense", "known are consume, Europe/Berlin"),
    ],
)
def test_the_nearest_name_is_asked_for_whatever_its_case(name: str, said: str) -> None:
    assert meant(name, ["consume", "Europe/Berlin"]) == said


def test_where_nothing_is_near_something_else_can_be_said() -> None:
    assert meant("nonsense", ["consume"], otherwise="try 'UTC'") == "try 'UTC'"
    assert meant("nonsense", []) == "known are none"
