"""Durations of the schedule that lie beyond all dates."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schema.settings import Schedule


@pytest.mark.parametrize("name", ["timeout", "long_timeout", "grace", "lease", "retention"])
def test_a_duration_beyond_all_dates_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="must be 36500d or less"):
        Schedule.model_validate({name: "999999d"})
    Schedule.model_validate({name: "36500d"})
