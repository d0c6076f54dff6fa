"""What holds of clients before anything is called."""

from __future__ import annotations

import pytest

from clients.errors import UpstreamError
from schema import settings
from schema.errors import DependencyUnavailable


def test_a_stranger_that_is_away_does_not_stop_us() -> None:
    assert not issubclass(UpstreamError, DependencyUnavailable)


@pytest.mark.parametrize("url", ["worldtimeapi.org", "ftp://example.org", "https://", "https://example.org/?a=b", ""])
def test_a_url_that_is_none_is_refused_when_the_settings_are_read(url: str) -> None:
    with pytest.raises(ValueError, match="not the base URL"):
        settings.Timezone(url=url)


def test_settings_of_a_client_have_units() -> None:
    timezone = settings.Timezone.model_validate({"timeout": "250ms", "url": "http://127.0.0.1:1/base/"})
    assert (timezone.timeout.total_seconds(), timezone.url) == (0.25, "http://127.0.0.1:1/base")
