from __future__ import annotations

import pytest


@pytest.fixture
def services(database_url: str, amqp_url: str) -> dict[str, str]:
    """Settings that point the application at servers which outlive it."""
    return {"APP_DATABASE__URL": database_url, "APP_AMQP__EXAMPLE__URL": amqp_url}
