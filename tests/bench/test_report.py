"""What the benches say of their numbers."""

from __future__ import annotations

import pytest

from bench.report import Result, cheaper, circumstances, comparison, faster, table, verdict


def test_neighbours_in_a_round_are_compared_and_not_all_with_all() -> None:
    ours = [Result(rate=100, cpu=10), Result(rate=10, cpu=100), Result(rate=50, cpu=20)]
    theirs = [Result(rate=50, cpu=30), Result(rate=5, cpu=200), Result(rate=40, cpu=20)]

    assert faster(ours, theirs) == 2.0
    assert cheaper(ours, theirs) == 2.0


def test_rounds_that_have_no_neighbour_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        faster([Result(1, 1), Result(1, 1)], [Result(1, 1)])


def test_a_comparison_has_a_row_for_each_with_medians_and_ratios() -> None:
    found = {"ours": [Result(2000, 250.4), Result(1000, 300), Result(3000, 200)], "theirs": [Result(1000, 500)] * 3}

    assert comparison("GET", "request", found).splitlines() == [
        "| GET    | requests/s | CPU per request | of its core | ratio | ratio by CPU |",
        "| ------ | ---------: | --------------: | ----------: | ----: | -----------: |",
        "| ours   |      2,000 |          250 µs |         50% |  1.00 |         1.00 |",
        "| theirs |      1,000 |          500 µs |         50% |  2.00 |         2.00 |",
    ]


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    assert table(["a", "b"], [["long name", "1"]]).splitlines() == [
        "| a         |   b |",
        "| --------- | --: |",
        "| long name |   1 |",
    ]


@pytest.mark.parametrize(
    ("value", "at_most", "said"),
    [
        (1.2, False, "met: speed 1.20 × (target ≥ 1.2 ×)"),
        (1.19, False, "MISSED: speed 1.19 × (target ≥ 1.2 ×)"),
        (1.2, True, "met: speed 1.20 × (target ≤ 1.2 ×)"),
        (1.21, True, "MISSED: speed 1.21 × (target ≤ 1.2 ×)"),
    ],
)
def test_a_verdict_says_what_was_reached_and_what_was_asked(value: float, *, at_most: bool, said: str) -> None:
    assert verdict("speed", value, 1.2, " ×", at_most=at_most) == said


def test_circumstances_name_the_command_and_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench/http.py", "--rounds", "1"])

    said = circumstances("bench.http", ["pytest"])

    assert "`python -m bench.http --rounds 1`" in said
    assert f"pytest {pytest.__version__}" in said
